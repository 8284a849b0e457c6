/* NAME.c: see NAME.h. Written by varflow @VERSION@; to change it, export the flow again. */
#include "NAME.h"

#include <math.h>
@INCLUDES@
#include <string.h>

/* Each operation is rounded by itself, as in Python, but for those that say otherwise. */
#ifdef __clang__
#pragma STDC FP_CONTRACT OFF
#elif defined __GNUC__
#pragma GCC optimize("fp-contract=off")
#endif

@TABLES@

typedef NAME_real real;

enum {
    TILE = NAME_TILE,
    LANES = 16,  /* points for which a loop is written that the compiler can turn into vector instructions */
    SLOPES_PER_LOG = 8, /* slopes whose product cannot underflow */
    SAMPLE_BLOCK = 65536 /* points with a random generator of their own */
};

enum { PWLINEAR, PWQUAD, RQS, REALNVP };

static const double MIN_SHARE = 1e-3, MIN_SLOPE = 1e-3;
static const real MIN_LOGIT = -80, MAX_LOG_SLOPE = 20;
static const real MAX_LOG_SCALE = 2, MAX_TANH = 20;
static const double MAX_COORDINATE = 1e18, MAX_INPUT = 3;
static const double HALF_LOG_2_PI = 0.91893853320467274178;

static double min2(double a, double b) { return a < b ? a : b; }
static double max2(double a, double b) { return a > b ? a : b; }
static double clip(double value, double lower, double upper) { return min2(max2(value, lower), upper); }

/* 1 if true, else 0. Loops multiply by it, since what is conditional would not be vectorized. */
static double as_number(int is_true) { return is_true ? 1.0 : 0.0; }

/* ---- Networks. Activations are (neurons, TILE): the points of a neuron lie next to each other. ---- */

/* The networks of Python add products in this order, each with a single rounding: `is_fused`. Where the compiler does
   not know whether the processor can do that, it is asked. Where it can not, float64 can for float32, with the same
   result but for one in 10^8, in five times the time. */
#if defined FP_FAST_FMA && defined FP_FAST_FMAF
#define CAN_FUSE 1
#elif defined __GNUC__ && defined __x86_64__
#define CAN_FUSE (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
#define FUSED __attribute__((target("avx2,fma")))
#else
#define CAN_FUSE 0
#endif
#ifndef FUSED
#define FUSED
#endif
#ifdef __GNUC__
#define INLINED static inline __attribute__((always_inline)) /* into functions for other processors, too */
#else
#define INLINED static inline
#endif

INLINED real multiply_add(real a, real b, real c, int is_fused)
{
#if REAL_IS_FLOAT
    return is_fused ? fmaf(a, b, c) : (float)((double)a * b + c);
#else
    return is_fused ? fma(a, b, c) : a * b + c;
#endif
}

/* Add the products of inputs (n_in, TILE) and weights (n_in,) to the sums (TILE,) of an output, in the order of the
   inputs. Eight at a time, since loading and storing a sum takes as long as a product. */
INLINED void add_products(real *restrict sums, const real *weights, const real *restrict in, int n_in, int rows,
                          int is_fused)
{
    int k = 0;
    for (; k + 8 <= n_in; k += 8, weights += 8, in += 8 * TILE)
        for (int r = 0; r < rows; r++) {
            real sum = multiply_add(weights[0], in[r], sums[r], is_fused);
            sum = multiply_add(weights[1], in[r + TILE], sum, is_fused);
            sum = multiply_add(weights[2], in[r + 2 * TILE], sum, is_fused);
            sum = multiply_add(weights[3], in[r + 3 * TILE], sum, is_fused);
            sum = multiply_add(weights[4], in[r + 4 * TILE], sum, is_fused);
            sum = multiply_add(weights[5], in[r + 5 * TILE], sum, is_fused);
            sum = multiply_add(weights[6], in[r + 6 * TILE], sum, is_fused);
            sums[r] = multiply_add(weights[7], in[r + 7 * TILE], sum, is_fused);
        }
    for (; k < n_in; k++, weights++, in += TILE)
        for (int r = 0; r < rows; r++)
            sums[r] = multiply_add(weights[0], in[r], sums[r], is_fused);
}

/* Compute a hidden layer, with leaky ReLU. weights: (n_out, n_in), then biases. Returns the next layer's. */
INLINED const real *hidden_layer(real *out, int n_out, const real *weights, const real *in, int n_in, int rows,
                                 int is_fused)
{
    const real *const biases = weights + (long)n_out * n_in;
    for (int j = 0; j < n_out; j++, out += TILE, weights += n_in) {
        for (int r = 0; r < rows; r++)
            out[r] = biases[j];
        add_products(out, weights, in, n_in, rows, is_fused);
        for (int r = 0; r < rows; r++) {
            const real closed = (real)0.01 * out[r]; /* the larger of the two: a choice would not be vectorized */
            out[r] = out[r] > closed ? out[r] : closed;
        }
    }
    return biases + n_out;
}

/* Compute the last layer, as hidden_layer, but with the biases added at the end, as Python does. */
INLINED void last_layer(real *out, int n_out, const real *weights, const real *in, int n_in, int rows, int is_fused)
{
    const real *const biases = weights + (long)n_out * n_in;
    for (int j = 0; j < n_out; j++, out += TILE, weights += n_in) {
        for (int r = 0; r < rows; r++)
            out[r] = 0;
        add_products(out, weights, in, n_in, rows, is_fused);
        for (int r = 0; r < rows; r++)
            out[r] += biases[j];
    }
}

