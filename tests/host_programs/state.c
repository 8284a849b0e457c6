/* Calls every function of the library, and says what of the process is not as it was before the call.
 *
 * It runs with traps for floating-point exceptions, another rounding mode, signal handlers and a locale of
 * its own; the integrand finds these as they were, too. */
#define _GNU_SOURCE
#include <fenv.h>
#include <locale.h>
#include <math.h>
#include <omp.h>
#include <signal.h>
#include <stdio.h>
#include <stdio_ext.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#include "varflow.h"

enum { D = 2, N = 200, TRAPS = FE_INVALID | FE_DIVBYZERO | FE_OVERFLOW };

extern char **environ;

static struct state {
    int traps, rounding, flags, n_threads, levels, is_dynamic;
    unsigned int control;
    struct handler {
        void (*function)(int);
        int flags, blocks[65];
    } handlers[65];
    sigset_t blocked;
    char locale[256], folder[4096], variables[1 << 16];
    size_t n_pending;
} before, now;

static void on_signal(int number)
{
    (void)number;
}

static void look(struct state *state)
{
    memset(state, 0, sizeof *state);
    state->traps = fegetexcept();
    state->rounding = fegetround();
    state->flags = fetestexcept(FE_ALL_EXCEPT);
#if defined(__x86_64__)
    state->control = _mm_getcsr();
#endif
    state->n_threads = omp_get_max_threads();
    state->levels = omp_get_max_active_levels();
    state->is_dynamic = omp_get_dynamic();
    for (int number = 1; number < 65; number++) {
        struct handler *handler = &state->handlers[number];
        struct sigaction action;
        if (sigaction(number, NULL, &action) != 0)
            continue; /* two are the C library's own */
        handler->function = action.sa_handler;
        handler->flags = action.sa_flags;
        for (int other = 1; other < 65; other++)
            handler->blocks[other] = sigismember(&action.sa_mask, other);
    }
    sigprocmask(SIG_BLOCK, NULL, &state->blocked);
    snprintf(state->locale, sizeof state->locale, "%s", setlocale(LC_ALL, NULL));
    if (getcwd(state->folder, sizeof state->folder) == NULL)
        abort();
    size_t size = 0;
    for (char **variable = environ; *variable != NULL; variable++)
        size +=
            (size_t)snprintf(state->variables + size, sizeof state->variables - size, "%s\n", *variable);
    state->n_pending = __fpending(stdout);
}

#define COMPARE(part) \
    if (memcmp(&before.part, &now.part, sizeof now.part) != 0) { \
        fprintf(stderr, "%s changes %s\n", what, #part); \
        n_wrong++; \
    }

static int n_wrong;

static void compare(const char *what)
{
    look(&now);
    COMPARE(traps)
    COMPARE(rounding) COMPARE(flags) COMPARE(control) COMPARE(n_threads) COMPARE(levels) COMPARE(is_dynamic)
        COMPARE(handlers) COMPARE(blocked) COMPARE(locale) COMPARE(folder) COMPARE(variables)
            COMPARE(n_pending)
}

static void returned(const char *call, int status, int expected)
{
    if (status != expected) {
        fprintf(stderr, "%s: status %d, %s\n", call, status, vf_last_error());
        exit(1);
    }
    compare(call);
}

#define CALL(call) (look(&before), returned(#call, call, VF_OK))
#define REFUSE(expected, call) (look(&before), returned(#call, call, expected))

static int integrand(const double *x, int64_t n, int32_t d, double *values, int32_t m, void *user)
{
    (void)m;
    compare("on the way to the integrand, vf_integrate");
    for (int64_t i = 0; i < n; i++)
        values[i] = x[i * d];                    /* without rounding, which would be the program's own */
    before.flags |= fetestexcept(FE_ALL_EXCEPT); /* its own, which are to stay */
#if defined(__x86_64__)
    before.control = _mm_getcsr();
#endif
    return *(int *)user;
}

int main(void)
{
    static double x[N * D], p[N], f[N], log_q[N], mean[1], covariance[1], loss, *parameters, *gradient;
    static char text[4096];
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    vf_result result, other;
    vf_handle run, flow, loaded;
    int32_t d;
    int64_t n = N;
    int status = 0;

    if (setlocale(LC_ALL, "C.UTF-8") == NULL)
        return 3;
    omp_set_num_threads(3);
    omp_set_dynamic(1);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGCHLD, &action, NULL);
    printf("printed before"); /* and still to be written at the end */
    fesetround(FE_DOWNWARD);
    feclearexcept(FE_ALL_EXCEPT);
    feenableexcept(TRAPS);
#if defined(__x86_64__)
    _mm_setcsr(_mm_getcsr() | 0x8040); /* as -ffast-math has it: denormal numbers are zero */
#endif

    CALL(vf_start());
    CALL(vf_start());
    REFUSE(VF_OTHER_ABI, vf_start_abi(VF_ABI_VERSION + 1));
    CALL(vf_integrate(integrand, &status, D, NULL, "n_calls=100 seed=1", &result));
    double estimate = result.mean;
    CALL(vf_mean(result.handle, 1, mean, covariance));
    CALL(vf_warnings(result.handle, sizeof text, text));
    status = 7;
    REFUSE(VF_CALLBACK_FAILED, vf_integrate(integrand, &status, D, NULL, "n_calls=100", &other));
    CALL(vf_run_new(D, NULL, "n_calls=100 seed=1", &run));
    CALL(vf_ask(run, &n, x));
    for (int64_t i = 0; i < n; i++)
        f[i] = x[i * D];
    look(&before);
    CALL(vf_tell(run, n, f));
    while (n = N, look(&before), vf_ask(run, &n, x) == VF_OK) {
        compare("vf_ask");
        for (int64_t i = 0; i < n; i++)
            f[i] = x[i * D];
        CALL(vf_tell(run, n, f));
    }
    compare("vf_ask at the end");
    CALL(vf_run_result(run, &other));
    CALL(vf_flow_new(D, NULL, "n_bins=4 d_hidden=8 n_hidden=1 seed=1", &flow));
    CALL(vf_sample(flow, N, 1, x, log_q));
    CALL(vf_log_prob(flow, N, x, log_q));
    for (int i = 0; i < N; i++) {
        p[i] = exp(log_q[i]);
        f[i] = x[i * D] * x[i * D + 1];
    }
    CALL(vf_train(flow, N, x, p, f, "n_epochs=2 seed=1"));
    CALL(vf_n_parameters(flow, &n));
    parameters = malloc((size_t)n * sizeof *parameters);
    gradient = malloc((size_t)n * sizeof *gradient);
    CALL(vf_get_parameters(flow, n, parameters));
    CALL(vf_set_parameters(flow, n, parameters));
    CALL(vf_gradient(flow, N, x, p, f, NULL, &loss, gradient));
    CALL(vf_dimension(flow, &d));
    CALL(vf_save(flow, "flow.npz"));
    CALL(vf_load("flow.npz", NULL, &loaded));
    CALL(vf_free(loaded));
    REFUSE(VF_BAD_HANDLE, vf_free(loaded));
    REFUSE(VF_REFUSED, vf_train(flow, -1, x, p, f, NULL));
    REFUSE(VF_FILE_FAILED, vf_load("none.npz", NULL, &loaded));
    printf(" %a", estimate);
    return n_wrong > 0;
}
