"""Scrambled Sobol points, bit for bit those of SciPy, whose statistics take longer to import than varflow.

The direction numbers are those of Joe and Kuo (SIAM J. Sci. Comput. 30 (2008) 2635), the scramble is a random
lower triangular matrix for the bits of each coordinate, and a random shift (Matousek, J. Complexity 14 (1998)
527), and points come in the order of the Gray code (Antonov and Saleev, USSR Comput. Math. 19 (1979) 252).
"""

from functools import lru_cache
from itertools import islice
from pathlib import Path

import numpy as np

__all__ = ["MAX_DIMENSIONS", "directions", "sobol_points"]

Numbers = np.ndarray  # uint64

BITS = 53  # of a coordinate: with SciPy's usual 30, points of many sets would have coordinates in common
MAX_DIMENSIONS = 1024  # in the file; SciPy has more
FILE = Path(__file__).with_name("sobol_numbers.txt")
SHIFTS = np.arange(
    BITS - 1, -1, -1, dtype=np.uint64
)  # of the bits of a coordinate, the first of which is 1/2

BELOW = np.tril(np.ones((BITS, BITS), np.uint64), -1)  # the diagonal of a matrix


def sobol_points(n: int, d: int, generator: np.random.Generator) -> np.ndarray:
    """Draw Sobol points (n, d) of the unit cube with a fresh scramble."""
    seed = int(generator.integers(2**63))  # SciPy would spawn from it, which its state does not record
    if d > MAX_DIMENSIONS:
        return _points_of_scipy(n, d, seed)
    n_doublings = max(n - 1, 0).bit_length()
    generator = np.random.default_rng(np.random.SeedSequence(seed).spawn(1)[0])
    shift, numbers = _scrambled(d, n_doublings, generator)
    points = np.empty((n, d), np.uint64)
    points[:1] = shift
    for j in range(n_doublings):  # back through those so far, with one bit of the code more
        size = 1 << j
        n_new = min(size, n - size)
        points[size : size + n_new] = points[size - n_new : size][::-1] ^ numbers[:, j]
    return points * 2.0**-BITS


def _scrambled(d: int, n_numbers: int, generator: np.random.Generator) -> tuple[Numbers, Numbers]:
    """Draw a scramble: gives a shift, (d,), and the first scrambled direction numbers, (d, n_numbers)."""
    shift = _random_bits((d, BITS), generator) @ (np.uint64(1) << SHIFTS[::-1])
    matrices = _random_bits((d, BITS, BITS), generator)
    matrices *= BELOW
    columns = (np.uint64(1) << SHIFTS) @ matrices + (np.uint64(1) << SHIFTS)  # ones on the diagonal
    masks = _bits(d)[:, :, :n_numbers]
    scrambled: Numbers = np.bitwise_xor.reduce(columns[:, :, None] & masks, axis=1)
    return shift, scrambled


def _random_bits(shape: tuple[int, ...], generator: np.random.Generator) -> Numbers:
    """Draw 0 or 1 as `integers(2)` does, from the first bit of 32, in a third of its time."""
    words = generator.integers(1 << 32, size=shape, dtype=np.uint32)
    bits: Numbers = (words >> np.uint32(31)).astype(np.uint64)
    return bits


@lru_cache(maxsize=8)
def _bits(d: int) -> Numbers:
    """Make masks of the bits of the direction numbers, (d, BITS, BITS): all ones where a bit is set."""
    return np.uint64(0) - (directions(d)[:, None, :] >> SHIFTS[:, None] & np.uint64(1))


@lru_cache(maxsize=8)
def directions(d: int) -> Numbers:
    """Compute the direction numbers of d coordinates, (d, BITS), in units of 2^-BITS; read-only."""
    numbers = np.ones((d, BITS), np.uint64)
    with FILE.open(encoding="utf-8") as lines:
        rows = (line.split() for line in lines if not line.startswith("#"))
        for coordinate, (_, degree, polynomial, *first) in enumerate(islice(rows, d - 1), 1):
            numbers[coordinate] = _recurrence(int(degree), int(polynomial), [int(one) for one in first])
    numbers <<= SHIFTS
    numbers.flags.writeable = False
    return numbers


def _recurrence(degree: int, polynomial: int, first: list[int]) -> list[int]:
    """Continue the first numbers m of a coordinate to BITS of them (Joe and Kuo, eq. 2).

    polynomial: its coefficients but the first and the last, which are 1, as bits.
    """
    coefficients = [polynomial >> k & 1 for k in reversed(range(degree - 1))] + [1]
    m = list(first)
    while len(m) < BITS:
        new = m[-degree]
        for k, coefficient in enumerate(coefficients, 1):
            new ^= coefficient * m[-k] << k
        m.append(new)
    return m


def _points_of_scipy(n: int, d: int, seed: int) -> np.ndarray:
    """Draw the points where the file has not enough direction numbers."""
    from scipy.stats import qmc  # takes longer to import than varflow

    try:
        sequence = qmc.Sobol(d, bits=BITS, rng=seed)
    except TypeError:  # the argument's name before SciPy 1.15
        sequence = qmc.Sobol(d, bits=BITS, seed=seed)
    # In pieces whose sizes are powers of two, as SciPy warns of other sizes.
    pieces = [sequence.random(1 << k) for k in reversed(range(n.bit_length())) if n >> k & 1]
    return np.concatenate(pieces) if pieces else np.empty((0, d))
