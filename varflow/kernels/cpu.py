"""The flow on the CPU: serial kernels without the GIL, in which threads take pieces of work as they come.

A tile of rows goes through all cells forward and, in training, straight back, in buffers that stay in
cache. Shapes: T rows a tile, d dimensions, H neurons a hidden layer, P logits a transformed coordinate.
Networks run in the dtype of the parameters; coordinates, slopes and log q are float64.

Hidden activations are (T, H) and everything by coordinate is (..., T): matrix products then find their
operands in order, and the cells vectorise over rows. A tile is always full: the rows that are missing in the
last one repeat its last row and count for nothing. So a row's bits do not depend on where it stands.
"""

import math
from typing import NamedTuple

import numpy as np

from varflow.kernels.compile import device_function, inlined, kernel
from varflow.kernels.counter import take
from varflow.kernels.layout import Sizes, aligned_zeros
from varflow.kernels.network import layer_weights, network_backward, network_forward, transpose_weights
from varflow.kernels.splines import SCRATCH_ROWS, cell_activate, cell_backward, cell_forward, cell_inverse

NEGLIGIBLE = 1e-20  # share of the loss below which a point's gradient is dropped: denormals are slow
TILE_ROWS = 128  # enough to pay for streaming the weights, few enough for activations to stay in cache
SLOPES_PER_LOG = 8  # so many can be multiplied before a logarithm is due: exp(-80)^8 > 1e-300


class Workspace(NamedTuple):
    """Buffers of one thread; `n_kept` is the number of cells in training, else 1."""

    coordinates: np.ndarray  # (d, T) float64, before or behind the cell at hand
    log_det: np.ndarray  # (T,) float64
    slopes: np.ndarray  # (T,) float64, products of slopes that log_det is without so far
    inputs: np.ndarray  # (n_kept, d * T)
    hidden: np.ndarray  # (n_kept, n_hidden, T, H)
    values: np.ndarray  # (n_kept, P * d * T), of the cells
    x: np.ndarray  # (n_kept, d * T) float64, transformed coordinates before the cell
    z: np.ndarray  # (n_kept, d * T) float64, and behind it
    slope: np.ndarray  # (n_kept, d * T) float64
    scratch: np.ndarray  # (SCRATCH_ROWS * d * T,) float64
    dcoordinates: np.ndarray  # (d, T) float64
    dlog_q: np.ndarray  # (T,) float64
    dz: np.ndarray  # (2, d * T) float64
    dlogits: np.ndarray  # (P * d * T,)
    dinputs: np.ndarray  # (d * T,)
    transposed: np.ndarray  # (n_params,) or (0,): each weight matrix between hidden layers, transposed
    network: np.ndarray  # (2, T * max(H, d)) scratch
    zeros: np.ndarray  # (max(T, H, d),) zeros, which stay
    ones: np.ndarray  # (T,), which stay


def make_workspace(sizes: Sizes, keeps_all: bool) -> Workspace:
    """Allocate the buffers of one thread, for training if they are to keep all cells' activations."""
    d, d_hidden, n_hidden = sizes.d, sizes.d_hidden, sizes.n_hidden
    dtype, n_logits = sizes.dtype, sizes.n_logits
    n_rows = TILE_ROWS
    n_kept = sizes.n_cells if keeps_all else 1
    m = d * n_rows
    return Workspace(
        coordinates=aligned_zeros((d, n_rows), float),
        log_det=aligned_zeros((n_rows,), float),
        slopes=aligned_zeros((n_rows,), float),
        inputs=aligned_zeros((n_kept, m), dtype),
        hidden=aligned_zeros((n_kept, n_hidden, n_rows, d_hidden), dtype),
        values=aligned_zeros((n_kept, m * n_logits), dtype),
        x=aligned_zeros((n_kept, m), float),
        z=aligned_zeros((n_kept, m), float),
        slope=aligned_zeros((n_kept, m), float),
        scratch=aligned_zeros((SCRATCH_ROWS * m,), float),
        dcoordinates=aligned_zeros((d, n_rows), float),
        dlog_q=aligned_zeros((n_rows,), float),
        dz=aligned_zeros((2, m), float),
        dlogits=aligned_zeros((m * n_logits,), dtype),
        dinputs=aligned_zeros((m,), dtype),
        transposed=aligned_zeros((sizes.n_params if keeps_all else 0,), dtype),
        network=aligned_zeros((2, n_rows * max(d_hidden, d)), dtype),
        zeros=aligned_zeros((max(n_rows, d_hidden, d),), dtype),
        ones=np.ones(n_rows, dtype),
    )