/* What a network sees of a coordinate: of one without bounds, no more than MAX_INPUT. */
static double network_input(double x)
{
    const double bounded = clip(x, -MAX_COORDINATE, MAX_COORDINATE);
    return IS_NORMAL ? MAX_INPUT * bounded / sqrt(MAX_INPUT * MAX_INPUT + bounded * bounded) : 2 * x - 1;
}

/* Compute the logits of a cell, (n_transformed * n_logits, TILE), from the coordinates it is conditioned on. */
INLINED void conditioner(const struct cell *cell, int rows, const real *weights, NAME_workspace *work, int is_fused)
{
    const int n_out = cell->n_logits * (NAME_D - cell->n_inputs);
    const real *in = work->inputs;
    int n_in = cell->n_inputs;
    weights += cell->weights;
    for (int i = 0; i < n_in; i++)
        for (int r = 0; r < rows; r++)
            work->inputs[i * TILE + r] = (real)network_input(work->coordinates[cell->split[i] * TILE + r]);
    for (int k = 0; k < cell->n_hidden; k++) {
        weights = hidden_layer(work->hidden[k % 2], cell->d_hidden, weights, in, n_in, rows, is_fused);
        in = work->hidden[k % 2];
        n_in = cell->d_hidden;
    }
    last_layer(work->logits, n_out, weights, in, n_in, rows, is_fused);
}

FUSED static void fused_conditioner(const struct cell *cell, int rows, const real *weights, NAME_workspace *work)
{
    conditioner(cell, rows, weights, work, 1);
}

static void separate_conditioner(const struct cell *cell, int rows, const real *weights, NAME_workspace *work)
{
    conditioner(cell, rows, weights, work, 0);
}

/* ---- Splines, of LANES points at a time. `values` are the logits of one coordinate, and then what becomes of them,
   (logits, TILE). ---- */

#if REAL_IS_FLOAT
/* 2^k exp(r) with |r| <= ln(2)/2, by the polynomial of Cephes' expf; unlike expf, in vectors. */
INLINED void exponentiate_by(real *values, int rows, int is_fused)
{
    int32_t bits[TILE];
    float powers[TILE];
    for (int i = 0; i < rows; i++) {
        const float exponent = values[i] * 1.44269504088896341F + 0.5F;
        const int32_t rounded = (int32_t)exponent, whole = rounded - (exponent < (float)rounded); /* floorf */
        const float k = (float)whole;
        const float r = multiply_add(k, 2.12194440e-4F, multiply_add(k, -0.693359375F, values[i], is_fused), is_fused);
        float p = 1.9875691500e-4F;
        p = multiply_add(p, r, 1.3981999507e-3F, is_fused);
        p = multiply_add(p, r, 8.3334519073e-3F, is_fused);
        p = multiply_add(p, r, 4.1665795894e-2F, is_fused);
        p = multiply_add(p, r, 1.6666665459e-1F, is_fused);
        p = multiply_add(p, r, 5.0000001201e-1F, is_fused);
        bits[i] = (whole + 127) * (1 << 23); /* of 2^k */
        values[i] = multiply_add(p, r * r, r + 1.0F, is_fused);
    }
    memcpy(powers, bits, sizeof *powers * (size_t)rows);
    for (int i = 0; i < rows; i++)
        values[i] *= powers[i];
}

FUSED static void fused_exponentiate(real *values, int rows) { exponentiate_by(values, rows, 1); }
static void separate_exponentiate(real *values, int rows) { exponentiate_by(values, rows, 0); }
#endif

/* Replace numbers (rows,) from MIN_LOGIT to -MIN_LOGIT by their exponentials. */
static void exponentiate(real *values, int rows)
{
#if REAL_IS_FLOAT
    (CAN_FUSE ? fused_exponentiate : separate_exponentiate)(values, rows);
#else
    for (int i = 0; i < rows; i++)
        values[i] = exp(values[i]);
#endif
}

/* Convert logits (n, rows) to exp(logit - largest logit of the point). */
static void exponentials(int n, real *restrict values, int rows)
{
    real largest[TILE];
    for (int i = 0; i < rows; i++)
        largest[i] = values[i];
    for (int j = 1; j < n; j++)
        for (int i = 0; i < rows; i++)
            largest[i] = values[j * TILE + i] > largest[i] ? values[j * TILE + i] : largest[i];
    for (int j = 0; j < n; j++) {
        for (int i = 0; i < rows; i++) {
            const real logit = values[j * TILE + i] - largest[i];
            values[j * TILE + i] = logit > MIN_LOGIT ? logit : MIN_LOGIT;
        }
        exponentiate(values + j * TILE, rows);
    }
}

/* Convert logits (n, rows) to exponentials without a common factor. */
static void exponential_slopes(int n, real *values, int rows)
{
    for (int j = 0; j < n; j++) {
        for (int i = 0; i < rows; i++) {
            const real logit = values[j * TILE + i] > -MAX_LOG_SLOPE ? values[j * TILE + i] : -MAX_LOG_SLOPE;
            values[j * TILE + i] = logit < MAX_LOG_SLOPE ? logit : MAX_LOG_SLOPE;
        }
        exponentiate(values + j * TILE, rows);
    }
}

