"""The flow on the CPU: kernels for the transform and the gradient, and their tiles, workspaces and lanes.

The kernels are serial and release the GIL; several threads run the same kernel on the same arrays. What they
share out among themselves, and how, is explained here once for all modules.

**Tile.** A tile is a block of TILE_ROWS consecutive rows that are processed together. It passes through all
cells forward and, in training, straight back through all of them before the next tile begins. The backward
pass thus finds the activations that the forward pass left still in cache, and the memory needed does not grow
with the number of rows. The size is a compromise: a tile must have enough rows to pay for streaming the
weights of all networks through the cache once, and few enough for its activations to stay there (128 rows of
a hidden layer of 64 neurons in float32 take 32 KiB).

Hidden activations are stored as (T, H), and everything that belongs to a coordinate as (..., T): matrix
products then find their operands in the order that they need, and the splines vectorize over rows.

A tile is always full. In the last one, copies of the last row take the place of missing rows; they enter
neither the results, nor the loss, nor the gradient. All loops over rows therefore have the same length, and
the bits computed for a row depend neither on its position nor on the number of rows.

**Workspace.** A workspace holds the buffers for one tile: its coordinates, its activations and their
derivatives. Each thread has its own, so that threads need no locks, and uses it for one tile after another,
so that it stays in cache. It is allocated in advance, since kernels cannot allocate memory
(see `varflow.kernels.compile`). In training, the activations of all cells are kept for the backward pass;
otherwise, one set of buffers serves all cells in turn.

**Lane.** A lane is a fixed contiguous range of the tiles of a minibatch, with a gradient of its own. A sum of
floating-point numbers depends on the order of its terms, so that gradients cannot be added up by thread. The
tiles of a lane are added up in their order, by whichever thread processes the lane, and the lanes are then
added up in their order (`varflow.kernels.adam.fold_lanes`). There are fewer lanes than tiles in a large
minibatch, because a gradient takes memory, and clearing it and adding it to the others takes as much time as
the processing of some rows.

**Threads.** Threads take the next tile (of a transform) or the next lane (of a gradient) from a shared atomic
counter when they are done with their last one. With shares fixed in advance, all threads would wait for the
slowest core, and cores are not equally fast if others use them too. Results nevertheless have the same bits
for any number of threads: rows are independent of each other, the division into tiles is fixed, the number of
lanes depends on the sizes of the minibatch and of the flow alone, and no sum extends over more than one lane
until the lanes are added up.

Shapes: T rows per tile, d dimensions, H neurons per hidden layer, P logits per transformed coordinate.
Networks run in the dtype of the parameters; coordinates, slopes and log q are float64. In the docstrings of
kernels, an argument that is "set" is overwritten, and one that is "added to" is accumulated into.
"""

import math
from typing import NamedTuple

import numpy as np

from varflow.kernels.compile import device_function, inlined, kernel
from varflow.kernels.counter import take
from varflow.kernels.lanes import LANES, numbers, total
from varflow.kernels.layout import Sizes, aligned_zeros
from varflow.kernels.network import layer_weights, network_backward, network_forward, transpose_weights
from varflow.kernels.splines import N_KEPT, NORMAL, all_backward, all_forward, all_inverse, cell_activate

NEGLIGIBLE = 1e-20  # share of the loss below which the gradient of a point is dropped: denormals are slow
TILE_ROWS = 128
MAX_COORDINATE = 1e18  # of unbounded ones, as networks see them: its square does not overflow in float32
MAX_INPUT = 3.0  # of a network, what an unbounded coordinate tends to as it grows
HALF_LOG_2_PI = 0.5 * math.log(2.0 * math.pi)
MAX_EXPONENT = 40.0  # of the variance loss of an unbounded point, before it grows linearly
SLOPES_PER_LOG = 8  # slopes that can be multiplied without underflow before taking a log: exp(-80)^8 > 1e-300


