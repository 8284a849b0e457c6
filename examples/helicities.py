"""A resonance of two helicities: `varflow integrate examples/helicities.py:f --dim 3 --discrete 0:2,1:2`."""

import numpy as np


def f(x):
    """Values (n,) at points x (n, 3): two states, each 0 or 1, and the mass, from 0 to 1."""
    first, second, mass = np.transpose(x * [2, 2, 1] - [1, 1, 0])
    width = 0.05 * (1 + 0.8 * first * second)
    return (1 + 0.5 * first) ** 2 * width / ((mass - 0.5) ** 2 + width**2)