/* Piecewise linear map with n bins of equal width (Mueller et al., arXiv 1808.03856, section 4.1). values: contents
   of the bins. x is replaced by z, and slope set to dz/dx. */
static void pwlinear_forward(int n, double *restrict x, double *restrict slope, real *restrict values, int rows)
{
    double below[TILE], total[TILE], k[TILE]; /* contents of the bins to the left, and of all; number of the bin */
    exponentials(n, values, rows);
    for (int i = 0; i < rows; i++)
        below[i] = total[i] = k[i] = 0;
    for (int j = 0; j < n; j++) {
        const double right = j < n - 1 ? j + 1 : HUGE_VAL;
        for (int i = 0; i < rows; i++) {
            const double value = values[j * TILE + i];
            const double is_beyond = as_number(k[i] == j) * as_number(x[i] * n >= right);
            total[i] += value;
            below[i] += is_beyond * value;
            k[i] += is_beyond;
        }
    }
    for (int i = 0; i < rows; i++) {
        const double here = values[(int)k[i] * TILE + i];
        x[i] = min2((below[i] + here * min2(x[i] * n - k[i], 1)) / total[i], 1);
        slope[i] = here * n / total[i];
    }
}

/* Inverse of pwlinear_forward: z is replaced by x, and slope set to dz/dx. */
static void pwlinear_inverse(int n, double *restrict z, double *restrict slope, real *restrict values, int rows)
{
    double left_over[TILE], total[TILE], k[TILE];
    exponentials(n, values, rows);
    for (int i = 0; i < rows; i++)
        total[i] = k[i] = 0;
    for (int j = 0; j < n; j++)
        for (int i = 0; i < rows; i++)
            total[i] += values[j * TILE + i];
    for (int i = 0; i < rows; i++)
        left_over[i] = z[i] < 1 ? z[i] * total[i] : HUGE_VAL; /* 1 maps to 1, however the sums are rounded */
    for (int j = 0; j < n - 1; j++)
        for (int i = 0; i < rows; i++) {
            const double value = values[j * TILE + i];
            const double is_beyond = as_number(k[i] == j) * as_number(left_over[i] >= value);
            left_over[i] -= is_beyond * value;
            k[i] += is_beyond;
        }
    for (int i = 0; i < rows; i++) {
        const double here = values[(int)k[i] * TILE + i];
        z[i] = (k[i] + clip(left_over[i] / here, 0, 1)) / n;
        slope[i] = here * n / total[i];
    }
}

struct quad_bins { /* where pwquad_locate has found the points */
    double k[TILE];      /* number of the bin */
    double left[TILE];   /* its left edge */
    double below[TILE];  /* area under the polygon to the left of it */
    double factor[TILE]; /* of widths */
    double area[TILE];   /* of all bins */
};

/* Locate the bins that contain the targets: x, or z if is_latent. */
static inline void pwquad_locate(struct quad_bins *bins, const double *restrict target, int is_latent, int n,
                                 const real *restrict values, int rows)
{
    const double least = MIN_SHARE / n;
    const real *const heights = values + n * TILE;
    double sum_of_heights[TILE];
    for (int i = 0; i < rows; i++)
        bins->k[i] = bins->left[i] = bins->below[i] = bins->factor[i] = bins->area[i] = sum_of_heights[i] = 0;
    for (int j = 0; j < n; j++)
        for (int i = 0; i < rows; i++) {
            const double height = 0.5 * ((double)heights[j * TILE + i] + heights[(j + 1) * TILE + i]);
            bins->factor[i] += values[j * TILE + i];
            bins->area[i] += values[j * TILE + i] * height;
            sum_of_heights[i] += height;
        }
    for (int i = 0; i < rows; i++) {
        bins->factor[i] = (1 - MIN_SHARE) / bins->factor[i];
        bins->area[i] = least * sum_of_heights[i] + bins->factor[i] * bins->area[i];
    }
    for (int j = 0; j < n - 1; j++)
        for (int i = 0; i < rows; i++) {
            const double height = 0.5 * ((double)heights[j * TILE + i] + heights[(j + 1) * TILE + i]);
            const double width = least + bins->factor[i] * values[j * TILE + i], part = width * height;
            const double reached = is_latent ? bins->below[i] + part : bins->left[i] + width;
            const double goal = is_latent ? target[i] * bins->area[i] : target[i];
            const double is_beyond = as_number(bins->k[i] == j) * as_number(goal >= reached);
            bins->k[i] += is_beyond;
            bins->left[i] += is_beyond * width;
            bins->below[i] += is_beyond * part;
        }
}

/* Height between two vertices, which rounding could put below the lower one. */
static double pwquad_height(double low, double high, double inside)
{
    return max2(low * (1 - inside) + high * inside, min2(low, high));
}

/* Piecewise quadratic map, whose slope is a polygon (Mueller et al., section 4.2). values: widths of n bins, then
   heights of n + 1 vertices, each up to a common factor. */