class Workspace(NamedTuple):
    """Buffers of one thread; `n_kept` is the number of cells in training, and 1 otherwise."""

    coordinates: np.ndarray  # (d, T) float64, before or after the current cell
    log_det: np.ndarray  # (T,) float64
    slopes: np.ndarray  # (T,) float64, products of slopes not yet included in log_det
    inputs: np.ndarray  # (n_kept, d * T), of the networks
    hidden: np.ndarray  # (n_kept, n_hidden, T, H)
    values: np.ndarray  # (n_kept, P * d * T), of the splines
    kept: np.ndarray  # (n_kept, N_KEPT * d * T) or (1, 0) float64, by the splines
    x: np.ndarray  # (d * T,) float64, transformed coordinates before the cell
    z: np.ndarray  # (n_kept, d * T) float64, transformed coordinates after the cell
    slope: np.ndarray  # (n_kept, d * T) float64
    dcoordinates: np.ndarray  # (d, T) float64
    dlog_q: np.ndarray  # (T,) float64
    dz: np.ndarray  # (2, d * T) float64
    dlogits: np.ndarray  # (P * d * T,)
    dinputs: np.ndarray  # (d * T,)
    transposed: np.ndarray  # (n_params,) or (0,): each weight matrix between hidden layers, transposed
    network: np.ndarray  # (2, T * max(H, d)) scratch
    zeros: np.ndarray  # (max(T, H, d),) constant zeros
    ones: np.ndarray  # (T,) constant ones


def make_workspace(sizes: Sizes, keeps_all: bool) -> Workspace:
    """Allocate the buffers of one thread; keeps_all: keep the activations of all cells, for training."""
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
        kept=aligned_zeros((n_kept, N_KEPT * m if keeps_all else 0), float),
        x=aligned_zeros((m,), float),
        z=aligned_zeros((n_kept, m), float),
        slope=aligned_zeros((n_kept, m), float),
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
    """Add a number to values (m,)."""
    for i in range(values.shape[0]):
        values[i] += number


@device_function
def add_row_sums(sums, terms, is_first):
    """Add the sums of the rows of terms (n, T) to sums (n,), or set them; T is a multiple of LANES.

    Vectors are added up one after another, and the numbers of what comes out by halving.
    """
    for i in range(terms.shape[0]):
        row = terms[i]
        value = numbers(row, 0)
        for r in range(LANES, row.shape[0], LANES):
            value = value + numbers(row, r)
        sums[i] = total(value) if is_first else sums[i] + total(value)


@device_function
def copy(target, source):
    """Copy source (m,) to target (m,), without the check for overlap that slice assignment makes."""
    for i in range(target.shape[0]):
        target[i] = source[i]


@device_function
def is_zero(values):
    """Tell whether all values (m, n) are zero; the first one mostly tells."""
    for i in range(values.shape[0]):
        for k in range(values.shape[1]):
            if values[i, k] != 0:
                return False
    return True


@inlined
def slot_of(c, work):
    """Return the index of the buffers of cell c: its own in training, otherwise the only ones."""
    return min(c, work.hidden.shape[0] - 1)


@inlined
def values_of(c, values, layout, n_rows):
    """Return the spline values of cell c as a matrix (P, n_transformed * T), which values begin with."""
    m = (layout.split.shape[1] - layout.n_inputs[c]) * n_rows
    return values[: layout.n_logits * m].reshape(layout.n_logits, m)


@inlined
def kept_of(slot, m, work):
    """Return what the splines keep, (N_KEPT, m) in training and otherwise (0, m)."""
    n_kept = min(work.kept.shape[1], N_KEPT)
    return work.kept[slot, : n_kept * m].reshape(n_kept, m)


@device_function
def bounded_input(x):
    """Return what a network sees of an unbounded coordinate: b x / sqrt(b^2 + x^2) with b = MAX_INPUT.

    So a network sees no more than it has learnt from, however far away a point is, and what it predicts
    there does not grow with the distance: q falls as a normal density does, and no faster.
    """
    x = min(max(x, -MAX_COORDINATE), MAX_COORDINATE)
    return MAX_INPUT * x / math.sqrt(MAX_INPUT * MAX_INPUT + x * x)


@device_function
def bounded_input_slope(bounded):
    """Return the derivative of `bounded_input` where it has this value."""
    rest = max(1.0 - (bounded / MAX_INPUT) ** 2, 0.0)
    return rest * math.sqrt(rest)


@device_function
def gather(c, layout, work):
    """Copy the coordinates before cell c, those to be transformed to x and the others to inputs of `work`."""
    slot = slot_of(c, work)
    n_rows = work.log_det.shape[0]
    n_inputs = layout.n_inputs[c]
    for i in range(n_inputs):
        k = layout.split[c, i]
        source, inputs = work.coordinates[k], work.inputs[slot, i * n_rows : (i + 1) * n_rows]
        if layout.latent == NORMAL and k < layout.d:
            for r in range(n_rows):
                inputs[r] = bounded_input(source[r])
            continue
        for r in range(n_rows):
            inputs[r] = 2.0 * source[r] - 1.0
    for i in range(layout.split.shape[1] - n_inputs):
        values = work.x[i * n_rows : (i + 1) * n_rows]
        copy(values, work.coordinates[layout.split[c, n_inputs + i]])


