/* varflow.h: integrate, train and sample from a program in C or C++.
 *
 * Every function returns a status, VF_OK or one of the others; vf_last_error() then says in words what was
 * wrong. Nothing is printed, and the program is never ended. Arrays are the caller's. Points x (n, d) lie
 * one behind the other, x[i * d + k]; bounds (d, 2) are pairs of lower and upper bound, or NULL for the
 * unit cube.
 *
 * Options are text, "n_calls=50000 seed=1 rtol=1e-3", with the names that the same options have in Python,
 * or NULL for none. Values with blanks stand in quotes.
 *
 * After each call, the floating-point environment (traps, rounding, flags) is what it was before. All
 * functions may be called from several threads at once, by each with handles of its own. */
#ifndef VARFLOW_H
#define VARFLOW_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define VF_ABI_VERSION 2 /* vf_start() refuses a library that has another */

enum {
    VF_OK = 0,
    VF_END = 1,             /* of a run: there are no more points to ask for */
    VF_REFUSED = 2,         /* an argument or an option is wrong */
    VF_BAD_HANDLE = 3,      /* a handle that was freed, never was, or is of another kind */
    VF_CALLBACK_FAILED = 4, /* f returned a status other than 0 */
    VF_NOT_FINITE = 5,      /* a value of f, or a loss, is NaN or infinite */
    VF_FILE_FAILED = 6,     /* a file cannot be read or written, or is damaged */
    VF_NO_MEMORY = 7,
    VF_NOT_STARTED = 8, /* vf_start() was not called, or has failed */
    VF_NO_PYTHON = 9,   /* Python, or varflow in it, was not found */
    VF_OTHER_ABI = 10,  /* this header and the library do not belong together */
    VF_FAILED = 11      /* anything else */
};

typedef int64_t vf_handle; /* of a run, a flow, a mixture or a result; above 0, and never given twice */

/* The integrand: sets values (n, m) at points x (n, d), and returns 0, or else the call that needs it ends
 * with VF_CALLBACK_FAILED. It runs in the floating-point environment of the host program, may call any
 * function of the library, and must not leave by longjmp or a C++ exception. */
typedef int vf_integrand(const double *x, int64_t n, int32_t d, double *values, int32_t m, void *user);

typedef struct {
    double mean, sdev; /* the estimate, and its standard deviation; of the first component if m > 1 */
    double log_mean, log_sdev; /* of its logarithm: where mean is NaN, as it is no double; or NaN below 0 */
    double chi2, Q;            /* consistency of the iterations, and its probability; Q may be NaN */
    int64_t dof, n_calls, n_warnings;
    vf_handle handle; /* the result: for vf_mean, vf_warnings, vf_sample, vf_save, vf_free */
} vf_result;

/* How good a flow's density q is for importance sampling, on n points drawn from p: figures of f/p before,
 * and of f/q after. For N points, the relative error of an integral is sqrt(relative variance / N). */
typedef struct {
    int64_t n;
    double variance_before, variance_before_error; /* relative variance of the weights, and its error */
    double variance_after, variance_after_error;
    double ratio, ratio_error;                   /* variance before / after: so many times fewer points */
    double ess_before, ess_after;                /* effective sample size, as a fraction of the points */
    double efficiency_before, efficiency_after;  /* of unweighting, to the 99.9 % quantile of the weights */
    double pareto_before, pareto_after;          /* shape of the weights' tail; NaN if it cannot be told */
    double floor;                                /* of the relative variance, where f has both signs */
} vf_evaluation;

/* Start Python and import varflow. Further calls do nothing. */
int vf_start_abi(int32_t abi_version);
static inline int vf_start(void)
{
    return vf_start_abi(VF_ABI_VERSION);
}

const char *vf_version(void);    /* of varflow, when the library was built */
const char *vf_last_error(void); /* what went wrong last in this thread, until it goes wrong again */

/* Integrate f over a box. Options: n_calls, rtol, atol, seed, deterministic, threads, loss, flow, on_invalid,
 * use_survey, covariance, latent_points, backend, checkpoint, resume, checkpoint_seconds, masking, n_bins, d_hidden, n_hidden,
 * repetitions, dtype, precision as in Python; log=true if f gives the logarithm of its one value, -inf
 * for 0; and m, the number of components of f (1). flow may also be the handle of a flow, or of a result
 * whose flow it is: a copy of it is trained on. */
int vf_integrate(vf_integrand *f, void *user, int32_t d, const double *bounds, const char *options,
                 vf_result *result);

