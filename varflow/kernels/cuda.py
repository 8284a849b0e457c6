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

from varflow.kernels import normal
from varflow.kernels.compile import SOURCES
from varflow.kernels.cpu import (
    HALF_LOG_2_PI,
    MAX_COORDINATE,
    MAX_EXPONENT,
    MAX_INPUT,
    NEGLIGIBLE,
)
from varflow.kernels.layout import Sizes
from varflow.kernels.network import NEGATIVE_SLOPE
from varflow.kernels.splines import (
    N_KEPT,
    NORMAL,
    cell_activate,
    cell_backward,
    cell_forward,
    cell_inverse,
)

IS_SIMULATED: bool = config.ENABLE_CUDASIM

# Of a product: the rows and columns that a block has at once, and what it sums over in shared memory at once.
# Where a thread of Python plays each thread, blocks are small.
TILE_ROWS, TILE_COLUMNS, TILE_DEPTH = (8, 16, 4) if IS_SIMULATED else (32, 64, 16)
OWN_ROWS, OWN_COLUMNS = 4, 4  # of it that one thread has; multiples of four
ROW_GROUPS, COLUMN_GROUPS = TILE_ROWS // OWN_ROWS, TILE_COLUMNS // OWN_COLUMNS
THREADS = ROW_GROUPS * COLUMN_GROUPS  # of a block
# What one thread brings of each operand at once.
OWN_LEFT, OWN_RIGHT = TILE_DEPTH * TILE_ROWS // THREADS, TILE_DEPTH * TILE_COLUMNS // THREADS
PADDED_ROWS = TILE_ROWS + 4  # in shared memory, so that threads find each other's banks free
# Of shared memory, so that a thread reads four numbers at once; the simulator does not know of it.
ALIGNMENT = None if IS_SIMULATED else 16

LARGEST = float(np.finfo(np.float64).max)
MAX_NUMBERS = 1 << 32  # of a matrix of the workspace, and of the parameters: what indices can tell apart
FAILED, N_DONE, SCALE = range(3)  # of the state that one step hands on to the next

# In the simulator, a function of this module needs nothing that the kernel which calls it has not set up.
device_function: Any = (lambda function: function) if IS_SIMULATED else cuda.jit(device=True)


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


class Workspace(NamedTuple):
    """Buffers of all tiles; `n_kept` is the number of cells in training, else 1.

    Matrices that are multiplied are flat. Of cells that have fewer columns than others, an end is left free.
    """

    coordinates: Any  # (n_rows, d), before or behind the cell at hand
    log_det: Any  # (n_rows,)
    inputs: Any  # (n_kept, n_rows * d), of the networks
    hidden: Any  # (n_kept, n_hidden, n_rows * H)
    values: Any  # (n_kept, n_rows * P * D), of the cells
    x: Any  # (n_kept, n_rows, D), transformed coordinates before the cell
    z: Any  # (n_kept, n_rows, D), and behind it
    slope: Any  # (n_kept, n_rows, D)
    dcoordinates: Any  # (n_rows, d)
    dlog_q: Any  # (n_rows,)
    dhidden: Any  # (n_kept, n_hidden, n_rows * H), before the leaky ReLU
    dlogits: Any  # (n_kept, n_rows * P * D)
    dinputs: Any  # (n_rows * d,)


