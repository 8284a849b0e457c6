"""The flow on the CPU: serial kernels without the GIL, each thread with a range of the work.

A tile of rows goes through all cells forward and, in training, straight back, in buffers that stay in
cache. Shapes: T rows a tile, d dimensions, H neurons a hidden layer, P logits a transformed coordinate.
Networks run in the dtype of the parameters; coordinates, slopes and log q are float64.

Hidden activations are (T, H) and everything by coordinate is (..., T): each matrix product then is of a kind
that BLAS is fast at, and the cells vectorise over rows. A tile is always full: the rows that are missing in
the last one repeat its last row and count for nothing. So every product has one shape, and a row's bits do
not depend on where it stands.
"""

import math
from typing import NamedTuple

import numpy as np
from numba import types
from numba.extending import overload

from varflow.architecture import Architecture
from varflow.kernels.compile import kernel
from varflow.kernels.splines import cell_backward, cell_forward, cell_inverse

NEGATIVE_SLOPE = 0.01  # of the leaky ReLU
MIN_LOGIT = -80.0  # below the largest: exp stays a normal float32, a slope never becomes 0
NEGLIGIBLE = 1e-20  # share of the loss below which a point's gradient is dropped: denormals are slow
SLOPES_PER_LOG = 8  # so many can be multiplied before a logarithm is due: exp(MIN_LOGIT)^8 > 1e-300


def tile_rows(architecture: Architecture) -> int:
    """Rows a tile: enough to pay for streaming the weights, few enough for activations to stay in cache."""
    return 64 if architecture.d_hidden <= 128 else 512


class Workspace(NamedTuple):
    """Buffers of one thread; `n_kept` is the number of cells in training, else 1."""

    coordinates: np.ndarray  # (d, T) float64, before or behind the cell at hand
    log_det: np.ndarray  # (T,) float64
    inputs: np.ndarray  # (n_kept, d * T)
    hidden: np.ndarray  # (n_kept, n_hidden, T, H)
    exps: np.ndarray  # (n_kept, P * d * T)
    x: np.ndarray  # (n_kept, d * T) float64, transformed coordinates before the cell
    z: np.ndarray  # (n_kept, d * T) float64, and behind it
    slope: np.ndarray  # (n_kept, d * T) float64
    scratch: np.ndarray  # (3 * d * T,) float64
    dcoordinates: np.ndarray  # (d, T) float64
    dlog_q: np.ndarray  # (T,) float64
    dz: np.ndarray  # (2, d * T) float64
    dlogits: np.ndarray  # (P * d * T,)
    dhidden: np.ndarray  # (2, T * max(H, d))
    one: np.ndarray  # (1,) the number one, for BLAS


def make_workspace(architecture: Architecture, keeps_all: bool) -> Workspace:
    """Allocate the buffers of one thread, for training if they are to keep all cells' activations."""
    d, d_hidden, n_hidden = architecture.d, architecture.d_hidden, architecture.n_hidden
    dtype, n_logits = architecture.dtype, architecture.n_logits
    n_rows = tile_rows(architecture)
    n_kept = architecture.n_cells if keeps_all else 1
    m = d * n_rows
    return Workspace(
        coordinates=np.zeros((d, n_rows)),
        log_det=np.zeros(n_rows),
        inputs=np.zeros((n_kept, m), dtype),
        hidden=np.zeros((n_kept, n_hidden, n_rows, d_hidden), dtype),
        exps=np.zeros((n_kept, m * n_logits), dtype),
        x=np.zeros((n_kept, m)),
        z=np.zeros((n_kept, m)),
        slope=np.zeros((n_kept, m)),
        scratch=np.zeros(3 * m),
        dcoordinates=np.zeros((d, n_rows)),
        dlog_q=np.zeros(n_rows),
        dz=np.zeros((2, m)),
        dlogits=np.zeros(m * n_logits, dtype),
        dhidden=np.zeros((2, n_rows * max(d_hidden, d)), dtype),
        one=np.ones(1, dtype),
    )


def exponential(x):
    """exp(x) for MIN_LOGIT <= x <= 0, in the precision of x, in a form that vectorises."""
    return np.exp(x)


@overload(exponential)
def _exponential(x):
    return _exponential_float32 if x == types.float32 else lambda x: math.exp(x)


