/* Integrands of all kinds that C can declare, and some that misbehave: for test_compiled.py. */
#define _POSIX_C_SOURCE 199309L
#include <math.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

int data_not_code = 3;

static double value(const double *x, int d)
{
    double sum = 0;
    for (int k = 0; k < d; k++)
        sum += (k + 1) * x[k] * x[k];
    return sum;
}

int batch(const double *x, int64_t n, int32_t d, double *out, int32_t m, void *user)
{
    const double *scale = user;
    for (int64_t i = 0; i < n; i++)
        for (int32_t j = 0; j < m; j++)
            out[i * m + j] = (j + 1) * (scale ? *scale : 1.0) * value(x + i * d, d);
    return 0;
}

double scipy_kind(int n, double *x, void *user)
{
    return (user ? *(double *)user : 1.0) * value(x, n);
}

double scipy_two(int n, double *x)
{
    return value(x, n);
}

int cuba(const int *ndim, const double x[], const int *ncomp, double f[], void *user)
{
    return batch(x, 1, *ndim, f, *ncomp, user);
}

static int most = 0; /* points of a call */

int cuba_nvec(const int *ndim, const double x[], const int *ncomp, double f[], void *user, const int *nvec,
              const int *core)
{
    most = *nvec > most ? *nvec : most;
    return batch(x, *nvec, *ndim, f, *ncomp, user) + *core;
}

int most_at_once(void)
{
    return most;
}

/* A counter that would lose calls if two threads were in here at once. */
static volatile long calls = 0;

double counts(int n, double *x, void *user)
{
    long before = calls;
    for (volatile int k = 0; k < 20; k++)
        ;
    calls = before + 1;
    return scipy_kind(n, x, user);
}

long number_of_calls(void)
{
    return calls;
}

int status_above_half(const double *x, int64_t n, int32_t d, double *out, int32_t m, void *user)
{
    batch(x, n, d, out, m, user);
    for (int64_t i = 0; i < n; i++)
        if (x[i * d] > 0.5)
            return 7;
    return 0;
}

int cuba_status(const int *ndim, const double x[], const int *ncomp, double f[], void *user)
{
    return cuba(ndim, x, ncomp, f, user) + (x[0] > 0.5 ? -999 : 0);
}

double overwrites(int n, double *x, void *user)
{
    double found = scipy_kind(n, x, user);
    for (int k = 0; k < n; k++)
        x[k] = 1e300;
    return found;
}

int leaves_unset(const double *x, int64_t n, int32_t d, double *out, int32_t m, void *user)
{
    batch(x, n, d, out, m, user);
    out[n * m - 1] = -1.2345678901234567e-300; /* what varflow has set it to */
    return 0;
}

int changes_x(double *x, int64_t n, int32_t d, double *out, int32_t m, void *user)
{
    batch(x, n, d, out, m, user);
    x[0] += 1;
    return 0;
}

int transposed(const double *x, int64_t n, int32_t d, double *out, int32_t m, void *user)
{
    (void)user;
    for (int64_t i = 0; i < n; i++)
        for (int32_t j = 0; j < m; j++) {
            out[i * m + j] = 0;
            for (int32_t k = 0; k < d; k++)
                out[i * m + j] += (k + 1) * x[k * n + i];
        }
    return 0;
}

double takes_five(int n, double *x, void *user)
{
    (void)n;
    (void)user;
    return value(x, 5);
}

double writes_beyond(int n, double *x, void *user)
{
    double found = scipy_kind(n, x, user);
    x[n] = 1;
    return found;
}

int writes_three(const double *x, int64_t n, int32_t d, double *out, int32_t m, void *user)
{
    batch(x, n, d, out, m, user);
    out[n * m] = 1;
    return 0;
}

double nan_above_half(int n, double *x, void *user)
{
    return x[0] > 0.5 ? NAN : scipy_kind(n, x, user);
}

double slow(int n, double *x, void *user)
{
    struct timespec tenth_of_a_millisecond = {0, 100000};
    nanosleep(&tenth_of_a_millisecond, 0);
    return scipy_kind(n, x, user);
}

double takes_a_while(int n, double *x, void *user)
{
    static int n_calls = 0;
    struct timespec a_fifth_of_a_second = {0, 200000000};
    if (n_calls++ == 0)
        nanosleep(&a_fifth_of_a_second, 0);
    return scipy_kind(n, x, user);
}

double total(const double *x, int64_t n, int32_t d, double (*volatile f)(int, double *, void *))
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += f(d, (double *)x + i * d, 0);
    return sum;
}

double exits(int n, double *x, void *user)
{
    if (x[0] > 0.999)
        exit(3);
    return scipy_kind(n, x, user);
}

double crashes(int n, double *x, void *user)
{
    if (x[0] > 0.999)
        raise(SIGSEGV);
    return scipy_kind(n, x, user);
}