@device_function
def is_constant(c, params, layout, work):
    """Tell whether the network of cell c predicts the same for all points: its output biases.

    It does where it has no input, or is not trained, as where an element-wise map is all there is. In
    training, the backward pass needs the activations all the same.
    """
    weights, _ = layer_weights(params, layout.layers[c, -1])
    is_training = work.transposed.shape[0] > 0
    return not is_training and (layout.n_inputs[c] == 0 or is_zero(weights))


@device_function
def is_identity(c, params, layout, work):
    """Tell whether cell c maps all points to themselves, as each one of a new flow does."""
    _, biases = layer_weights(params, layout.layers[c, -1])
    return is_zero(biases.reshape(biases.shape[0], 1)) and is_constant(c, params, layout, work)


@device_function
def predict(c, params, layout, work):
    """Compute the logits of cell c, without the output biases, and leave them in values of `work`."""
    slot = slot_of(c, work)
    n_rows = work.log_det.shape[0]
    n_inputs = layout.n_inputs[c]
    n_out = (layout.split.shape[1] - n_inputs) * layout.n_logits
    logits = work.values[slot, : n_out * n_rows]
    if n_inputs > 0:
        network_forward(
            work.hidden[slot], logits.reshape(n_out, n_rows),
            work.inputs[slot, : n_inputs * n_rows].reshape(n_inputs, n_rows), params, layout.layers[c],
            work.network[0], work.zeros,
        )  # fmt: skip
    else:
        logits[:] = 0


@device_function
def activate(c, params, layout, work):
    """Convert the logits of cell c to the spline values, in place."""
    n_rows = work.log_det.shape[0]
    values = values_of(c, work.values[slot_of(c, work)], layout, n_rows)
    _, biases = layer_weights(params, layout.layers[c, -1])
    logits = values.reshape(biases.shape[0], n_rows)
    for i in range(biases.shape[0]):
        add_number(logits[i], biases[i])
    cell_activate(layout.cell, values, work.network[1])


@device_function
def activate_biases(c, params, layout, work):
    """Set the spline values of cell c to those of its output biases, the same for all rows.

    They are computed for as many rows as a vector has lanes, at the beginning of the values, and copied from
    there: from the last one on, so that none is overwritten before it is read.
    """
    n_rows = work.log_det.shape[0]
    _, biases = layer_weights(params, layout.layers[c, -1])
    n_out = biases.shape[0]
    values = work.values[slot_of(c, work)]
    few = values_of(c, values, layout, LANES)
    for i in range(n_out):
        values[i * LANES : (i + 1) * LANES] = biases[i]
    cell_activate(layout.cell, few, work.network[1])
    for i in range(n_out - 1, -1, -1):
        value = values[i * LANES]
        values[i * n_rows : (i + 1) * n_rows] = value


@device_function
def conditioner(c, params, layout, work):
    """Compute the spline values (P, n_transformed * T) of cell c from the coordinates before it.

    They are left in values of `work`, and the coordinates to be transformed are copied to its x.
    """
    gather(c, layout, work)
    if is_constant(c, params, layout, work):
        activate_biases(c, params, layout, work)
    else:
        predict(c, params, layout, work)
        activate(c, params, layout, work)


@device_function
def multiply(product, factor):
    """Multiply product (T,) by factor (T,) in place."""
    for r in range(product.shape[0]):
        product[r] *= factor[r]


@device_function
def add_log(log_det, slopes):
    """Add the logarithms of slopes (T,) to log_det (T,), and reset slopes to 1."""
    for r in range(log_det.shape[0]):
        log_det[r] += math.log(slopes[r])
        slopes[r] = 1.0