def make_workspace(sizes: Sizes, n_rows: int, keeps_all: bool, real: Any) -> Workspace:
    """Allocate the buffers for so many rows, whole tiles; for training if all activations are to be kept.

    real: dtype of the coordinates. A ValueError is raised where that would be too many numbers for indices.
    """
    d, dtype = sizes.d, sizes.dtype
    n_transformed, n_out = sizes.n_transformed, sizes.n_logits * sizes.n_transformed
    n_numbers = max(sizes.n_params, n_rows * max(d, sizes.d_hidden, n_out))
    if n_numbers > MAX_NUMBERS:
        raise ValueError(
            f"the flow is too large for a GPU: its parameters, or one layer's numbers for {n_rows} rows, are "
            f"{n_numbers}, and may be {MAX_NUMBERS} at most; take smaller minibatches, or backend='cpu'"
        )
    n_kept, n_back = (sizes.n_cells, n_rows) if keeps_all else (1, 1)
    networks = (n_kept, sizes.n_hidden)
    return Workspace(
        coordinates=cuda.device_array((n_rows, d), real),
        log_det=cuda.device_array((n_rows,), real),
        inputs=cuda.device_array((n_kept, n_rows * d), dtype),
        hidden=cuda.device_array((*networks, n_rows * sizes.d_hidden), dtype),
        values=cuda.device_array((n_kept, n_rows * n_out), dtype),
        x=cuda.device_array((n_kept, n_rows, n_transformed), real),
        z=cuda.device_array((n_kept, n_rows, n_transformed), real),
        slope=cuda.device_array((n_kept, n_rows, n_transformed), real),
        dcoordinates=cuda.device_array((n_back, d), real),
        dlog_q=cuda.device_array((n_back,), real),
        dhidden=cuda.device_array((*networks, n_back * sizes.d_hidden), dtype),
        dlogits=cuda.device_array((n_kept, n_back * n_out), dtype),
        dinputs=cuda.device_array((n_back * d,), dtype),
    )


@device_function
def index(i):
    """Convert to an unsigned 32-bit index, the cheapest kind; their sums and products have 64 bits."""
    return np.uint32(i)


@device_function
def matrix(flat, place, n_rows, n_columns):
    """A matrix that stands in a flat array from a place on, row by row."""
    return flat, index(place), index(n_rows), index(n_columns)