static void pwquad_forward(int n, double *restrict x, double *restrict slope, real *restrict values, int rows)
{
    struct quad_bins bins;
    exponentials(n, values, rows);
    exponentials(n + 1, values + n * TILE, rows);
    pwquad_locate(&bins, x, 0, n, values, rows);
    for (int i = 0; i < rows; i++) {
        const int k = (int)bins.k[i];
        const double low = values[(n + k) * TILE + i], high = values[(n + k + 1) * TILE + i];
        const double width = MIN_SHARE / n + bins.factor[i] * values[k * TILE + i];
        const double inside = clip((x[i] - bins.left[i]) / width, 0, 1);
        const double height = pwquad_height(low, high, inside);
        x[i] = min2((bins.below[i] + 0.5 * width * inside * (low + height)) / bins.area[i], 1);
        slope[i] = height / bins.area[i];
    }
}

static void pwquad_inverse(int n, double *restrict z, double *restrict slope, real *restrict values, int rows)
{
    struct quad_bins bins;
    exponentials(n, values, rows);
    exponentials(n + 1, values + n * TILE, rows);
    pwquad_locate(&bins, z, 1, n, values, rows);
    for (int i = 0; i < rows; i++) {
        const int is_below = z[i] < 1; /* 1 maps to 1, however the areas' sum is rounded */
        const int k = is_below ? (int)bins.k[i] : n - 1;
        const double low = values[(n + k) * TILE + i], high = values[(n + k + 1) * TILE + i];
        const double width = MIN_SHARE / n + bins.factor[i] * values[k * TILE + i];
        const double part = max2(z[i] * bins.area[i] - bins.below[i], 0) / width;
        const double height = sqrt(max2(low * low + 2 * (high - low) * part, 0));
        const double inside = is_below ? min2(2 * part / (low + height), 1) : 1; /* root without cancellation */
        z[i] = is_below ? min2(bins.left[i] + width * inside, 1) : 1;
        slope[i] = pwquad_height(low, high, inside) / bins.area[i];
    }
}

struct rqs_bins { /* where rqs_locate has found the points */
    double k[TILE], left[TILE], bottom[TILE]; /* number of the bin, and its edges in x and z */
    double factor[TILE], height_factor[TILE];  /* of widths and heights */
};

static inline void rqs_locate(struct rqs_bins *bins, const double *restrict target, int is_latent, int n, const real *restrict values,
                              int rows)
{
    const double least = MIN_SHARE / n;
    const real *const heights = values + n * TILE;
    for (int i = 0; i < rows; i++)
        bins->k[i] = bins->left[i] = bins->bottom[i] = bins->factor[i] = bins->height_factor[i] = 0;
    for (int j = 0; j < n; j++)
        for (int i = 0; i < rows; i++) {
            bins->factor[i] += values[j * TILE + i];
            bins->height_factor[i] += heights[j * TILE + i];
        }
    for (int i = 0; i < rows; i++) {
        bins->factor[i] = (1 - MIN_SHARE) / bins->factor[i];
        bins->height_factor[i] = (1 - MIN_SHARE) / bins->height_factor[i];
    }
    for (int j = 0; j < n - 1; j++)
        for (int i = 0; i < rows; i++) {
            const double width = least + bins->factor[i] * values[j * TILE + i];
            const double height = least + bins->height_factor[i] * heights[j * TILE + i];
            const double reached = is_latent ? bins->bottom[i] + height : bins->left[i] + width;
            const double is_beyond = as_number(bins->k[i] == j) * as_number(target[i] >= reached);
            bins->k[i] += is_beyond;
            bins->left[i] += is_beyond * width;
            bins->bottom[i] += is_beyond * height;
        }
}

struct rqs_piece { /* a bin: its width and height, the slopes at its edges, and its mean slope */
    double width, height, first, last, mean;
};

static struct rqs_piece rqs_piece(const struct rqs_bins *bins, int i, int k, int n, const real *restrict values)
{
    struct rqs_piece piece;
    piece.width = MIN_SHARE / n + bins->factor[i] * values[k * TILE + i];
    piece.height = MIN_SHARE / n + bins->height_factor[i] * values[(n + k) * TILE + i];
    piece.first = MIN_SLOPE + (1 - MIN_SLOPE) * values[(2 * n + k) * TILE + i];
    piece.last = MIN_SLOPE + (1 - MIN_SLOPE) * values[(2 * n + k + 1) * TILE + i];
    piece.mean = piece.height / piece.width;
    return piece;
}

/* Slope of the map (equation 5). */
static double rqs_slope(const struct rqs_piece *piece, double inside)
{
    const double outside = 1 - inside, both = inside * outside;
    const double top = piece->last * inside * inside + 2 * piece->mean * both + piece->first * outside * outside;
    const double ratio = piece->mean / (piece->mean + (piece->first + piece->last - 2 * piece->mean) * both);
    return top * ratio * ratio;
}

static void rqs_activate(int n, real *restrict values, int rows)
{
    exponentials(n, values, rows);
    exponentials(n, values + n * TILE, rows);
    exponential_slopes(n + 1, values + 2 * n * TILE, rows);
}

/* Monotone rational-quadratic spline (Durkan et al., arXiv 1906.04032, equations 4 and 5). values: n widths and n
   heights, each up to a common factor, and n + 1 slopes. */
