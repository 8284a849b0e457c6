"""What flows and mixtures of flows have in common: a density on a box that points can be drawn from."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from varflow.flow.conditions import ConditionMap
from varflow.flow.latent import SAMPLE_BLOCK, latent_key
from varflow.runtime.communicator import Communicator
from varflow.runtime.fingerprint import digest
from varflow.runtime.ranks import as_communicator
from varflow.runtime.threads import share
from varflow.validation import positive_int

__all__ = ["Density"]

Points = tuple[np.ndarray, np.ndarray]


class Density(ABC):
    """Density on a box; a subclass draws any rows of a sample."""

    condition_map: ConditionMap

    @property
    @abstractmethod
    def d(self) -> int:
        """Number of dimensions."""

    @abstractmethod
    def params_digest(self) -> str:
        """Compute a SHA-256 sum of all parameters.

        Returns
        -------
        str
            The sum, in hexadecimal digits.
        """

    @abstractmethod
    def _draw(self, rows: range, key: np.ndarray, conditions: np.ndarray) -> Iterator[Points]:
        """Draw rows of the sample that a key has, as points (m, d) and the logs of their density (m,).

        Conditions are those of the whole sample, (n, c), checked.
        """

    def sample_blocks(
        self,
        n: int,
        seed: int | None = None,
        comm: Any = None,
        *,
        conditions: npt.ArrayLike | None = None,
    ) -> Iterator[Points]:
        """Draw the points of `sample` in blocks, for samples too large for memory.

        Parameters
        ----------
        n : int
            Number of points, of all ranks together.
        seed : int, optional
            Seed of the random numbers, as in `sample`.
        comm : mpi4py.MPI.Intracomm, optional
            Ranks that draw a part of each block, all of them at the same time: the parts of a block, in the
            order of the ranks, are the block, which is as many times larger as there are ranks. All ranks
            get the same number of parts, and some may be empty. The points that follow from a seed are those
            of one process.
        conditions : array_like, (n, c) or (c,), optional
            As in `sample`.

        Returns
        -------
        iterator of (ndarray (m, d), ndarray (m,))
            Points in the box, and the logarithm of their density. To go through it needs no other rank.

        Raises
        ------
        TypeError, ValueError
            As `sample` does.

        Examples
        --------
        >>> flow = vf.Flow(2, seed=1)
        >>> sum(len(x) for x, logqx in flow.sample_blocks(100_000, seed=1))
        100000
        """
        ranks = as_communicator(comm)
        with ranks.together():
            n = positive_int("n", n)
            given = self.condition_map.checked(conditions, n)
            key = self._agreed_key(n, seed, given, ranks)
        return self._blocks(n, key, given, ranks)

    def sample(
        self,
        n: int,
        seed: int | None = None,
        comm: Any = None,
        *,
        conditions: npt.ArrayLike | None = None,
    ) -> Points:
        """Draw points from q.

        Parameters
        ----------
        n : int
            Number of points, of all ranks together.
        seed : int, optional
            Seed of the random numbers. If not given, entropy is taken from the operating system. A larger
            sample with the same seed begins with the same points.
        comm : mpi4py.MPI.Intracomm, optional
            Ranks that share the points: each draws and gets its share alone, which is n over the number of
            ranks, up or down, and the shares in the order of the ranks are the sample. It has the same bits
            for any number of ranks. All must make the call with the same arguments and the same flow; what
            is raised on one of them is raised on all.
        conditions : array_like, (n, c) or (c,), optional
            Conditions of each point, or of all of them, for a flow that has some.

        Returns
        -------
        x : ndarray, (n, d), or (share of n, d)
            Points in the box. With fewer points than ranks, some ranks have none.
        logqx : ndarray, (n,), or (share of n,)
            Logarithm of their density.

        Raises
        ------
        TypeError, ValueError
            If n is not a positive integer, or comm is no communicator, or ranks have other arguments, or
            conditions are missing, not wanted, of the wrong shape, or not finite.

        Examples
        --------
        >>> flow = vf.Flow(2, seed=1)
        >>> x, logqx = flow.sample(1000, seed=1)
        >>> x.shape, logqx.shape
        ((1000, 2), (1000,))
        """
        ranks = as_communicator(comm)
        with ranks.running():
            n = positive_int("n", n)
            given = self.condition_map.checked(conditions, n)
            key = self._agreed_key(n, seed, given, ranks)
            return self._drawn(range(*share(ranks.rank, ranks.size, n)), key, given)

    def _agreed_key(
        self, n: int, seed: int | None, conditions: np.ndarray, ranks: Communicator
    ) -> np.ndarray:
        """Give the key of the random numbers; the first rank draws it where there is no seed."""
        if ranks.size > 1:
            same = {"n": n, "seed": seed, "digest of the flow": self.params_digest()}
            same |= {"conditions": digest(np.ascontiguousarray(conditions))} if conditions.size else {}
            ranks.check_same("arguments", same)
        return ranks.first(lambda: latent_key(seed))

    def _blocks(
        self, n: int, key: np.ndarray, conditions: np.ndarray, ranks: Communicator
    ) -> Iterator[Points]:
        size = SAMPLE_BLOCK * ranks.size
        for begin in range(0, n, size):
            first, end = share(ranks.rank, ranks.size, min(size, n - begin))
            yield self._drawn(range(begin + first, begin + end), key, conditions)

    def _drawn(self, rows: range, key: np.ndarray, conditions: np.ndarray) -> Points:
        x, logqx, begin = np.empty((len(rows), self.d)), np.empty(len(rows)), 0
        for block, logq in self._draw(rows, key, conditions):
            part = slice(begin, begin + len(block))
            x[part], logqx[part] = block, logq
            begin = part.stop
        return x, logqx