def _exponential_float32(x):
    # 2^k exp(r) with |r| <= ln(2)/2, exp(r) by the polynomial of Cephes' expf: a fifth of the time of libm's,
    # since a loop that calls a function is not vectorised.
    k = np.floor(x * np.float32(1.44269504088896341) + np.float32(0.5))
    r = x - k * np.float32(0.693359375) + k * np.float32(2.12194440e-4)
    p = np.float32(1.9875691500e-4)
    p = p * r + np.float32(1.3981999507e-3)
    p = p * r + np.float32(8.3334519073e-3)
    p = p * r + np.float32(4.1665795894e-2)
    p = p * r + np.float32(1.6666665459e-1)
    p = p * r + np.float32(5.0000001201e-1)
    p = p * r * r + r + np.float32(1.0)
    bits = np.int32((np.int32(k) + np.int32(127)) << np.int32(23))
    return p * bits.view(np.float32)


# BLAS's gemm by the name under which np.dot calls it: unlike np.dot it can add to what is there.
# Arguments: kind, transa, transb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc.
_gemm = types.ExternalFunction(
    "numba_xxgemm",
    types.intc(*[types.char] * 3, *[types.intp] * 3, *[types.voidptr] * 2, types.intp,
               types.voidptr, types.intp, *[types.voidptr] * 2, types.intp),
)  # fmt: skip


@kernel
def add_product(c, a, b, transpose_a, transpose_b, one):
    """C += a b, either of them transposed first. c: (n, m), a: (n, k) or (k, n), b: (k, m) or (m, k)."""
    n, m = c.shape
    k = a.shape[0] if transpose_a else a.shape[1]
    kind = ord("s") if c.itemsize == 4 else ord("d")
    # BLAS counts by columns: it is given c^T = b^T a^T.
    _gemm(
        kind, ord("t") if transpose_b else ord("n"), ord("t") if transpose_a else ord("n"), m, n, k,
        one.ctypes, b.ctypes, b.shape[1], a.ctypes, a.shape[1], one.ctypes, c.ctypes, m,
    )  # fmt: skip


@kernel
def layer_weights(params, layer):
    """Weights (n_in, n_out) and biases (n_out,) of a layer: views of the flat parameters."""
    n_in, n_out, weights, biases = layer[0], layer[1], layer[2], layer[3]
    return params[weights : weights + n_in * n_out].reshape(n_in, n_out), params[biases : biases + n_out]


@kernel
def activation_forward(hidden, biases):
    """Leaky ReLU. hidden: (T, H), without bias on entry, set to the activations. biases: (H,)."""
    slope = hidden.dtype.type(NEGATIVE_SLOPE)
    for r in range(hidden.shape[0]):
        for i in range(hidden.shape[1]):
            value = hidden[r, i] + biases[i]
            hidden[r, i] = max(value, slope * value)


@kernel
def activation_backward(dhidden, dbiases, hidden):
    """dhidden: (T, H), in the activations on entry, set to that before them. dbiases: (H,), added to."""
    slope = hidden.dtype.type(NEGATIVE_SLOPE)
    one = hidden.dtype.type(1.0)
    for r in range(hidden.shape[0]):
        for i in range(hidden.shape[1]):
            dhidden[r, i] *= one if hidden[r, i] > 0 else slope
            dbiases[i] += dhidden[r, i]


@kernel
def network_forward(hidden, logits, inputs, params, layers):
    """Logits of a cell from the coordinates that it is conditioned on.

    hidden: (n_hidden, T, H), set. logits: (n_out, T), set. inputs: (n_in, T). layers: (n_layers, 4).
    """
    n_hidden = hidden.shape[0]
    for k in range(n_hidden):
        weights, biases = layer_weights(params, layers[k])
        if k == 0:
            np.dot(inputs.T, weights, hidden[k])
        else:
            np.dot(hidden[k - 1], weights, hidden[k])
        activation_forward(hidden[k], biases)
    weights, biases = layer_weights(params, layers[n_hidden])
    np.dot(weights.T, hidden[n_hidden - 1].T, logits)


