"""stub"""

from typing import NamedTuple


class Normalization(NamedTuple):
    factor: float
    error: float
    is_wrong: bool


def estimate_normalization(x, logpx, bounds):
    return Normalization(1.0, 0.0, False)
