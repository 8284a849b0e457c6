"""Vectors of the numbers of neighbouring coordinates, as values in compiled code.

A function that is written for one coordinate is compiled for as many as a vector has elements, its lanes:
what it keeps from one bin to the next then stays in registers. LLVM does not find that by itself in a loop
over bins inside one over coordinates; and with the loops exchanged, what is kept is read and written at every
bin.

On a GPU, where each thread has one coordinate, and in its simulator, the same functions see single numbers.
"""

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.core.imputils import lower_builtin
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import models, overload, register_model

__all__ = ["LANES", "exponential", "filled", "load", "numbers", "select", "store", "total", "vector"]

LANES = 16  # a cache line of float32, and two vectors of AVX-512 in float64
INT32 = ir.IntType(32)


def load(row, i, like):
    """Read the numbers of coordinates from row (m,), from number i on, in the precision of `like`."""
    return type(like)(row[i])


def numbers(row, i):
    """Read the numbers of coordinates from row (m,), from number i on."""
    return row[i]


def store(row, i, value):
    """Write the numbers of coordinates to row (m,), from number i on."""
    row[i] = value


def filled(number, like):
    """Return a number for each of the coordinates, in the precision of `like`."""
    return type(like)(number)


def vector(number):
    """Return the number for each of the coordinates, in its own precision."""
    return number


def select(condition, value, other):
    """Return a value where a condition holds, and another one elsewhere."""
    return value if condition else other


def exponential(x):
    """Compute exp(x) for x from -80 to 80."""
    return math.exp(x)


def total(value):
    """Add up the numbers of all lanes, by halving."""
    return value


overload(load, target="cuda")(lambda row, i, like: load)
overload(numbers, target="cuda")(lambda row, i: numbers)
overload(store, target="cuda")(lambda row, i, value: store)
overload(filled, target="cuda")(lambda number, like: filled)
overload(select, target="cuda")(lambda condition, value, other: select)
overload(exponential, target="cuda")(lambda x: exponential)


class Lanes(types.Type):
    """Type of a vector of numbers, or truth values, of numba's type `dtype`."""

    def __init__(self, dtype: Any) -> None:
        self.dtype = dtype
        super().__init__(name=f"Lanes({dtype})")


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        element = ir.IntType(1) if kind.dtype == types.boolean else manager[kind.dtype].get_value_type()
        super().__init__(manager, kind, ir.VectorType(element, LANES))


