"""Log likelihoods on the unit cube, (n, d) -> (n,), with the logs of their evidences, Z."""

from collections.abc import Callable

import numpy as np

SHELL_CENTRES, SHELL_RADIUS, SHELL_DEVIATION = (3.5, -3.5), 2.0, 0.1
SHELL_SIDE, ROSENBROCK_SIDE = 12.0, 10.0  # of the boxes of flat priors


def log_shells(u: np.ndarray) -> np.ndarray:
    """Log likelihood of two Gaussian shells (Feroz and Hobson, MNRAS 384 (2008) 449, section 6.2)."""
    x = SHELL_SIDE * (u - 0.5)
    radii = [np.sqrt(np.square(x[:, 0] - c) + np.square(x[:, 1:]).sum(axis=1)) for c in SHELL_CENTRES]
    logs = [-0.5 * np.square((r - SHELL_RADIUS) / SHELL_DEVIATION) for r in radii]
    log_sum: np.ndarray = np.logaddexp(*logs) - 0.5 * np.log(2 * np.pi * SHELL_DEVIATION**2)
    return log_sum


def log_rosenbrock(u: np.ndarray) -> np.ndarray:
    """Log likelihood whose peak is a thin bent ridge."""
    x = ROSENBROCK_SIDE * (u - 0.5)
    log: np.ndarray = -np.sum(100 * (x[:, 1:] - x[:, :-1] ** 2) ** 2 + (1 - x[:, :-1]) ** 2, axis=1)
    return log


EVIDENCES: dict[str, tuple[Callable[[np.ndarray], np.ndarray], int, float]] = {  # with d and log Z
    "shells2": (log_shells, 2, -1.74564),
    "shells5": (log_shells, 5, -5.67360),
    "shells10": (log_shells, 10, -14.59),
    "rosenbrock2": (log_rosenbrock, 2, -5.8041324),
    "rosenbrock4": (log_rosenbrock, 4, -15.1016907),
}
