"""Published test integrands on the unit cube: (n, d) -> (n,)."""

import numpy as np


def camel4(x: np.ndarray) -> np.ndarray:
    """Two Gaussians on the diagonal in four dimensions (Gao et al., arXiv 2001.05486)."""
    a = 0.2
    peaks = (np.exp(-np.sum((x - center) ** 2, axis=1) / a**2) for center in (1 / 3, 2 / 3))
    return 0.5 * sum(peaks) / (a * np.sqrt(np.pi)) ** 4


def circles(x: np.ndarray) -> np.ndarray:
    """Two overlapping rings of uneven height in two dimensions (arXiv 2001.05486)."""
    u, v = x.T

    def ring(a: float, b: float) -> np.ndarray:
        return np.exp(-np.abs((u - a) ** 2 + (v - b) ** 2 - 0.25**2) / 0.004)

    return v**3 * ring(0.4, 0.6) + (1 - v) ** 3 * ring(0.6, 0.4)


def gauss4(x: np.ndarray) -> np.ndarray:
    """A Gaussian in the middle of four dimensions (arXiv 2001.05486)."""
    a = 0.2
    return np.exp(-np.sum((x - 0.5) ** 2, axis=1) / a**2) / (a * np.sqrt(np.pi)) ** 4


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


def poly18(x: np.ndarray) -> np.ndarray:
    """Sum of x (1 - x) over eighteen dimensions (arXiv 2001.05486)."""
    return np.sum(x * (1 - x), axis=1)
