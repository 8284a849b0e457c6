/* Prints the nanoseconds that a point takes to be drawn, and to be evaluated. */
#include <stdio.h>
#include <time.h>

#include "flow.h"

enum { N = 50000 };
static double x[N * flow_D], log_q[N];
static flow_workspace work;

int main(void)
{
    clock_t begin = clock(), middle;
    int status = flow_sample(1, 0, N, x, log_q, flow_weights, &work);
    middle = clock();
    if (status == flow_OK)
        status = flow_log_prob(N, x, log_q, flow_weights, &work);
    printf("%g %g\n", 1e9 / CLOCKS_PER_SEC / N * (double)(middle - begin),
           1e9 / CLOCKS_PER_SEC / N * (double)(clock() - middle));
    return status;
}