@device_function
def add_log_slopes(work, slope, n_pending):
    """Multiply slopes (n_transformed * T,) into slopes of `work`, a product of n_pending slopes on entry.

    Returns the number of slopes in the product on exit. Their logarithm is added to log_det in between, as
    soon as there are SLOPES_PER_LOG of them and another one follows.
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
    """Write values (n_transformed * T,) to the transformed ones of the coordinates (d, T)."""
    n_rows = coordinates.shape[1]
    for i in range(transformed.shape[0]):
        copy(coordinates[transformed[i]], values[i * n_rows : (i + 1) * n_rows])


@inlined
def slope_of(c, layout, work):
    """Return the slopes of cell c, (n_transformed * T,)."""
    n_transformed = layout.split.shape[1] - layout.n_inputs[c]
    return work.slope[slot_of(c, work), : n_transformed * work.log_det.shape[0]]


@device_function
def spline_forward(c, layout, work):
    """Set z and the slopes of cell c."""
    slot, slope = slot_of(c, work), slope_of(c, layout, work)
    m = slope.shape[0]
    values = values_of(c, work.values[slot], layout, work.log_det.shape[0])
    all_forward(layout.cell, work.z[slot, :m], slope, kept_of(slot, m, work), values, work.x[:m])


@device_function
def coupling_forward(c, params, layout, work):
    """Map the coordinates of `work` through cell c, and set its slopes."""
    conditioner(c, params, layout, work)
    spline_forward(c, layout, work)
    scatter(work.coordinates, work.z[slot_of(c, work)], layout.split[c, layout.n_inputs[c] :])


@device_function
def gather_derivatives(c, layout, work):
    """Copy the derivatives with respect to z and to the log slopes of cell c to dz of `work`."""
    n_rows = work.log_det.shape[0]
    n_inputs = layout.n_inputs[c]
    for i in range(layout.split.shape[1] - n_inputs):
        copy(work.dz[0, i * n_rows : (i + 1) * n_rows], work.dcoordinates[layout.split[c, n_inputs + i]])
        copy(work.dz[1, i * n_rows : (i + 1) * n_rows], work.dlog_q)


@device_function
def spline_backward(c, layout, work):
    """Set dlogits of `work`, and dz[0] to the derivatives with respect to x, for cell c."""
    n_rows, slope = work.log_det.shape[0], slope_of(c, layout, work)
    m = slope.shape[0]
    values, dlogits = values_of(c, work.values[c], layout, n_rows), values_of(c, work.dlogits, layout, n_rows)
    dz, dlog_slope = work.dz[0, :m], work.dz[1, :m]
    kept, z = kept_of(c, m, work), work.z[c, :m]
    all_backward(layout.cell, dlogits, dz, kept, values, z, slope, dz, dlog_slope)


@device_function
def predict_backward(c, dparams, is_first, params, layout, work):
    """Backpropagate through `predict`: add to dparams, or set them, and dinputs of `work` but for cell 0."""
    n_rows = work.log_det.shape[0]
    n_inputs = layout.n_inputs[c]
    if n_inputs > 0:
        n_out = (layout.split.shape[1] - n_inputs) * layout.n_logits
        network_backward(
            work.dinputs[: n_inputs * n_rows].reshape(n_inputs, n_rows), dparams, is_first,
            work.dlogits[: n_out * n_rows].reshape(n_out, n_rows),
            work.inputs[c, : n_inputs * n_rows].reshape(n_inputs, n_rows), work.hidden[c], params,
            work.transposed, layout.layers[c], work.network, work.zeros, work.ones,
            c > 0,  # derivatives with respect to x are not needed
        )  # fmt: skip
    elif is_first:
        for k in range(layout.layers.shape[1]):
            weights, biases = layer_weights(dparams, layout.layers[c, k])
            weights[:], biases[:] = 0, 0


@device_function
def scatter_derivatives(c, layout, work):
    """Set dcoordinates of `work` to the derivatives before cell c, those before the first one in part."""
    n_rows = work.log_det.shape[0]
    n_inputs = layout.n_inputs[c]
    scatter(work.dcoordinates, work.dz[0], layout.split[c, n_inputs:])
    for i in range(n_inputs if c > 0 else 0):
        k = layout.split[c, i]
        target, dinputs = work.dcoordinates[k], work.dinputs[i * n_rows : (i + 1) * n_rows]
        if layout.latent == NORMAL and k < layout.d:
            inputs = work.inputs[c, i * n_rows : (i + 1) * n_rows]
            for r in range(n_rows):
                target[r] += dinputs[r] * bounded_input_slope(inputs[r])
            continue
        for r in range(n_rows):
            target[r] += 2.0 * dinputs[r]


@device_function
def add_biases_backward(c, dparams, is_first, layout, work):
    """Add the derivatives with respect to the output biases of cell c to dparams, or set them."""
    _, dbiases = layer_weights(dparams, layout.layers[c, -1])
    n_rows = work.log_det.shape[0]
    add_row_sums(
        dbiases, work.dlogits[: dbiases.shape[0] * n_rows].reshape(dbiases.shape[0], n_rows), is_first
    )


@device_function
def coupling_backward(c, dparams, is_first, params, layout, work):
    """Backpropagate through `coupling_forward`.

    dparams: (n_params,), added to, or set if is_first. dcoordinates of `work`: (d, T), derivatives with
    respect to the coordinates after the cell on entry, and before it on exit. Those before the first cell are
    incomplete.
    """
    gather_derivatives(c, layout, work)
    spline_backward(c, layout, work)
    predict_backward(c, dparams, is_first, params, layout, work)
    scatter_derivatives(c, layout, work)
    add_biases_backward(c, dparams, is_first, layout, work)


@device_function
def coupling_inverse(c, params, layout, work):
    """Map the coordinates of `work` through the inverse of cell c, and set the slopes of the forward map."""
    conditioner(c, params, layout, work)
    slope = slope_of(c, layout, work)
    values = values_of(c, work.values[0], layout, work.log_det.shape[0])
    x = work.x[: slope.shape[0]]
    all_inverse(layout.cell, x, slope, values, x)
    scatter(work.coordinates, x, layout.split[c, layout.n_inputs[c] :])


@device_function
def add_normal(log_q, z):
    """Add the log of the normal density of z (d, T) to log_q (T,)."""
    for k in range(z.shape[0]):
        row = z[k]
        for r in range(log_q.shape[0]):
            log_q[r] -= HALF_LOG_2_PI + 0.5 * row[r] * row[r]


@device_function
def normal_backward(dz, z, dlog_q):
    """Backpropagate through `add_normal`: add to dz (d, T). z: (d, T). dlog_q: (T,)."""
    for k in range(z.shape[0]):
        dtarget, row = dz[k], z[k]
        for r in range(dlog_q.shape[0]):
            dtarget[r] -= row[r] * dlog_q[r]


@inlined
def flow_forward(params, layout, work):
    """Map the coordinates of `work` through all cells; its log_det is set.

    It is log q with respect to the unit cube or, where the latent density is normal, to the scale.
    """
    work.log_det[:], work.slopes[:], n_pending = 0, 1, 0
    for c in range(layout.n_inputs.shape[0]):
        if is_identity(c, params, layout, work):
            continue
        coupling_forward(c, params, layout, work)
        n_pending = add_log_slopes(work, slope_of(c, layout, work), n_pending)
    add_log(work.log_det, work.slopes)
    if layout.latent == NORMAL:
        add_normal(work.log_det, work.coordinates[: layout.d])


@inlined
def flow_inverse(params, layout, work):
    """Map the coordinates of `work` through the inverse of all cells; log_det as in `flow_forward` is set."""
    work.log_det[:], work.slopes[:], n_pending = 0, 1, 0
    if layout.latent == NORMAL:
        add_normal(work.log_det, work.coordinates[: layout.d])
    for c in range(layout.n_inputs.shape[0] - 1, -1, -1):
        if is_identity(c, params, layout, work):
            continue
        coupling_inverse(c, params, layout, work)
        n_pending = add_log_slopes(work, slope_of(c, layout, work), n_pending)
    add_log(work.log_det, work.slopes)


@device_function
def from_box(coordinates, layout):
    """Map coordinates (d, T) from the box to the unit cube, or to their scale, in place."""
    for k in range(coordinates.shape[0]):
        lower, width = layout.lower[k], layout.width[k]
        if layout.latent == NORMAL:
            for r in range(coordinates.shape[1]):
                coordinates[k, r] = (coordinates[k, r] - lower) / width
            continue
        for r in range(coordinates.shape[1]):
            coordinates[k, r] = min(max((coordinates[k, r] - lower) / width, 0.0), 1.0)


@device_function
def to_box(coordinates, layout):
    """Map coordinates (d, T) from the unit cube, or from their scale, to the box, in place."""
    for k in range(coordinates.shape[0]):
        lower, upper, width = layout.lower[k], layout.upper[k], layout.width[k]
        if layout.latent == NORMAL:
            for r in range(coordinates.shape[1]):
                coordinates[k, r] = lower + width * coordinates[k, r]
            continue
        for r in range(coordinates.shape[1]):
            coordinates[k, r] = min(max(lower + width * coordinates[k, r], lower), upper)


@kernel
def transform(out, log_det, points, is_inverse, next_tile, params, layout, work):
    """Map points from target to latent space, or the other way if is_inverse, as long as tiles are left.

    out: (n, d), set. log_det: (n,), as in `flow_forward`, set. points: (n, d + c), in the box, or in latent
    space if is_inverse, and their conditions. next_tile: (1,), counter shared by all threads.
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


