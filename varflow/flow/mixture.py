"""Mixture of flows on the same box: their densities by weights, with a share of the uniform one if wanted."""

import os
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from varflow.data.arrays import as_floats, checked_points, is_unbounded
from varflow.data.discrete import Discrete, states_of
from varflow.flow.conditions import ConditionMap
from varflow.flow.density import Density, Points
from varflow.flow.discrete_flow import FILE as DISCRETE_FILE
from varflow.flow.discrete_flow import DiscreteFlow, flow_of
from varflow.flow.flow import Flow
from varflow.flow.latent import BlockRows, block_rows, random_rows
from varflow.flow.notebook import box_table
from varflow.markup import pairs, table
from varflow.runtime.archive import Kind, format_of, read_archive, refused_as, write_archive
from varflow.runtime.backend import choose_backend
from varflow.runtime.fingerprint import digest
from varflow.validation import check_number

__all__ = ["Mixture", "discrete_columns", "load_flow"]

FILE = Kind("varflow mixture", version=2, oldest=1, sealed=1)  # version 1 had no conditions and no weights
COMPONENTS = 1 << 32  # stream of the random numbers that choose components


class Mixture(Density):
    """Mixture of flows, with the density q(x) = (1 - a) sum_k w_k q_k(x) + a / V, V the volume of the box.

    It has what is needed to sample from a density and to evaluate it. It is no flow: there is no single map
    between target space and latent space, and nothing to be trained.

    With a > 0 the mixture is defensive (Hesterberg, Technometrics 37 (1995) 185): no weight f/q exceeds
    f V / a, however small the flows' densities are.

    Parameters
    ----------
    flows : sequence of Flow
        One or more flows with the same dimension, bounds and number of conditions.
    defensive : float
        Share a of the uniform density, in [0, 1).
    weights : array_like, (n_flows,), optional
        Weights w_k of the flows, above 0; they are divided by their sum. If not given, all have the same.

    Attributes
    ----------
    flows : tuple of Flow
        The flows.
    defensive : float
        The share.
    weights : ndarray, (n_flows,)
        The weights, of sum 1.

    Raises
    ------
    TypeError, ValueError
        If an argument is invalid, the flows have other dimensions, bounds or numbers of conditions than the
        first, or a share of the uniform density is asked for where the box is infinite.

    Examples
    --------
    >>> flows = [vf.Flow(2, n_bins=4, d_hidden=8, seed=seed) for seed in range(2)]
    >>> mixture = vf.Mixture(flows, defensive=0.1)
    >>> mixture.shares()
    array([0.45, 0.45, 0.1 ])
    >>> x, logqx = mixture.sample(1000, seed=1)
    >>> np.allclose(mixture.log_prob(x), logqx)
    True
    >>> mixture.d, mixture.bounds.tolist(), mixture.log_volume
    (2, [[0.0, 1.0], [0.0, 1.0]], 0.0)
    >>> mixture.n_conditions, mixture.condition_map.n
    (0, 0)
    >>> mixture.n_params == 2 * flows[0].n_params
    True
    >>> vf.Mixture(flows, weights=[3, 1]).weights
    array([0.75, 0.25])
    >>> mixture.save("mixture.npz")
    >>> vf.Mixture.load("mixture.npz").params_digest() == mixture.copy().params_digest()
    True
    """

    def __init__(
        self, flows: Sequence[Flow], defensive: float = 0.0, weights: npt.ArrayLike | None = None
    ) -> None:
        self.flows = tuple(flows)
        if not self.flows:
            raise ValueError("a mixture needs one flow or more")
        for k, flow in enumerate(self.flows):
            if not isinstance(flow, Flow):
                raise TypeError(f"flows[{k}] must be a Flow, got {type(flow).__name__}")
            if flow.d != self.d or not np.array_equal(flow.bounds, self.bounds):
                raise ValueError(
                    f"flows must have the same bounds, found {self.bounds.tolist()} and, in flows[{k}], "
                    f"{flow.bounds.tolist()}"
                )
            if discrete_columns(flow) != discrete_columns(self.flows[0]):
                raise ValueError(f"flows must have the same discrete coordinates, those of flows[{k}] differ")
            if flow.n_conditions != self.n_conditions:
                raise ValueError(
                    f"flows must have the same number of conditions, found {self.n_conditions} and, in "
                    f"flows[{k}], {flow.n_conditions}"
                )
        check_number("defensive", defensive, lambda share: 0 <= share < 1, "in [0, 1)")
        if defensive > 0 and is_unbounded(self.bounds):
            raise ValueError(
                f"defensive must be 0 for flows of unbounded points, got {defensive!r}: there is no uniform "
                "density on an infinite box"
            )
        self.defensive = float(defensive)
        self.weights = _checked_weights(weights, len(self.flows))

    def __repr__(self) -> str:
        return f"Mixture({len(self.flows)} flows, defensive={self.defensive:g})"

    def _repr_html_(self) -> str:
        """Return the flows, their shares and the box as HTML, for notebooks."""
        shown = {
            "dimensions": self.d,
            "flows": len(self.flows),
            "share of the uniform density": f"{self.defensive:.3g}",
            "parameters": f"{self.n_params:,}",
        }
        rows = [
            (k, f"{share:.3g}", one.architecture.cell, one.architecture.n_cells, f"{one.n_params:,}")
            for k, (one, share) in enumerate(zip(self.flows, self.shares(), strict=False), 1)
        ]
        flows = table("Flows", ["flow", "share", "kind of cell", "cells", "parameters"], rows)
        if self.n_conditions > 0:
            shown["conditions"] = self.n_conditions
        return pairs("Mixture", shown) + flows + box_table(self.bounds)

    @property
    def d(self) -> int:
        """Number of dimensions."""
        return self.flows[0].d

    @property
    def n_conditions(self) -> int:
        """Number of conditions."""
        return self.flows[0].n_conditions

    @property
    def condition_map(self) -> ConditionMap:  # type: ignore[override]
        """What checks conditions: that of the first flow."""
        return self.flows[0].condition_map

    @property
    def bounds(self) -> np.ndarray:
        """Lower and upper bound of each dimension, (d, 2)."""
        return self.flows[0].bounds

    @property
    def n_params(self) -> int:
        """Number of parameters of all flows."""
        return sum(flow.n_params for flow in self.flows)

    @property
    def log_volume(self) -> float:
        """Logarithm of the volume of the box."""
        return self.flows[0].log_volume

    def log_prob(self, x: npt.ArrayLike, conditions: npt.ArrayLike | None = None) -> np.ndarray:
        """Compute log q(x).

        Parameters
        ----------
        x : array_like, (n, d)
            Points in the box.
        conditions : array_like, (n, c) or (c,), optional
            Conditions of each point, or of all of them, for flows that have some.

        Returns
        -------
        ndarray, (n,)
            Logarithm of the density, which has the units of 1 / (volume of the box).

        Raises
        ------
        TypeError, ValueError
            If x has the wrong shape, or if a row is not finite or lies outside the box; the message names the
            first such row. If conditions are refused, as by `Flow.to_latent`.
        """
        x = checked_points("x", x, self.bounds)
        return self._log_q(x, self.condition_map.checked(conditions, len(x)))

    def _log_q(self, x: np.ndarray, conditions: np.ndarray) -> np.ndarray:
        """Compute log q at points with conditions, both of which have been checked."""
        log_shares = np.log(self.shares())
        logs = [
            flow.columns_to_latent(flow.condition_map.columns(x, conditions))[1] + share
            for flow, share in zip(self.flows, log_shares, strict=False)
        ]
        if self.defensive > 0:
            logs.append(np.full(len(x), log_shares[-1] - self.log_volume))
        with np.errstate(under="ignore"):
            return np.logaddexp.reduce(np.array(logs), axis=0)

    def _draw(self, rows: range, key: np.ndarray, conditions: np.ndarray) -> Iterator[Points]:
        return (self._draw_part(part, key, conditions[part.rows]) for part in block_rows(rows))

    def _draw_part(self, part: BlockRows, key: np.ndarray, conditions: np.ndarray) -> Points:
        u = random_rows(key, part, self.d)
        upper = np.cumsum(self.shares())
        chosen = np.searchsorted(upper[:-1], random_rows(key, part, 1, COMPONENTS)[:, 0], side="right")
        x = np.empty_like(u)
        if self.defensive > 0:  # the uniform component's
            x[:] = self.bounds[:, 0] + u * (self.bounds[:, 1] - self.bounds[:, 0])
            for column, one in discrete_columns(self).items():
                x[:, column] = states_of(x[:, column], one.k)
        for k, flow in enumerate(self.flows):
            rows = np.flatnonzero(chosen == k)
            if len(rows) > 0:
                columns = flow.condition_map.columns(flow.latent_of(u[rows]), conditions[rows])
                x[rows] = flow.columns_from_latent(columns)[0]
        np.clip(x, *self.bounds.T, out=x)
        return x, self._log_q(x, conditions)

    def shares(self) -> np.ndarray:
        """Give the shares of the components.

        Returns
        -------
        ndarray, (n_components,)
            Shares of the flows, and of the uniform density if it has one; their sum is 1.
        """
        n, of_flows = len(self.flows), 1 - self.defensive
        shares = np.full(n, of_flows / n) if self._are_equal else of_flows * self.weights
        return np.append(shares, self.defensive) if self.defensive > 0 else shares

    def params_digest(self) -> str:
        """Compute a SHA-256 sum of all parameters.

        Returns
        -------
        str
            The sum, in hexadecimal digits.
        """
        weights = [] if self._are_equal else [self.weights]
        return digest(*(flow.params for flow in self.flows), *weights)

    @property
    def _are_equal(self) -> bool:
        """Whether all flows have the same weight."""
        return bool((self.weights == self.weights[0]).all())

    def copy(self) -> "Mixture":
        """Copy the mixture, including the parameters of its flows.

        Returns
        -------
        Mixture
            The copy.
        """
        return Mixture([flow.copy() for flow in self.flows], self.defensive, self.weights)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the mixture to a file.

        Parameters
        ----------
        path : str or path
            Name of the file, used as given. An existing file is replaced once the new one is complete.

        Raises
        ------
        OSError
            If the file cannot be written.
        ValueError
            If parameters are not finite.
        """
        arrays = {f"params_{k}": flow.params for k, flow in enumerate(self.flows)}
        if not all(np.isfinite(params).all() for params in arrays.values()):
            raise ValueError("params must be finite")
        header = {"flows": [flow.description() for flow in self.flows], "defensive": self.defensive}
        header["weights"] = self.weights.tolist()
        write_archive(path, FILE, header, arrays)

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], threads: int | None = None, backend: str = "cpu"
    ) -> "Mixture":
        """Read a mixture from a file.

        Parameters
        ----------
        path : str or path
            A file written by `save`.
        threads : int, optional
            Threads of each flow; see `Flow`.
        backend : {"cpu", "cuda", "auto"}
            Backend of each flow; see `Flow`.

        Returns
        -------
        Mixture
            The mixture.

        Raises
        ------
        FileFormatError
            If the file does not contain a mixture, is truncated or damaged, or has an unsupported version.
        OSError
            If the file cannot be opened.
        """
        backend = choose_backend(backend)
        header, arrays = read_archive(path, FILE)
        with refused_as(path, "mixture", (KeyError, TypeError, ValueError)):
            flows = [
                flow_of(description, arrays[f"params_{k}"], threads, backend)
                for k, description in enumerate(header["flows"])
            ]
            return cls(flows, header["defensive"], header.get("weights"))


def discrete_columns(density: Flow | Mixture) -> dict[int, Discrete]:
    """Give the columns of points that hold whole numbers."""
    flow = density.flows[0] if isinstance(density, Mixture) else density
    return flow.whole if isinstance(flow, DiscreteFlow) else {}


def _checked_weights(weights: npt.ArrayLike | None, n_flows: int) -> np.ndarray:
    """Check weights, (n_flows,), and divide them by their sum."""
    if weights is None:
        return np.full(n_flows, 1 / n_flows)
    array = as_floats("weights", weights)
    if array.shape != (n_flows,):
        raise ValueError(f"weights must be one for each of {n_flows} flows, got shape {array.shape}")
    if not (np.isfinite(array).all() and (array > 0).all()):
        raise ValueError(f"weights must be above 0 and finite, got {array.tolist()}")
    return array / array.sum()


def load_flow(
    path: str | os.PathLike[str], threads: int | None = None, backend: str = "cpu"
) -> Flow | Mixture:
    """Read a flow or a mixture, whichever the file holds.

    Parameters
    ----------
    path : str or path
        A file written by `Flow.save` or `Mixture.save`.
    threads : int, optional
        As for a new `Flow`.
    backend : {"cpu", "cuda", "auto"}
        As for a new `Flow`.

    Returns
    -------
    Flow or Mixture
        What the file holds.

    Raises
    ------
    FileFormatError
        If the file contains neither, is truncated or damaged, or has an unsupported version.
    OSError
        If the file cannot be opened.

    Examples
    --------
    >>> vf.Flow(2, n_bins=4, d_hidden=8, seed=1).save("flow.npz")
    >>> vf.load_flow("flow.npz")
    Flow(d=2, cell='pwquad', masking='iflow', n_bins=4, d_hidden=8, ...)
    """
    kinds: dict[str | None, type[Flow | Mixture]] = {FILE.name: Mixture, DISCRETE_FILE.name: DiscreteFlow}
    return kinds.get(format_of(path), Flow).load(path, threads, backend)
