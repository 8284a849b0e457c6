"""Test integrands on the unit cube: (n, d) -> (n,), with their integrals.

`IFLOW` and `CAMEL` are published, with what others needed; `CHEAP` are eight shapes that cost little, for
comparisons in seconds.
"""

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from scipy.integrate import quad
from scipy.special import erf

WIDTH = 0.2  # of the Gaussians of arXiv 2001.05486, sqrt(2) standard deviations
RADII = 0.2, 0.45  # of the annulus


def gauss(x: np.ndarray) -> np.ndarray:
    """A Gaussian in the middle (Gao et al., arXiv 2001.05486)."""
    return np.exp(-np.sum((x - 0.5) ** 2, axis=1) / WIDTH**2) / (WIDTH * np.sqrt(np.pi)) ** x.shape[1]


def camel(x: np.ndarray) -> np.ndarray:
    """Two Gaussians on the diagonal (arXiv 2001.05486)."""
    peaks = (np.exp(-np.sum((x - center) ** 2, axis=1) / WIDTH**2) for center in (1 / 3, 2 / 3))
    return 0.5 * sum(peaks) / (WIDTH * np.sqrt(np.pi)) ** x.shape[1]


def circles(x: np.ndarray) -> np.ndarray:
    """Two overlapping rings of uneven height in two dimensions (arXiv 2001.05486)."""
    u, v = x.T

    def ring(a: float, b: float) -> np.ndarray:
        return np.exp(-np.abs((u - a) ** 2 + (v - b) ** 2 - 0.25**2) / 0.004)

    return v**3 * ring(0.4, 0.6) + (1 - v) ** 3 * ring(0.6, 0.4)


def annulus(x: np.ndarray) -> np.ndarray:
    """1 between two circles around the middle of two dimensions, 0 elsewhere (arXiv 2001.05486)."""
    squared = np.sum((x - 0.5) ** 2, axis=1)
    inner, outer = RADII
    return ((squared > inner**2) & (squared < outer**2)).astype(float)


def box(x: np.ndarray) -> np.ndarray:
    """Scalar one-loop box with a top quark in the loop and one massive leg, in GeV (arXiv 2001.05486).

    Each of four sectors gives the largest of four Feynman parameters to another propagator.
    """
    s, t, top = 130.0**2, -(130.0**2) / 2, 175.0
    legs = [0.0, 0.0, 0.0, 125.0**2]
    t1, t2, t3 = x.T
    total = np.zeros(len(x))
    for sector in range(4):
        m1, m2, m3, m4 = legs[sector + 1 :] + legs[: sector + 1]
        one, other = (t, s) if sector % 2 == 0 else (s, t)
        momenta = one * t2 + other * t1 * t3 + m1 * t1 + m2 * t1 * t2 + m3 * t2 * t3 + m4 * t3
        total += ((1 + t1 + t2 + t3) ** 2 * top**2 - momenta) ** -2.0
    return total


def polynomial(x: np.ndarray) -> np.ndarray:
    """Sum of x (1 - x) over the dimensions (arXiv 2001.05486)."""
    return np.sum(x * (1 - x), axis=1)


def zunis_camel(x: np.ndarray, sigma: float) -> np.ndarray:
    """Two normal densities on the diagonal (Deutschmann and Götz, arXiv 2401.09069)."""
    peaks = (np.exp(-np.sum((x - center) ** 2, axis=1) / (2 * sigma**2)) for center in (0.25, 0.75))
    return sum(peaks) / (sigma * np.sqrt(2 * np.pi)) ** x.shape[1]


RIDGE_WIDTH = 0.05
CORRELATION, DEVIATION = 0.9, 0.08  # of the correlated Gaussian
MASSES, DECAY_WIDTH = (0.7, 1.1), 0.02  # of the resonances in sums of two coordinates
SHELL_RADIUS, SHELL_WIDTH = 0.3, 0.02
STEEPNESS = 5.0  # of the corner peak
NARROW_WIDTH, NARROW_CENTRE = 0.05, np.array([0.35, 0.6, 0.45, 0.3, 0.65, 0.5])


def ridge(x: np.ndarray) -> np.ndarray:
    """Ridges along the diagonals of two planes, in four dimensions."""
    return np.exp(-((x[:, 0] - x[:, 1]) ** 2 + (x[:, 2] - x[:, 3]) ** 2) / RIDGE_WIDTH**2)


