/* host_program.c: a program in C that integrates a function of its own, trains a flow on points of its own,
 * keeps it in a file, and draws points from it.
 *
 *     varflow build-library -o lib
 *     cc -O2 -o host_program host_program.c -Ilib -Llib -lvarflow -Wl,-rpath,"$PWD/lib" -lm
 *     ./host_program
 */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "varflow.h"

enum { D = 2, N = 2000, ROOM = 1000 };

static const double BOUNDS[D][2] = {{-1.0, 1.0}, {0.0, 2.0}};
static const double VOLUME = 4.0;
static const double CENTRE[D] = {0.2, 0.7};
static const double TWO_PI = 6.283185307179586;

typedef struct {
    double width;
    int64_t n_calls;
} Peak;

static void check(int status, const char *what)
{
    if (status == VF_OK)
        return;
    fprintf(stderr, "%s: status %d, %s\n", what, status, vf_last_error());
    exit(1);
}

/* The integrand, at one point: a Gaussian peak whose integral is 1 but for its tails. */
static double peak(const double x[D], double width)
{
    double squares = 0.0;
    for (int k = 0; k < D; k++)
        squares += (x[k] - CENTRE[k]) * (x[k] - CENTRE[k]);
    return exp(-0.5 * squares / (width * width)) / (TWO_PI * width * width);
}

/* The integrand as varflow calls it: m values at each of n points. */
static int integrand(const double *x, int64_t n, int32_t d, double *values, int32_t m, void *user)
{
    Peak *parameters = user;
    if (d != D || m != 1)
        return 1; /* any status but 0 ends the integration */
    for (int64_t i = 0; i < n; i++)
        values[i] = peak(x + i * D, parameters->width);
    parameters->n_calls += n;
    return 0;
}

static void print_result(const char *what, vf_result result)
{
    printf("%-10s %.5f +- %.5f, chi2/dof = %.2f/%lld, %lld calls\n", what, result.mean, result.sdev,
           result.chi2, (long long)result.dof, (long long)result.n_calls);
    if (result.n_warnings > 0) {
        char text[4096];
        check(vf_warnings(result.handle, sizeof text, text), "vf_warnings");
        fputs(text, stdout);
    }
    check(vf_free(result.handle), "vf_free");
}

/* varflow calls the integrand. */
static void integrate(void)
{
    Peak parameters = {0.1, 0};
    vf_result result;
    check(vf_integrate(integrand, &parameters, D, *BOUNDS, "n_calls=40000 d_hidden=16 seed=1", &result),
          "vf_integrate");
    print_result("integral", result);
}

/* The program calls the integrand, in a loop of its own, and gets the same result. */
static void ask_and_tell(void)
{
    double x[ROOM * D], values[ROOM];
    vf_handle run;
    vf_result result;
    int status;
    check(vf_run_new(D, *BOUNDS, "n_calls=40000 d_hidden=16 seed=1", &run), "vf_run_new");
    for (;;) {
        int64_t n = ROOM;
        status = vf_ask(run, &n, x);
        if (status != VF_OK)
            break;
        for (int64_t i = 0; i < n; i++)
            values[i] = peak(x + i * D, 0.1);
        check(vf_tell(run, n, values), "vf_tell");
    }
    check(status == VF_END ? VF_OK : status, "vf_ask");
    check(vf_run_result(run, &result), "vf_run_result");
    print_result("own loop", result);
    check(vf_free(run), "vf_free");
}

static double uniform(void)
{
    return (rand() + 0.5) / (RAND_MAX + 1.0);
}

/* A flow is trained on points that the program has, and kept. */
static void train(const char *path)
{
    static double x[N * D], p[N], f[N];
    vf_handle flow;
    vf_evaluation measured;
    for (int i = 0; i < N; i++) {
        for (int k = 0; k < D; k++)
            x[i * D + k] = BOUNDS[k][0] + uniform() * (BOUNDS[k][1] - BOUNDS[k][0]);
        p[i] = 1.0 / VOLUME; /* the density that x was drawn from */
        f[i] = peak(x + i * D, 0.1);
    }
    check(vf_train_new(D, *BOUNDS, N, x, p, f, "d_hidden=16 n_epochs=20 seed=1", &measured, &flow),
          "vf_train_new");
    printf("%-10s to need 1/%.1f of the points for the same error\n", "trained", measured.ratio);
    check(vf_save(flow, path), "vf_save");
    check(vf_free(flow), "vf_free");
}

/* Another run of the program draws points from it, by which an integral has a smaller error. */
static void sample(const char *path)
{
    static double x[N * D], log_q[N];
    double sum = 0.0, squares = 0.0;
    vf_handle flow;
    check(vf_load(path, NULL, &flow), "vf_load");
    check(vf_sample(flow, N, 2, x, log_q), "vf_sample");
    check(vf_free(flow), "vf_free");
    for (int i = 0; i < N; i++) {
        double weight = peak(x + i * D, 0.1) * exp(-log_q[i]);
        sum += weight;
        squares += weight * weight;
    }
    double mean = sum / N;
    printf("%-10s %.5f +- %.5f, %d points\n", "flow", mean, sqrt((squares / N - mean * mean) / N), N);
}

int main(void)
{
    check(vf_start(), "vf_start");
    integrate();
    ask_and_tell();
    train("peak.npz");
    sample("peak.npz");
    return 0;
}
