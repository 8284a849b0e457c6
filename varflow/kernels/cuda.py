"""The flow on a GPU: what cpu.py and adam.py do, by blocks of threads.

A block takes a tile of rows through all cells forward and, in training, straight back. In a matrix product,
its threads share out the sums, some rows and columns each in registers, and both operands are brought into
shared memory piece by piece; in the cells, each thread has one coordinate of one row. What a tile leaves
behind, activations and their derivatives, becomes the gradient in products of their own, over many rows at
once. Whatever is added up is added in an order that sizes alone decide: the same bits each run.

Shapes: n_rows of a workspace, whole tiles; d dimensions, D of them transformed at most; H neurons a hidden
layer; P logits a transformed coordinate. Networks run in the dtype of the parameters; coordinates, slopes and
log q in that of the workspace's coordinates.
"""

import math
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
from numba import config, cuda
from numba.extending import overload

from varflow.architecture import Architecture
from varflow.kernels.compile import SOURCES
from varflow.kernels.cpu import NEGLIGIBLE
from varflow.kernels.network import NEGATIVE_SLOPE
from varflow.kernels.splines import (
    SCRATCH_ROWS,
    cell_activate,
    cell_backward,
    cell_forward,
    cell_inverse,
    exponential,
)

IS_SIMULATED: bool = config.ENABLE_CUDASIM

# Of a product: the rows and columns that a block has at once, and what it sums over in shared memory at once.
# Where a thread of Python plays each thread, blocks are small.
TILE_ROWS, TILE_COLUMNS, TILE_DEPTH = (8, 16, 4) if IS_SIMULATED else (32, 64, 32)
OWN = 4  # rows, and columns, of it that one thread has
THREADS = TILE_ROWS // OWN * (TILE_COLUMNS // OWN)  # of a block
PADDED_ROWS = TILE_ROWS + OWN  # in shared memory, so that threads find each other's banks free
# Of shared memory, so that a thread reads four numbers at once; the simulator does not know of it.
ALIGNMENT = None if IS_SIMULATED else 16

WEIGHTS, BIASES = range(2)  # kinds of the jobs of `weight_gradients`
FAILED, N_DONE, SCALE = range(3)  # of the state that one step hands on to the next

# Indices without a sign, where it counts: for others, each access looks whether it is from the end.
ONE = np.uint32(1)

device_function: Any = cuda.jit(device=True)


def kernel(function: Callable[..., Any]) -> Any:
    """Compile a function that blocks of threads run, at its first call for each set of types.

    It is kept on disk as the kernels of the CPU are, but not where it is only simulated.
    """
    compiled: Any = cuda.jit(function)
    if not IS_SIMULATED:
        with suppress(RuntimeError):  # "cannot cache function: no locator available"
            compiled._cache = _cache(function)
    return compiled


def _cache(function: Callable[..., Any]) -> Any:
    """Make a cache whose entries are good for exactly these sources; see `compile.py`."""
    from numba.cuda.dispatcher import CUDACache  # which the simulator is without

    class Cache(CUDACache):
        def _index_key(self, *arguments: Any) -> Any:
            return (*super()._index_key(*arguments), SOURCES)

    return Cache(function)


@overload(exponential, target="cuda")
def _exponential(x):
    return lambda x: math.exp(x)


class Workspace(NamedTuple):
    """Buffers of all tiles; `n_kept` is the number of cells in training, else 1."""

    coordinates: Any  # (n_rows, d), before or behind the cell at hand
    log_det: Any  # (n_rows,)
    inputs: Any  # (n_kept, n_rows, d), of the networks
    hidden: Any  # (n_kept, n_hidden, n_rows, H)
    values: Any  # (n_kept, n_rows, P * D), of the cells
    x: Any  # (n_kept, n_rows, D), transformed coordinates before the cell
    z: Any  # (n_kept, n_rows, D), and behind it
    slope: Any  # (n_kept, n_rows, D)
    dcoordinates: Any  # (n_rows, d)
    dlog_q: Any  # (n_rows,)
    dhidden: Any  # (n_kept, n_hidden, n_rows, H), before the leaky ReLU
    dlogits: Any  # (n_kept, n_rows, P * D)
    dinputs: Any  # (n_rows, d)


