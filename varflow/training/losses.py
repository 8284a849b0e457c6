"""Losses that training minimises, each given by its value and its derivative with respect to log q."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from varflow.validation import unknown_name

__all__ = ["LOSSES", "Loss", "as_loss", "weighted_dkl_loss", "weighted_variance_loss"]


def weighted_variance_loss(fx: npt.ArrayLike, px: npt.ArrayLike, logqx: npt.ArrayLike) -> float:
    r"""Estimate :math:`\int f^2 / q`, which is the variance of f/q over points x ~ q up to a constant.

    The estimate is the mean of f^2 / (p q) over points x ~ p. The loss is that of Müller et al.
    (arXiv 1808.03856, section 5); with points from another density p, it is that of ZüNIS
    (arXiv 2401.09069).

    Parameters
    ----------
    fx : array_like, (n,)
        Function values, of either sign.
    px : array_like, (n,)
        Density p at the points, in 1 / volume.
    logqx : array_like, (n,)
        Log of the density q at the points.

    Returns
    -------
    float
        The loss, in units of f^2 times volume^2.
    """
    return float(np.mean(np.square(fx) / (px * np.exp(logqx))))


def weighted_variance_derivative(fx: np.ndarray, px: np.ndarray, logqx: np.ndarray) -> np.ndarray:
    """Compute the derivative of `weighted_variance_loss` with respect to each log q, (n,)."""
    return -(fx**2) / (px * np.exp(logqx)) / len(fx)


def weighted_dkl_loss(fx: npt.ArrayLike, px: npt.ArrayLike, logqx: npt.ArrayLike) -> float:
    r"""Estimate :math:`-\int |f| \log q`, the Kullback-Leibler divergence of q from |f| up to constants.

    The estimate is the mean of -|f| log(q) / p over points x ~ p (Müller et al., arXiv 1808.03856,
    section 5).

    Parameters
    ----------
    fx : array_like, (n,)
        Function values, of either sign.
    px : array_like, (n,)
        Density p at the points, in 1 / volume.
    logqx : array_like, (n,)
        Log of the density q at the points.

    Returns
    -------
    float
        The loss, in units of f times volume.
    """
    return float(-np.mean(np.abs(fx) / px * np.asarray(logqx)))


def weighted_dkl_derivative(fx: np.ndarray, px: np.ndarray, logqx: np.ndarray) -> np.ndarray:
    """Compute the derivative of `weighted_dkl_loss` with respect to each log q, (n,)."""
    return -np.abs(fx) / px / len(fx)


class Loss(NamedTuple):
    """Loss as a pair of NumPy functions of f (n,), p (n,) and log q (n,).

    In training, they get |f|, scaled such that the mean of |f|/p over all points is one.

    Parameters
    ----------
    value : callable
        (fx, px, logqx) -> float.
    derivative : callable
        (fx, px, logqx) -> (n,), the derivative of the value with respect to each log q.
    power : int or None
        Power of f in the two losses that are built into the kernels, None for all others. The kernels compute
        these losses from logarithms, which neither overflow nor underflow.
    """

    value: Callable[..., float]
    derivative: Callable[..., np.ndarray]
    power: int | None = None


LOSSES = {
    "variance": Loss(weighted_variance_loss, weighted_variance_derivative, power=2),
    "dkl": Loss(weighted_dkl_loss, weighted_dkl_derivative, power=1),
}


def as_loss(loss: object) -> Loss:
    """Convert the argument of a trainer to a `Loss`.

    Parameters
    ----------
    loss : str, Loss or pair of callables
        "variance", "dkl", or (value, derivative) as in `Loss`.

    Returns
    -------
    Loss
        The loss.

    Raises
    ------
    TypeError
        If `loss` is none of these.
    ValueError
        If the name is unknown.
    """
    if isinstance(loss, str):
        if loss not in LOSSES:
            raise unknown_name("loss", loss, LOSSES)
        return LOSSES[loss]
    if isinstance(loss, Loss):
        return loss
    if isinstance(loss, tuple | list) and len(loss) == 2 and all(map(callable, loss)):
        return Loss(*loss)
    raise TypeError(f"loss must be a name, a Loss or a pair (value, derivative) of functions, got {loss!r}")
