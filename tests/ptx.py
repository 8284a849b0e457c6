"""Compile every kernel of the GPU to PTX, for which no GPU is needed, and tell what the compiler says of it.

    python tests/ptx.py [--capabilities 8.0,9.0] [--precision mixed] [kernel ...]

One line of JSON a kernel: registers and bytes of spills, where an assembler (ptxas) of that version is found,
bytes of PTX, and whether it has a stack of its own in memory, which arrays have that do not fit registers.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numba.cuda.dispatcher
import numpy as np
from numba import cuda, types

from varflow.flow.architecture import Architecture
from varflow.kernels import cuda as kernels
from varflow.kernels import splines
from varflow.runtime.backend import PRECISIONS


def signatures(precision: str) -> dict[str, tuple[Any, ...]]:
    """Types of the arguments of each kernel. Cells are told apart at run time: there is one for all."""
    dtype, real = PRECISIONS[precision], np.float32 if precision == "float32" else np.float64
    architecture = Architecture(3, n_bins=3, d_hidden=4, n_hidden=1, dtype=dtype)
    layout = numba.typeof(architecture.layout(np.tile([0.0, 1.0], (3, 1))))
    cuda.device_array = np.empty  # only its types are asked for
    work = numba.typeof(kernels.make_workspace(architecture.sizes, 32, True, real))

    def array(dtype: Any, ndim: int) -> Any:
        return types.Array(numba.from_dtype(np.dtype(dtype)), ndim, "C")

    layers = array(np.int64, 3)
    number, integer, flag = types.float64, types.int64, types.boolean
    params, numbers, points, indices = array(dtype, 1), array(float, 1), array(float, 2), array(np.int64, 1)
    return {
        "first_outside": (indices, points, flag, layout),
        "join_columns": (points, points, points),
        "transpose_weights": (params, params, layers),
        "transform": (points, numbers, points, flag, number, params, params, layout, work),
        "gradient": (
            numbers, integer, points, indices, numbers, numbers, points, flag, number, params, params, layout,
            work,
        ),
        "weight_gradients": (
            array(dtype, 2), integer, array(np.int64, 2), integer, integer, layers, array(dtype, 2),
            *[array(dtype, 3)] * 2, array(dtype, 2),
        ),
        "fold_parts": (params, numbers, array(dtype, 2), integer),
        "judge": (*[numbers] * 3, integer, numbers, integer, numbers, integer, flag, number, number),
        "adam_step": (*[params] * 5, numbers, *[number] * 6),
        "latent_points": (points, integer, integer, types.uint64, types.uint64, flag),
    }  # fmt: skip


def compile_pwlinear(precision: str) -> str:
    """PTX of a kernel that takes a coordinate through a cell "pwlinear" and its derivatives back."""
    numba.cuda.dispatcher.get_current_device = lambda: SimpleNamespace(compute_capability=(9, 0))
    forward, backward = (
        cuda.jit(device=True)(function.py_func)
        for function in (splines.pwlinear_forward, splines.pwlinear_backward)
    )

    def there_and_back(dlogits, kept, values, points):  # as in `coupling_forward` and `coupling_backward`
        i = cuda.grid(1)
        found, column = kept[i][:, np.newaxis], values[i][:, np.newaxis]
        z, slope = forward(found, column, 0, points[i])
        points[i] = backward(dlogits[i][:, np.newaxis], found, column, 0, z, slope, z, slope)

    dtype, real = PRECISIONS[precision], "float32" if precision == "float32" else "float64"
    matrix, reals = numba.from_dtype(np.dtype(dtype))[:, ::1], numba.from_dtype(np.dtype(real))
    ptx, _ = cuda.compile_ptx(there_and_back, (matrix, reals[:, ::1], matrix, reals[::1]), cc=(9, 0))
    return ptx


def compile_kernels(
    precision: str, capabilities: list[tuple[int, ...]], names: list[str]
) -> Iterator[dict[str, Any]]:
    """Compile kernels for compute capabilities; all if no names are given."""
    # The functions that kernels call are compiled for the GPU there is, though up to a stage that is the same
    # for all: let there be one.
    numba.cuda.dispatcher.get_current_device = lambda: SimpleNamespace(compute_capability=capabilities[0])
    known = signatures(precision)
    for name, capability in product(names or known, capabilities):
        ptx, _ = cuda.compile_ptx(getattr(kernels, name).py_func, known[name], cc=capability)
        yield {
            "kernel": name,
            "precision": precision,
            "target": re.findall(r"^\.target (\w+)", ptx, re.MULTILINE)[0],
            "ptx_bytes": len(ptx),
            "has_stack": "__local_depot" in ptx,
            "has_calls": bool(re.search(r"\bcall\b", ptx)),
            "reads_vectors": "ld.shared.v4" in ptx,
            **assembled(ptx),
        }


def assembled(ptx: str) -> dict[str, int | None]:
    """Registers a thread and bytes of spills, as the assembler tells them; None where it does not."""
    unknown = {"registers": None, "spill_bytes": None}
    assembler = find_assembler()
    if assembler is None:
        return unknown
    target = re.findall(r"^\.target (\w+)", ptx, re.MULTILINE)[0]
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "kernel.ptx")
        source.write_text(ptx)
        command = [assembler, "-v", f"-arch={target}", str(source), "-o", str(source.with_suffix(".cubin"))]
        told = subprocess.run(command, capture_output=True, text=True)
    if told.returncode != 0:  # for example, this PTX is of a later version
        return unknown
    spills = sum(int(n) for n in re.findall(r"(\d+) bytes spill", told.stderr))
    return {"registers": int(re.findall(r"Used (\d+) registers", told.stderr)[0]), "spill_bytes": spills}


def find_assembler() -> str | None:
    """Find NVIDIA's assembler: that of the package nvidia-cuda-nvcc, or that on the path."""
    packaged = [path for folder in sys.path for path in Path(folder).glob("nvidia/*/bin/ptxas")]
    return str(packaged[0]) if packaged else shutil.which("ptxas")


def main() -> None:
    """Parse arguments and compile."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kernels", nargs="*", metavar="kernel")
    parser.add_argument("--capabilities", default="8.0,9.0")
    parser.add_argument("--precision", choices=PRECISIONS, default="mixed")
    arguments = parser.parse_args()
    capabilities = [tuple(map(int, one.split("."))) for one in arguments.capabilities.split(",")]
    for line in compile_kernels(arguments.precision, capabilities, arguments.kernels):
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