@kernel
def network_backward(dinputs, dparams, dlogits, inputs, hidden, transposed, layers, dhidden, one):
    """Derivatives through `network_forward`.

    dinputs: (T, n_in), set. dparams: (n_params,), added to. dlogits: (n_out, T). inputs, hidden: as
    `network_forward` left them. transposed: (n_params,), each weight matrix transposed in its place.
    dhidden: scratch.
    """
    n_hidden, n_rows, d_hidden = hidden.shape
    dweights, dbiases = layer_weights(dparams, layers[n_hidden])
    add_product(dweights, hidden[n_hidden - 1], dlogits, True, True, one)
    dsource = dhidden[n_hidden % 2, : n_rows * d_hidden].reshape(n_rows, d_hidden)
    np.dot(dlogits.T, transposed_weights(transposed, layers[n_hidden]), dsource)
    for k in range(n_hidden - 1, -1, -1):
        doutputs = dsource
        dweights, dbiases = layer_weights(dparams, layers[k])
        activation_backward(doutputs, dbiases, hidden[k])
        if k > 0:
            add_product(dweights, hidden[k - 1], doutputs, True, False, one)
            dsource = dhidden[k % 2, : n_rows * d_hidden].reshape(n_rows, d_hidden)
            np.dot(doutputs, transposed_weights(transposed, layers[k]), dsource)
        else:
            add_product(dweights, inputs, doutputs, False, False, one)
            np.dot(doutputs, transposed_weights(transposed, layers[0]), dinputs)


@kernel
def transposed_weights(transposed, layer):
    """Weights (n_out, n_in) of a layer out of parameters with each matrix transposed in its place."""
    n_in, n_out, offset = layer[0], layer[1], layer[2]
    return transposed[offset : offset + n_in * n_out].reshape(n_out, n_in)


@kernel
def exponentials(logits, biases, largest):
    """Turn logits into exp(logit - the largest of the coordinate).

    logits: (P, m), without bias on entry, set. biases: (P, n_transformed), m being n_transformed * T.
    largest: (m,), scratch.
    """
    floor = logits.dtype.type(MIN_LOGIT)
    n_logits, m = logits.shape
    n_rows = m // biases.shape[1]
    largest[:] = -np.inf
    for j in range(n_logits):
        for t in range(biases.shape[1]):
            for i in range(t * n_rows, (t + 1) * n_rows):
                logits[j, i] += biases[j, t]
        for i in range(m):
            largest[i] = max(largest[i], logits[j, i])
    for j in range(n_logits):
        for i in range(m):
            logits[j, i] = exponential(max(logits[j, i] - logits.dtype.type(largest[i]), floor))


@kernel
def conditioner(c, slot, params, layout, work):
    """Exponentials (P, n_transformed * T) that cell c gives for the coordinates that stand before it.

    The transformed coordinates are copied to x[slot] of `work`.
    """
    n_rows = work.log_det.shape[0]
    n_inputs = layout.n_inputs[c]
    n_transformed = layout.split.shape[1] - n_inputs
    inputs = work.inputs[slot, : n_inputs * n_rows].reshape(n_inputs, n_rows)
    for i in range(n_inputs):
        source = work.coordinates[layout.split[c, i]]
        for r in range(n_rows):
            inputs[i, r] = 2.0 * source[r] - 1.0
    for i in range(n_transformed):
        work.x[slot, i * n_rows : (i + 1) * n_rows] = work.coordinates[layout.split[c, n_inputs + i]]
    n_out = n_transformed * layout.n_logits
    logits = work.exps[slot, : n_out * n_rows]
    if n_inputs > 0:
        network_forward(work.hidden[slot], logits.reshape(n_out, n_rows), inputs, params, layout.layers[c])
    else:
        logits[:] = 0
    _, biases = layer_weights(params, layout.layers[c, -1])
    exps = logits.reshape(layout.n_logits, n_transformed * n_rows)
    exponentials(exps, biases.reshape(layout.n_logits, n_transformed), work.scratch)
    return exps


@kernel
def add_log_slopes(log_det, slope):
    """log_det: (T,), added to. slope: (n_transformed * T,)."""
    n_rows = log_det.shape[0]
    n_transformed = slope.shape[0] // n_rows
    for begin in range(0, n_transformed, SLOPES_PER_LOG):
        for r in range(n_rows):
            product = 1.0
            for i in range(begin, min(begin + SLOPES_PER_LOG, n_transformed)):
                product *= slope[i * n_rows + r]
            log_det[r] += math.log(product)


