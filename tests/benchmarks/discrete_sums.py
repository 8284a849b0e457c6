"""Sums over discrete states, of integrals or alone, whose exact values are known."""

from collections.abc import Callable
from math import erf, pi, sqrt
from typing import NamedTuple

import numpy as np

__all__ = ["SUMS", "DiscreteSum"]


class DiscreteSum(NamedTuple):
    """A sum over states: of points (n, D + d), whose first D columns are the states, (n,) values."""

    f: Callable[[np.ndarray], np.ndarray]
    sizes: list[int]  # numbers of states
    d: int  # dimensions of the unit cube besides
    exact: float


def helicities(x: np.ndarray) -> np.ndarray:
    """Two helicities, an angle, and a resonance whose place and width depend on them."""
    first, second, cosine, mass = 2 * x[:, 0] - 1, 2 * x[:, 1] - 1, 2 * x[:, 2] - 1, x[:, 3]
    width = 0.05 * (1 + 0.8 * first * second)
    peak = width / ((mass - 0.5 - 0.1 * first * second) ** 2 + width**2)
    return (1 + first * cosine) ** 2 * (1 + 0.5 * second * cosine) ** 2 * peak


def exact_helicities() -> float:
    """Integrate it over each helicity: polynomials of the cosine times an arc tangent."""
    cosine, weights = np.polynomial.legendre.leggauss(8)
    total = 0.0
    for first in (-1, 1):
        for second in (-1, 1):
            width, place = 0.05 * (1 + 0.8 * first * second), 0.5 + 0.1 * first * second
            angles = weights @ ((1 + first * cosine) ** 2 * (1 + 0.5 * second * cosine) ** 2) / 2
            total += float(angles * (np.arctan((1 - place) / width) + np.arctan(place / width)))
    return total


def flavours(x: np.ndarray) -> np.ndarray:
    """Five flavours with Gaussians of their own, whose cross sections differ by up to a thousand times."""
    k = x[:, 0].astype(np.int64)
    squares = np.square((x[:, 1:] - np.linspace(0.3, 0.7, 5)[k][:, None]) / 0.05).sum(axis=1)
    return 10.0 ** -np.array([0, 2, 1, 3, 2])[k] * np.exp(-0.5 * squares)


def exact_flavours() -> float:
    """Give the sum of products of error functions."""
    total = 0.0
    for power, place in zip([0, 2, 1, 3, 2], np.linspace(0.3, 0.7, 5), strict=True):
        side = erf((1 - place) / (0.05 * sqrt(2))) + erf(place / (0.05 * sqrt(2)))
        total += 10.0**-power * (side * 0.05 * sqrt(pi / 2)) ** 3
    return total


def spins(x: np.ndarray) -> np.ndarray:
    """Boltzmann weight of an Ising chain that is closed to a ring, in a field."""
    s = 2 * x - 1
    return np.exp(0.4 * (s * np.roll(s, 1, axis=1)).sum(axis=1) + 0.1 * s.sum(axis=1))


def exact_spins(n: int) -> float:
    """Give the partition function by the transfer matrix."""
    return float(np.trace(np.linalg.matrix_power(np.exp([[0.5, -0.4], [-0.4, 0.3]]), n)))


SUMS = {
    "helicities": DiscreteSum(helicities, [2, 2], 2, exact_helicities()),
    "flavours": DiscreteSum(flavours, [5], 3, exact_flavours()),
    "spins16": DiscreteSum(spins, [2] * 16, 0, exact_spins(16)),
    "spins24": DiscreteSum(spins, [2] * 24, 0, exact_spins(24)),
}