@inlined
def max_exponent(layout):
    """Return the logarithm from which on the variance loss of a point grows linearly in -log q."""
    return MAX_EXPONENT if layout.latent == NORMAL else math.inf


@device_function
def variance_loss(dlog_q, log_q, log_weights, rows, first, most):
    """Compute the sum of the variance loss l = f^2 / (p q) over a tile, and the derivative -l in log q.

    Where log l is above `most`, l goes on along its tangent: q of unbounded points may be so small far away
    that l, or its derivatives in float32, would overflow, where f is nothing.

    dlog_q: (T,), derivative of the mean over the minibatch, set. log_q: (T,). log_weights: (n,),
    log(f^2 / p). rows: (n_batch,), the minibatch. first: index in rows at which the tile begins.
    """
    total = 0.0
    n_batch = rows.shape[0]
    for r in range(min(log_q.shape[0], n_batch - first)):
        exponent = log_weights[rows[first + r]] - log_q[r]
        bounded = min(exponent, most)
        value = math.exp(bounded)
        total += value + value * (exponent - bounded) if exponent > most else value
        share = value / n_batch
        dlog_q[r] = 0.0 if share < NEGLIGIBLE else -share
    return total


@device_function
def linear_loss(dlog_q, log_q, weights, rows, first):
    """Compute the sum of l = -weight log q over a tile, and the derivative -weight in log q.

    This is the DKL loss if weight = f / p. With suitable weights, it has the gradient of any other loss whose
    derivative in log q is known. Other arguments are as in `variance_loss`.
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
    """Add the derivative in log q of the mean of q / p, whose expectation over x ~ p is 1 for any q.

    dlog_q: (T,), added to. log_p: (n,). Other arguments are as in `variance_loss`.
    """
    n_batch = rows.shape[0]
    for r in range(min(log_q.shape[0], n_batch - first)):
        share = math.exp(log_q[r] - log_p[rows[first + r]]) / n_batch
        dlog_q[r] += 0.0 if share < NEGLIGIBLE else share


@kernel
def gradient(dparams, losses, next_lane, x, rows, weights, log_p, dz, is_variance, params, layout, work):
    """Compute the loss and the gradient of lanes of a minibatch, as long as lanes are left.

    dparams: (n_lanes, n_params), set. losses: (n_lanes,), sums over the rows of the lane, set. next_lane:
    (2,), counter shared by all threads, and the lane that ends them. x: (n, d + c), in the box, and their
    conditions. rows: (n_batch,), indices of the minibatch in x. weights: (n,), log(f^2 / p) if is_variance,
    otherwise the factor of -log q. log_p: (n,) for a gradient with a control variate, or (0,) for one
    without. dz: (n_batch, d), additional derivative of the loss with respect to z, or (0, d) for none.
    """
    transpose_weights(work.transposed, params, layout)
    n_rows = work.log_det.shape[0]
    n_batch = rows.shape[0]
    n_lanes = losses.shape[0]
    n_tiles = (n_batch + n_rows - 1) // n_rows
    while True:
        lane = take(next_lane)
        if lane >= next_lane[1]:
            return
        losses[lane] = 0
        first_tile = lane * n_tiles // n_lanes
        for tile in range(first_tile, (lane + 1) * n_tiles // n_lanes):
            first = tile * n_rows
            for r in range(n_rows):
                row = rows[min(first + r, n_batch - 1)]
                for k in range(x.shape[1]):
                    work.coordinates[k, r] = x[row, k]
            from_box(work.coordinates, layout)
            flow_forward(params, layout, work)
            work.dlog_q[:] = 0
            if is_variance:
                losses[lane] += variance_loss(
                    work.dlog_q, work.log_det, weights, rows, first, max_exponent(layout)
                )
            else:
                losses[lane] += linear_loss(work.dlog_q, work.log_det, weights, rows, first)
            if log_p.shape[0] > 0:
                control_variate(work.dlog_q, work.log_det, log_p, rows, first)
            work.dcoordinates[:] = 0
            for r in range(min(n_rows, dz.shape[0] - first)):
                for k in range(dz.shape[1]):
                    work.dcoordinates[k, r] = dz[first + r, k]
            if layout.latent == NORMAL:
                normal_backward(work.dcoordinates[: layout.d], work.coordinates[: layout.d], work.dlog_q)
            for c in range(layout.n_inputs.shape[0] - 1, -1, -1):
                coupling_backward(c, dparams[lane], tile == first_tile, params, layout, work)
