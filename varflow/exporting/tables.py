"""What an exported flow is made of, in the order in which its source reads it, whatever the language."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from varflow.data.arrays import is_unbounded
from varflow.flow.flow import Flow
from varflow.flow.mixture import Mixture
from varflow.kernels.splines import CELLS

__all__ = ["Cell", "Known", "Tables", "make_tables"]

KNOWN_SEED = 20_260_000_000  # above 2^32: two words of a seed
N_KNOWN = 8
N_ROUND_TRIPS = 256
TOLERANCES = {"float32": 1e-5, "float64": 1e-12}  # in log q, and of points in units of the box
AMPLIFICATION = 10  # times what rounding does to log q in Python: the tolerance of a steep flow


class Cell(NamedTuple):
    """A cell of a flow."""

    kind: int  # code of the spline
    n_bins: int
    n_logits: int  # per transformed coordinate
    n_inputs: int  # number of coordinates that it is conditioned on
    n_hidden: int  # hidden layers, none where it is conditioned on nothing
    d_hidden: int  # neurons in each of them
    weights: int  # offset of its first weight
    split: tuple[int, ...]  # (d,): coordinates that it is conditioned on, then those it transforms


class Known(NamedTuple):
    """Points that the exported flow is compared with."""

    x: np.ndarray  # (N_KNOWN, d)
    log_q: np.ndarray  # (N_KNOWN,)
    z: np.ndarray | None  # (N_KNOWN, d), where there is a map to latent space


@dataclass(frozen=True)
class Tables:
    """Numbers of an exported flow.

    Attributes
    ----------
    dtype : {"float32", "float64"}
        Precision of the networks: float64 if any flow of a mixture has it.
    bounds : ndarray, (d, 2)
        The box; the largest numbers there are where it is infinite.
    log_volume : float
        Logarithm of its volume, or of the product of the scales where there are no bounds.
    is_normal : bool
        Whether the density in latent space is normal.
    location, width : ndarray, (d,)
        What is subtracted from coordinates, and what they are then divided by: the lower bounds and the
        widths of the box, or location and scale where there are no bounds.
    cells : tuple of Cell
        Cells of all flows.
    first_cell : tuple of int
        Index of the first cell of each flow, and the number of all cells.
    weights : ndarray, (n_weights,)
        For each layer in turn: weights (n_out, n_in) and biases (n_out,). The outputs of the last layer of a
        cell are all logits of its first transformed coordinate, then those of the next.
    log_share, upper_share : ndarray, (n_components,)
        Logarithm of the share of each flow, and of the uniform density if it has one; and their sums so far.
    known : Known
        Points with their densities.
    tolerance : float
        How far these may be from what the source computes, in log q and in units of the box.
    """

    dtype: str
    bounds: np.ndarray
    log_volume: float
    is_normal: bool
    location: np.ndarray
    width: np.ndarray
    cells: tuple[Cell, ...]
    first_cell: tuple[int, ...]
    weights: np.ndarray
    log_share: np.ndarray
    upper_share: np.ndarray
    known: Known
    tolerance: float

    @property
    def d(self) -> int:
        """Number of dimensions."""
        return len(self.bounds)

    @property
    def n_flows(self) -> int:
        """Number of flows."""
        return len(self.first_cell) - 1

    @property
    def is_mixture(self) -> bool:
        """Whether there is more than one component, and thus no map to latent space."""
        return len(self.log_share) > 1

    @property
    def d_hidden(self) -> int:
        """Largest number of neurons in a hidden layer, at least 1."""
        return max(1, *(cell.d_hidden for cell in self.cells))

    @property
    def n_out(self) -> int:
        """Largest number of logits that a network predicts."""
        return max(cell.n_logits * (self.d - cell.n_inputs) for cell in self.cells)


def make_tables(flow: Flow | Mixture) -> Tables:
    """Collect the numbers of a flow or a mixture.

    Parameters
    ----------
    flow : Flow or Mixture
        What is to be exported.

    Returns
    -------
    Tables
        Its numbers.
    """
    mixture = flow if isinstance(flow, Mixture) else Mixture([flow])
    if is_unbounded(mixture.bounds) and len(mixture.flows) > 1:
        raise ValueError(
            "flow must be a single one to be exported where it has no bounds, and this mixture has "
            f"{len(mixture.flows)}: export mixture.flows[0] and the others, each under a name of its own"
        )
    dtype = np.result_type(*(one.params.dtype for one in mixture.flows))
    cells: list[Cell] = []
    first_cell, blocks, n_weights = [0], [], 0
    for one in mixture.flows:
        for c in range(one.architecture.n_cells):
            cells.append(_cell(one, c, n_weights))
            block = np.concatenate([*_weights(one, c)]).astype(dtype)
            blocks.append(block)
            n_weights += len(block)
        first_cell.append(len(cells))
    shares = mixture.shares()
    return Tables(
        dtype=dtype.name,
        bounds=np.nan_to_num(mixture.bounds),
        log_volume=mixture.log_volume,
        is_normal=is_unbounded(mixture.bounds),
        location=mixture.flows[0].layout.lower,
        width=mixture.flows[0].layout.width,
        cells=tuple(cells),
        first_cell=tuple(first_cell),
        weights=np.concatenate(blocks),
        log_share=np.log(shares),
        upper_share=np.cumsum(shares),
        known=_known(mixture.flows[0] if len(shares) == 1 else mixture),
        tolerance=max([TOLERANCES[dtype.name], *(AMPLIFICATION * _rounding(one) for one in mixture.flows)]),
    )


def _cell(flow: Flow, c: int, weights: int) -> Cell:
    """Describe cell c of a flow."""
    architecture, layout = flow.architecture, flow.layout
    n_inputs = int(layout.n_inputs[c])
    return Cell(
        kind=CELLS[architecture.cell].code,
        n_bins=architecture.n_bins,
        n_logits=architecture.n_logits,
        n_inputs=n_inputs,
        n_hidden=architecture.n_hidden if n_inputs > 0 else 0,
        d_hidden=architecture.d_hidden if n_inputs > 0 else 0,
        weights=weights,
        split=tuple(layout.split[c].tolist()),
    )


def _weights(flow: Flow, c: int) -> Iterator[np.ndarray]:
    """Give the weights (n_out, n_in) and biases of the layers of cell c, each flattened."""
    layers = flow.architecture.layers[c]
    for n_in, n_out, weights, biases in layers[:-1]:  # stored as (n_in, n_out)
        yield flow.params[weights : weights + n_in * n_out].reshape(n_in, n_out).T.ravel()
        yield flow.params[biases : biases + n_out]
    n_in, n_out, weights, biases = layers[-1]  # stored by logit, then by coordinate
    by_coordinate = np.arange(n_out).reshape(flow.architecture.n_logits, -1).T.ravel()
    yield flow.params[weights : weights + n_in * n_out].reshape(n_out, n_in)[by_coordinate].ravel()
    yield flow.params[biases : biases + n_out][by_coordinate]


def _known(flow: Flow | Mixture) -> Known:
    x, log_q = flow.sample(N_KNOWN, seed=KNOWN_SEED)
    return Known(x, log_q, flow.to_latent(x)[0] if isinstance(flow, Flow) else None)


def _rounding(flow: Flow) -> float:
    """Find what rounding does to log q: how far it is off after a round trip, at the worst of some points."""
    x, log_q = flow.sample(N_ROUND_TRIPS, seed=KNOWN_SEED)
    return float(np.abs(flow.log_prob(x) - log_q).max())
