/*
 * event_generator.c - events of two peaks, drawn from a flow that varflow has exported.
 *
 * The flow has learned the function of camel.py, which is written here once more, in C:
 *
 *     varflow integrate examples/camel.py:f --dim 4 -o camel.npz
 *     varflow export camel.npz --language c -o source
 *
 * Build:  cc -O3 -march=native -Isource -o event_generator examples/event_generator.c source/camel.c -lm
 * Usage:  ./event_generator events.txt [n_points [seed]]     (defaults 100000 and 1)
 *
 * A tenth of the points, drawn first, tell the largest weight w = f/q. Of the others, each becomes an event with the
 * probability w / largest, so that events have equal weights: a line of coordinates each. The few points whose weight
 * is larger still are counted, since their weight is cut.
 */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "camel.h"

#define BATCH 1000

static const double PI = 3.14159265358979323846, WIDTH = 0.2;

/* The function that is to be sampled. */
static double f(const double *x)
{
    double first = 0, second = 0;
    for (int k = 0; k < camel_D; k++) {
        first += (x[k] - 1.0 / 3) * (x[k] - 1.0 / 3);
        second += (x[k] - 2.0 / 3) * (x[k] - 2.0 / 3);
    }
    first = exp(-first / (WIDTH * WIDTH));
    second = exp(-second / (WIDTH * WIDTH));
    return (first + second) / (2 * pow(WIDTH * sqrt(PI), camel_D));
}

/* Random number in (0, 1) of Park and Miller's generator, which decides on the acceptance. */
static double next_random(int64_t *state)
{
    *state = *state * 48271 % 2147483647;
    return (double)*state / 2147483647;
}

int main(int argc, char **argv)
{
    static camel_workspace work; /* large: not on the stack */
    static double x[BATCH * camel_D], log_q[BATCH];
    const int64_t n = argc > 2 ? atoll(argv[2]) : 100000;
    const uint64_t seed = argc > 3 ? strtoull(argv[3], NULL, 10) : 1;
    int64_t state = 12345, n_events = 0, n_cut = 0;
    double sum = 0, sum_of_squares = 0, largest = 0;
    FILE *const events = argc > 1 ? fopen(argv[1], "w") : NULL;
    int status = camel_verify(camel_weights, &work);
    if (!events || n < BATCH) {
        fprintf(stderr, "usage: ./event_generator events.txt [n_points [seed]], with n_points of %d or more\n", BATCH);
        return 2;
    }
    for (int64_t first = 0; status == camel_OK && first < n; first += BATCH) {
        const int64_t m = n - first < BATCH ? n - first : BATCH;
        status = camel_sample(seed, first, m, x, log_q, camel_weights, &work);
        for (int64_t i = 0; status == camel_OK && i < m; i++) {
            const double weight = f(x + i * camel_D) * exp(-log_q[i]);
            sum += weight;
            sum_of_squares += weight * weight;
            if (first < n / 10) {
                largest = fmax(largest, weight);
            } else if (next_random(&state) * largest < weight) {
                n_events++;
                n_cut += weight > largest;
                for (int k = 0; k < camel_D; k++)
                    fprintf(events, "%.6f%c", x[i * camel_D + k], k < camel_D - 1 ? ' ' : '\n');
            }
        }
    }
    if (status != camel_OK) {
        fprintf(stderr, "%s\n", camel_message(status));
        return 1;
    }
    if (fclose(events) != 0) {
        perror(argv[1]);
        return 1;
    }
    printf("the flow is as in Python: %d weights, static size %lu bytes, workspace %lu bytes\n",
           (int)camel_N_WEIGHTS, (unsigned long)sizeof camel_weights, (unsigned long)sizeof work);
    printf("integral: %.5f ± %.5f\n", sum / (double)n,
           sqrt((sum_of_squares / (double)n - pow(sum / (double)n, 2)) / (double)(n - 1)));
    printf("effective sample size: %.1f %%\n", 100 * sum * sum / sum_of_squares / (double)n);
    printf("events of equal weight: %ld, with weights cut: %ld\n", (long)n_events, (long)n_cut);
    return 0;
}
