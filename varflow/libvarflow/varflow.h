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

#define VF_ABI_VERSION 1 /* vf_start() refuses a library that has another */

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
    double chi2, Q;    /* consistency of the iterations, and its probability; Q may be NaN */
    int64_t dof, n_calls, n_warnings;
    vf_handle handle; /* the result: for vf_mean, vf_warnings, vf_sample, vf_save, vf_free */
} vf_result;

/* Start Python and import varflow. Further calls do nothing. */
int vf_start_abi(int32_t abi_version);
static inline int vf_start(void)
{
    return vf_start_abi(VF_ABI_VERSION);
}

const char *vf_version(void);    /* of varflow, when the library was built */
const char *vf_last_error(void); /* what went wrong last in this thread, until it goes wrong again */

/* Integrate f over a box. Options: n_calls, rtol, atol, seed, threads, loss, flow, on_invalid, use_survey,
 * latent_points, backend, checkpoint, resume, checkpoint_seconds, masking, n_bins, d_hidden, n_hidden,
 * repetitions, dtype as in Python, and m, the number of components of f (1). */
int vf_integrate(vf_integrand *f, void *user, int32_t d, const double *bounds, const char *options,
                 vf_result *result);

/* Integrate in a loop of the caller's. Options: as for vf_integrate, but no checkpoint: see vf_save. */
int vf_run_new(int32_t d, const double *bounds, const char *options, vf_handle *run);
/* n: room in x (n, d), and then how many points were given. 0 if all that can be given are out. */
int vf_ask(vf_handle run, int64_t *n, double *x);
/* values (n, m) at the n points that were given first, of those that have not been told yet */
int vf_tell(vf_handle run, int64_t n, const double *values);
int vf_run_result(vf_handle run, vf_result *result);

/* Of a result: the means (m) of all components of f, and their covariance (m, m). */
int vf_mean(vf_handle result, int32_t m, double *mean, double *covariance);
/* Warnings of a result, or of the last vf_train of a flow, one a line, as text of size bytes. */
int vf_warnings(vf_handle handle, int64_t size, char *text);

/* A new flow. Options: cell, masking, n_bins, d_hidden, n_hidden, repetitions, dtype, seed, threads,
 * backend, precision. */
int vf_flow_new(int32_t d, const double *bounds, const char *options, vf_handle *flow);
/* Train the flow, as it is, on points x (n, d) that were drawn from the density p (n), with values f (n).
 * Options: loss, control_variate, n_epochs, minibatch_size, holdout, patience, p_normalized, max_reloads,
 * seed, checkpoint, resume, checkpoint_seconds, and those of Adam: lr, eps, weight_decay, clip_norm,
 * schedule, warm_up, average. */
int vf_train(vf_handle flow, int64_t n, const double *x, const double *p, const double *f,
             const char *options);
/* Draw n points x (n, d) from a flow, a mixture or a result, with the log of their density q (n). The same
 * seed gives the same points; one below 0 is drawn from the system. */
int vf_sample(vf_handle handle, int64_t n, int64_t seed, double *x, double *log_q);
int vf_log_prob(vf_handle flow, int64_t n, const double *x, double *log_q);

/* For an optimiser of the caller's: all n parameters of a flow, and the loss and its gradient
 * (n_parameters) at points. f is scaled such that the mean of f/p is 1. Options: loss (variance or dkl),
 * control_variate. */
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