def make_workspace(architecture: Architecture, n_rows: int, keeps_all: bool, real: Any) -> Workspace:
    """Allocate the buffers for so many rows, whole tiles; for training if all activations are to be kept.

    real: dtype of the coordinates.
    """
    d, dtype = architecture.d, architecture.dtype
    n_transformed = int(architecture.masks.sum(axis=1).max())
    n_out = architecture.n_logits * n_transformed
    n_kept, n_back = (architecture.n_cells, n_rows) if keeps_all else (1, 1)
    networks = (n_kept, architecture.n_hidden)
    return Workspace(
        coordinates=cuda.device_array((n_rows, d), real),
        log_det=cuda.device_array((n_rows,), real),
        inputs=cuda.device_array((n_kept, n_rows, d), dtype),
        hidden=cuda.device_array((*networks, n_rows, architecture.d_hidden), dtype),
        values=cuda.device_array((n_kept, n_rows, n_out), dtype),
        x=cuda.device_array((n_kept, n_rows, n_transformed), real),
        z=cuda.device_array((n_kept, n_rows, n_transformed), real),
        slope=cuda.device_array((n_kept, n_rows, n_transformed), real),
        dcoordinates=cuda.device_array((n_back, d), real),
        dlog_q=cuda.device_array((n_back,), real),
        dhidden=cuda.device_array((*networks, n_back, architecture.d_hidden), dtype),
        dlogits=cuda.device_array((n_kept, n_back, n_out), dtype),
        dinputs=cuda.device_array((n_back, d), dtype),
    )


@device_function
def own_row():
    """First of the rows of a tile's product that this thread has."""
    return np.uint32(cuda.threadIdx.x) // np.uint32(TILE_COLUMNS // OWN) * np.uint32(OWN)


