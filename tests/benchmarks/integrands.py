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
