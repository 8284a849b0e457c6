"""Integrals from people's work, on the unit cube: (n, d) -> (n,), with exact values.

Feynman integrals and path integrals, Bayesian evidences, options; and shapes on which VEGAS is at home:
narrow along axes, separable, or singular on faces.
"""

from collections.abc import Callable

import numpy as np
from integrands import Case
from scipy.special import erf, ndtr, ndtri

PATH_TIME, PATH_SIDE = 4.0, 10.0  # of the oscillator; positions are in a box of that side
PRIOR_OF_SHELLS, PRIOR_OF_ROSENBROCK = 12.0, 10.0  # sides of the boxes of flat priors
SHELL_CENTRES, SHELL_RADIUS, SHELL_DEVIATION = (3.5, -3.5), 2.0, 0.1
RATE, VOLATILITY, PRICE = 0.05, 0.2, 100.0  # of the asset, for a year


def banana(x: np.ndarray) -> np.ndarray:
    """Vacuum integral of d loops in two dimensions with unit masses, over Feynman parameters.

    Spacings of sorted uniform numbers are uniform on the simplex of the d + 1 parameters.
    """
    n, d = x.shape
    edges = np.concatenate([np.zeros((n, 1)), np.sort(x, axis=1), np.ones((n, 1))], axis=1)
    parameters = np.diff(edges, axis=1)
    polynomial = sum(np.prod(np.delete(parameters, k, axis=1), axis=1) for k in range(d + 1))
    return 1 / polynomial / np.prod(np.arange(1.0, d + 1))


def oscillator(x: np.ndarray, quartic: float) -> np.ndarray:
    """Path integral of an oscillator with a quartic term, periodic, in d steps."""
    d, position = x.shape[1], PATH_SIDE * (x - 0.5)
    step = PATH_TIME / d
    kinetic = (position - np.roll(position, 1, axis=1)) ** 2 / (2 * step)
    potential = step * (position**2 / 2 + quartic * position**4)
    norm = (PATH_SIDE / np.sqrt(2 * np.pi * step)) ** d
    return norm * np.exp(-np.sum(kinetic + potential, axis=1))


def gaussian_shells(x: np.ndarray) -> np.ndarray:
    """Likelihood of two Gaussian shells, averaged over a flat prior."""
    y = PRIOR_OF_SHELLS * (x - 0.5)
    total = np.zeros(len(x))
    for centre in SHELL_CENTRES:
        shifted = np.concatenate([y[:, :1] - centre, y[:, 1:]], axis=1)
        distance = np.linalg.norm(shifted, axis=1) - SHELL_RADIUS
        total += np.exp(-0.5 * (distance / SHELL_DEVIATION) ** 2)
    return total / (np.sqrt(2 * np.pi) * SHELL_DEVIATION)


def rosenbrock(x: np.ndarray) -> np.ndarray:
    """Likelihood of Rosenbrock's valley, averaged over a flat prior."""
    y = PRIOR_OF_ROSENBROCK * (x - 0.5)
    return np.exp(-np.sum(100 * (y[:, 1:] - y[:, :-1] ** 2) ** 2 + (1 - y[:, :-1]) ** 2, axis=1))


def asian_option(strike: float) -> Callable[[np.ndarray], np.ndarray]:
    """Call option on the geometric mean of the prices at d dates."""

    def f(x: np.ndarray) -> np.ndarray:
        d = x.shape[1]
        walk = np.cumsum(ndtri(x), axis=1) / np.sqrt(d)
        drift = (RATE - VOLATILITY**2 / 2) * np.arange(1, d + 1) / d
        mean_price = PRICE * np.exp(np.mean(drift + VOLATILITY * walk, axis=1))
        return np.exp(-RATE) * np.maximum(mean_price - strike, 0)

    return f


def asian_price(strike: float, d: int) -> float:
    """Its price, as the geometric mean of the prices at d dates is log-normal."""
    variance = VOLATILITY**2 * (d + 1) * (2 * d + 1) / (6 * d**2)
    mean = np.log(PRICE) + (RATE - VOLATILITY**2 / 2) * (d + 1) / (2 * d)
    root = np.sqrt(variance)
    upper = (mean - np.log(strike) + variance) / root
    return float(np.exp(-RATE) * (np.exp(mean + variance / 2) * ndtr(upper) - strike * ndtr(upper - root)))


def normal(centre: float, deviation: float) -> Callable[[np.ndarray], np.ndarray]:
    """Normal density, the same in all coordinates."""

    def f(x: np.ndarray) -> np.ndarray:
        norm = (np.sqrt(2 * np.pi) * deviation) ** x.shape[1]
        return np.exp(-0.5 * np.sum(((x - centre) / deviation) ** 2, axis=1)) / norm

    return f


def _inside(centre: float, deviation: float) -> float:
    """Integral of one coordinate's normal density from 0 to 1."""
    root = np.sqrt(2) * deviation
    return 0.5 * (erf((1 - centre) / root) + erf(centre / root))


APPLICATIONS = {
    # Of `banana`: numerically in position space. Of the oscillators: by the transfer matrix of the lattice.
    # Of shells and valleys: radial integrals, and one coordinate after the other.
    "banana3": Case(3, banana, 8.414398322117, {}),
    "oscillator8": Case(8, lambda x: oscillator(x, 0.0), 0.1407916553, {}),
    "quartic8": Case(8, lambda x: oscillator(x, 0.2), 0.0952640068, {}),
    "shells2": Case(2, gaussian_shells, float(np.exp(-1.74564)), {}),
    "shells5": Case(5, gaussian_shells, float(np.exp(-5.67360)), {}),
    "rosenbrock2": Case(2, rosenbrock, float(np.exp(-5.8041324)), {}),
    "rosenbrock4": Case(4, rosenbrock, float(np.exp(-15.1016907)), {}),
    "asian16_100": Case(16, asian_option(100.0), 5.8416723547, {}),
    "asian16_130": Case(16, asian_option(130.0), 0.1191372341, {}),
    "needle1": Case(1, normal(0.62, 3e-4), 1.0, {}),
    "needle3": Case(3, normal(0.45, 2e-3), 1.0, {}),
    "root2": Case(2, lambda x: np.prod(x**-0.5, axis=1), 4.0, {}),
    "edge1": Case(1, lambda x: (1 - x[:, 0]) ** -0.8, 5.0, {}),
    "diagonal2": Case(2, lambda x: np.abs(x[:, 0] - x[:, 1]) ** -0.5, 8 / 3, {}),
    "log3": Case(3, lambda x: np.prod(-np.log(x), axis=1), 1.0, {}),
    "wide30": Case(30, normal(0.5, 0.3), _inside(0.5, 0.3) ** 30, {}),
    "decay6": Case(6, lambda x: np.exp(-2 * np.sum(x, axis=1)), ((1 - np.exp(-2)) / 2) ** 6, {}),
}

MANY_DIMENSIONS = {
    "narrow20": Case(20, normal(0.5, 0.1), _inside(0.5, 0.1) ** 20, {}),
    "narrow100": Case(100, normal(0.5, 0.2), _inside(0.5, 0.2) ** 100, {}),
    "asian64_100": Case(64, asian_option(100.0), asian_price(100.0, 64), {}),
}