@device_function
def add_number(values, number):
    """values: (m,), added to."""
    for i in range(values.shape[0]):
        values[i] += number


@device_function
def add_row_sums(total, terms):
    """total: (n,), added to. terms: (n, T), T a power of two: halves are added up until a column is left."""
    width = terms.shape[1]
    while width > 1:
        width //= 2
        for i in range(terms.shape[0]):
            for r in range(width):
                terms[i, r] += terms[i, width + r]
    for i in range(terms.shape[0]):
        total[i] += terms[i, 0]


@device_function
def copy(target, source):
    """target: (m,), set to source (m,), without asking whether they overlap, as slice assignment does."""
    for i in range(target.shape[0]):
        target[i] = source[i]


@inlined
def slot_of(c, work):
    """Which of the kept buffers cell c has: its own in training, else the only ones."""
    return min(c, work.hidden.shape[0] - 1)


@device_function
def conditioner(c, params, layout, work):
    """Values (P, n_transformed * T) that cell c gives for the coordinates that stand before it.

    The transformed coordinates are copied to x of `work`.
    """
    slot = slot_of(c, work)
    n_rows = work.log_det.shape[0]
    n_inputs = layout.n_inputs[c]
    n_transformed = layout.split.shape[1] - n_inputs
    inputs = work.inputs[slot, : n_inputs * n_rows].reshape(n_inputs, n_rows)
    for i in range(n_inputs):
        source = work.coordinates[layout.split[c, i]]
        for r in range(n_rows):
            inputs[i, r] = 2.0 * source[r] - 1.0
    for i in range(n_transformed):
        values = work.x[slot, i * n_rows : (i + 1) * n_rows]
        copy(values, work.coordinates[layout.split[c, n_inputs + i]])
    n_out = n_transformed * layout.n_logits
    logits = work.values[slot, : n_out * n_rows]
    if n_inputs > 0:
        network_forward(
            work.hidden[slot], logits.reshape(n_out, n_rows), inputs, params, layout.layers[c],
            work.network[0], work.zeros,
        )  # fmt: skip
    else:
        logits[:] = 0
    _, biases = layer_weights(params, layout.layers[c, -1])
    for i in range(n_out):
        add_number(logits[i * n_rows : (i + 1) * n_rows], biases[i])
    cell_activate(layout.cell, logits.reshape(layout.n_logits, n_transformed * n_rows), work.network[1])


@device_function
def multiply(product, factor):
    """product: (T,), multiplied by factor (T,)."""
    for r in range(product.shape[0]):
        product[r] *= factor[r]


@device_function
def add_log(log_det, slopes):
    """log_det: (T,), added to. slopes: (T,), products of slopes, set to 1."""
    for r in range(log_det.shape[0]):
        log_det[r] += math.log(slopes[r])
        slopes[r] = 1.0