static void rqs_forward(int n, double *restrict x, double *restrict slope, real *restrict values, int rows)
{
    struct rqs_bins bins;
    rqs_activate(n, values, rows);
    rqs_locate(&bins, x, 0, n, values, rows);
    for (int i = 0; i < rows; i++) {
        const struct rqs_piece piece = rqs_piece(&bins, i, (int)bins.k[i], n, values);
        const double inside = clip((x[i] - bins.left[i]) / piece.width, 0, 1), both = inside * (1 - inside);
        const double denominator = piece.mean + (piece.first + piece.last - 2 * piece.mean) * both;
        const double numerator = piece.mean * inside * inside + piece.first * both;
        x[i] = min2(bins.bottom[i] + piece.height * min2(numerator / denominator, 1), 1);
        slope[i] = rqs_slope(&piece, inside);
    }
}

/* Inverse of rqs_forward (equations 6 to 8). */
static void rqs_inverse(int n, double *restrict z, double *restrict slope, real *restrict values, int rows)
{
    struct rqs_bins bins;
    rqs_activate(n, values, rows);
    rqs_locate(&bins, z, 1, n, values, rows);
    for (int i = 0; i < rows; i++) {
        const int is_below = z[i] < 1; /* 1 maps to 1, however the heights' sum is rounded */
        const struct rqs_piece piece = rqs_piece(&bins, i, is_below ? (int)bins.k[i] : n - 1, n, values);
        const double ratio = clip((z[i] - bins.bottom[i]) / piece.height, 0, 1);
        const double excess = piece.first + piece.last - 2 * piece.mean;
        const double a = piece.mean - piece.first + ratio * excess, b = piece.first - ratio * excess;
        const double c = -piece.mean * ratio, root = sqrt(max2(b * b - 4 * a * c, 0));
        /* Without cancellation, and without 0 / 0 */
        const double solution = b > 0 ? -2 * c / (b + root) : (root - b) / max2(2 * a, 1e-30);
        const double inside = is_below ? min2(solution, 1) : 1;
        z[i] = is_below ? min2(bins.left[i] + piece.width * inside, 1) : 1;
        slope[i] = rqs_slope(&piece, inside);
    }
}

/* Convert the first of two logits to a log scale s, MAX_LOG_SCALE at most; the other is a shift. */
static void realnvp_activate(real *restrict values, int rows)
{
    for (int i = 0; i < rows; i++) {
        const real half = values[i] / MAX_LOG_SCALE > -MAX_TANH ? values[i] / MAX_LOG_SCALE : -MAX_TANH;
        values[i] = half < MAX_TANH ? half + half : MAX_TANH + MAX_TANH;
    }
    exponentiate(values, rows);
    for (int i = 0; i < rows; i++)
        values[i] = MAX_LOG_SCALE * ((values[i] - 1) / (values[i] + 1));
}

/* Affine map (Dinh et al., arXiv 1605.08803, equation 7). */
static void realnvp_forward(int n, double *restrict x, double *restrict slope, real *restrict values, int rows)
{
    (void)n;
    realnvp_activate(values, rows);
    for (int i = 0; i < rows; i++) {
        slope[i] = exp((double)values[i]);
        x[i] = x[i] * slope[i] + values[TILE + i];
    }
}

static void realnvp_inverse(int n, double *restrict z, double *restrict slope, real *restrict values, int rows)
{
    (void)n;
    realnvp_activate(values, rows);
    for (int i = 0; i < rows; i++) {
        slope[i] = exp((double)values[i]);
        z[i] = (z[i] - values[TILE + i]) / slope[i];
    }
}

typedef void spline(int n, double *restrict coordinates, double *restrict slope, real *restrict values, int rows);

static spline *const forward[] = {pwlinear_forward, pwquad_forward, rqs_forward, realnvp_forward};
static spline *const inverse[] = {pwlinear_inverse, pwquad_inverse, rqs_inverse, realnvp_inverse};

/* ---- A flow: its cells in turn. `rows` is the number of points in the tile, a multiple of LANES. ---- */

static void add_log(NAME_workspace *work, int rows)
{
    for (int r = 0; r < rows; r++) {
        work->log_det[r] += log(work->slopes[r]);
        work->slopes[r] = 1;
    }
}

/* Map the coordinates that a cell transforms. Returns the number of slopes in the product, n_pending before. */
static int couple(const struct cell *cell, spline *map, int rows, int n_pending, const real *weights,
                  NAME_workspace *work)
{
    const int n_transformed = NAME_D - cell->n_inputs;
    double slope[TILE];
    (CAN_FUSE ? fused_conditioner : separate_conditioner)(cell, rows, weights, work);
    for (int i = 0; i < n_transformed; i++) {
        double *const coordinates = work->coordinates + cell->split[cell->n_inputs + i] * TILE;
        if (n_pending == SLOPES_PER_LOG) {
            add_log(work, rows);
            n_pending = 0;
        }
        map(cell->n_bins, coordinates, slope, work->logits + i * cell->n_logits * TILE, rows);
        for (int r = 0; r < rows; r++)
            work->slopes[r] *= slope[r];
        n_pending++;
    }
    return n_pending;
}

static void begin(NAME_workspace *work)
{
    for (int r = 0; r < TILE; r++) {
        work->log_det[r] = 0;
        work->slopes[r] = 1;
    }
}

