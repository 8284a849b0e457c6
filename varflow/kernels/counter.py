"""A counter that threads share, by which each takes the next piece of work when it is done with the last.

Cores are not equally fast, where others use them too: with shares fixed beforehand, all would wait for the
slowest.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic


@intrinsic
def take(typing_context: Any, counter: Any) -> Any:
    """Give the number that counter, (1,) int64, has, and add one to it; no two threads get the same."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(counter)(context, builder, arguments[0])
        return builder.atomic_rmw("add", array.data, ir.Constant(ir.IntType(64), 1), "monotonic")

    return types.int64(counter), generate
