/* NAME.h: a normalizing flow, without Python.

   Written by varflow @VERSION@; to change it, export the flow again. The guide is examples/guides/export.md.

   Points are rows of NAME_D doubles, (n, NAME_D). log_q is the natural logarithm of the density at a point, (n,).
   The functions allocate nothing, print nothing and have no state but the workspace, which need not be set before.
   Threads may call them at the same time, each with a workspace of its own; they share the weights.
   All but NAME_message return a status: NAME_OK, which is 0, or what was wrong. */
#ifndef NAME_H
#define NAME_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum {
    NAME_D = @D@,
    NAME_N_WEIGHTS = @N_WEIGHTS@,
    NAME_TILE = 64 /* points that pass through the flow together */
};

typedef @REAL@ NAME_real; /* precision of the networks */

typedef struct {
    double points[NAME_D * NAME_TILE], latent[NAME_D * NAME_TILE], coordinates[NAME_D * NAME_TILE];
    double log_det[NAME_TILE], slopes[NAME_TILE], log_q[NAME_TILE];
    int component[NAME_TILE], rows[NAME_TILE], is_outside[NAME_TILE];
    NAME_real inputs[NAME_D * NAME_TILE], hidden[2][@D_HIDDEN@ * NAME_TILE], logits[@N_OUT@ * NAME_TILE];
} NAME_workspace;

enum {
    NAME_OK = 0,
    NAME_BAD_ARGUMENT = 1,      /* a null pointer, or a negative number */
    NAME_OUTSIDE = 2,           /* points outside the box, or not finite: their results are NaN */
    NAME_NO_FILE = 3,           /* from here on: NAME_load */
    NAME_WRONG_SIZE = 4,
    NAME_WRONG_SUM = 5,
    NAME_WRONG_SAMPLE = 6,      /* from here on: NAME_verify */
    NAME_WRONG_LOG_PROB = 7,
    NAME_WRONG_TO_LATENT = 8,
    NAME_WRONG_FROM_LATENT = 9
};

/* Words for a status. */
const char *NAME_message(int status);

@WEIGHTS@

/* Draw the points first, ..., first + n - 1 of the sequence that belongs to a seed: those of Python's
   flow.sample(first + n, seed=seed). Points in any number of calls are thus the same as in one. */
int NAME_sample(uint64_t seed, int64_t first, int64_t n, double *x, double *log_q, const NAME_real *weights,
                NAME_workspace *work);

/* Compute log q of points x of the box. */
int NAME_log_prob(int64_t n, const double *x, double *log_q, const NAME_real *weights, NAME_workspace *work);

@LATENT@
/* Compare with points that Python has computed: whether the flow is the same here, to @TOLERANCE@ in log q. */
int NAME_verify(const NAME_real *weights, NAME_workspace *work);

#ifdef __cplusplus
}
#endif

#endif