@kernel
def scatter(coordinates, values, transformed):
    """Put transformed coordinates back. coordinates: (d, T). values: (n_transformed * T,)."""
    n_rows = coordinates.shape[1]
    for i in range(transformed.shape[0]):
        coordinates[transformed[i]] = values[i * n_rows : (i + 1) * n_rows]


@kernel
def coupling_forward(c, slot, params, layout, work):
    """Take the coordinates of `work` through cell c; log_det is added to."""
    exps = conditioner(c, slot, params, layout, work)
    m = exps.shape[1]
    x, z, slope = work.x[slot, :m], work.z[slot, :m], work.slope[slot, :m]
    cell_forward(layout.cell, z, slope, exps, x, work.scratch[: 3 * m].reshape(3, m))
    scatter(work.coordinates, z, layout.split[c, layout.n_inputs[c] :])
    add_log_slopes(work.log_det, slope)


@kernel
def coupling_backward(c, dparams, transposed, layout, work):
    """Derivatives through `coupling_forward`.

    dparams: (n_params,), added to. dcoordinates of `work`: (d, T), in the coordinates behind the cell on
    entry, set to those before it.
    """
    n_rows = work.log_det.shape[0]
    n_inputs = layout.n_inputs[c]
    transformed = layout.split[c, n_inputs:]
    m = transformed.shape[0] * n_rows
    dz, dlog_slope = work.dz[0, :m], work.dz[1, :m]
    for i in range(transformed.shape[0]):
        dz[i * n_rows : (i + 1) * n_rows] = work.dcoordinates[transformed[i]]
        dlog_slope[i * n_rows : (i + 1) * n_rows] = work.dlog_q
    exps = work.exps[c, : layout.n_logits * m].reshape(layout.n_logits, m)
    dlogits = work.dlogits[: layout.n_logits * m].reshape(layout.n_logits, m)
    cell_backward(
        layout.cell, dlogits, dz, exps, work.x[c, :m], work.z[c, :m], work.slope[c, :m], dz, dlog_slope,
        work.scratch[: 3 * m].reshape(3, m),
    )  # fmt: skip
    scatter(work.dcoordinates, dz, transformed)
    n_out = transformed.shape[0] * layout.n_logits
    dlogits_by_row = work.dlogits[: layout.n_logits * m].reshape(n_out, n_rows)
    _, dbiases = layer_weights(dparams, layout.layers[c, -1])
    for i in range(n_out):
        dbiases[i] += dlogits_by_row[i].sum()
    if n_inputs > 0:
        inputs = work.inputs[c, : n_inputs * n_rows].reshape(n_inputs, n_rows)
        dinputs = work.dhidden[0, : n_rows * n_inputs].reshape(n_rows, n_inputs)
        network_backward(
            dinputs, dparams, dlogits_by_row, inputs, work.hidden[c], transposed, layout.layers[c],
            work.dhidden, work.one,
        )  # fmt: skip
        for i in range(n_inputs):
            for r in range(n_rows):
                work.dcoordinates[layout.split[c, i], r] += 2.0 * dinputs[r, i]


@kernel
def coupling_inverse(c, params, layout, work):
    """Take the coordinates of `work` back through cell c; log_det, of the forward map, is added to."""
    exps = conditioner(c, 0, params, layout, work)
    m = exps.shape[1]
    x, slope = work.x[0, :m], work.slope[0, :m]
    cell_inverse(layout.cell, x, slope, exps, x, work.scratch[: 3 * m].reshape(3, m))
    scatter(work.coordinates, x, layout.split[c, layout.n_inputs[c] :])
    add_log_slopes(work.log_det, slope)


@kernel
def flow_forward(params, layout, work):
    """Take the coordinates of `work` through all cells; log_det is set."""
    work.log_det[:] = 0
    last_slot = work.hidden.shape[0] - 1
    for c in range(layout.n_inputs.shape[0]):
        coupling_forward(c, min(c, last_slot), params, layout, work)


@kernel
def flow_inverse(params, layout, work):
    """Take the coordinates of `work` back through all cells; log_det, of the forward map, is set."""
    work.log_det[:] = 0
    for c in range(layout.n_inputs.shape[0] - 1, -1, -1):
        coupling_inverse(c, params, layout, work)


