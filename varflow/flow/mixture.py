"""Mixture of flows on the same box: their mean density, with a share of the uniform density if wanted."""

import os
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from varflow.data.arrays import checked_points
from varflow.flow.density import Density, Points
from varflow.flow.flow import Flow
from varflow.flow.latent import BlockRows, block_rows, random_rows
from varflow.runtime.archive import Kind, format_of, read_archive, refused_as, write_archive
from varflow.runtime.backend import choose_backend
from varflow.runtime.fingerprint import digest
from varflow.validation import check_number

__all__ = ["Mixture", "load_flow"]

FILE = Kind("varflow mixture", version=1, oldest=1, sealed=1)
COMPONENTS = 1 << 32  # stream of the random numbers that choose components


class Mixture(Density):
    """Mixture of flows, with the density q(x) = (1 - a) mean(q_k(x)) + a / V, V being the volume of the box.

    It has what is needed to sample from a density and to evaluate it. It is no flow: there is no single map
    between target space and latent space, and nothing to be trained.

    With a > 0 the mixture is defensive (Hesterberg, Technometrics 37 (1995) 185): no weight f/q exceeds
    f V / a, however small the flows' densities are.

    Parameters
    ----------
    flows : sequence of Flow
        One or more flows with the same dimension and bounds.
    defensive : float
        Share a of the uniform density, in [0, 1).

    Attributes
    ----------
    flows : tuple of Flow
        The flows.
    defensive : float
        The share.

    Raises
    ------
    TypeError, ValueError
        If an argument is invalid, or the flows have other dimensions or bounds than the first.
    """

    def __init__(self, flows: Sequence[Flow], defensive: float = 0.0) -> None:
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
        check_number("defensive", defensive, lambda share: 0 <= share < 1, "in [0, 1)")
        self.defensive = float(defensive)

    def __repr__(self) -> str:
        return f"Mixture({len(self.flows)} flows, defensive={self.defensive:g})"

    @property
    def d(self) -> int:
        """Number of dimensions."""
        return self.flows[0].d

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

    def log_prob(self, x: npt.ArrayLike) -> np.ndarray:
        """Compute log q(x).

        Parameters
        ----------
        x : array_like, (n, d)
            Points in the box.

        Returns
        -------
        ndarray, (n,)
            Logarithm of the density, which has the units of 1 / (volume of the box).

        Raises
        ------
        TypeError, ValueError
            If x has the wrong shape, or if a row is not finite or lies outside the box; the message names the
            first such row.
        """
        x = checked_points("x", x, self.bounds)
        log_shares = np.log(self.shares())
        logs = [flow.log_prob(x) + share for flow, share in zip(self.flows, log_shares, strict=False)]
        if self.defensive > 0:
            logs.append(np.full(len(x), log_shares[-1] - self.log_volume))
        with np.errstate(under="ignore"):
            return np.logaddexp.reduce(np.array(logs), axis=0)

    def _draw(self, rows: range, key: np.ndarray) -> Iterator[Points]:
        return (self._draw_part(part, key) for part in block_rows(rows))

    def _draw_part(self, part: BlockRows, key: np.ndarray) -> Points:
        z = random_rows(key, part, self.d)
        upper = np.cumsum(self.shares())
        chosen = np.searchsorted(upper[:-1], random_rows(key, part, 1, COMPONENTS)[:, 0], side="right")
        x = self.bounds[:, 0] + z * (self.bounds[:, 1] - self.bounds[:, 0])  # the uniform component's
        for k, flow in enumerate(self.flows):
            rows = np.flatnonzero(chosen == k)
            if len(rows) > 0:
                x[rows] = flow.from_latent(z[rows])[0]
        np.clip(x, *self.bounds.T, out=x)
        return x, self.log_prob(x)

    def shares(self) -> np.ndarray:
        """Shares of the components, (n_components,): the flows, and the uniform density if it has any."""
        shares = [(1 - self.defensive) / len(self.flows)] * len(self.flows)
        return np.array(shares + [self.defensive] * (self.defensive > 0))

    def params_digest(self) -> str:
        """Compute a SHA-256 sum of all parameters."""
        return digest(*(flow.params for flow in self.flows))

    def copy(self) -> "Mixture":
        """Copy the mixture, including the parameters of its flows."""
        return Mixture([flow.copy() for flow in self.flows], self.defensive)

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
                Flow.from_description(description, arrays[f"params_{k}"], threads, backend)
                for k, description in enumerate(header["flows"])
            ]
            return cls(flows, header["defensive"])


def load_flow(
    path: str | os.PathLike[str], threads: int | None = None, backend: str = "cpu"
) -> Flow | Mixture:
    """Read a flow or a mixture, whichever the file holds; see `Flow.load` and `Mixture.load`."""
    is_mixture = format_of(path) == FILE.name
    return Mixture.load(path, threads, backend) if is_mixture else Flow.load(path, threads, backend)