def correlated_gaussian(x: np.ndarray) -> np.ndarray:
    """Normal density in the middle, each pair of coordinates with the same correlation."""
    d = x.shape[1]
    y = (x - 0.5) / DEVIATION
    along = 1 + (d - 1) * CORRELATION  # eigenvalues of the correlation matrix
    across = 1 - CORRELATION
    mean = y.mean(axis=1)
    form = d * mean**2 / along + np.sum((y - mean[:, None]) ** 2, axis=1) / across
    norm = np.sqrt((2 * np.pi) ** d * along * across ** (d - 1)) * DEVIATION**d
    return np.exp(-0.5 * form) / norm


def breit_wigner(s: np.ndarray, mass: float) -> np.ndarray:
    """Resonance at s = mass."""
    return DECAY_WIDTH / ((s - mass) ** 2 + DECAY_WIDTH**2)


def resonances(x: np.ndarray) -> np.ndarray:
    """Product of two resonances, each in the sum of two of four coordinates."""
    first, second = x[:, 0] + x[:, 1], x[:, 2] + x[:, 3]
    return breit_wigner(first, MASSES[0]) * breit_wigner(second, MASSES[1])


def shell(x: np.ndarray) -> np.ndarray:
    """Gaussian shell around the middle."""
    radius = np.sqrt(np.sum((x - 0.5) ** 2, axis=1))
    return np.exp(-((radius - SHELL_RADIUS) ** 2) / SHELL_WIDTH**2)


def corner(x: np.ndarray) -> np.ndarray:
    """Peak in a corner (Genz, "Testing multidimensional integration routines", 1984, his third family)."""
    return (1 + STEEPNESS * np.sum(x, axis=1)) ** -(x.shape[1] + 1.0)


def narrow_peak(x: np.ndarray) -> np.ndarray:
    """One narrow Gaussian off the middle of six dimensions."""
    norm = (NARROW_WIDTH * np.sqrt(np.pi)) ** x.shape[1]
    return np.exp(-np.sum((x - NARROW_CENTRE) ** 2, axis=1) / NARROW_WIDTH**2) / norm


# What the other benchmarks take, each for the number of dimensions in its name.
gauss4, camel4, poly18 = gauss, camel, polynomial


class Case(NamedTuple):
    """An integrand and its integral.

    Attributes
    ----------
    d : int
        Number of dimensions.
    f : callable
        (n, d) -> (n,).
    exact : float
        The integral.
    millions : dict
        Millions of calls of f that i-flow, VEGAS and Foam needed to reach rtol, without those that did not
        within 50 million calls or the memory they had.
    rtol : float
        A relative uncertainty.
    zunis_gain : float or None
        Variance a point of VEGAS (unstratified) over that of ZüNIS, after 10 iterations of 100 000 points.
    """

    d: int
    f: Callable[[np.ndarray], np.ndarray]
    exact: float
    millions: dict[str, float]
    rtol: float = 1e-4
    zunis_gain: float | None = None

    @property
    def best_peer(self) -> float:
        """Least number of calls, in millions."""
        return min(self.millions.values())


def _share(center: float, width: float) -> float:
    """Integral from 0 to 1 of a Gaussian, of which that over the line is 1; width is sqrt(2) deviations."""
    return 0.5 * (erf(center / width) + erf((1 - center) / width))


def _gauss(d: int, **millions: float) -> Case:
    return Case(d, gauss, _share(0.5, WIDTH) ** d, millions)


def _camel(d: int, **millions: float) -> Case:
    return Case(d, camel, _share(1 / 3, WIDTH) ** d, millions)


def _polynomial(d: int, **millions: float) -> Case:
    return Case(d, polynomial, d / 6, millions, rtol=1e-5)


def _zunis_camel(d: int, sigma: float, gain: float) -> Case:
    exact = 2 * _share(0.25, np.sqrt(2) * sigma) ** d
    return Case(d, partial(zunis_camel, sigma=sigma), exact, {}, zunis_gain=gain)