@kernel
def load_point(coordinates, r, x, i, layout):
    """Set column r of coordinates (d, T) to row i of x (n, d), from the box to the unit cube."""
    for k in range(x.shape[1]):
        coordinates[k, r] = min(max((x[i, k] - layout.lower[k]) / layout.width[k], 0.0), 1.0)


@kernel
def to_latent(z, log_det, x, begin, end, params, layout, work):
    """Rows [begin, end) of the map from target space to latent space.

    z: (n, d), set. log_det: (n,), of the map from the unit cube, set. x: (n, d) in the box.
    """
    n_rows = work.log_det.shape[0]
    for first in range(begin, end, n_rows):
        for r in range(n_rows):
            load_point(work.coordinates, r, x, min(first + r, end - 1), layout)
        flow_forward(params, layout, work)
        for r in range(min(n_rows, end - first)):
            for k in range(z.shape[1]):
                z[first + r, k] = work.coordinates[k, r]
            log_det[first + r] = work.log_det[r]


@kernel
def from_latent(x, log_det, z, begin, end, params, layout, work):
    """Rows [begin, end) of the map from latent space to target space.

    x: (n, d) in the box, set. log_det: (n,), of the map from the unit cube to z, set. z: (n, d).
    """
    n_rows = work.log_det.shape[0]
    for first in range(begin, end, n_rows):
        for r in range(n_rows):
            for k in range(z.shape[1]):
                work.coordinates[k, r] = z[min(first + r, end - 1), k]
        flow_inverse(params, layout, work)
        for r in range(min(n_rows, end - first)):
            for k in range(x.shape[1]):
                inside = layout.lower[k] + layout.width[k] * work.coordinates[k, r]
                x[first + r, k] = min(max(inside, layout.lower[k]), layout.upper[k])
            log_det[first + r] = work.log_det[r]


@kernel
def variance_loss(dlog_q, log_q, log_weights, rows, first):
    """Sum of l = f^2 / (p q) over a tile; its derivative in log q is -l.

    dlog_q: (T,), that of the mean over the minibatch, set. log_q: (T,). log_weights: (n,), log(f^2 / p).
    rows: (n_batch,), the minibatch. first: which of them the tile begins at.
    """
    total = 0.0
    n_batch = rows.shape[0]
    for r in range(min(log_q.shape[0], n_batch - first)):
        value = math.exp(log_weights[rows[first + r]] - log_q[r])
        total += value
        share = value / n_batch
        dlog_q[r] = 0.0 if share < NEGLIGIBLE else -share
    return total


@kernel
def linear_loss(dlog_q, log_q, weights, rows, first):
    """Sum of l = -weight log q over a tile; its derivative in log q is -weight.

    The DKL loss where weight = f / p, and any other loss whose derivative is known. Arguments otherwise as
    in `variance_loss`.
    """
    total = 0.0
    n_batch = rows.shape[0]
    for r in range(min(log_q.shape[0], n_batch - first)):
        weight = weights[rows[first + r]]
        total -= weight * log_q[r]
        share = weight / n_batch
        dlog_q[r] = 0.0 if abs(share) < NEGLIGIBLE else -share
    return total


