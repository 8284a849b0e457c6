"""The architecture of a flow and the layout of its parameters; offsets are computed here and nowhere else."""

from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from varflow.flow.masks import make_masks
from varflow.kernels.layout import Layout, Sizes, aligned_zeros
from varflow.kernels.splines import CELLS, SPLINES
from varflow.validation import checked_int, positive_int, unknown_name

__all__ = ["Architecture"]

DTYPES = ("float32", "float64")
LATENTS = ("uniform", "normal")  # by their codes


@dataclass(frozen=True)
class Architecture:
    """A sequence of coupling layers ("cells"), each with a dense network.

    A cell leaves the coordinates that it is conditioned on unchanged and maps each of the others by a
    monotone spline or an affine map, whose parameters its network predicts from those, and from the
    conditions of the point. The network has leaky-ReLU hidden layers of equal width; in a cell that is
    conditioned on nothing, it consists of the biases of its last layer alone.

    Parameters
    ----------
    d : int
        Number of dimensions.
    cell : str
        Kind of spline, "pwlinear", "pwquad" or "rqs", or "realnvp"; see `Flow`.
    masking : {"checkerboard", "maximal", "iflow"}
        Which coordinates each cell transforms; see `Flow`.
    n_bins : int
        Number of bins of each spline; 1 for "realnvp", which has none.
    d_hidden : int
        Number of neurons in each hidden layer.
    n_hidden : int
        Number of hidden layers (ZüNIS does not count the first).
    repetitions : int
        Number of times that the sequence of masks is repeated.
    dtype : {"float32", "float64"}
        Precision of the networks. Coordinates and densities are float64 in either case.
    n_conditions : int
        Number of conditions of a point, which are inputs of all networks.

    Raises
    ------
    TypeError
        If a number is not an integer.
    ValueError
        If a number is less than 1, n_conditions is less than 0, a name is unknown, or a cell without bins is
        to have some.

    Examples
    --------
    >>> architecture = vf.Architecture(3, n_bins=8, d_hidden=16)
    >>> architecture.masks.astype(int)
    array([[1, 1, 0],
           [0, 0, 1],
           [1, 0, 1],
           [0, 1, 0]])
    >>> architecture.n_cells, architecture.n_logits, architecture.n_params, architecture.latent
    (4, 17, 2982, 'uniform')
    >>> vf.Flow(**architecture.as_dict()).architecture == architecture
    True

    The first cell's network takes one coordinate, and gives the logits of the two others:

    >>> [(n_in, n_out) for n_in, n_out, *offsets in architecture.layers[0].tolist()]
    [(1, 16), (16, 16), (16, 34)]
    >>> params = architecture.initial_params(np.random.default_rng(1))
    >>> params.shape, architecture.sizes.n_params
    ((2982,), 2982)
    >>> architecture.layout(np.tile([0.0, 1.0], (3, 1))).n_inputs
    array([1, 2, 1, 2])
    """

    d: int
    cell: str = "pwquad"
    masking: str = "iflow"
    n_bins: int = 16
    d_hidden: int = 64
    n_hidden: int = 2
    repetitions: int = 1
    dtype: str = "float32"
    n_conditions: int = 0

    def __post_init__(self) -> None:
        for name in ("d", "n_bins", "d_hidden", "n_hidden", "repetitions"):
            object.__setattr__(self, name, positive_int(name, getattr(self, name)))
        object.__setattr__(self, "n_conditions", checked_int("n_conditions", self.n_conditions))
        if self.cell not in CELLS:
            raise unknown_name("cell", self.cell, CELLS)
        if self.cell not in SPLINES and self.n_bins != 1:
            raise ValueError(
                f"n_bins is for splines, and a cell {self.cell!r} has no bins: leave n_bins out, or give 1, "
                f"got {self.n_bins}"
            )
        if isinstance(self.dtype, type | np.dtype):  # accept np.float32 as well as its name
            object.__setattr__(self, "dtype", np.dtype(self.dtype).name)
        if self.dtype not in DTYPES:
            raise unknown_name("dtype", self.dtype, DTYPES)
        make_masks(self.d, self.masking)

    def as_dict(self) -> dict[str, Any]:
        """Return the arguments that recreate the architecture.

        Returns
        -------
        dict
            The arguments by name, as JSON data; without n_conditions where there are none.
        """
        arguments = asdict(self)
        if (
            self.n_conditions == 0
        ):  # files and checkpoints say of such a flow what they said before there were
            del arguments["n_conditions"]
        return arguments

    @cached_property
    def masks(self) -> np.ndarray:
        """Masks of the cells, (n_cells, d) bool: True where the cell transforms the coordinate."""
        return make_masks(self.d, self.masking, self.repetitions)

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return len(self.masks)

    @property
    def n_logits(self) -> int:
        """Number of logits that a network predicts for each transformed coordinate."""
        return CELLS[self.cell].n_logits(self.n_bins)

    @property
    def latent(self) -> str:
        """Density in latent space: "uniform" on the unit cube for splines, "normal" for "realnvp"."""
        return LATENTS[CELLS[self.cell].latent]

    @cached_property
    def layers(self) -> np.ndarray:
        """Table of the layers, (n_cells, n_hidden + 1, 4) int: n_in, n_out, weight offset, bias offset.

        The flat parameters hold the weights of all layers, followed by the biases of all layers. Weights are
        stored as (n_in, n_out), except for the last layer of each cell: (n_out, n_in). The n_out of that
        layer is n_logits times the number of transformed coordinates; the logit is the slow index, the
        coordinate the fast one. In a cell that is conditioned on nothing, the hidden layers are empty and the
        last layer has n_in = 0.
        """
        layers = np.zeros((self.n_cells, self.n_hidden + 1, 4), np.int64)
        for cell, mask in zip(layers, self.masks, strict=True):
            n_inputs, width = self._widths(mask)
            sizes = [n_inputs, *[width] * self.n_hidden, self.n_logits * int(mask.sum())]
            for layer, (n_in, n_out) in zip(cell, pairwise(sizes), strict=True):
                layer[:2] = n_in, n_out
        n_weights, n_biases = layers[..., 0] * layers[..., 1], layers[..., 1]
        layers[..., 2] = _offsets(n_weights)
        layers[..., 3] = n_weights.sum() + _offsets(n_biases)
        return layers

    def _widths(self, mask: np.ndarray) -> tuple[int, int]:
        n_inputs = int((~mask).sum()) + self.n_conditions
        return n_inputs, self.d_hidden if n_inputs > 0 else 0

    @property
    def n_params(self) -> int:
        """Number of parameters: the length of the flat array."""
        _, n_out, _, biases = self.layers[-1, -1]
        return int(biases + n_out)

    @cached_property
    def sizes(self) -> Sizes:
        """The numbers from which the kernels derive the sizes of their buffers."""
        return Sizes(
            d=self.d + self.n_conditions,
            n_cells=self.n_cells,
            n_transformed=int(self.masks.sum(axis=1).max()),
            n_logits=self.n_logits,
            n_hidden=self.n_hidden,
            d_hidden=self.d_hidden,
            n_params=self.n_params,
            dtype=self.dtype,
        )

    def layout(self, bounds: np.ndarray) -> Layout:
        """Build the tables that the kernels read; to them, conditions are coordinates of the unit interval.

        Parameters
        ----------
        bounds : ndarray, (d, 2)
            Lower and upper bound of each dimension.

        Returns
        -------
        Layout
            The tables.
        """
        n = self.n_conditions
        masks = np.pad(self.masks, ((0, 0), (0, n)))
        bounds = np.concatenate([bounds, np.tile([0.0, 1.0], (n, 1))])
        return Layout(
            d=self.d,
            split=np.argsort(masks, axis=1, kind="stable"),
            n_inputs=(~masks).sum(axis=1),
            layers=self.layers,
            cell=CELLS[self.cell].code,
            n_logits=self.n_logits,
            latent=CELLS[self.cell].latent,
            lower=bounds[:, 0].copy(),
            upper=bounds[:, 1].copy(),
            width=bounds[:, 1] - bounds[:, 0],
        )

    def initial_params(self, generator: np.random.Generator) -> np.ndarray:
        """Draw initial parameters for which the flow is the identity.

        Hidden weights are uniform on [-sqrt(3 / n_in), sqrt(3 / n_in)], so that their variance is 1 / n_in
        (LeCun et al., "Efficient BackProp", 1998), and hidden biases on [-1 / sqrt(n_in), 1 / sqrt(n_in)].
        The last layer of each cell is zero, so that all bins are alike.

        Parameters
        ----------
        generator : numpy.random.Generator
            Random number generator.

        Returns
        -------
        ndarray, (n_params,)
            Parameters, in the dtype of the networks.
        """
        params = aligned_zeros((self.n_params,), self.dtype)
        for n_in, n_out, weights, biases in self.layers[:, :-1].reshape(-1, 4):
            if n_in > 0:
                params[weights : weights + n_in * n_out] = generator.uniform(-1, 1, n_in * n_out) * np.sqrt(
                    3 / n_in
                )
                params[biases : biases + n_out] = generator.uniform(-1, 1, n_out) / np.sqrt(n_in)
        return params


def _offsets(sizes: np.ndarray) -> np.ndarray:
    """Return the offsets of contiguous blocks of the given sizes, in an array of the same shape."""
    return (np.cumsum(sizes) - sizes.ravel()).reshape(sizes.shape)
