/* Calls a function of an exported flow on points from a file: driver OPERATION N SEED FIRST POINTS RESULTS [WEIGHTS].
   The results are, in float64: the status, n points and n log q. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "NAME.h"

#ifdef HAS_FILE
static NAME_real weights[NAME_N_WEIGHTS];
#else
#define weights NAME_weights
#endif
static NAME_workspace work;

int main(int argc, char **argv)
{
    const char *const operation = argv[1];
    const int64_t n = atoll(argv[2]), first = atoll(argv[4]);
    const size_t n_numbers = n > 0 ? (size_t)n * NAME_D : 1;
    double *const points = calloc(n_numbers, sizeof *points), *const results = calloc(n_numbers, sizeof *results);
    double *const log_q = calloc(n_numbers, sizeof *log_q);
    FILE *file = fopen(argv[5], "rb");
    double status = -1;
    if (!points || !results || !log_q || !file || argc < 7)
        return 1;
    if (fread(points, sizeof *points, n_numbers, file) < n_numbers)
        clearerr(file); /* not all operations need points */
    fclose(file);
#ifdef HAS_FILE
    status = NAME_load(argv[7], weights);
    if (strcmp(operation, "load") == 0)
        results[0] = weights[NAME_N_WEIGHTS - 1];
    else
#endif
    if (strcmp(operation, "sample") == 0)
        status = NAME_sample(strtoull(argv[3], NULL, 10), first, n, results, log_q, weights, &work);
    else if (strcmp(operation, "log_prob") == 0)
        status = NAME_log_prob(n, points, log_q, weights, &work);
    else if (strcmp(operation, "verify") == 0)
        status = NAME_verify(weights, &work);
#ifndef IS_MIXTURE
    else if (strcmp(operation, "to_latent") == 0)
        status = NAME_to_latent(n, points, results, log_q, weights, &work);
    else if (strcmp(operation, "from_latent") == 0)
        status = NAME_from_latent(n, points, results, log_q, weights, &work);
    else if (strcmp(operation, "null") == 0)
        status = NAME_to_latent(n, NULL, results, log_q, weights, &work) == NAME_BAD_ARGUMENT &&
                         NAME_to_latent(n, points, NULL, log_q, weights, &work) == NAME_BAD_ARGUMENT &&
                         NAME_from_latent(n, points, NULL, log_q, weights, &work) == NAME_BAD_ARGUMENT &&
                         NAME_log_prob(n, points, NULL, weights, &work) == NAME_BAD_ARGUMENT &&
                         NAME_log_prob(n, points, log_q, NULL, &work) == NAME_BAD_ARGUMENT &&
                         NAME_sample(1, 0, n, results, log_q, weights, NULL) == NAME_BAD_ARGUMENT &&
                         NAME_verify(NULL, &work) == NAME_BAD_ARGUMENT &&
                         NAME_sample(1, 0, 0, NULL, NULL, weights, &work) == NAME_OK
                     ? 0
                     : -1;
#endif
    file = fopen(argv[6], "wb");
    if (!file)
        return 1;
    fwrite(&status, sizeof status, 1, file);
    fwrite(results, sizeof *results, n > 0 ? n_numbers : 0, file);
    fwrite(log_q, sizeof *log_q, n > 0 ? (size_t)n : 0, file);
    fclose(file);
    free(points);
    free(results);
    free(log_q);
    puts(NAME_message((int)status));
    return 0;
}
