/* Several threads start the library and integrate at once, each a function of its own; that of one fails.
 */
#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "varflow.h"

enum { D = 2, N_THREADS = 5, FAILS = 3 };

typedef struct {
    int k, n_foreign_threads, status;
    pthread_t thread;
    vf_result result;
    double log_q;
    char words[256];
} Task;

/* x^k, in the thread that integrates it; and it calls the library itself. */
static int integrand(const double *x, int64_t n, int32_t d, double *values, int32_t m, void *user)
{
    Task *task = user;
    vf_handle flow;
    (void)m;
    task->n_foreign_threads += !pthread_equal(pthread_self(), task->thread);
    if (task->k == FAILS)
        return 40 + task->k;
    if (vf_flow_new(d, NULL, "n_bins=4 d_hidden=4 n_hidden=1", &flow) != VF_OK
        || vf_log_prob(flow, 1, x, &task->log_q) != VF_OK || vf_free(flow) != VF_OK)
        return 1;
    for (int64_t i = 0; i < n; i++)
        values[i] = pow(x[i * d], task->k);
    return 0;
}

static void *work(void *argument)
{
    Task *task = argument;
    task->thread = pthread_self();
    task->status = vf_start();
    if (task->status == VF_OK)
        task->status = vf_integrate(integrand, task, D, NULL, "n_calls=100 seed=1", &task->result);
    snprintf(task->words, sizeof task->words, "%s", vf_last_error());
    return NULL;
}

int main(void)
{
    static Task tasks[N_THREADS];
    pthread_t threads[N_THREADS];
    for (int k = 0; k < N_THREADS; k++) {
        tasks[k].k = k;
        if (pthread_create(&threads[k], NULL, work, &tasks[k]) != 0)
            return 2;
    }
    for (int k = 0; k < N_THREADS; k++) {
        pthread_join(threads[k], NULL);
        printf("%d %d %.17g %.17g %s\n", tasks[k].status, tasks[k].n_foreign_threads, tasks[k].result.mean,
               tasks[k].log_q, tasks[k].words);
    }
    return 0;
}
