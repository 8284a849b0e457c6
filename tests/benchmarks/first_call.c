/* Prints the seconds that vf_start takes, a first integral of 100 calls and a first sample, and all the
 * program's seconds of processor time. */
#define _GNU_SOURCE
#include <stdio.h>
#include <time.h>

#include "varflow.h"

enum { D = 4, N = 1000 };

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static int integrand(const double *x, int64_t n, int32_t d, double *values, int32_t m, void *user)
{
    (void)m;
    (void)user;
    for (int64_t i = 0; i < n; i++)
        values[i] = x[i * d];
    return 0;
}

int main(void)
{
    static double x[N * D], log_q[N];
    vf_result result;
    double begin = seconds();
    if (vf_start() != VF_OK)
        return 1;
    double started = seconds();
    if (vf_integrate(integrand, NULL, D, NULL, "n_calls=100 seed=1", &result) != VF_OK)
        return 1;
    double integrated = seconds();
    if (vf_sample(result.handle, N, 1, x, log_q) != VF_OK)
        return 1;
    printf("%.6f %.6f %.6f %.6f\n", started - begin, integrated - started, seconds() - integrated,
           (double)clock() / CLOCKS_PER_SEC);
    return 0;
}