/* Integrate in a loop of the caller's. Options: as for vf_integrate, but neither deterministic nor checkpoint: see vf_save; and
 * train_in: where the flow is trained, in the vf_tell that completes what it learns from (tell), in a thread
 * that this vf_tell starts (thread), or in vf_run_step (step). */
int vf_run_new(int32_t d, const double *bounds, const char *options, vf_handle *run);
/* n: room in x (n, d), and then how many points were given. 0 if all that can be given are out, or if
 * vf_run_step must train first. */
int vf_ask(vf_handle run, int64_t *n, double *x);
/* values (n, m) at the n points that were given first, of those that have not been told yet */
int vf_tell(vf_handle run, int64_t n, const double *values);
/* Give up the n points that were given first, of those that have not been told yet. The estimate stays
 * unbiased only if it does not depend on f which points these are. */
int vf_run_forget(vf_handle run, int64_t n);
int vf_run_step(vf_handle run); /* trains on what was told, for train_in=step */
/* Go on with a run that has ended, by n_calls points, for a smaller error. */
int vf_run_extend(vf_handle run, int64_t n_calls);
int vf_run_result(vf_handle run, vf_result *result);

/* Of a result: the means (m) of all components of f, and their covariance (m, m), unless that is null. Of more
   than 500 components, it is there with the option covariance=true alone. */
int vf_mean(vf_handle result, int32_t m, double *mean, double *covariance);
/* Warnings of a result, or of the last training or evaluation of a flow, a line each: text of size bytes. */
int vf_warnings(vf_handle handle, int64_t size, char *text);

/* A new flow. Options: cell, masking, n_bins, d_hidden, n_hidden, repetitions, dtype, precision, seed,
 * threads, backend. */
int vf_flow_new(int32_t d, const double *bounds, const char *options, vf_handle *flow);
/* Train the flow, as it is, on points x (n, d) that were drawn from the density p (n), with values f (n).
 * Options: loss, control_variate, n_epochs, minibatch_size, holdout, patience, p_normalized, max_reloads,
 * seed, checkpoint, resume, checkpoint_seconds; those of Adam: lr, betas (0.9,0.99), eps, weight_decay,
 * clip_norm, schedule, warm_up, average; and logpx=true, logfx=true if p, f are given by their logarithms. */
int vf_train(vf_handle flow, int64_t n, const double *x, const double *p, const double *f,
             const char *options);
/* Train a new flow, whose size follows from the points where it is not given, and measure it on points that
 * it has not learnt from; as Python's train. Options: those of vf_train; those of vf_flow_new; test, the
 * share of the points that is kept for the measurement (0.1); and n_flows and defensive, number of flows and
 * share of the uniform density: where they are not 1 and 0, *flow is a mixture, which can be sampled,
 * evaluated and saved, but not trained further. */
int vf_train_new(int32_t d, const double *bounds, int64_t n, const double *x, const double *p,
                 const double *f, const char *options, vf_evaluation *evaluation, vf_handle *flow);
/* Measure a flow or a mixture on points that it was not trained on. Options: logpx, logfx. */
int vf_evaluate(vf_handle flow, int64_t n, const double *x, const double *p, const double *f,
                const char *options, vf_evaluation *evaluation);
/* Draw n points x (n, d) from a flow, a mixture or a result, with the log of their density q (n). The same
 * seed gives the same points; one below 0 is drawn from the system. */
int vf_sample(vf_handle handle, int64_t n, int64_t seed, double *x, double *log_q);
int vf_log_prob(vf_handle flow, int64_t n, const double *x, double *log_q);

/* For an optimiser of the caller's: all n parameters of a flow, and the loss and its gradient
 * (n_parameters) at points. f is scaled such that the mean of f/p is 1. Options: loss (variance or dkl),
 * control_variate, logpx, logfx. */
int vf_n_parameters(vf_handle flow, int64_t *n);
int vf_get_parameters(vf_handle flow, int64_t n, double *parameters);
int vf_set_parameters(vf_handle flow, int64_t n, const double *parameters);
int vf_gradient(vf_handle flow, int64_t n, const double *x, const double *p, const double *f,
                const char *options, double *loss, double *gradient);

int vf_dimension(vf_handle handle, int32_t *d);
/* Files are those of Python. Options of vf_load: threads, backend; for a run also m. */
int vf_save(vf_handle handle, const char *path);
int vf_load(const char *path, const char *options, vf_handle *handle);
int vf_free(vf_handle handle);

#ifdef __cplusplus
}
#endif

#endif