/* Add the log of the normal density of the latent coordinates to log_det, where they have one. */
static void add_normal(NAME_workspace *work, int rows)
{
    for (int k = 0; IS_NORMAL && k < NAME_D; k++)
        for (int r = 0; r < rows; r++) {
            const double z = work->coordinates[k * TILE + r];
            work->log_det[r] -= HALF_LOG_2_PI + 0.5 * z * z;
        }
}

/* Map the coordinates to latent space by flow number f; log_det is set. */
static void flow_forward(int f, int rows, const real *weights, NAME_workspace *work)
{
    int n_pending = 0;
    begin(work);
    for (int c = first_cell[f]; c < first_cell[f + 1]; c++)
        n_pending = couple(&cells[c], forward[cells[c].kind], rows, n_pending, weights, work);
    add_log(work, rows);
    add_normal(work, rows);
}

/* Map latent coordinates by the inverse of flow number f; log_det is that of the forward map. */
static void flow_inverse(int f, int rows, const real *weights, NAME_workspace *work)
{
    int n_pending = 0;
    begin(work);
    add_normal(work, rows);
    for (int c = first_cell[f + 1] - 1; c >= first_cell[f]; c--)
        n_pending = couple(&cells[c], inverse[cells[c].kind], rows, n_pending, weights, work);
    add_log(work, rows);
}

/* ---- The density: one flow, or a mixture of N_FLOWS of them and the uniform density. ---- */

static int padded(int n) { return (n + LANES - 1) / LANES * LANES; }

static double logaddexp(double a, double b) { return max2(a, b) + log1p(exp(-fabs(a - b))); }

/* Compute log_q of the points of the tile by the forward maps; the coordinates become latent. */
static void density(int rows, const real *weights, NAME_workspace *work)
{
    for (int f = 0; f < N_FLOWS; f++) {
        for (int k = 0; k < NAME_D; k++)
            for (int r = 0; r < rows; r++) {
                const double u = (work->points[k * TILE + r] - location[k]) / width[k];
                work->coordinates[k * TILE + r] = IS_NORMAL ? u : clip(u, 0, 1);
            }
        flow_forward(f, rows, weights, work);
        for (int r = 0; r < rows; r++) {
            const double log_q = work->log_det[r] - LOG_VOLUME + log_share[f];
            work->log_q[r] = f == 0 ? log_q : logaddexp(work->log_q[r], log_q);
        }
    }
    for (int c = N_FLOWS; c < N_COMPONENTS; c++) /* the uniform density, if it has a share */
        for (int r = 0; r < rows; r++)
            work->log_q[r] = logaddexp(work->log_q[r], log_share[c] - LOG_VOLUME);
}

/* Map those of n latent points that belong to component c to points of the box; log_q is that of the flow. */
static void from_component(int c, int n, const real *weights, NAME_workspace *work)
{
    int n_rows = 0;
    for (int r = 0; r < n; r++)
        if (work->component[r] == c)
            work->rows[n_rows++] = r;
    if (n_rows == 0)
        return;
    for (int r = n_rows; r < padded(n_rows); r++)
        work->rows[r] = work->rows[n_rows - 1];
    for (int k = 0; k < NAME_D; k++)
        for (int r = 0; r < padded(n_rows); r++)
            work->coordinates[k * TILE + r] = work->latent[k * TILE + work->rows[r]];
    if (c < N_FLOWS)
        flow_inverse(c, padded(n_rows), weights, work);
    for (int k = 0; k < NAME_D; k++)
        for (int r = 0; r < n_rows; r++) {
            const double x = location[k] + width[k] * work->coordinates[k * TILE + r];
            work->points[k * TILE + work->rows[r]] = IS_NORMAL ? x : clip(x, lower[k], upper[k]);
        }
    for (int r = 0; r < n_rows; r++)
        work->log_q[work->rows[r]] = work->log_det[r] - LOG_VOLUME;
}

/* ---- Random numbers: NumPy's Philox4x64-10, with a key from NumPy's SeedSequence. ---- */

static uint32_t hashed(uint32_t value, uint32_t *constant, uint32_t factor)
{
    value ^= *constant;
    *constant *= factor;
    value *= *constant;
    return value ^ value >> 16;
}

/* SeedSequence(seed).generate_state(2, uint64) */
static void key_from_seed(uint64_t key[2], uint64_t seed)
{
    const uint32_t words[4] = {(uint32_t)seed, (uint32_t)(seed >> 32), 0, 0};
    uint32_t pool[4], constant = 0x43b0d7e5;
    for (int i = 0; i < 4; i++)
        pool[i] = hashed(words[i], &constant, 0x931e8875);
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++)
            if (i != j) {
                const uint32_t mixed = 0xca01f9ddu * pool[j] - 0x4973f715u * hashed(pool[i], &constant, 0x931e8875);
                pool[j] = mixed ^ mixed >> 16;
            }
    constant = 0x8b51f9dd;
    for (int i = 0; i < 4; i++)
        pool[i] = hashed(pool[i], &constant, 0x58f38ded);
    for (int i = 0; i < 2; i++)
        key[i] = pool[2 * i] | (uint64_t)pool[2 * i + 1] << 32;
}