@device_function
def own_column():
    """First of the columns that it has."""
    return np.uint32(cuda.threadIdx.x) % np.uint32(TILE_COLUMNS // OWN) * np.uint32(OWN)


@device_function
def clear(sums):
    """sums: (OWN, OWN), of this thread, set to zero."""
    for i in range(OWN):
        for j in range(OWN):
            sums[i, j] = 0


@device_function
def add_products(sums, left, right, depth):
    """sums: (OWN, OWN), of this thread, added to. left, right: (TILE_DEPTH, ...). depth: how many count."""
    row, column = own_row(), own_column()
    k, end = np.uint32(0), np.uint32(depth)
    while k < end:
        for i in range(OWN):
            for j in range(OWN):
                sums[i, j] += left[k, row + np.uint32(i)] * right[k, column + np.uint32(j)]
        k += ONE


@device_function
def bring(shared, width, matrix, first_row, end_row, first_column):
    """Copy rows of a matrix to shared memory; what is beyond end_row and its last column is zero.

    shared: (TILE_DEPTH, at least width), set.
    """
    for i in range(cuda.threadIdx.x, TILE_DEPTH * width, THREADS):
        r, k = i // width, i % width
        row, column = first_row + r, first_column + k
        is_inside = row < end_row and column < matrix.shape[1]
        shared[r, k] = matrix[row, column] if is_inside else shared.dtype.type(0)


@device_function
def bring_transposed(shared, matrix, first_column):
    """Copy columns of a matrix (TILE_ROWS, ...) to the rows of shared memory; what is beyond them is zero."""
    for i in range(cuda.threadIdx.x, TILE_DEPTH * TILE_ROWS, THREADS):
        r, k = i // TILE_DEPTH, i % TILE_DEPTH
        is_inside = first_column + k < matrix.shape[1]
        shared[k, r] = matrix[r, first_column + k] if is_inside else shared.dtype.type(0)


@device_function
def bring_weights(shared, flat, place, n_in, n_out, first_row, first_column):
    """Copy part of a matrix (n_in, n_out) that stands in a flat array; what is beyond it is zero."""
    for i in range(cuda.threadIdx.x, TILE_DEPTH * TILE_COLUMNS, THREADS):
        r, k = i // TILE_COLUMNS, i % TILE_COLUMNS
        row, column = first_row + r, first_column + k
        is_inside = row < n_in and column < n_out
        shared[r, k] = flat[place + row * n_out + column] if is_inside else shared.dtype.type(0)


@device_function
def tile_product(c, a, flat, place, params, biases, gate, closed, shared):
    """C = b + A W where the gate is positive, and `closed` times that elsewhere.

    c: (TILE_ROWS, n_out), set. a: (TILE_ROWS, n_in). place: where in flat (n_params,) W (n_in, n_out) stands.
    biases: where in params (n_params,) b (n_out,) does; -1 for none. gate: (TILE_ROWS, n_out), which may be c
    itself. shared: (TILE_DEPTH, PADDED_ROWS) and (TILE_DEPTH, TILE_COLUMNS), in shared memory.
    """
    left, right = shared
    sums = cuda.local.array((OWN, OWN), c.dtype)
    n_out, n_in = c.shape[1], a.shape[1]
    zero = c.dtype.type(0)
    for first_column in range(0, n_out, TILE_COLUMNS):
        clear(sums)
        for first in range(0, n_in, TILE_DEPTH):
            cuda.syncthreads()  # A has been written, and what is in shared memory has been read
            bring_transposed(left, a, first)
            bring_weights(right, flat, place, n_in, n_out, first, first_column)
            cuda.syncthreads()
            add_products(sums, left, right, min(TILE_DEPTH, n_in - first))
        for i in range(OWN):
            for j in range(OWN):
                row, column = own_row() + i, first_column + own_column() + j
                if column < n_out:
                    value = sums[i, j] + (params[biases + column] if biases >= 0 else zero)
                    c[row, column] = value
                    if not gate[row, column] > zero:
                        c[row, column] = closed * value


@device_function
def slot_of(c, work):
    """Which of the kept buffers cell c has: its own in training, else the only ones."""
    return min(c, work.hidden.shape[0] - 1)


@device_function
def conditioner(c, first, params, transposed, layout, work, shared):
    """Logits that cell c gives for the coordinates that stand before it, into `values` of `work`.

    first: of the tile's rows. transposed: (n_params,), from `transpose_weights`.
    """
    slot, end = slot_of(c, work), first + TILE_ROWS
    n_inputs = layout.n_inputs[c]
    n_hidden = work.hidden.shape[1]
    real = work.coordinates.dtype.type
    for i in range(cuda.threadIdx.x, n_inputs * TILE_ROWS, THREADS):
        r, k = first + i // n_inputs, i % n_inputs
        work.inputs[slot, r, k] = real(2) * work.coordinates[r, layout.split[c, k]] - real(1)
    slope, one = params.dtype.type(NEGATIVE_SLOPE), params.dtype.type(1)
    source = work.inputs[slot, first:end, :n_inputs]
    for k in range(n_hidden if n_inputs > 0 else 0):
        layer = layout.layers[c, k]
        hidden = work.hidden[slot, k, first:end, : layer[1]]
        tile_product(hidden, source, params, layer[2], params, layer[3], hidden, slope, shared)
        source = hidden
    layer = layout.layers[c, n_hidden]
    logits = work.values[slot, first:end, : layer[1]]
    tile_product(logits, source, transposed, layer[2], params, layer[3], logits, one, shared)
    cuda.syncthreads()


@device_function
def coupling_forward(c, first, params, transposed, layout, work, shared):
    """Take the coordinates of a tile through cell c, and add to its log_det."""
    conditioner(c, first, params, transposed, layout, work, shared)
    slot, n_inputs = slot_of(c, work), layout.n_inputs[c]
    n_transformed = layout.split.shape[1] - n_inputs
    n_out = n_transformed * layout.n_logits
    largest = cuda.local.array(1, work.values.dtype)
    x = cuda.local.array(1, work.x.dtype)
    z = cuda.local.array(1, work.x.dtype)
    slope = cuda.local.array(1, work.x.dtype)
    scratch = cuda.local.array((SCRATCH_ROWS, 1), work.x.dtype)
    for i in range(cuda.threadIdx.x, n_transformed * TILE_ROWS, THREADS):
        r, k = first + i // n_transformed, i % n_transformed
        target = layout.split[c, n_inputs + k]
        values = work.values[slot, r, k:n_out:n_transformed][:, np.newaxis]
        cell_activate(layout.cell, values, largest)
        x[0] = work.coordinates[r, target]
        cell_forward(layout.cell, z, slope, values, x, scratch)
        work.coordinates[r, target] = z[0]
        work.x[slot, r, k], work.z[slot, r, k], work.slope[slot, r, k] = x[0], z[0], slope[0]
    add_log_slopes(first, slot, n_transformed, work)


@device_function
def coupling_backward(c, first, params, transposed, layout, work, shared):
    """Derivatives through `coupling_forward`, but for those in the weights.

    Set are dlogits and dhidden of `work`. dcoordinates: in the coordinates behind the cell on entry, set to
    those before it, but before the first cell they are not complete.
    """
    end, n_inputs = first + TILE_ROWS, layout.n_inputs[c]
    n_transformed = layout.split.shape[1] - n_inputs
    n_out = n_transformed * layout.n_logits
    n_hidden = work.hidden.shape[1]
    x = cuda.local.array(1, work.x.dtype)
    z = cuda.local.array(1, work.x.dtype)
    slope = cuda.local.array(1, work.x.dtype)
    dz = cuda.local.array(1, work.x.dtype)
    dlog_slope = cuda.local.array(1, work.x.dtype)
    scratch = cuda.local.array((SCRATCH_ROWS, 1), work.x.dtype)
    for i in range(cuda.threadIdx.x, n_transformed * TILE_ROWS, THREADS):
        r, k = first + i // n_transformed, i % n_transformed
        target = layout.split[c, n_inputs + k]
        values = work.values[c, r, k:n_out:n_transformed][:, np.newaxis]
        dlogits = work.dlogits[c, r, k:n_out:n_transformed][:, np.newaxis]
        x[0], z[0], slope[0] = work.x[c, r, k], work.z[c, r, k], work.slope[c, r, k]
        dz[0], dlog_slope[0] = work.dcoordinates[r, target], work.dlog_q[r]
        cell_backward(layout.cell, dlogits, dz, values, x, z, slope, dz, dlog_slope, scratch)
        work.dcoordinates[r, target] = dz[0]
    if n_inputs == 0:
        return
    negative, one = params.dtype.type(NEGATIVE_SLOPE), params.dtype.type(1)
    layer = layout.layers[c, n_hidden]
    doutputs, flat = work.dlogits[c, first:end, : layer[1]], params
    for k in range(n_hidden - 1, -1, -1):
        hidden = work.hidden[c, k, first:end, : layer[0]]
        dhidden = work.dhidden[c, k, first:end, : layer[0]]
        tile_product(dhidden, doutputs, flat, layer[2], params, -1, hidden, negative, shared)
        doutputs, flat, layer = dhidden, transposed, layout.layers[c, k]
    if c > 0:  # nobody asks for the derivatives in x
        dinputs = work.dinputs[first:end, :n_inputs]
        tile_product(dinputs, doutputs, flat, layer[2], params, -1, dinputs, one, shared)
        cuda.syncthreads()
        for i in range(cuda.threadIdx.x, n_inputs * TILE_ROWS, THREADS):
            r, k = i // n_inputs, i % n_inputs
            work.dcoordinates[first + r, layout.split[c, k]] += dinputs[r, k] + dinputs[r, k]
        cuda.syncthreads()


@device_function
def coupling_inverse(c, first, params, transposed, layout, work, shared):
    """Take the coordinates of a tile back through cell c, and add to its log_det, of the forward map."""
    conditioner(c, first, params, transposed, layout, work, shared)
    n_inputs = layout.n_inputs[c]
    n_transformed = layout.split.shape[1] - n_inputs
    n_out = n_transformed * layout.n_logits
    largest = cuda.local.array(1, work.values.dtype)
    x = cuda.local.array(1, work.x.dtype)
    slope = cuda.local.array(1, work.x.dtype)
    scratch = cuda.local.array((SCRATCH_ROWS, 1), work.x.dtype)
    for i in range(cuda.threadIdx.x, n_transformed * TILE_ROWS, THREADS):
        r, k = first + i // n_transformed, i % n_transformed
        target = layout.split[c, n_inputs + k]
        values = work.values[0, r, k:n_out:n_transformed][:, np.newaxis]
        cell_activate(layout.cell, values, largest)
        x[0] = work.coordinates[r, target]
        cell_inverse(layout.cell, x, slope, values, x, scratch)
        work.coordinates[r, target], work.slope[0, r, k] = x[0], slope[0]
    add_log_slopes(first, 0, n_transformed, work)


@device_function
def add_log_slopes(first, slot, n_transformed, work):
    """Add the logs of the slopes of a cell to log_det of a tile's rows."""
    cuda.syncthreads()
    for r in range(first + cuda.threadIdx.x, first + TILE_ROWS, THREADS):
        for k in range(n_transformed):
            work.log_det[r] += math.log(work.slope[slot, r, k])


@device_function
def from_box(x, k, layout):
    """Map coordinate k from the box to the unit interval."""
    return min(max((x - layout.lower[k]) / layout.width[k], 0.0), 1.0)


@device_function
def to_box(u, k, layout):
    """Map coordinate k from the unit interval to the box."""
    return min(max(layout.lower[k] + layout.width[k] * u, layout.lower[k]), layout.upper[k])


@kernel
def first_outside(found, points, is_latent, layout):
    """Find the first row that is not finite and in the box, or in the unit cube if is_latent.

    found: (1,) int64, lowered to it. points: (n, d). One thread a number.
    """
    d = points.shape[1]
    i = cuda.grid(1)
    if i < points.shape[0] * d:
        row, k = i // d, i % d
        lower, upper = (0.0, 1.0) if is_latent else (layout.lower[k], layout.upper[k])
        if not lower <= points[row, k] <= upper:
            cuda.atomic.min(found, 0, row)


@kernel
def transpose_weights(transposed, params, layout):
    """Copy all weight matrices, transposed, to the places where they stand in params.

    transposed: (n_params,), set. The grid is (how many layers, cells outside, and blocks for each).
    """
    n_layers = layout.layers.shape[1]
    c, k = cuda.blockIdx.x // n_layers, cuda.blockIdx.x % n_layers
    layer = layout.layers[c, k]
    is_last = k == n_layers - 1  # kept as (n_out, n_in)
    n, m, place = (layer[1] if is_last else layer[0]), (layer[0] if is_last else layer[1]), layer[2]
    for i in range(cuda.blockIdx.y * THREADS + cuda.threadIdx.x, n * m, cuda.gridDim.y * THREADS):
        transposed[place + i % m * n + i // m] = params[place + i]


@kernel
def transform(out, log_det, points, is_inverse, log_volume, params, transposed, layout, work):
    """Map points from target to latent space, or back if is_inverse.

    out: (n, d), set, which may be points. log_det: (n,), of the map from the box to latent space, set.
    points: (n, d), in the box, or in the unit cube if is_inverse. Each block has rows of `work` of its own.
    """
    left = cuda.shared.array((TILE_DEPTH, PADDED_ROWS), params.dtype, alignment=ALIGNMENT)
    right = cuda.shared.array((TILE_DEPTH, TILE_COLUMNS), params.dtype, alignment=ALIGNMENT)
    shared = left, right
    n, d = points.shape
    n_cells = layout.n_inputs.shape[0]
    first = cuda.blockIdx.x * TILE_ROWS
    for begin in range(first, n, cuda.gridDim.x * TILE_ROWS):
        cuda.syncthreads()
        for i in range(cuda.threadIdx.x, TILE_ROWS * d, THREADS):
            r, k = i // d, i % d
            point = points[min(begin + r, n - 1), k]
            work.coordinates[first + r, k] = point if is_inverse else from_box(point, k, layout)
        for r in range(cuda.threadIdx.x, TILE_ROWS, THREADS):
            work.log_det[first + r] = -log_volume
        cuda.syncthreads()
        for c in range(n_cells):
            if is_inverse:
                coupling_inverse(n_cells - 1 - c, first, params, transposed, layout, work, shared)
            else:
                coupling_forward(c, first, params, transposed, layout, work, shared)
            cuda.syncthreads()
        for i in range(cuda.threadIdx.x, min(TILE_ROWS, n - begin) * d, THREADS):
            r, k = i // d, i % d
            u = work.coordinates[first + r, k]
            out[begin + r, k] = to_box(u, k, layout) if is_inverse else u
        for r in range(cuda.threadIdx.x, min(TILE_ROWS, n - begin), THREADS):
            log_det[begin + r] = work.log_det[first + r]


@device_function
def row_loss(weight, log_q, log_volume, is_variance):
    """A row's loss and its derivative in log q, times -1; see `variance_loss` and `linear_loss` of cpu.py.

    log_q: of the density in the unit cube. log_volume: of the box.
    """
    if is_variance:
        value = math.exp(weight - log_q)
        return value, value
    return -weight * (log_q - log_volume), weight


@kernel
def gradient(
    losses, begin, x, rows, weights, log_p, dz, is_variance, log_volume, params, transposed, layout, work
):  # fmt: skip
    """Loss of a minibatch, and its derivatives in whatever the weights are multiplied with.

    losses: (n_tiles,), sums over the rows of a tile, set. begin: of the minibatch's rows, that of the first
    block. x: (n, d) in the box. rows: (n_batch,), which of them make the minibatch. weights: (n,),
    log(f^2 / p) where is_variance, else the factor of -log q. log_p: (n,), where the gradient is to have a
    control variate, or (0,). dz: (n_batch, d), derivative of the loss in z, or (0, d) for none. One block a
    tile, which has rows of `work` of its own.
    """
    left = cuda.shared.array((TILE_DEPTH, PADDED_ROWS), params.dtype, alignment=ALIGNMENT)
    right = cuda.shared.array((TILE_DEPTH, TILE_COLUMNS), params.dtype, alignment=ALIGNMENT)
    shared = left, right
    partial = cuda.shared.array(TILE_ROWS, np.float64)
    n_batch, d = rows.shape[0], x.shape[1]
    first = cuda.blockIdx.x * TILE_ROWS  # in `work`
    begin += first
    for i in range(cuda.threadIdx.x, TILE_ROWS * d, THREADS):
        r, k = i // d, i % d
        row = rows[min(begin + r, n_batch - 1)]
        work.coordinates[first + r, k] = from_box(x[row, k], k, layout)
        work.dcoordinates[first + r, k] = dz[begin + r, k] if begin + r < dz.shape[0] else 0.0
    for r in range(cuda.threadIdx.x, TILE_ROWS, THREADS):
        work.log_det[first + r] = 0
    cuda.syncthreads()
    for c in range(layout.n_inputs.shape[0]):
        coupling_forward(c, first, params, transposed, layout, work, shared)
        cuda.syncthreads()
    for r in range(cuda.threadIdx.x, TILE_ROWS, THREADS):
        partial[r], work.dlog_q[first + r] = 0, 0
        if begin + r < n_batch:
            row, log_q = rows[begin + r], work.log_det[first + r]
            partial[r], slope = row_loss(weights[row], log_q, log_volume, is_variance)
            if log_p.shape[0] > 0:
                slope -= math.exp(log_q - log_p[row])  # see `control_variate` of cpu.py
            share = slope / n_batch
            work.dlog_q[first + r] = 0.0 if abs(share) < NEGLIGIBLE else -share
    cuda.syncthreads()
    if cuda.threadIdx.x == 0:
        total = 0.0
        for r in range(TILE_ROWS):
            total += partial[r]
        losses[begin // TILE_ROWS] = total
    for c in range(layout.n_inputs.shape[0] - 1, -1, -1):
        coupling_backward(c, first, params, transposed, layout, work, shared)


@kernel
def weight_gradients(parts, first_part, jobs, n_rows, rows_a_part, layout, work):
    """Derivatives in all parameters, by parts: of so many rows of the workspace each.

    parts: (n_parts, n_params), set. first_part: of them, that of the first rows. jobs: (n_jobs, 5), which
    tiles there are: kind, cell, layer, first row and first column. n_rows: of the workspace that count. The
    grid is (n_jobs, how many parts).
    """
    left = cuda.shared.array((TILE_DEPTH, PADDED_ROWS), parts.dtype, alignment=ALIGNMENT)
    right = cuda.shared.array((TILE_DEPTH, TILE_COLUMNS), parts.dtype, alignment=ALIGNMENT)
    shared = left, right
    kind, c, k, first_row, first_column = jobs[cuda.blockIdx.x]
    begin = cuda.blockIdx.y * rows_a_part
    end = min(begin + rows_a_part, n_rows)
    part = parts[first_part + cuda.blockIdx.y]
    layer = layout.layers[c, k]
    n_inputs, is_last = layout.n_inputs[c], k == layout.layers.shape[1] - 1
    doutputs = work.dlogits[c, :, : layer[1]] if is_last else work.dhidden[c, k, :, : layer[1]]
    if kind == BIASES:
        column_sums(part, layer[3], doutputs, first_column, begin, end)
        return
    source = work.inputs[c, :, :n_inputs] if k == 0 else work.hidden[c, k - 1, :, : layer[0]]
    if is_last:  # its weights are kept as (n_out, n_in)
        product_over_rows(part, layer[2], doutputs, source, first_row, first_column, begin, end, shared)
    else:
        product_over_rows(part, layer[2], source, doutputs, first_row, first_column, begin, end, shared)


@device_function
def column_sums(flat, place, matrix, first_column, begin, end):
    """Sums over rows [begin, end) of a matrix (..., m), THREADS columns of it, into flat from a place on."""
    column = first_column + cuda.threadIdx.x
    if column < matrix.shape[1]:
        total = flat.dtype.type(0)
        for r in range(begin, end):
            total += matrix[r, column]
        flat[place + column] = total


@device_function
def product_over_rows(flat, place, a, b, first_row, first_column, begin, end, shared):
    """A tile of A^T B over rows [begin, end) of both, into a matrix (n, m) that stands in flat at a place.

    a: (..., n). b: (..., m).
    """
    left, right = shared
    sums = cuda.local.array((OWN, OWN), flat.dtype)
    clear(sums)
    for first in range(begin, end, TILE_DEPTH):
        cuda.syncthreads()
        bring(left, TILE_ROWS, a, first, end, first_row)
        bring(right, TILE_COLUMNS, b, first, end, first_column)
        cuda.syncthreads()
        add_products(sums, left, right, min(TILE_DEPTH, end - first))
    for i in range(OWN):
        for j in range(OWN):
            row, column = first_row + own_row() + i, first_column + own_column() + j
            if row < a.shape[1] and column < b.shape[1]:
                flat[place + row * b.shape[1] + column] = sums[i, j]


@device_function
def block_sum(partial):
    """Add up partial (THREADS,), in shared memory, in a fixed order; all threads get the sum."""
    cuda.syncthreads()
    width = THREADS // 2
    while width > 0:
        if cuda.threadIdx.x < width:
            partial[cuda.threadIdx.x] += partial[cuda.threadIdx.x + width]
        cuda.syncthreads()
        width //= 2
    total = partial[0]
    cuda.syncthreads()
    return total


@kernel
def fold_parts(dparams, squares, parts):
    """Add all parts of the gradient, in their order.

    dparams: (n_params,), set. squares: (n_blocks,), sums of their squares, set. parts: (n_parts, n_params).
    One thread a parameter.
    """
    partial = cuda.shared.array(THREADS, np.float64)
    i = cuda.grid(1)
    partial[cuda.threadIdx.x] = 0
    if i < dparams.shape[0]:
        total = parts[0, i]
        for part in range(1, parts.shape[0]):
            total += parts[part, i]
        dparams[i] = total
        partial[cuda.threadIdx.x] = np.float64(total) ** 2
    sum_of_squares = block_sum(partial)
    if cuda.threadIdx.x == 0:
        squares[cuda.blockIdx.x] = sum_of_squares


@kernel
def judge(state, loss, losses, squares, n_batch, is_of_log, clip_norm, most):
    """Decide whether a step is taken, and by which factor its gradient is multiplied. One block.

    state: FAILED is set where loss or gradient are not finite, and stays; SCALE is set. loss: (1,), the mean
    over the minibatch, set. losses: (n_tiles,). squares: (n_blocks,). is_of_log: whether the gradient is to
    be that of the logarithm of the loss. clip_norm: length that a gradient is shortened to. most: what the
    squares of its elements must not reach.
    """
    partial = cuda.shared.array(THREADS, np.float64)
    partial[cuda.threadIdx.x] = 0
    for i in range(cuda.threadIdx.x, losses.shape[0], THREADS):
        partial[cuda.threadIdx.x] += losses[i]
    mean = block_sum(partial) / n_batch
    partial[cuda.threadIdx.x] = 0
    for i in range(cuda.threadIdx.x, squares.shape[0], THREADS):
        partial[cuda.threadIdx.x] += squares[i]
    norm = math.sqrt(block_sum(partial))
    if cuda.threadIdx.x == 0:
        unit = mean if is_of_log else 1.0
        norm /= unit if unit != 0.0 else 1.0
        shortened = clip_norm / norm if norm > clip_norm else 1.0
        is_good = math.isfinite(mean) and math.isfinite(norm) and unit != 0.0
        loss[0] = mean
        if not is_good or norm * shortened * norm * shortened > most:
            state[FAILED] = 1.0
        else:
            state[SCALE] = shortened / unit


@kernel
def adam_step(params, m, v, averaged, dparams, state, step_size, beta1, beta2, epsilon, decay, renewal):
    """Adam's update (Kingma and Ba, arXiv 1412.6980, algorithm 1), unless a step has failed; see adam.py.

    params, m, v: (n_params,), updated. averaged: (n_params,), moving average of the parameters, updated, or
    (0,). dparams: (n_params,). state: of the training; N_DONE is counted up. renewal: share of the new
    parameters in the average. One thread a parameter.
    """
    i = cuda.grid(1)
    if state[FAILED] != 0.0:
        return
    if i == 0:
        state[N_DONE] += 1.0
    if i < params.shape[0]:
        real = params.dtype.type
        tiny = real(1e-30)
        g = real(state[SCALE]) * dparams[i]
        mean = real(beta1) * m[i] + real(1.0 - beta1) * g
        square = real(beta2) * v[i] + real(1.0 - beta2) * g * g
        m[i] = mean if abs(mean) > tiny else real(0)
        v[i] = square if square > tiny else real(0)
        step = real(step_size) * m[i] / (math.sqrt(v[i]) + real(epsilon))
        params[i] -= step + real(decay) * params[i]
        if i < averaged.shape[0]:
            averaged[i] += real(renewal) * (params[i] - averaged[i])


def point_kernel(f):
    """Make the kernel that calls a device function f for each of points (n, d), for values (n,)."""

    @cuda.jit
    def values_of_f(values, points):
        i = cuda.grid(1)
        if i < points.shape[0]:
            values[i] = f(points[i])

    return values_of_f


# Philox (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC11), as NumPy has it: 4 numbers of
# 64 bits from a counter and a key, by 10 rounds. Products are formed in halves: there is none of 128 bits.
ROUNDS = 10
HALF, LOW = np.uint64(32), np.uint64(0xFFFFFFFF)
FACTORS = np.uint64(0xD2E7470EE14C6C93), np.uint64(0xCA5A826395121157)
BUMPS = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBB67AE8584CAA73B)
BITS_TO_DROP, UNIT = np.uint64(11), 2.0**-53


@device_function
def wide_product(a, b):
    """Upper and lower 64 bits of a product."""
    a_low, a_high, b_low, b_high = a & LOW, a >> HALF, b & LOW, b >> HALF
    low = a_low * b_low
    middle = a_high * b_low + (low >> HALF)
    other = a_low * b_high + (middle & LOW)
    return a_high * b_high + (middle >> HALF) + (other >> HALF), (other << HALF) | (low & LOW)


@device_function
def wrapped_sum(a, b):
    """The sum of a and b, without the bit that is too many."""
    low = (a & LOW) + (b & LOW)
    high = (a >> HALF) + (b >> HALF) + (low >> HALF)
    return ((high & LOW) << HALF) | (low & LOW)


@kernel
def latent_points(z, block, key0, key1):
    """Draw the points of a block of `latent_blocks` of flow.py: the same bits.

    z: (n, d), set. block: its number, the upper part of the counter. key0, key1: of the generator. One thread
    a number.
    """
    n, d = z.shape
    i = cuda.grid(1)
    if i >= n * d:
        return
    a, b, c, e = np.uint64(1 + i // 4), np.uint64(0), np.uint64(0), np.uint64(block)
    for _ in range(ROUNDS):
        high0, low0 = wide_product(FACTORS[0], a)
        high1, low1 = wide_product(FACTORS[1], c)
        a, b, c, e = high1 ^ b ^ key0, low1, high0 ^ e ^ key1, low0
        key0, key1 = wrapped_sum(key0, BUMPS[0]), wrapped_sum(key1, BUMPS[1])
    which = i % 4
    word = a if which == 0 else (b if which == 1 else (c if which == 2 else e))
    z[i // d, i % d] = np.float64(word >> BITS_TO_DROP) * UNIT
