"""The architecture of a flow as the kernels see it: plain numbers and arrays."""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Layout", "Sizes", "aligned_zeros"]

ALIGNMENT = 64  # bytes: a vector of AVX-512, the widest in use, and a cache line


class Sizes(NamedTuple):
    """The numbers from which the sizes of the buffers of a flow follow."""

    d: int  # dimensions, and conditions: coordinates that no cell transforms
    n_cells: int
    n_transformed: int  # largest number of coordinates that a cell transforms
    n_logits: int  # per transformed coordinate
    n_hidden: int  # hidden layers of a network
    d_hidden: int  # neurons per hidden layer
    n_params: int
    dtype: str  # of the parameters


class Layout(NamedTuple):
    """Tables of coordinates, parameters and bounds for the kernels."""

    d: int  # dimensions; the coordinates beyond them are conditions
    split: np.ndarray  # (n_cells, d + c): coordinates that a cell is conditioned on, then those it transforms
    n_inputs: np.ndarray  # (n_cells,): number of coordinates that a cell is conditioned on
    layers: np.ndarray  # (n_cells, n_hidden + 1, 4): n_in, n_out, offset of the weights, offset of the biases
    cell: int  # code of the spline
    n_logits: int  # per transformed coordinate
    latent: int  # code of the density in latent space
    lower: np.ndarray  # (d + c,): lower bounds of the box; the location where the latent density is normal
    upper: np.ndarray  # (d + c,): upper bounds, from which lower + width may differ by rounding
    width: np.ndarray  # (d + c,): upper - lower; the scale where the latent density is normal


def aligned_zeros(shape: tuple[int, ...], dtype: npt.DTypeLike) -> np.ndarray:
    """Allocate an array of zeros that starts at a cache line.

    Otherwise, half or more of the vectors in a large matrix product would straddle two cache lines.
    """
    n_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    buffer = np.zeros(n_bytes + ALIGNMENT, np.uint8)
    begin = -buffer.ctypes.data % ALIGNMENT
    return buffer[begin : begin + n_bytes].view(dtype).reshape(shape)