@device_function
def add_log_slopes(work, slope, n_pending):
    """Multiply slopes (n_transformed * T,) into those of `work`, of which n_pending have no logarithm so far.

    Returns how many have none then.
    """
    n_rows = work.log_det.shape[0]
    for i in range(slope.shape[0] // n_rows):
        if n_pending == SLOPES_PER_LOG:
            add_log(work.log_det, work.slopes)
            n_pending = 0
        multiply(work.slopes, slope[i * n_rows : (i + 1) * n_rows])
        n_pending += 1
    return n_pending


@device_function
def scatter(coordinates, values, transformed):
    """Put transformed coordinates back. coordinates: (d, T). values: (n_transformed * T,)."""
    n_rows = coordinates.shape[1]
    for i in range(transformed.shape[0]):
        copy(coordinates[transformed[i]], values[i * n_rows : (i + 1) * n_rows])


@inlined
def coupling_forward(c, params, layout, work):
    """Take the coordinates of `work` through cell c. Returns the slopes, (n_transformed * T,)."""
    conditioner(c, params, layout, work)
    slot = slot_of(c, work)
    m = (layout.split.shape[1] - layout.n_inputs[c]) * work.log_det.shape[0]
    values = work.values[slot, : layout.n_logits * m].reshape(layout.n_logits, m)
    x, z, slope = work.x[slot, :m], work.z[slot, :m], work.slope[slot, :m]
    cell_forward(layout.cell, z, slope, values, x, work.scratch[: SCRATCH_ROWS * m].reshape(SCRATCH_ROWS, m))
    scatter(work.coordinates, z, layout.split[c, layout.n_inputs[c] :])
    return slope


@inlined
def coupling_backward(c, dparams, params, layout, work):
    """Derivatives through `coupling_forward`.

    dparams: (n_params,), added to. dcoordinates of `work`: (d, T), in the coordinates behind the cell on
    entry, set to those before it, but before the first cell they are not complete.
    """
    n_rows = work.log_det.shape[0]
    n_inputs = layout.n_inputs[c]
    transformed = layout.split[c, n_inputs:]
    m = transformed.shape[0] * n_rows
    dz, dlog_slope = work.dz[0, :m], work.dz[1, :m]
    for i in range(transformed.shape[0]):
        copy(dz[i * n_rows : (i + 1) * n_rows], work.dcoordinates[transformed[i]])
        copy(dlog_slope[i * n_rows : (i + 1) * n_rows], work.dlog_q)
    values = work.values[c, : layout.n_logits * m].reshape(layout.n_logits, m)
    dlogits = work.dlogits[: layout.n_logits * m].reshape(layout.n_logits, m)
    cell_backward(
        layout.cell, dlogits, dz, values, work.x[c, :m], work.z[c, :m], work.slope[c, :m], dz, dlog_slope,
        work.scratch[: SCRATCH_ROWS * m].reshape(SCRATCH_ROWS, m),
    )  # fmt: skip
    scatter(work.dcoordinates, dz, transformed)
    n_out = transformed.shape[0] * layout.n_logits
    dlogits_by_row = work.dlogits[: layout.n_logits * m].reshape(n_out, n_rows)
    if n_inputs > 0:
        inputs = work.inputs[c, : n_inputs * n_rows].reshape(n_inputs, n_rows)
        dinputs = work.dinputs[: n_inputs * n_rows].reshape(n_inputs, n_rows)
        wants_dinputs = c > 0  # nobody asks for those in x
        network_backward(
            dinputs, dparams, dlogits_by_row, inputs, work.hidden[c], params, work.transposed,
            layout.layers[c], work.network, work.zeros, work.ones, wants_dinputs,
        )  # fmt: skip
        for i in range(n_inputs if wants_dinputs else 0):
            target = work.dcoordinates[layout.split[c, i]]
            for r in range(n_rows):
                target[r] += 2.0 * dinputs[i, r]
    _, dbiases = layer_weights(dparams, layout.layers[c, -1])
    add_row_sums(dbiases, dlogits_by_row)  # the last to read them


@inlined
def coupling_inverse(c, params, layout, work):
    """Take the coordinates of `work` back through cell c. Returns the forward map's slopes."""
    conditioner(c, params, layout, work)
    m = (layout.split.shape[1] - layout.n_inputs[c]) * work.log_det.shape[0]
    values = work.values[0, : layout.n_logits * m].reshape(layout.n_logits, m)
    x, slope = work.x[0, :m], work.slope[0, :m]
    cell_inverse(layout.cell, x, slope, values, x, work.scratch[: SCRATCH_ROWS * m].reshape(SCRATCH_ROWS, m))
    scatter(work.coordinates, x, layout.split[c, layout.n_inputs[c] :])
    return slope


@inlined
def flow_forward(params, layout, work):
    """Take the coordinates of `work` through all cells; log_det is set."""
    work.log_det[:], work.slopes[:], n_pending = 0, 1, 0
    for c in range(layout.n_inputs.shape[0]):
        n_pending = add_log_slopes(work, coupling_forward(c, params, layout, work), n_pending)
    add_log(work.log_det, work.slopes)


@inlined
def flow_inverse(params, layout, work):
    """Take the coordinates of `work` back through all cells; log_det, of the forward map, is set."""
    work.log_det[:], work.slopes[:], n_pending = 0, 1, 0
    for c in range(layout.n_inputs.shape[0] - 1, -1, -1):
        n_pending = add_log_slopes(work, coupling_inverse(c, params, layout, work), n_pending)
    add_log(work.log_det, work.slopes)


@device_function
def from_box(coordinates, layout):
    """Map coordinates (d, T) from the box to the unit cube, in place."""
    for k in range(coordinates.shape[0]):
        lower, width = layout.lower[k], layout.width[k]
        for r in range(coordinates.shape[1]):
            coordinates[k, r] = min(max((coordinates[k, r] - lower) / width, 0.0), 1.0)


@device_function
def to_box(coordinates, layout):
    """Map coordinates (d, T) from the unit cube to the box, in place."""
    for k in range(coordinates.shape[0]):
        lower, upper, width = layout.lower[k], layout.upper[k], layout.width[k]
        for r in range(coordinates.shape[1]):
            coordinates[k, r] = min(max(lower + width * coordinates[k, r], lower), upper)


@kernel
def transform(out, log_det, points, is_inverse, next_tile, params, layout, work):
    """Map points tile by tile, as long as there are any: from target to latent space, or back if is_inverse.

    out: (n, d), set. log_det: (n,), of the map from the unit cube to latent space, set. points: (n, d), in
    the box, or in the unit cube if is_inverse. next_tile: (1,).
    """
    n, n_rows = points.shape[0], work.log_det.shape[0]
    while True:
        first = take(next_tile) * n_rows
        if first >= n:
            return
        for r in range(n_rows):
            for k in range(points.shape[1]):
                work.coordinates[k, r] = points[min(first + r, n - 1), k]
        if is_inverse:
            flow_inverse(params, layout, work)
            to_box(work.coordinates, layout)
        else:
            from_box(work.coordinates, layout)
            flow_forward(params, layout, work)
        for r in range(min(n_rows, n - first)):
            for k in range(out.shape[1]):
                out[first + r, k] = work.coordinates[k, r]
            log_det[first + r] = work.log_det[r]


@device_function
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


@device_function
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


@device_function
def control_variate(dlog_q, log_q, log_p, rows, first):
    """Derivative in log q of the mean of q / p, which is 1 over x ~ p whatever q is.

    dlog_q: (T,), added to. log_p: (n,). Arguments otherwise as in `variance_loss`.
    """
    n_batch = rows.shape[0]
    for r in range(min(log_q.shape[0], n_batch - first)):
        share = math.exp(log_q[r] - log_p[rows[first + r]]) / n_batch
        dlog_q[r] += 0.0 if share < NEGLIGIBLE else share


@kernel
def gradient(dparams, losses, next_lane, x, rows, weights, log_p, dz, is_variance, params, layout, work):
    """Loss and gradient of lanes, as long as there are any: fixed shares of a minibatch, whoever has them.

    dparams: (n_lanes, n_params), set. losses: (n_lanes,), sums over the lane's rows, set. next_lane: (1,).
    x: (n, d) in the box. rows: (n_batch,), which of them make the minibatch. weights: (n,), log(f^2 / p)
    where is_variance, else the factor of -log q. log_p: (n,), where the gradient is to have a control
    variate, or (0,). dz: (n_batch, d), derivative of the loss in z, or (0, d) for none.
    """
    transpose_weights(work.transposed, params, layout)
    n_rows = work.log_det.shape[0]
    n_batch = rows.shape[0]
    n_lanes = losses.shape[0]
    n_tiles = (n_batch + n_rows - 1) // n_rows
    while True:
        lane = take(next_lane)
        if lane >= n_lanes:
            return
        dparams[lane] = 0
        losses[lane] = 0
        for tile in range(lane * n_tiles // n_lanes, (lane + 1) * n_tiles // n_lanes):
            first = tile * n_rows
            for r in range(n_rows):
                row = rows[min(first + r, n_batch - 1)]
                for k in range(x.shape[1]):
                    work.coordinates[k, r] = x[row, k]
            from_box(work.coordinates, layout)
            flow_forward(params, layout, work)
            work.dlog_q[:] = 0
            if is_variance:
                losses[lane] += variance_loss(work.dlog_q, work.log_det, weights, rows, first)
            else:
                losses[lane] += linear_loss(work.dlog_q, work.log_det, weights, rows, first)
            if log_p.shape[0] > 0:
                control_variate(work.dlog_q, work.log_det, log_p, rows, first)
            work.dcoordinates[:] = 0
            for r in range(min(n_rows, dz.shape[0] - first)):
                for k in range(dz.shape[1]):
                    work.dcoordinates[k, r] = dz[first + r, k]
            for c in range(layout.n_inputs.shape[0] - 1, -1, -1):
                coupling_backward(c, dparams[lane], params, layout, work)
