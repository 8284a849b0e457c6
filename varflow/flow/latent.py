"""Random latent points, each known by its number: any rows of a sample can be drawn by themselves.

The numbers come from counter-based generators, one for each block of points, whose counter begins with the
first number that is wanted. They are uniform; normal ones are quantiles of these.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

__all__ = ["SAMPLE_BLOCK", "BlockRows", "block_rows", "latent_key", "normal_quantiles", "random_rows"]

SAMPLE_BLOCK = 65_536  # points per block; the random numbers depend on it
LEAST = 2.0**-54  # of a uniform number, in its place: halfway from 0 to the next that there is
NUMBERS_A_COUNT = 4  # that Philox makes of one value of its counter


class BlockRows(NamedTuple):
    """Rows [begin, end) of a block of points."""

    block: int
    begin: int
    end: int

    @property
    def n(self) -> int:
        """Number of rows."""
        return self.end - self.begin

    @property
    def rows(self) -> slice:
        """These rows of the whole sample, which has SAMPLE_BLOCK points a block."""
        return slice(self.block * SAMPLE_BLOCK + self.begin, self.block * SAMPLE_BLOCK + self.end)


def block_rows(rows: range, points_a_block: int = SAMPLE_BLOCK) -> Iterator[BlockRows]:
    """Divide rows of a sample into those of each block."""
    begin = rows.start
    while begin < rows.stop:
        block, first = divmod(begin, points_a_block)
        n = min(points_a_block - first, rows.stop - begin)
        yield BlockRows(block, first, first + n)
        begin += n


def latent_key(seed: int | None) -> np.ndarray:
    """Derive the key (2,) uint64 of the counter-based generators from a seed, or from entropy if None."""
    return np.random.SeedSequence(seed).generate_state(2, np.uint64)


def random_rows(key: np.ndarray, rows: BlockRows, width: int, stream: int = 0) -> np.ndarray:
    """Draw uniform numbers in [0, 1).

    Parameters
    ----------
    key : ndarray of uint64, (2,)
        Key of the generators.
    rows : BlockRows
        Which rows of which block.
    width : int
        Numbers in a row.
    stream : int
        Which of the sequences that a block has; that of latent points is 0.

    Returns
    -------
    ndarray, (n, width)
        The numbers.
    """
    counts, n_dropped = divmod(rows.begin * width, NUMBERS_A_COUNT)
    generator = np.random.Generator(np.random.Philox(key=key, counter=[counts, 0, stream, rows.block]))
    generator.random(n_dropped)
    return generator.random((rows.n, width))


def normal_quantiles(u: np.ndarray) -> np.ndarray:
    """Give the numbers that standard normal ones are below with these probabilities.

    Parameters
    ----------
    u : ndarray
        Uniform numbers in [0, 1).

    Returns
    -------
    ndarray
        Normal numbers, -8.3 to 8.3.
    """
    from scipy.special import ndtri  # slow to import

    return ndtri(np.clip(u, LEAST, 1 - 2 * LEAST))
