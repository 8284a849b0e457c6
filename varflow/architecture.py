"""What a flow is made of, and where each parameter lives: the only owner of offsets."""

from dataclasses import asdict, dataclass
from functools import cached_property
from numbers import Integral
from typing import Any

import numpy as np

from varflow.errors import unknown_name
from varflow.masks import make_masks

__all__ = ["Architecture"]

CELL_NAMES = ("pwlinear",)
DTYPES = ("float32", "float64")


@dataclass(frozen=True)
class Architecture:
    """A sequence of coupling cells, each with a dense network.

    A cell hands on the coordinates that it is conditioned on, and maps each of the others by a monotone
    spline whose parameters its network predicts. The network has leaky-ReLU hidden layers of equal width;
    one that has nothing to be conditioned on is its biases alone.

    Parameters
    ----------
    d : int
        Number of dimensions.
    cell : str
        Kind of spline: "pwlinear".
    masking : {"checkerboard", "maximal", "iflow"}
        How coordinates are shared out among the cells; see `varflow.masks`.
    n_bins : int
        Bins of each spline.
    d_hidden : int
        Neurons a hidden layer.
    n_hidden : int
        Hidden layers (ZüNIS does not count the first).
    repetitions : int
        How many times the sequence of masks is gone through.
    dtype : {"float32", "float64"}
        Precision of the networks. Coordinates and densities are float64 in either.

    Raises
    ------
    TypeError
        If a number is not an integer.
    ValueError
        If a number is below 1 or a name unknown.
    """

    d: int
    cell: str = "pwlinear"
    masking: str = "iflow"
    n_bins: int = 16
    d_hidden: int = 64
    n_hidden: int = 2
    repetitions: int = 1
    dtype: str = "float32"

    def __post_init__(self) -> None:
        for name in ("d", "n_bins", "d_hidden", "n_hidden", "repetitions"):
            object.__setattr__(self, name, positive_int(name, getattr(self, name)))
        if self.cell not in CELL_NAMES:
            raise unknown_name("cell", self.cell, CELL_NAMES)
        dtype = str(np.dtype(self.dtype)) if not isinstance(self.dtype, str) else self.dtype
        if dtype not in DTYPES:
            raise unknown_name("dtype", dtype, DTYPES)
        object.__setattr__(self, "dtype", dtype)
        make_masks(self.d, self.masking)

    def as_dict(self) -> dict[str, Any]:
        """Arguments that make the same architecture again."""
        return asdict(self)

    @cached_property
    def masks(self) -> np.ndarray:
        """(n_cells, d) bool: True where the cell transforms the coordinate."""
        return make_masks(self.d, self.masking, self.repetitions)
