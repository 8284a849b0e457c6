"""Products of small matrices, in which a flow spends most of its time, and transposition.

The matrices stay in cache (see `varflow.kernels.cpu`) and are used as they are, whereas a BLAS library would
first pack them into a format of its own. Moreover, the bits of a product then depend neither on the version
of a library nor on its number of threads.

A product is divided into blocks of C, a few rows of A times a few columns of B, such that the sums of a block
fit into the registers of the processor. The code for a block is written directly in LLVM's intermediate
representation, since LLVM does not by itself keep the right values in registers when it compiles a loop
written in Python.
"""

from collections.abc import Callable
from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from varflow.kernels.compile import IS_PLAIN, device_function, inlined, kernel

VECTOR_BYTES = 64  # LLVM splits a vector among several registers if they are smaller
# Rows and vectors per block: sums occupy 24 of the 32 registers of AVX-512, or 12 of the 16 of AVX2.
ROWS = 6
VECTORS = 4 if llvmlite.binding.get_host_cpu_features().get("avx512f") else 1

FEW_ROWS = 4  # rows of a block for the remainder: the number of rows is often a power of two

INT32, INT64 = ir.IntType(32), ir.IntType(64)


class _Operand:
    """Address, strides and shape of an array in generated code."""

    def __init__(self, context: Any, builder: Any, kind: Any, value: Any) -> None:
        array = context.make_array(kind)(context, builder, value)
        self.builder = builder
        self.itemsize = context.get_abi_sizeof(context.get_value_type(kind.dtype))
        self.address = builder.ptrtoint(array.data, INT64)
        self.strides = cgutils.unpack_tuple(builder, array.strides)
        self.shape = cgutils.unpack_tuple(builder, array.shape)

    def pointer(self, kind: Any, row: int, column: int) -> Any:
        """Return a pointer to an element of the given kind; column counts elements of that kind."""
        address = self.builder.add(self.address, self.builder.mul(self.strides[0], INT64(row)))
        n_items = kind.count if isinstance(kind, ir.VectorType) else 1
        address = self.builder.add(address, INT64(column * n_items * self.itemsize))
        return self.builder.inttoptr(address, kind.as_pointer())

    def load(self, kind: Any, row: int, column: int) -> Any:
        return self.builder.load(self.pointer(kind, row, column), align=self.itemsize)

    def store(self, value: Any, row: int, column: int) -> None:
        self.builder.store(value, self.pointer(value.type, row, column), align=self.itemsize)


