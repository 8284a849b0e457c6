"""Two Gaussian peaks on the diagonal of the unit cube: `varflow integrate examples/camel.py:f --dim 4`."""

import numpy as np

WIDTH = 0.2


def f(x):
    """Values (n,) at points x (n, d); each peak would hold half if nothing of it were beyond the cube."""
    norm = (WIDTH * np.sqrt(np.pi)) ** x.shape[1]
    peaks = [np.exp(-np.sum((x - centre) ** 2, axis=1) / WIDTH**2) for centre in (1 / 3, 2 / 3)]
    return (peaks[0] + peaks[1]) / (2 * norm)