@device_function
def own_row(i):
    """The i-th of the rows of a tile's product that this thread has: by fours, which are read at once."""
    group = index(cuda.threadIdx.x) // index(COLUMN_GROUPS)
    return index(index(i // 4 * ROW_GROUPS * 4 + i % 4) + group * index(4))


@device_function
def own_column(j):
    """The j-th of the columns that it has."""
    group = index(cuda.threadIdx.x) % index(COLUMN_GROUPS)
    return index(index(j // 4 * COLUMN_GROUPS * 4 + j % 4) + group * index(4))


@device_function
def clear(sums):
    """sums: (OWN_ROWS, OWN_COLUMNS), of this thread, set to zero."""
    for i in range(OWN_ROWS):
        for j in range(OWN_COLUMNS):
            sums[i, j] = 0


@device_function
def add_outer_product(sums, left, right, k):
    """Add the products of row k of left and row k of right, as far as they are this thread's."""
    for i in range(OWN_ROWS):
        for j in range(OWN_COLUMNS):
            sums[i, j] += left[k, own_row(i)] * right[k, own_column(j)]


@device_function
def add_products(sums, left, right):
    """sums: (OWN_ROWS, OWN_COLUMNS), of this thread, added to. left, right: (TILE_DEPTH, ...)."""
    k = index(0)
    while k < index(TILE_DEPTH):  # compilers do not unroll so much by themselves
        add_outer_product(sums, left, right, k)
        add_outer_product(sums, left, right, index(k + index(1)))
        add_outer_product(sums, left, right, index(k + index(2)))
        add_outer_product(sums, left, right, index(k + index(3)))
        k = index(k + index(4))


@device_function
def element(i, width):
    """Row and column of the i-th element of this thread in a piece of a matrix that is so wide."""
    place = index(index(cuda.threadIdx.x) + index(i * THREADS))
    return index(place // index(width)), index(place % index(width))


@device_function
def fetch(piece, width, source, first_row, first_column):
    """Read this thread's elements of a piece of a matrix, from a row and a column on; zero is beyond it.

    piece: (elements a thread,), set.
    """
    flat, place, n_rows, n_columns = source
    for i in range(piece.shape[0]):
        r, k = element(i, width)
        row, column = index(first_row + r), index(first_column + k)
        is_inside = row < n_rows and column < n_columns
        piece[i] = flat[index(place + row * n_columns + column)] if is_inside else piece.dtype.type(0)


@device_function
def put(shared, width, piece):
    """Write this thread's elements to shared memory, (TILE_DEPTH, at least width)."""
    for i in range(piece.shape[0]):
        r, k = element(i, width)
        shared[r, k] = piece[i]


@device_function
def put_transposed(shared, piece):
    """Write those of a piece (TILE_ROWS, TILE_DEPTH) to shared memory, (TILE_DEPTH, PADDED_ROWS)."""
    for i in range(piece.shape[0]):
        r, k = element(i, TILE_DEPTH)
        shared[k, r] = piece[i]


@device_function
def tile_product(c, a, w, params, biases, gate, is_gated, closed, shared):
    """C = b + A W where it is positive, or the gate is if is_gated, and `closed` times that elsewhere.

    c, a, w: matrices (TILE_ROWS, n_out), set, (TILE_ROWS, n_in) and (n_in, n_out). biases: where in params
    (n_params,) b (n_out,) stands; -1 for none. gate: flat array with numbers in the places of those of C.
    shared: (TILE_DEPTH, PADDED_ROWS) and (TILE_DEPTH, TILE_COLUMNS), in shared memory.
    """
    left, right = shared
    flat, place, _, n_out = c
    sums = cuda.local.array((OWN_ROWS, OWN_COLUMNS), flat.dtype)
    signs = cuda.local.array((OWN_ROWS, OWN_COLUMNS), flat.dtype)
    of_a = cuda.local.array(OWN_LEFT, flat.dtype)
    of_w = cuda.local.array(OWN_RIGHT, flat.dtype)
    zero, n_in = flat.dtype.type(0), a[3]
    cuda.syncthreads()  # A has been written
    for first_column in range(index(0), n_out, index(TILE_COLUMNS)):
        clear(sums)
        fetch(of_a, TILE_DEPTH, a, index(0), index(0))
        fetch(of_w, TILE_COLUMNS, w, index(0), first_column)
        first = index(0)
        while first < n_in:
            cuda.syncthreads()  # what is in shared memory has been read
            put_transposed(left, of_a)
            put(right, TILE_COLUMNS, of_w)
            cuda.syncthreads()
            first = index(first + index(TILE_DEPTH))  # the next piece is on its way while this is used
            fetch(of_a, TILE_DEPTH, a, index(0), first)
            fetch(of_w, TILE_COLUMNS, w, first, first_column)
            add_products(sums, left, right)
        # All is read before anything is written: a read would wait for each write.
        for j in range(OWN_COLUMNS):
            column = index(first_column + own_column(j))
            bias = params[index(biases) + column] if biases >= 0 and column < n_out else zero
            for i in range(OWN_ROWS):
                sums[i, j] += bias
                number = index(place + own_row(i) * n_out + column)
                signs[i, j] = gate[number] if is_gated and column < n_out else sums[i, j]
        for i in range(OWN_ROWS):
            for j in range(OWN_COLUMNS):
                column = index(first_column + own_column(j))
                if column < n_out:
                    value = sums[i, j] if signs[i, j] > zero else closed * sums[i, j]
                    flat[index(place + own_row(i) * n_out + column)] = value


@device_function
def slot_of(c, work):
    """Which of the kept buffers cell c has: its own in training, else the only ones."""
    return min(c, work.hidden.shape[0] - 1)


@device_function
def bounded_input(x):
    """What a network sees of an unbounded coordinate; see cpu.py."""
    real = type(x)
    most, x = real(MAX_INPUT), min(max(x, real(-MAX_COORDINATE)), real(MAX_COORDINATE))
    return most * x / math.sqrt(most * most + x * x)


@device_function
def bounded_input_slope(bounded):
    """Its derivative where it has this value."""
    real = type(bounded)
    share = bounded / real(MAX_INPUT)
    rest = max(real(1) - share * share, real(0))
    return rest * math.sqrt(rest)


@device_function
def conditioner(c, first, params, transposed, layout, work, shared):
    """Logits that cell c gives for the coordinates that stand before it, into `values` of `work`.

    first: of the tile's rows. transposed: (n_params,), from `transpose_weights`.
    """
    slot, n_inputs = slot_of(c, work), layout.n_inputs[c]
    n_hidden = work.hidden.shape[1]
    real = work.coordinates.dtype.type
    for i in range(cuda.threadIdx.x, n_inputs * TILE_ROWS, THREADS):
        r, k = first + i // n_inputs, i % n_inputs
        source = layout.split[c, k]
        x = work.coordinates[r, source]
        is_bounded = layout.latent != NORMAL or source >= layout.d
        work.inputs[slot, r * n_inputs + k] = real(2) * x - real(1) if is_bounded else bounded_input(x)
    a = matrix(work.inputs[slot], first * n_inputs, TILE_ROWS, n_inputs)
    for k in range(0 if n_inputs > 0 else n_hidden, n_hidden + 1):
        n_in, n_out, place, biases = layout.layers[c, k]
        is_last = k == n_hidden  # its weights are kept as (n_out, n_in), and no leaky ReLU follows
        out, flat = (work.values[slot], transposed) if is_last else (work.hidden[slot, k], params)
        closed = params.dtype.type(1.0 if is_last else NEGATIVE_SLOPE)
        product, w = matrix(out, first * n_out, TILE_ROWS, n_out), matrix(flat, place, n_in, n_out)
        tile_product(product, a, w, params, biases, out, False, closed, shared)
        a = product
    cuda.syncthreads()


@device_function
def coupling_forward(c, first, params, transposed, layout, work, shared):
    """Take the coordinates of a tile through cell c, and add to its log_det."""
    conditioner(c, first, params, transposed, layout, work, shared)
    slot, n_inputs = slot_of(c, work), layout.n_inputs[c]
    n_transformed = layout.split.shape[1] - n_inputs
    n_out = n_transformed * layout.n_logits
    largest = cuda.local.array(1, work.values.dtype)
    kept = cuda.local.array((N_KEPT, 1), work.coordinates.dtype)
    for i in range(cuda.threadIdx.x, n_transformed * TILE_ROWS, THREADS):
        r, k = first + i // n_transformed, i % n_transformed
        target = layout.split[c, n_inputs + k]
        row = slice(r * n_out + k, (r + 1) * n_out, n_transformed)
        values = work.values[slot, row][:, np.newaxis]
        cell_activate(layout.cell, values, largest)
        x = work.coordinates[r, target]
        z, slope = cell_forward(layout.cell, kept, values, 0, x)
        work.coordinates[r, target] = z
        work.x[slot, r, k], work.z[slot, r, k], work.slope[slot, r, k] = x, z, slope
    add_log_slopes(first, slot, n_transformed, work)


@device_function
def coupling_backward(c, first, params, transposed, layout, work, shared):
    """Derivatives through `coupling_forward`, but for those in the weights.

    Set are dlogits and dhidden of `work`. dcoordinates: in the coordinates behind the cell on entry, set to
    those before it, but before the first cell they are not complete.
    """
    n_inputs, real = layout.n_inputs[c], work.coordinates.dtype.type
    n_transformed = layout.split.shape[1] - n_inputs
    n_out = n_transformed * layout.n_logits
    n_hidden = work.hidden.shape[1]
    kept = cuda.local.array((N_KEPT, 1), work.coordinates.dtype)
    for i in range(cuda.threadIdx.x, n_transformed * TILE_ROWS, THREADS):
        r, k = first + i // n_transformed, i % n_transformed
        target = layout.split[c, n_inputs + k]
        row = slice(r * n_out + k, (r + 1) * n_out, n_transformed)
        values, dlogits = work.values[c, row][:, np.newaxis], work.dlogits[c, row][:, np.newaxis]
        x, z, slope = work.x[c, r, k], work.z[c, r, k], work.slope[c, r, k]
        dz, dlog_slope = work.dcoordinates[r, target], work.dlog_q[r]
        cell_forward(layout.cell, kept, values, 0, x)  # to keep what it finds takes longer than to find it
        dx = cell_backward(layout.cell, dlogits, kept, values, 0, z, slope, dz, dlog_slope)
        work.dcoordinates[r, target] = dx
    if n_inputs == 0:
        return
    dout = matrix(work.dlogits[c], first * n_out, TILE_ROWS, n_out)
    for k in range(n_hidden, 0 if c == 0 else -1, -1):  # nobody asks for the derivatives in x
        n_in, n_out, place, _ = layout.layers[c, k]
        is_gated = k > 0  # by the leaky ReLU below
        din, gate = (
            (work.dhidden[c, k - 1], work.hidden[c, k - 1]) if is_gated else (work.dinputs, work.dinputs)
        )
        closed = params.dtype.type(NEGATIVE_SLOPE if is_gated else 1.0)
        product = matrix(din, first * n_in, TILE_ROWS, n_in)
        w = matrix(params if k == n_hidden else transposed, place, n_out, n_in)
        tile_product(product, dout, w, params, -1, gate, is_gated, closed, shared)
        dout = product
    cuda.syncthreads()
    if c > 0:
        for i in range(cuda.threadIdx.x, n_inputs * TILE_ROWS, THREADS):
            r, k = first + i // n_inputs, i % n_inputs
            place = r * n_inputs + k
            target = layout.split[c, k]
            is_bounded = layout.latent != NORMAL or target >= layout.d
            factor = real(2) if is_bounded else real(bounded_input_slope(work.inputs[c, place]))
            work.dcoordinates[r, target] += factor * work.dinputs[place]
        cuda.syncthreads()


@device_function
def coupling_inverse(c, first, params, transposed, layout, work, shared):
    """Take the coordinates of a tile back through cell c, and add to its log_det, of the forward map."""
    conditioner(c, first, params, transposed, layout, work, shared)
    n_inputs = layout.n_inputs[c]
    n_transformed = layout.split.shape[1] - n_inputs
    n_out = n_transformed * layout.n_logits
    largest = cuda.local.array(1, work.values.dtype)
    for i in range(cuda.threadIdx.x, n_transformed * TILE_ROWS, THREADS):
        r, k = first + i // n_transformed, i % n_transformed
        target = layout.split[c, n_inputs + k]
        row = slice(r * n_out + k, (r + 1) * n_out, n_transformed)
        values = work.values[0, row][:, np.newaxis]
        cell_activate(layout.cell, values, largest)
        x, slope = cell_inverse(layout.cell, values, 0, work.coordinates[r, target])
        work.coordinates[r, target], work.slope[0, r, k] = x, slope
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
    """Map coordinate k from the box to the unit interval, or to its scale."""
    if layout.latent == NORMAL:
        return (x - layout.lower[k]) / layout.width[k]
    return min(max((x - layout.lower[k]) / layout.width[k], 0.0), 1.0)


@device_function
def to_box(u, k, layout):
    """Map coordinate k from the unit interval, or from its scale, to the box."""
    if layout.latent == NORMAL:
        return layout.lower[k] + layout.width[k] * u
    return min(max(layout.lower[k] + layout.width[k] * u, layout.lower[k]), layout.upper[k])


@device_function
def add_log_latent(first, d, work):
    """Add the log of the normal density of the first d coordinates of a tile's rows to their log_det."""
    real = work.coordinates.dtype.type
    cuda.syncthreads()
    for r in range(first + cuda.threadIdx.x, first + TILE_ROWS, THREADS):
        for k in range(d):
            z = work.coordinates[r, k]
            work.log_det[r] -= real(HALF_LOG_2_PI) + real(0.5) * z * z
    cuda.syncthreads()


@kernel
def first_outside(found, points, is_latent, layout):
    """Find the first row that is not finite and in the box, or in latent space if is_latent.

    found: (1,) int64, lowered to it. points: (n, d). One thread a number.
    """
    d = points.shape[1]
    i = cuda.grid(1)
    if i < points.shape[0] * d:
        row, k = i // d, i % d
        lower, upper = (0.0, 1.0) if is_latent else (layout.lower[k], layout.upper[k])
        if layout.latent == NORMAL:
            lower, upper = -LARGEST, LARGEST
        if not lower <= points[row, k] <= upper:
            cuda.atomic.min(found, 0, row)


@kernel
def join_columns(joined, points, conditions):
    """Set joined (n, d + c) to points (n, d) and conditions (n, c), side by side. One thread a number."""
    n, d = points.shape
    width = joined.shape[1]
    i = cuda.grid(1)
    if i < n * width:
        row, k = i // width, i % width
        joined[row, k] = points[row, k] if k < d else conditions[row, k - d]


@kernel
def transpose_weights(transposed, params, layers):
    """Copy all weight matrices, transposed, to the places where they stand in params.

    transposed: (n_params,), set. layers: of the layout. The grid is (how many layers, cells outside, and
    blocks for each).
    """
    n_layers = layers.shape[1]
    c, k = cuda.blockIdx.x // n_layers, cuda.blockIdx.x % n_layers
    layer = layers[c, k]
    is_last = k == n_layers - 1  # kept as (n_out, n_in)
    n, m, place = (layer[1] if is_last else layer[0]), (layer[0] if is_last else layer[1]), layer[2]
    for i in range(cuda.blockIdx.y * THREADS + cuda.threadIdx.x, n * m, cuda.gridDim.y * THREADS):
        transposed[place + i % m * n + i // m] = params[place + i]


@kernel
def transform(out, log_det, points, is_inverse, log_volume, params, transposed, layout, work):
    """Map points from target to latent space, or back if is_inverse.

    out: (n, d), set. log_det: (n,), of the map from the box to latent space, set. points: (n, d + c), in the
    box, or in latent space if is_inverse, with conditions. Each block has rows of `work` of its own.
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
        if layout.latent == NORMAL and is_inverse:
            add_log_latent(first, layout.d, work)
        for c in range(n_cells):
            if is_inverse:
                coupling_inverse(n_cells - 1 - c, first, params, transposed, layout, work, shared)
            else:
                coupling_forward(c, first, params, transposed, layout, work, shared)
            cuda.syncthreads()
        if layout.latent == NORMAL and not is_inverse:
            add_log_latent(first, layout.d, work)
        d_out = out.shape[1]
        for i in range(cuda.threadIdx.x, min(TILE_ROWS, n - begin) * d_out, THREADS):
            r, k = i // d_out, i % d_out
            u = work.coordinates[first + r, k]
            out[begin + r, k] = to_box(u, k, layout) if is_inverse else u
        for r in range(cuda.threadIdx.x, min(TILE_ROWS, n - begin), THREADS):
            log_det[begin + r] = work.log_det[first + r]


@device_function
def row_loss(weight, log_q, log_volume, is_variance, is_normal):
    """A row's loss and its derivative in log q, times -1; see `variance_loss` and `linear_loss` of cpu.py.

    log_q: of the density in the unit cube. log_volume: of the box. is_normal: whether the latent density is.
    """
    if is_variance:
        exponent = weight - log_q
        if is_normal and exponent > MAX_EXPONENT:
            value = math.exp(MAX_EXPONENT)
            return value + value * (exponent - MAX_EXPONENT), value
        value = math.exp(exponent)
        return value, value
    return -weight * (log_q - log_volume), weight


@kernel
def gradient(
    losses, begin, x, rows, weights, log_p, dz, is_variance, log_volume, params, transposed, layout, work
):  # fmt: skip
    """Loss of a minibatch, and its derivatives in whatever the weights are multiplied with.

    losses: (n_tiles,), sums over the rows of a tile, set. begin: of the minibatch's rows, that of the first
    block. x: (n, d + c), in the box, with conditions. rows: (n_batch,), which of them make the minibatch.
    weights: (n,), log(f^2 / p) where is_variance, else the factor of -log q. log_p: (n,), where the gradient
    is to have a control variate, or (0,). dz: (n_batch, d), derivative of the loss in z, or (0, d) for none.
    One block a tile, which has rows of `work` of its own.
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
        work.dcoordinates[first + r, k] = 0.0
        if begin + r < dz.shape[0] and k < dz.shape[1]:
            work.dcoordinates[first + r, k] = dz[begin + r, k]
    for r in range(cuda.threadIdx.x, TILE_ROWS, THREADS):
        work.log_det[first + r] = 0
    cuda.syncthreads()
    for c in range(layout.n_inputs.shape[0]):
        coupling_forward(c, first, params, transposed, layout, work, shared)
        cuda.syncthreads()
    if layout.latent == NORMAL:
        add_log_latent(first, layout.d, work)
    for r in range(cuda.threadIdx.x, TILE_ROWS, THREADS):
        partial[r], work.dlog_q[first + r] = 0, 0
        if begin + r < n_batch:
            row, log_q = rows[begin + r], work.log_det[first + r]
            partial[r], slope = row_loss(
                weights[row], log_q, log_volume, is_variance, layout.latent == NORMAL
            )
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
    if layout.latent == NORMAL:
        for i in range(cuda.threadIdx.x, TILE_ROWS * layout.d, THREADS):
            r, k = first + i // layout.d, i % layout.d
            work.dcoordinates[r, k] -= work.coordinates[r, k] * work.dlog_q[r]
        cuda.syncthreads()
    for c in range(layout.n_inputs.shape[0] - 1, -1, -1):
        coupling_backward(c, first, params, transposed, layout, work, shared)


@kernel
def weight_gradients(
    parts, first_part, jobs, n_rows, rows_a_part, layers, inputs, hidden, dhidden, dlogits
):  # fmt: skip
    """Derivatives in all parameters, by parts: of so many rows of the workspace each.

    parts: (n_parts, n_params), set. first_part: of them, that of the first rows. jobs: (n_jobs, 4), which
    tiles there are: cell, layer, first row and first column. n_rows: of the workspace that count. layers: of
    the layout. inputs, hidden, dhidden, dlogits: of the workspace. The grid is (n_jobs, how many parts).
    """
    left = cuda.shared.array((TILE_DEPTH, PADDED_ROWS), parts.dtype, alignment=ALIGNMENT)
    right = cuda.shared.array((TILE_DEPTH, TILE_COLUMNS), parts.dtype, alignment=ALIGNMENT)
    c, k, first_row, first_column = jobs[cuda.blockIdx.x]
    begin = cuda.blockIdx.y * rows_a_part
    end = min(begin + rows_a_part, n_rows)
    part = parts[first_part + cuda.blockIdx.y]
    n_in, n_out, place, biases = layers[c, k]
    is_last = k == layers.shape[1] - 1  # whose weights are kept as (n_out, n_in)
    steps = (1, n_in) if is_last else (n_out, 1)
    a = matrix(inputs[c] if k == 0 or n_in == 0 else hidden[c, k - 1], 0, end, n_in)
    b = matrix(dlogits[c] if is_last else dhidden[c, k], 0, end, n_out)
    product_over_rows(part, place, steps, biases, a, b, first_row, first_column, begin, (left, right))


@device_function
def product_over_rows(flat, place, steps, biases, a, b, first_row, first_column, begin, shared):
    """A tile of A^T B over the rows from `begin` on and, if it has the first row, sums of B's columns.

    flat: (n_params,), set in part: A^T B stands from a place on, with so many steps from row to row and from
    column to column; the sums stand from `biases` on. a, b: matrices.
    """
    left, right = shared
    sums = cuda.local.array((OWN_ROWS, OWN_COLUMNS), flat.dtype)
    of_a = cuda.local.array(OWN_LEFT, flat.dtype)
    of_b = cuda.local.array(OWN_RIGHT, flat.dtype)
    first_row, first_column, first, end = index(first_row), index(first_column), index(begin), a[2]
    totals = cuda.local.array(OWN_COLUMNS, flat.dtype)
    adds_up = first_row == 0 and own_row(0) == 0
    for j in range(OWN_COLUMNS):
        totals[j] = 0
    clear(sums)
    fetch(of_a, TILE_ROWS, a, first, first_row)
    fetch(of_b, TILE_COLUMNS, b, first, first_column)
    while first < end:
        cuda.syncthreads()  # what is in shared memory has been read
        put(left, TILE_ROWS, of_a)
        put(right, TILE_COLUMNS, of_b)
        cuda.syncthreads()
        first = index(first + index(TILE_DEPTH))  # the next piece is on its way while this is used
        fetch(of_a, TILE_ROWS, a, first, first_row)
        fetch(of_b, TILE_COLUMNS, b, first, first_column)
        add_products(sums, left, right)
        if adds_up:
            for r in range(TILE_DEPTH):
                for j in range(OWN_COLUMNS):
                    totals[j] += right[index(r), own_column(j)]
    for j in range(OWN_COLUMNS):
        column = index(first_column + own_column(j))
        for i in range(OWN_ROWS):
            row = index(first_row + own_row(i))
            if row < a[3] and column < b[3]:
                flat[index(place + row * steps[0] + column * steps[1])] = sums[i, j]
        if adds_up and column < b[3]:
            flat[index(biases + column)] = totals[j]


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
def fold_parts(dparams, squares, parts, n_parts):
    """Add all parts of the gradient, in their order.

    dparams: (n_params,), set. squares: (n_blocks,), sums of their squares, set. parts: (at least n_parts,
    n_params). One thread a parameter.
    """
    partial = cuda.shared.array(THREADS, np.float64)
    i = cuda.grid(1)
    partial[cuda.threadIdx.x] = 0
    if i < dparams.shape[0]:
        total = parts[0, i]
        for part in range(1, n_parts):
            total += parts[part, i]
        dparams[i] = total
        partial[cuda.threadIdx.x] = np.float64(total) ** 2
    sum_of_squares = block_sum(partial)
    if cuda.threadIdx.x == 0:
        squares[cuda.blockIdx.x] = sum_of_squares


@kernel
def judge(state, losses, lengths, step, tile_losses, n_tiles, squares, n_batch, is_of_log, clip_norm, most):
    """Decide whether a step is taken, and by which factor its gradient is multiplied. One block.

    state: FAILED is set where loss or gradient are not finite, and stays; SCALE is set. losses:
    (n_steps,), of which that of this step is set: the mean over the minibatch. lengths: likewise, those of
    gradients before they are shortened. tile_losses: (at least n_tiles,). squares: (n_blocks,). is_of_log:
    whether the gradient is to be that of the logarithm of the loss. clip_norm: length that a gradient is
    shortened to. most: what the squares of its elements must not reach.
    """
    partial = cuda.shared.array(THREADS, np.float64)
    partial[cuda.threadIdx.x] = 0
    for i in range(cuda.threadIdx.x, n_tiles, THREADS):
        partial[cuda.threadIdx.x] += tile_losses[i]
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
        losses[step] = mean
        lengths[step] = norm
        if not is_good or norm * shortened * norm * shortened > most or shortened / unit > most:
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
LEAST = 0.5 * UNIT  # in the place of zero, whose quantile is not finite


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


quantile = device_function(normal.quantile)


@kernel
def latent_points(z, block, first, key0, key1, is_normal):
    """Draw points of a block, with the bits of `random_rows` of `varflow.flow.latent`, or quantiles of these.

    z: (n, d), set. block: its number, the upper part of the counter. first: row of the block that z begins
    with. key0, key1: of the generator. One thread a number.
    """
    n, d = z.shape
    i = cuda.grid(1)
    if i >= n * d:
        return
    number = first * d + i
    a, b, c, e = np.uint64(1 + number // 4), np.uint64(0), np.uint64(0), np.uint64(block)
    for _ in range(ROUNDS):
        high0, low0 = wide_product(FACTORS[0], a)
        high1, low1 = wide_product(FACTORS[1], c)
        a, b, c, e = high1 ^ b ^ key0, low1, high0 ^ e ^ key1, low0
        key0, key1 = wrapped_sum(key0, BUMPS[0]), wrapped_sum(key1, BUMPS[1])
    which = number % 4
    word = a if which == 0 else (b if which == 1 else (c if which == 2 else e))
    u = np.float64(word >> BITS_TO_DROP) * UNIT
    z[i // d, i % d] = quantile(max(u, LEAST)) if is_normal else u