def _define(
    function: Callable[..., Any],
    kinds: Sequence[Any],
    result: Callable[..., Any],
    generate: Callable[..., Any],
) -> None:
    """Let a function of Python take vectors in compiled code.

    kinds: classes of its arguments' types. result: gives the type of the result for those of the arguments.
    generate: gives the result for context, builder, types and values of the arguments.
    """

    @infer_global(function)
    class _Template(AbstractTemplate):
        def generic(self, given: Any, keywords: Any) -> Any:
            fits = len(given) == len(kinds) and all(map(isinstance, given, kinds))
            return signature(result(*given), *given) if fits else None

    @lower_builtin(function, *kinds)
    def _lower(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return generate(context, builder, signature.args, values)


def _splat(builder: Any, number: Any) -> Any:
    """Generate code that fills a vector with a number."""
    undefined = ir.Constant(ir.VectorType(number.type, LANES), ir.Undefined)
    zeros = ir.Constant(ir.VectorType(INT32, LANES), [0] * LANES)
    return builder.shuffle_vector(builder.insert_element(undefined, number, INT32(0)), undefined, zeros)


def _converted(context: Any, builder: Any, vector: Any, dtype: Any, wanted: Any) -> Any:
    """Generate code that converts the numbers of a vector from one dtype to another."""
    if dtype == wanted:
        return vector
    convert = builder.fpext if dtype.bitwidth < wanted.bitwidth else builder.fptrunc
    return convert(vector, context.get_value_type(Lanes(wanted)))


def _pointer(context: Any, builder: Any, kind: Any, row: Any, i: Any) -> Any:
    """Generate a pointer to a vector of numbers in a row."""
    if kind.layout != "C" or kind.ndim != 1:
        raise TypeError(f"the numbers of {kind} need not lie side by side")
    first = builder.gep(context.make_array(kind)(context, builder, row).data, [i])
    return builder.bitcast(first, context.get_value_type(Lanes(kind.dtype)).as_pointer())


def _numbers(context: Any, builder: Any, kinds: Any, values: Any) -> Any:
    row = kinds[0]
    return builder.load(_pointer(context, builder, row, *values[:2]), align=row.dtype.bitwidth // 8)


def _load(context: Any, builder: Any, kinds: Any, values: Any) -> Any:
    row, _, like = kinds
    return _converted(context, builder, _numbers(context, builder, kinds, values), row.dtype, like.dtype)


def _store(context: Any, builder: Any, kinds: Any, values: Any) -> Any:
    row, _, value = kinds
    numbers = _converted(context, builder, values[2], value.dtype, row.dtype)
    builder.store(numbers, _pointer(context, builder, row, *values[:2]), align=row.dtype.bitwidth // 8)
    return context.get_dummy_value()


def _filled(context: Any, builder: Any, kinds: Any, values: Any) -> Any:
    number, like = kinds
    return _splat(builder, context.cast(builder, values[0], number, like.dtype))


def _vector(context: Any, builder: Any, kinds: Any, values: Any) -> Any:
    return _splat(builder, values[0])


def _fused(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """Generate a * b + c, rounded once where the processor can; exported C rounds so, too."""
    return builder.fadd(builder.fmul(a, b, flags=["contract"]), c, flags=["contract"])


# exp(r) is 1 + r + r^2 p(r) with these coefficients, from the highest power on: those of Cephes' expf.
COEFFICIENTS = (
    1.9875691500e-4,
    1.3981999507e-3,
    8.3334519073e-3,
    4.1665795894e-2,
    1.6666665459e-1,
    5.0000001201e-1,
)
LOG_2 = 0.693359375, -2.12194440e-4  # the first has few digits: its product with an integer is exact


def _exponential(context: Any, builder: Any, kinds: Any, values: Any) -> Any:
    """Generate exp(x): in float32 2^k exp(r) with |r| <= log(2) / 2, and exp(r) by a polynomial.

    It takes a fifth of the time of libm's exp, which is called for one number after another.
    """
    (x,) = values
    if kinds[0].dtype != types.float32:
        return _called("exp")(builder, x)

    def constant(number: float) -> Any:
        return ir.Constant(x.type, [number] * LANES)

    k = _called("floor")(builder, _fused(builder, x, constant(1.44269504088896341), constant(0.5)))
    r = x
    for part in LOG_2:
        r = _fused(builder, k, constant(-part), r)
    p = constant(COEFFICIENTS[0])
    for coefficient in COEFFICIENTS[1:]:
        p = _fused(builder, p, r, constant(coefficient))
    p = _fused(builder, p, builder.fmul(r, r), builder.fadd(r, constant(1.0)))
    integers = ir.VectorType(INT32, LANES)
    exponent = builder.add(builder.fptosi(k, integers), ir.Constant(integers, [127] * LANES))
    power = builder.bitcast(builder.shl(exponent, ir.Constant(integers, [23] * LANES)), x.type)
    return builder.fmul(p, power)


def _total(context: Any, builder: Any, kinds: Any, values: Any) -> Any:
    (numbers,) = values
    width = LANES
    while width > 1:
        width //= 2
        undefined = ir.Constant(numbers.type, ir.Undefined)
        lower, upper = (
            builder.shuffle_vector(
                numbers,
                undefined,
                ir.Constant(ir.VectorType(INT32, width), list(range(first, first + width))),
            )
            for first in (0, width)
        )
        numbers = builder.fadd(lower, upper)
    return builder.extract_element(numbers, INT32(0))


def _select(context: Any, builder: Any, kinds: Any, values: Any) -> Any:
    return builder.select(*values)


_define(load, (types.Array, types.Integer, Lanes), lambda row, i, like: like, _load)
_define(numbers, (types.Array, types.Integer), lambda row, i: Lanes(row.dtype), _numbers)
_define(store, (types.Array, types.Integer, Lanes), lambda row, i, value: types.void, _store)
_define(filled, (types.Number, Lanes), lambda number, like: like, _filled)
_define(vector, (types.Float,), lambda number: Lanes(number), _vector)
_define(exponential, (Lanes,), lambda x: x, _exponential)
_define(total, (Lanes,), lambda value: value.dtype, _total)
_define(select, (Lanes, Lanes, Lanes), lambda condition, value, other: value, _select)


def _elementwise(generate: Callable[..., Any]) -> Callable[..., Any]:
    """Drop what element-wise operations have no use for."""
    return lambda context, builder, kinds, values: generate(builder, *values)


def _compared(sign: str) -> Callable[..., Any]:
    return lambda builder, a, b: builder.fcmp_ordered(sign, a, b)


def _chosen(sign: str) -> Callable[..., Any]:
    return lambda builder, a, b: builder.select(builder.fcmp_ordered(sign, b, a), b, a)


def _called(name: str) -> Callable[..., Any]:
    def generate(builder: Any, a: Any) -> Any:
        full_name = f"llvm.{name}.v{LANES}{a.type.element.intrinsic_name}"
        function = builder.module.declare_intrinsic(full_name, fnty=ir.FunctionType(a.type, [a.type]))
        return builder.call(function, [a])

    return generate


def _same(a: Any, *others: Any) -> Any:
    return a


_OF_TWO: dict[Any, Callable[..., Any]] = {
    operator.add: ir.IRBuilder.fadd,
    operator.sub: ir.IRBuilder.fsub,
    operator.mul: ir.IRBuilder.fmul,
    operator.truediv: ir.IRBuilder.fdiv,
    operator.and_: ir.IRBuilder.and_,
    min: _chosen("<"),
    max: _chosen(">"),
}
_OF_ONE: dict[Any, Callable[..., Any]] = {
    operator.neg: ir.IRBuilder.fneg,
    math.sqrt: _called("sqrt"),
    math.floor: _called("floor"),
}
_SIGNS = {operator.lt: "<", operator.le: "<=", operator.gt: ">", operator.ge: ">=", operator.eq: "=="}

for _function, _generate in _OF_TWO.items():
    _define(_function, (Lanes, Lanes), _same, _elementwise(_generate))
for _function, _generate in _OF_ONE.items():
    _define(_function, (Lanes,), _same, _elementwise(_generate))
for _function, _sign in _SIGNS.items():
    _define(_function, (Lanes, Lanes), lambda *both: Lanes(types.boolean), _elementwise(_compared(_sign)))
