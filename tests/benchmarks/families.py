"""Families of integrands f(x, theta) on the unit cube, with their integrals."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

N_THETA = 100


class Family(NamedTuple):
    """A function of x (n, d) and theta (n, 1), its values of theta (n_theta, 1), and the integrals there."""

    f: Callable[[np.ndarray, np.ndarray], np.ndarray]
    d: int
    theta: np.ndarray
    exact: Callable[[float], float]


WIDTH = 0.02  # of the resonance, whose mass runs over ten of it


def resonance(x: np.ndarray, theta: np.ndarray) -> np.ndarray:
    """Breit-Wigner peak in the mean of two coordinates, at the mass theta, times a slope in a third one."""
    mass = (x[:, 0] + x[:, 1]) / 2
    peak = WIDTH / (2 * np.pi) / ((mass - theta[:, 0]) ** 2 + WIDTH**2 / 4)
    return peak * (0.5 + 1.5 * x[:, 2] ** 2)


def resonance_exact(theta: float) -> float:
    """Integrate the peak times the density of the mean of two uniform coordinates, a triangle."""

    def part(lower: float, upper: float, at_theta: float, slope: float) -> float:
        low, high = lower - theta, upper - theta
        flat = (math.atan(2 * high / WIDTH) - math.atan(2 * low / WIDTH)) / math.pi
        ratio = (high**2 + WIDTH**2 / 4) / (low**2 + WIDTH**2 / 4)
        return at_theta * flat + slope * WIDTH / (4 * math.pi) * math.log(ratio)

    return part(0, 0.5, 4 * theta, 4) + part(0.5, 1, 4 * (1 - theta), -4)


SPREAD = 0.07  # of the peaks of the camel


def camel(x: np.ndarray, theta: np.ndarray) -> np.ndarray:
    """Two Gaussian peaks that move towards each other along the diagonal as theta runs from 0 to 1."""
    peaks = [
        np.exp(-0.5 * np.square((x - place) / SPREAD).sum(axis=1))
        for place in (0.3 + 0.2 * theta, 0.75 - 0.2 * theta)
    ]
    return (peaks[0] + peaks[1]) / (2 * (SPREAD * math.sqrt(2 * math.pi)) ** x.shape[1])


def camel_exact(theta: float) -> float:
    """Integrate both peaks over the cube."""

    def inside(place: float) -> float:
        low, high = (math.erf((edge - place) / (SPREAD * math.sqrt(2))) for edge in (0, 1))
        return (high - low) / 2

    return (inside(0.3 + 0.2 * theta) ** 4 + inside(0.75 - 0.2 * theta) ** 4) / 2


FAMILIES = {
    "resonance whose mass runs over ten widths, d=3": Family(
        resonance, 3, np.linspace(0.4, 0.6, N_THETA)[:, None], resonance_exact
    ),
    "camel with moving peaks, d=4": Family(camel, 4, np.linspace(0, 1, N_THETA)[:, None], camel_exact),
}
