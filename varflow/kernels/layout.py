"""What kernels are told of a flow's architecture."""

from typing import NamedTuple

import numpy as np

__all__ = ["Layout"]


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
