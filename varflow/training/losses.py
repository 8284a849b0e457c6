"""Losses that training minimises, each given by its value and its derivative with respect to log q."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from varflow.validation import unknown_name

__all__ = ["LOSSES", "Loss", "as_loss", "weighted_dkl_loss", "weighted_variance_loss"]


def weighted_variance_loss(fx: npt.ArrayLike, px: npt.ArrayLike, logqx: npt.ArrayLike) -> float:
    """Estimate the integral of f^2 / q: the variance of f/q over points x ~ q, up to a constant.

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

    Examples
    --------
    It is least where q is f over its integral, which is 1 here:

    >>> x = np.linspace(0.005, 0.995, 100)
    >>> fx, px = 2 * x, np.ones(100)
    >>> round(vf.weighted_variance_loss(fx, px, np.log(fx)), 6)
    1.0
    >>> round(vf.weighted_variance_loss(fx, px, np.zeros(100)), 4)
    1.3333
    """
    return float(np.mean(np.square(fx) / (px * np.exp(logqx))))


def weighted_variance_derivative(fx: np.ndarray, px: np.ndarray, logqx: np.ndarray) -> np.ndarray:
    """Compute the derivative of `weighted_variance_loss` with respect to each log q, (n,)."""
    return -(fx**2) / (px * np.exp(logqx)) / len(fx)


def weighted_dkl_loss(fx: npt.ArrayLike, px: npt.ArrayLike, logqx: npt.ArrayLike) -> float:
    """Estimate minus the integral of |f| log q: up to constants, how far q is from |f|.

    The estimate is the mean of -|f| log(q) / p over points x ~ p: the Kullback-Leibler divergence
    (Müller et al., arXiv 1808.03856, section 5), shifted and in units of the integral of |f|.

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

    Examples
    --------
    >>> x = np.linspace(0.005, 0.995, 100)
    >>> fx, px = 2 * x, np.ones(100)
    >>> vf.weighted_dkl_loss(fx, px, np.log(fx)) < vf.weighted_dkl_loss(fx, px, np.zeros(100))
    True
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

    Examples
    --------
    The integral of f^1.5 / q^0.5, which weights in the tail harm less than they harm the variance:

    >>> def value(fx, px, logqx):
    ...     return float(np.mean(fx**1.5 / (px * np.exp(0.5 * logqx))))
    >>> def derivative(fx, px, logqx):
    ...     return -0.5 * fx**1.5 / (px * np.exp(0.5 * logqx)) / len(fx)
    >>> loss = vf.Loss(value, derivative)
    >>> trainer = vf.BasicTrainer(vf.Flow(1, n_bins=4, d_hidden=8, seed=1), loss=loss)
    >>> x = np.random.default_rng(1).random((500, 1))
    >>> before = trainer.compute_loss(x, np.ones(500), x[:, 0])
    >>> trainer.train_on_target_batch(x, np.ones(500), x[:, 0], n_epochs=5)
    >>> trainer.compute_loss(x, np.ones(500), x[:, 0]) < before
    True
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