IFLOW = {  # arXiv 2001.05486; the calls are from the log `runs.log` of its code
    "gauss2": _gauss(2, iflow=2.310, vegas=0.164, foam=6.26),
    "gauss4": _gauss(4, iflow=2.285, vegas=0.632, foam=24.1),
    "gauss8": _gauss(8, iflow=3.095, vegas=1.300),
    "gauss16": _gauss(16, iflow=7.230, vegas=2.772),
    "camel2": _camel(2, iflow=2.225, vegas=0.421, foam=5.62),
    "camel4": _camel(4, iflow=8.220, vegas=24.14, foam=21.8),
    "camel8": _camel(8, iflow=19.46),
    "camel16": _camel(16, iflow=32.15),  # VEGAS lost a peak
    # Integrated in polar coordinates around each ring; what the square cuts off is less than 1e-11 of it.
    "circles": Case(2, circles, 0.01368477672, {"iflow": 23.1, "vegas": 43.4, "foam": 17.5}),
    "annulus": Case(
        2,
        annulus,
        np.pi * (RADII[1] ** 2 - RADII[0] ** 2),
        {"iflow": 17.4, "vegas": 4.98, "foam": 11.2},
    ),
    "box": Case(3, box, 1.93696402386819321e-10, {"iflow": 0.685, "vegas": 0.153, "foam": 5.29}),
    "poly18": _polynomial(18, iflow=0.585, vegas=42.8),
    "poly54": _polynomial(54, iflow=0.685),
    "poly96": _polynomial(96, iflow=1.145),
}

CAMEL = {  # arXiv 2401.09069, whose table is `benchmarks_03` of its code
    f"zcamel{d}_{sigma:g}": _zunis_camel(d, sigma, gain)
    for d, sigma, gain in [
        (2, 0.0200, 76),
        (4, 0.0893, 600),
        (8, 0.2039, 4300),
        (16, 0.3613, 900),
        (2, 0.0632, 200),
        (4, 0.1635, 580),
        (8, 0.3145, 510),
        (16, 0.4639, 280),
        (2, 0.2208, 340),
        (4, 0.3784, 100),
        (8, 0.5225, 35),
        (16, 0.6672, 19),
        (2, 0.4510, 63),
        (4, 0.5933, 20),
        (8, 0.7434, 7.2),
        (16, 0.9112, 2.8),
    ]
}


def _resonance(mass: float) -> float:
    """Integral of a resonance in the sum of two coordinates, whose density is a triangle."""
    nodes = sorted([0.0, mass - DECAY_WIDTH, mass, mass + DECAY_WIDTH, 1.0, 2.0])
    return sum(
        quad(lambda s: (1 - abs(s - 1)) * breit_wigner(s, mass), *piece, epsabs=0, epsrel=1e-12)[0]
        for piece in pairwise(nodes)
    )


def _shell(d: int) -> float:
    """Integral of the shell over four dimensions; what the cube cuts off is below 10^-40."""
    if d != 4:
        raise ValueError(f"the area of the sphere is that of four dimensions, got {d}")
    radial = quad(
        lambda r: r**3 * np.exp(-((r - SHELL_RADIUS) ** 2) / SHELL_WIDTH**2), 0, 0.5,
        points=[SHELL_RADIUS], epsabs=0, epsrel=1e-12,
    )[0]  # fmt: skip
    return 2 * np.pi**2 * radial


def _ridge() -> float:
    root = RIDGE_WIDTH * np.sqrt(np.pi) * erf(1 / RIDGE_WIDTH)
    return (root - RIDGE_WIDTH**2 * (1 - np.exp(-1 / RIDGE_WIDTH**2))) ** 2


CHEAP = {
    "two peaks": Case(4, camel, IFLOW["camel4"].exact, {}),
    "ridge": Case(4, ridge, _ridge(), {}),
    "correlated Gaussian": Case(6, correlated_gaussian, 1.0, {}),  # less 10^-9 beyond the cube
    "resonances": Case(4, resonances, _resonance(MASSES[0]) * _resonance(MASSES[1]), {}),
    "rings": IFLOW["circles"],
    "shell": Case(4, shell, _shell(4), {}),
    "corner": Case(5, corner, 1 / float(np.prod(1 + STEEPNESS * np.arange(6))), {}),
    "narrow peak": Case(6, narrow_peak, float(np.prod([_share(c, NARROW_WIDTH) for c in NARROW_CENTRE])), {}),
}
