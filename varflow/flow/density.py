"""What flows and mixtures of flows have in common: a density on a box that points can be drawn from."""

from abc import ABC, abstractmethod
from collections.abc import Iterator

import numpy as np

__all__ = ["Density"]


class Density(ABC):
    """Density on a box, of which a subclass draws points in blocks."""

    @property
    @abstractmethod
    def d(self) -> int:
        """Number of dimensions."""

    @abstractmethod
    def sample_blocks(self, n: int, seed: int | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Draw the points of `sample` in blocks, for samples too large for memory.

        Parameters
        ----------
        n : int
            Number of points.
        seed : int, optional
            Seed of the random numbers, as in `sample`.

        Returns
        -------
        iterator of (ndarray (m, d), ndarray (m,))
            Points in the box, and the logarithm of their density.
        """

    def sample(self, n: int, seed: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Draw points from q.

        Parameters
        ----------
        n : int
            Number of points.
        seed : int, optional
            Seed of the random numbers. If not given, entropy is taken from the operating system. A larger
            sample with the same seed begins with the same points.

        Returns
        -------
        x : ndarray, (n, d)
            Points in the box.
        logqx : ndarray, (n,)
            Logarithm of their density.

        Raises
        ------
        TypeError, ValueError
            If n is not a positive integer.
        """
        blocks = self.sample_blocks(n, seed)
        x, logqx = np.empty((n, self.d)), np.empty(n)
        begin = 0
        for block, logq in blocks:
            rows = slice(begin, begin + len(block))
            x[rows], logqx[rows] = block, logq
            begin = rows.stop
        return x, logqx