@kernel
def gradient(
    dparams, losses, begin, end, x, rows, weights, dz, is_variance, params, transposed, layout, work
):
    """Loss and gradient of lanes [begin, end): fixed shares of a minibatch, whichever thread has them.

    dparams: (n_lanes, n_params), set. losses: (n_lanes,), sums over the lane's rows, set.
    x: (n, d) in the box. rows: (n_batch,), which of them make the minibatch. weights: (n,), log(f^2 / p)
    where is_variance, else the factor of -log q. dz: (n_batch, d), derivative of the loss in z, or (0, d)
    for none. params, transposed: (n_params,), the latter with each weight matrix transposed in its place.
    """
    n_rows = work.log_det.shape[0]
    n_batch = rows.shape[0]
    n_lanes = losses.shape[0]
    n_tiles = (n_batch + n_rows - 1) // n_rows
    for lane in range(begin, end):
        dparams[lane] = 0
        losses[lane] = 0
        for tile in range(lane * n_tiles // n_lanes, (lane + 1) * n_tiles // n_lanes):
            first = tile * n_rows
            for r in range(n_rows):
                load_point(work.coordinates, r, x, rows[min(first + r, n_batch - 1)], layout)
            flow_forward(params, layout, work)
            work.dlog_q[:] = 0
            if is_variance:
                losses[lane] += variance_loss(work.dlog_q, work.log_det, weights, rows, first)
            else:
                losses[lane] += linear_loss(work.dlog_q, work.log_det, weights, rows, first)
            work.dcoordinates[:] = 0
            for r in range(min(n_rows, dz.shape[0] - first)):
                for k in range(dz.shape[1]):
                    work.dcoordinates[k, r] = dz[first + r, k]
            for c in range(layout.n_inputs.shape[0] - 1, -1, -1):
                coupling_backward(c, dparams[lane], transposed, layout, work)


@kernel
def transpose_weights(transposed, params, layout, begin, end):
    """Copy the weight matrices of cells [begin, end), transposed, to the place where they stand in params."""
    for c in range(begin, end):
        for k in range(layout.layers.shape[1]):
            weights, _ = layer_weights(params, layout.layers[c, k])
            out = transposed_weights(transposed, layout.layers[c, k])
            n_in, n_out = weights.shape
            for first in range(0, n_in, 16):  # so many rows' cache lines stay until they are used up
                for j in range(n_out):
                    for i in range(first, min(first + 16, n_in)):
                        out[j, i] = weights[i, j]


@kernel
def add(total, part):
    """total: (n,), added to. part: (n,)."""
    for i in range(total.shape[0]):
        total[i] += part[i]


@kernel
def fold_lanes(dparams, begin, end):
    """Add all lanes to the first, in their order, for parameters [begin, end). Returns the sum of squares.

    dparams: (n_lanes, n_params).
    """
    total = dparams[0, begin:end]
    for lane in range(1, dparams.shape[0]):
        add(total, dparams[lane, begin:end])
    squares = 0.0
    for i in range(total.shape[0]):
        squares += np.float64(total[i]) ** 2
    return squares


@kernel
def update_moments(m, v, dparams, beta1, new1, beta2, new2, scale):
    """First and second moment of the gradient. m, v: (n,), updated. dparams: (n,). new: 1 - beta."""
    zero = m.dtype.type(0.0)
    tiny = m.dtype.type(
        1e-30
    )  # moments of parameters without gradient die out; as denormals they would be slow
    for i in range(m.shape[0]):
        g = scale * dparams[i]
        mean = beta1 * m[i] + new1 * g
        square = beta2 * v[i] + new2 * g * g
        m[i] = mean if abs(mean) > tiny else zero
        v[i] = square if square > tiny else zero


@kernel
def update_params(params, m, v, step_size, epsilon, decay):
    """One step along the moments. params: (n,), updated. m, v: (n,)."""
    for i in range(params.shape[0]):
        params[i] -= step_size * m[i] / (np.sqrt(v[i]) + epsilon) + decay * params[i]


@kernel
def adam_step(params, m, v, dparams, begin, end, step_size, beta1, beta2, epsilon, decay, scale):
    """Adam's update of parameters [begin, end) (Kingma and Ba, arXiv 1412.6980, algorithm 1).

    params, m, v: (n_params,), updated. dparams: (n_params,). step_size: learning rate, with the corrections
    of both moments. epsilon: in units of sqrt(v), v not corrected. decay: share by which parameters shrink
    (arXiv 1711.05101). scale: factor of the gradient, below 1 where it is clipped.
    """
    real = params.dtype.type
    m, v = m[begin:end], v[begin:end]
    new1, new2 = real(1.0 - beta1), real(1.0 - beta2)  # formed before they are rounded: beta may be 0.999999
    update_moments(m, v, dparams[begin:end], real(beta1), new1, real(beta2), new2, real(scale))
    update_params(params[begin:end], m, v, real(step_size), real(epsilon), real(decay))


@kernel
def repeat_product(inputs, weights, outputs, times):
    """Multiply a tile (T, H) by weights (H, H) into outputs (T, H), many times over, to time it."""
    for _ in range(times):
        np.dot(inputs, weights, outputs)
