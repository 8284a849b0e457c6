"""An atomic counter from which threads take the next piece of work; see `varflow.kernels.cpu`."""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic


@intrinsic
def take(typing_context: Any, counter: Any) -> Any:
    """Return the first of counter, int64, and increment it atomically: no two threads get the same."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(counter)(context, builder, arguments[0])
        return builder.atomic_rmw("add", array.data, ir.Constant(ir.IntType(64), 1), "monotonic")

    return types.int64(counter), generate