static void multiply(uint64_t a, uint64_t b, uint64_t *high, uint64_t *low)
{
    const uint64_t mask = 0xffffffff, a0 = a & mask, a1 = a >> 32, b0 = b & mask, b1 = b >> 32;
    const uint64_t middle = a1 * b0 + (a0 * b0 >> 32), other = a0 * b1 + (middle & mask);
    *high = a1 * b1 + (middle >> 32) + (other >> 32);
    *low = a * b;
}

/* Ten rounds of Salmon et al., SC 11 (2011): counter becomes four random numbers. */
static void philox(uint64_t counter[4], const uint64_t key[2])
{
    uint64_t k0 = key[0], k1 = key[1];
    for (int i = 0; i < 10; i++) {
        uint64_t high0, low0, high1, low1;
        multiply(0xd2e7470ee14c6c93, counter[0], &high0, &low0);
        multiply(0xca5a826395121157, counter[2], &high1, &low1);
        counter[0] = high1 ^ counter[1] ^ k0;
        counter[1] = low1;
        counter[2] = high0 ^ counter[3] ^ k1;
        counter[3] = low0;
        k0 += 0x9e3779b97f4a7c15;
        k1 += 0xbb67ae8584caa73b;
    }
}

struct stream { /* the random numbers of a sample block; the last four are kept */
    uint64_t key[2], purpose, block, quad, numbers[4];
};

/* Number i, uniform on [0, 1), of the generator of a block. */
static double uniform(struct stream *stream, uint64_t block, uint64_t i)
{
    const uint64_t quad = i / 4 + 1; /* NumPy counts before it generates */
    if (quad != stream->quad || block != stream->block) {
        const uint64_t counter[4] = {quad, 0, stream->purpose, block};
        stream->block = block;
        stream->quad = quad;
        memcpy(stream->numbers, counter, sizeof counter);
        philox(stream->numbers, stream->key);
    }
    return (double)(stream->numbers[i % 4] >> 11) * 0x1p-53;
}

/* Latent coordinate of a number that is uniform on [0, 1): itself, or its normal quantile by Wichura's algorithm AS 241
   (Applied Statistics 37 (1988) 477). */
static double latent_of(double uniform)
{
    const double u = max2(uniform, 0x1p-54), offset = u - 0.5;
    double r = 0.425 * 0.425 - offset * offset, top, bottom;
    if (!IS_NORMAL)
        return uniform;
    if (r >= 0) {
        top = ((((((2509.0809287301227 * r + 33430.57558358813) * r + 67265.7709270087) * r + 45921.95393154987) *
              r + 13731.69376550946) * r + 1971.5909503065513) * r + 133.14166789178438) * r + 3.3871328727963665;
        bottom = ((((((5226.495278852854 * r + 28729.085735721943) * r + 39307.89580009271) * r + 21213.794301586597)
                 * r + 5394.196021424751) * r + 687.1870074920579) * r + 42.31333070160091) * r + 1.0;
        return offset * top / bottom;
    }
    r = sqrt(-log(min2(u, 1 - u)));
    if (r <= 5) {
        r -= 1.6;
        top = ((((((0.0007745450142783414 * r + 0.022723844989269184) * r + 0.2417807251774506) * r +
              1.2704582524523684) * r + 3.6478483247632045) * r + 5.769497221460691) * r + 4.630337846156546) * r
              + 1.4234371107496835;
        bottom = ((((((1.0507500716444169e-09 * r + 0.0005475938084995345) * r + 0.015198666563616457) * r +
                 0.14810397642748008) * r + 0.6897673349851) * r + 1.6763848301838038) * r + 2.053191626637759) * r +
                 1.0;
    } else {
        r -= 5;
        top = ((((((2.0103343992922881e-07 * r + 2.7115555687434876e-05) * r + 0.0012426609473880784) * r +
              0.026532189526576124) * r + 0.29656057182850487) * r + 1.7848265399172913) * r + 5.463784911164114)
              * r + 6.657904643501103;
        bottom = ((((((2.0442631033899397e-15 * r + 1.421511758316446e-07) * r + 1.8463183175100548e-05) * r +
                 0.0007868691311456133) * r + 0.014875361290850615) * r + 0.1369298809227358) * r +
                 0.599832206555888) * r + 1.0;
    }
    return offset > 0 ? top / bottom : -top / bottom;
}

static struct stream stream_of(uint64_t seed, uint64_t purpose)
{
    struct stream stream = {{0, 0}, 0, 0, 0, {0, 0, 0, 0}};
    key_from_seed(stream.key, seed);
    stream.purpose = purpose;
    return stream;
}

static int component_at(double u)
{
    int c = 0;
    while (c < N_COMPONENTS - 1 && u >= upper_share[c])
        c++;
    return c;
}

/* ---- What the header declares. ---- */

/* Load up to TILE points (n, d) as (d, TILE); those outside the bounds are marked and moved to the lower corner. */
static int load_points(double *loaded, const double *points, int n, const double *from, const double *to,
                       NAME_workspace *work)
{
    int status = NAME_OK;
    for (int r = 0; r < padded(n); r++) {
        const double *const point = points + (r < n ? r : n - 1) * NAME_D;
        int is_inside = 1;
        for (int k = 0; k < NAME_D; k++)
            is_inside &= (point[k] >= from[k]) & (point[k] <= to[k]); /* false for NaN */
        for (int k = 0; k < NAME_D; k++)
            loaded[k * TILE + r] = is_inside ? point[k] : from[k];
        work->is_outside[r] = !is_inside;
        status = is_inside ? status : NAME_OUTSIDE;
    }
    return status;
}

