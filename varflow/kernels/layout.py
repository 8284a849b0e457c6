"""What kernels are told of a flow's architecture: plain numbers and arrays."""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Layout", "Sizes", "aligned_zeros"]

ALIGNMENT = 64  # bytes: a vector of any processor, and a line of the cache


class Sizes(NamedTuple):
    """How large the buffers of a flow have to be."""

    d: int  # dimensions
    n_cells: int
    n_transformed: int  # coordinates that a cell transforms, at most
    n_logits: int  # logits a transformed coordinate
    n_hidden: int  # hidden layers of a network
    d_hidden: int  # neurons a hidden layer
    n_params: int
    dtype: str  # of the parameters


class Layout(NamedTuple):
    """Where everything is, in tables for the kernels."""

    split: np.ndarray  # (n_cells, d): coordinates that a cell is conditioned on, then those it transforms
    n_inputs: np.ndarray  # (n_cells,): how many of those it is conditioned on
    layers: np.ndarray  # (n_cells, n_hidden + 1, 4): n_in, n_out, offset of the weights, offset of the biases
    cell: int  # code of the cell
    n_logits: int  # logits a transformed coordinate
    lower: np.ndarray  # (d,): lower corner of the box
    upper: np.ndarray  # (d,): upper corner, which lower + width may miss by a bit
    width: np.ndarray  # (d,): its edges


def aligned_zeros(shape: tuple[int, ...], dtype: npt.DTypeLike) -> np.ndarray:
    """Allocate zeros that begin at a cache line: half of a large product's vectors would straddle two."""
    n_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    buffer = np.zeros(n_bytes + ALIGNMENT, np.uint8)
    begin = -buffer.ctypes.data % ALIGNMENT
    return buffer[begin : begin + n_bytes].view(dtype).reshape(shape)
