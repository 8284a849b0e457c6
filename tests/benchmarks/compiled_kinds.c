/* vegas's example of an integrand for cffi, in each way that varflow can call: for compiled.py. */
#include <math.h>
#include <stdint.h>

double scipy_kind(int n, double *x, void *user)
{
    double distance = 0;
    (void)user;
    for (int k = 0; k < n; k++)
        distance += (x[k] - 0.5) * (x[k] - 0.5);
    return exp(-distance * 100.0) * 1013.2118364296088;
}

double vegas77(double *x, double *wgt)
{
    return *wgt * scipy_kind(4, x, 0);
}

int cuba(const int *ndim, const double x[], const int *ncomp, double f[], void *user)
{
    for (int j = 0; j < *ncomp; j++)
        f[j] = scipy_kind(*ndim, (double *)x, user);
    return 0;
}

int batch(const double *x, int64_t n, int32_t d, double *out, int32_t m, void *user)
{
    for (int64_t i = 0; i < n; i++)
        for (int32_t j = 0; j < m; j++)
            *out++ = scipy_kind(d, (double *)x + i * d, user);
    return 0;
}

/* What the function itself takes: called through a pointer, without a compiler that sees both. */
double own(const double *x, int64_t n, int32_t d, double (*volatile f)(int, double *, void *))
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += f(d, (double *)x + i * d, 0);
    return sum;
}