/* Store n points (d, TILE) as (n, d), with NaN for those that are marked; log_q too. */
static void store_points(double *points, double *log_q, const double *loaded, int n, const NAME_workspace *work)
{
    for (int r = 0; r < n; r++) {
        for (int k = 0; points && k < NAME_D; k++)
            points[r * NAME_D + k] = work->is_outside[r] ? NAN : loaded[k * TILE + r];
        log_q[r] = work->is_outside[r] ? NAN : work->log_q[r];
    }
}

static int tile_size(int64_t n, int64_t first) { return n - first < TILE ? (int)(n - first) : TILE; }

int NAME_sample(uint64_t seed, int64_t first, int64_t n, double *x, double *log_q, const real *weights,
                NAME_workspace *work)
{
    struct stream points = stream_of(seed, 0), components = stream_of(seed, (uint64_t)1 << 32);
    if (n < 0 || first < 0 || first > INT64_MAX - n || !weights || !work || (n > 0 && (!x || !log_q)))
        return NAME_BAD_ARGUMENT;
    for (int64_t done = 0; done < n; done += TILE) {
        const int m = tile_size(n, done);
        for (int r = 0; r < m; r++) {
            const uint64_t row = (uint64_t)(first + done + r), block = row / SAMPLE_BLOCK, i = row % SAMPLE_BLOCK;
            for (int k = 0; k < NAME_D; k++)
                work->latent[k * TILE + r] = latent_of(uniform(&points, block, i * NAME_D + (uint64_t)k));
            work->component[r] = N_COMPONENTS > 1 ? component_at(uniform(&components, block, i)) : 0;
            work->is_outside[r] = 0;
        }
        for (int c = 0; c < N_COMPONENTS; c++)
            from_component(c, m, weights, work);
        if (N_COMPONENTS > 1) {
            for (int k = 0; k < NAME_D; k++)
                for (int r = m; r < padded(m); r++)
                    work->points[k * TILE + r] = work->points[k * TILE + m - 1];
            density(padded(m), weights, work);
        }
        store_points(x + done * NAME_D, log_q + done, work->points, m, work);
    }
    return NAME_OK;
}

/* Map points to latent space; z may be null. */
static int evaluate(int64_t n, const double *x, double *z, double *log_q, const real *weights, NAME_workspace *work)
{
    int status = NAME_OK;
    if (n < 0 || !weights || !work || (n > 0 && (!x || !log_q)))
        return NAME_BAD_ARGUMENT;
    for (int64_t done = 0; done < n; done += TILE) {
        const int m = tile_size(n, done);
        if (load_points(work->points, x + done * NAME_D, m, lower, upper, work) != NAME_OK)
            status = NAME_OUTSIDE;
        density(padded(m), weights, work);
        store_points(z ? z + done * NAME_D : NULL, log_q + done, work->coordinates, m, work);
    }
    return status;
}

int NAME_log_prob(int64_t n, const double *x, double *log_q, const real *weights, NAME_workspace *work)
{
    return evaluate(n, x, NULL, log_q, weights, work);
}

@LATENT@
/* Whether values (n,) are those that were expected; false if one is NaN. */
static int agree(const double *found, const double *expected, int n, double tolerance)
{
    int are_near = 1;
    for (int i = 0; i < n; i++)
        are_near &= fabs(found[i] - expected[i]) <= tolerance;
    return are_near;
}

/* Whether points of the box are those that were expected, in units of its sides. */
static int points_agree(const double *found, const double *expected)
{
    int are_near = 1;
    for (int r = 0; r < N_KNOWN; r++)
        for (int k = 0; k < NAME_D; k++)
            are_near &= fabs(found[r * NAME_D + k] - expected[r * NAME_D + k]) <= TOLERANCE * width[k];
    return are_near;
}

int NAME_verify(const real *weights, NAME_workspace *work)
{
    double points[N_KNOWN * NAME_D], log_q[N_KNOWN];
    if (!weights || !work)
        return NAME_BAD_ARGUMENT;
    NAME_sample(KNOWN_SEED, 0, N_KNOWN, points, log_q, weights, work);
    if (!points_agree(points, known_x) || !agree(log_q, known_log_q, N_KNOWN, TOLERANCE))
        return NAME_WRONG_SAMPLE;
    NAME_log_prob(N_KNOWN, known_x, log_q, weights, work);
    if (!agree(log_q, known_log_q, N_KNOWN, TOLERANCE))
        return NAME_WRONG_LOG_PROB;
@VERIFY_LATENT@
    return NAME_OK;
}

const char *NAME_message(int status)
{
    static const char *const messages[] = {
        "all is well",
        "a pointer is null, or a number is negative",
        "points lie outside the box or are not finite: their results are NaN",
        "the file of the weights cannot be read",
        "the file of the weights has the wrong size",
        "the file of the weights is not the one that was exported with this source",
        "sample differs from Python's",
        "log_prob differs from Python's",
        "to_latent differs from Python's",
        "from_latent differs from Python's",
    };
    const int n = (int)(sizeof messages / sizeof *messages);
    return status >= 0 && status < n ? messages[status] : "unknown status";
}

@LOAD@
