"""What a flow is made of, and where each parameter lives: the only owner of offsets."""

from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from varflow.flow.masks import make_masks
from varflow.kernels.layout import Layout, Sizes, aligned_zeros
from varflow.kernels.splines import CELLS
from varflow.validation import positive_int, unknown_name

__all__ = ["Architecture"]

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
        Kind of spline: "pwlinear", "pwquad" or "rqs"; see `varflow.kernels.splines`.
    masking : {"checkerboard", "maximal", "iflow"}
        How coordinates are shared out among the cells; see `varflow.flow.masks`.
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
        if self.cell not in CELLS:
            raise unknown_name("cell", self.cell, CELLS)
        if isinstance(self.dtype, type | np.dtype):  # np.float32 is as good as its name
            object.__setattr__(self, "dtype", np.dtype(self.dtype).name)
        if self.dtype not in DTYPES:
            raise unknown_name("dtype", self.dtype, DTYPES)
        make_masks(self.d, self.masking)

    def as_dict(self) -> dict[str, Any]:
        """Arguments that make the same architecture again."""
        return asdict(self)

    @cached_property
    def masks(self) -> np.ndarray:
        """(n_cells, d) bool: True where the cell transforms the coordinate."""
        return make_masks(self.d, self.masking, self.repetitions)

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return len(self.masks)

    @property
    def n_logits(self) -> int:
        """Logits that a network gives for each transformed coordinate."""
        return CELLS[self.cell].n_logits(self.n_bins)

    @cached_property
    def layers(self) -> np.ndarray:
        """(n_cells, n_hidden + 1, 4) int: n_in, n_out, offset of the weights, offset of the biases.

        The weights of all layers come first, then the biases of all. Weights are (n_in, n_out), but those of
        the last layer of a cell (n_out, n_in). The last n_out is n_logits times the number of transformed
        coordinates, logit outside, coordinate inside. In a cell that is conditioned on nothing, the hidden
        layers are empty and the last one has n_in = 0.
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
        n_inputs = int((~mask).sum())
        return n_inputs, self.d_hidden if n_inputs > 0 else 0

    @property
    def n_params(self) -> int:
        """Length of the flat parameters."""
        _, n_out, _, biases = self.layers[-1, -1]
        return int(biases + n_out)

    @cached_property
    def sizes(self) -> Sizes:
        """What the sizes of the kernels' buffers follow from."""
        return Sizes(
            d=self.d,
            n_cells=self.n_cells,
            n_transformed=int(self.masks.sum(axis=1).max()),
            n_logits=self.n_logits,
            n_hidden=self.n_hidden,
            d_hidden=self.d_hidden,
            n_params=self.n_params,
            dtype=self.dtype,
        )

    def layout(self, bounds: np.ndarray) -> Layout:
        """Make the kernels' tables.

        Parameters
        ----------
        bounds : ndarray, (d, 2)
            Lower and upper bound of each dimension.

        Returns
        -------
        Layout
            The tables.
        """
        return Layout(
            split=np.argsort(self.masks, axis=1, kind="stable"),
            n_inputs=(~self.masks).sum(axis=1),
            layers=self.layers,
            cell=CELLS[self.cell].code,
            n_logits=self.n_logits,
            lower=bounds[:, 0].copy(),
            upper=bounds[:, 1].copy(),
            width=bounds[:, 1] - bounds[:, 0],
        )

    def initial_params(self, generator: np.random.Generator) -> np.ndarray:
        """Draw initial parameters, with which the flow is the identity.

        Hidden weights are uniform within sqrt(3 / n_in) of zero, so that their variance is 1 / n_in (LeCun et
        al., "Efficient BackProp", 1998), biases within 1 / sqrt(n_in). The last layer of each cell is zero,
        so that all bins are alike.

        Parameters
        ----------
        generator : numpy.random.Generator
            Source of the random numbers.

        Returns
        -------
        ndarray, (n_params,)
            Parameters in the networks' dtype.
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
    """Where parts of these sizes begin, one behind the other; of the same shape."""
    return (np.cumsum(sizes) - sizes.ravel()).reshape(sizes.shape)