def _block(n_rows: int, n_vectors: int, n_lanes: Callable[[int], int]) -> Any:
    """Create the intrinsic that computes a block of C = S + A B."""

    @intrinsic
    def block(typing_context: Any, c: Any, start: Any, a: Any, b: Any, gate: Any, closed: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            operands = [
                _Operand(context, builder, *both)
                for both in zip(signature.args[:5], arguments[:5], strict=True)
            ]
            number = context.get_value_type(c.dtype)
            vector = ir.VectorType(number, n_lanes(operands[0].itemsize))
            _write_block(builder, operands, arguments[5], number, vector, n_rows, n_vectors)
            return context.get_dummy_value()

        return types.void(c, start, a, b, gate, closed), generate

    return block


def _write_block(
    builder: Any, operands: list[_Operand], closed: Any, number: Any, vector: Any, n_rows: int, n_vectors: int
) -> None:
    """Generate the code for a block: a loop over the columns of A and the rows of B."""
    c, start, a, b, gate = operands
    places = [(r, v) for r in range(n_rows) for v in range(n_vectors)]
    first = [INT64(0), a.address, b.address, *(start.load(vector, r, v) for r, v in places)]
    before = builder.block
    loop, behind = builder.append_basic_block("product"), builder.append_basic_block("behind")
    builder.branch(loop)

    builder.position_at_end(loop)
    phis = [builder.phi(value.type) for value in first]
    k, a.address, b.address, *sums = phis
    row_of_b = [b.load(vector, 0, v) for v in range(n_vectors)]
    for r in range(n_rows):
        factor = _repeated(builder, a.load(number, r, 0), vector)
        for v in range(n_vectors):
            term = builder.fmul(factor, row_of_b[v], flags=["contract"])
            sums[r * n_vectors + v] = builder.fadd(sums[r * n_vectors + v], term, flags=["contract"])
    k = builder.add(k, INT64(1))
    later = [k, builder.add(a.address, a.strides[1]), builder.add(b.address, b.strides[0]), *sums]
    for phi, value, next_value in zip(phis, first, later, strict=True):
        phi.add_incoming(value, before)
        phi.add_incoming(next_value, loop)
    builder.cbranch(builder.icmp_signed("<", k, b.shape[0]), loop, behind)

    builder.position_at_end(behind)
    for (r, v), value in zip(places, sums, strict=True):
        c.store(value, r, v)
    with builder.if_then(builder.fcmp_ordered("!=", closed, ir.Constant(number, 1.0))):
        factor = _repeated(builder, closed, vector)
        zeros = ir.Constant(vector, [0.0] * vector.count)
        for (r, v), value in zip(places, sums, strict=True):
            is_open = builder.fcmp_ordered(">", gate.load(vector, r, v), zeros)
            c.store(builder.select(is_open, value, builder.fmul(factor, value)), r, v)


def _repeated(builder: Any, value: Any, vector: Any) -> Any:
    """Generate code that fills a vector with a number."""
    undefined = ir.Constant(vector, ir.Undefined)
    zeros = ir.Constant(ir.VectorType(INT32, vector.count), [0] * vector.count)
    return builder.shuffle_vector(builder.insert_element(undefined, value, INT32(0)), undefined, zeros)


def _strip(n_vectors: int, n_lanes: Callable[[int], int]) -> Any:
    """Create the function that computes the first n_vectors * n_lanes columns of C = S + A B.

    A lane is here an element of a vector.
    """
    many_rows, few_rows, one_row = (_block(n_rows, n_vectors, n_lanes) for n_rows in (ROWS, FEW_ROWS, 1))

    @device_function
    def strip(c, start, a, b, gate, closed):
        n = c.shape[0]
        i = 0
        while i <= n - ROWS:
            many_rows(c[i:], start[i:], a[i:], b, gate[i:], closed)
            i += ROWS
        if i <= n - FEW_ROWS:
            few_rows(c[i:], start[i:], a[i:], b, gate[i:], closed)
            i += FEW_ROWS
        while i < n:
            one_row(c[i:], start[i:], a[i:], b, gate[i:], closed)
            i += 1

    return strip


_wide = _strip(VECTORS, lambda itemsize: VECTOR_BYTES // itemsize)
_narrow = _strip(1, lambda itemsize: VECTOR_BYTES // itemsize)
_single = _strip(1, lambda itemsize: 1)


@device_function
def blocked_product(c, start, a, b, gate, closed):
    """C = S + A B where the gate is positive, `closed` times that elsewhere; matrices of any strides."""
    m = c.shape[1]
    n_lanes = VECTOR_BYTES // c.itemsize
    j = 0
    while j <= m - VECTORS * n_lanes:
        _wide(c[:, j:], start[:, j:], a, b[:, j:], gate[:, j:], closed)
        j += VECTORS * n_lanes
    while j <= m - n_lanes:
        _narrow(c[:, j:], start[:, j:], a, b[:, j:], gate[:, j:], closed)
        j += n_lanes
    while j < m:
        _single(c[:, j:], start[:, j:], a, b[:, j:], gate[:, j:], closed)
        j += 1


@device_function
def plain_product(c, start, a, b, gate, closed):
    """Do what `blocked_product` does, in plain loops."""
    for i in range(c.shape[0]):
        for j in range(c.shape[1]):
            total = start[i, j]
            for k in range(b.shape[0]):
                total += a[i, k] * b[k, j]
            c[i, j] = total if closed == 1 or gate[i, j] > 0 else closed * total


_product = plain_product if IS_PLAIN else blocked_product


@intrinsic
def _matrix(typing_context: Any, array: Any, n_rows: Any) -> Any:
    """View a matrix, or a row repeated n_rows times, as a matrix with arbitrary strides.

    As all operands then have the same type, `_product` is compiled only once.
    """
    kind = types.Array(array.dtype, 2, "A")

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        from numba.np.arrayobj import populate_array  # slow, and needed only for compilation

        source = _Operand(context, builder, array, arguments[0])
        rows = [arguments[1]] if array.ndim == 1 else []
        view = context.make_array(kind)(context, builder)
        populate_array(
            view,
            data=builder.inttoptr(source.address, view.data.type),
            shape=[*rows, *source.shape],
            strides=[INT64(0) for _ in rows] + source.strides,
            itemsize=INT64(source.itemsize),
            meminfo=None,
        )
        return view._getvalue()

    return kind(array, types.intp), generate


@inlined
def product(c, start, a, b):
    """Compute C = S + A B.

    c: (n, m), set. start: (n, m), which may be c, or (m,), which is added to each row. a: (n, k). b: (k, m).
    The last axes of c, start and b must be contiguous; a may be any view. k must be at least 1.
    """
    n, whole = c.shape[0], c.dtype.type(1.0)
    _product(_matrix(c, n), _matrix(start, n), _matrix(a, n), _matrix(b, n), _matrix(c, n), whole)


@inlined
def gated_product(c, start, a, b, gate, closed):
    """Compute C = S + A B, multiplied by `closed` wherever the gate is not positive; see `product`.

    Activations thus need no separate pass over the data. gate: (n, m), which may be c itself.
    """
    n = c.shape[0]
    _product(_matrix(c, n), _matrix(start, n), _matrix(a, n), _matrix(b, n), _matrix(gate, n), closed)


@intrinsic
def _transpose_block(typing_context: Any, out: Any, matrix: Any) -> Any:
    """Transpose a block with as many rows and columns as a vector has elements."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        target, source = (
            _Operand(context, builder, *both) for both in zip(signature.args, arguments, strict=True)
        )
        n = VECTOR_BYTES // source.itemsize
        rows = [source.load(ir.VectorType(context.get_value_type(out.dtype), n), r, 0) for r in range(n)]
        # Interleaving rows i and i + n / 2 turns the highest bit of the row index into the lowest bit of the
        # column index; once this has been done for every bit, rows and columns are exchanged.
        for _ in range(n.bit_length() - 1):
            halves = zip(rows[: n // 2], rows[n // 2 :], strict=True)
            rows = [_interleaved(builder, *pair, first) for pair in halves for first in (0, n // 2)]
        for r, row in enumerate(rows):
            target.store(row, r, 0)
        return context.get_dummy_value()

    return types.void(out, matrix), generate


def _interleaved(builder: Any, a: Any, b: Any, first: int) -> Any:
    """Generate code that interleaves one half of each of two vectors, from element `first` on."""
    n = a.type.count
    order = [i + part * n for i in range(first, first + n // 2) for part in (0, 1)]
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(INT32, n), order))


@device_function
def transpose(out, matrix):
    """Set out (m, n) to the transpose of matrix (n, m); the last axes of both are contiguous."""
    n, m = matrix.shape
    size = VECTOR_BYTES // out.itemsize
    n_whole, m_whole = (0, 0) if IS_PLAIN else (n // size * size, m // size * size)
    for i in range(0, n_whole, size):
        for j in range(0, m_whole, size):
            _transpose_block(out[j:, i:], matrix[i:, j:])
    for j in range(m):
        for i in range(n_whole if j < m_whole else 0, n):
            out[j, i] = matrix[i, j]


@kernel
def repeat_product(c, a, b, times):
    """Multiply the same matrices repeatedly, to measure the best achievable speed; see `product`."""
    for _ in range(times):
        product(c, c, a, b)
