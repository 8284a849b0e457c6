"""Iterations of an integration, and packing of their history into arrays."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "LOG_OF_2",
    "Array",
    "Iteration",
    "check_history",
    "pack_history",
    "scaled",
    "times_power",
    "unpack_history",
]

Array = npt.NDArray[Any]
LOG_OF_2 = math.log(2)
FARTHEST = 4096  # power of two that takes any float64 to 0 or infinity
_HISTORY = {  # members of a file with one row per iteration; the stages are in the header instead
    "n_calls": np.dtype(np.int64),
    "mean": np.dtype(np.float64),
    "covariance": np.dtype(np.float64),
    "ess": np.dtype(np.float64),
    "seconds": np.dtype(np.float64),
    "is_used": np.dtype(np.bool_),
    "weight": np.dtype(np.float64),
    "error_dof": np.dtype(np.float64),
}


@dataclass(frozen=True, eq=False)
class Iteration:
    """Iteration of an integration.

    Parameters
    ----------
    stage : str
        "survey", which trains the flow, or "refine"; or one of two without an estimate: "scouts", the MCMC
        probe for regions that the flow has lost, and "regain", which draws points in them.
    n_calls : int
        Number of points.
    mean : ndarray, (m,)
        Estimate of each component.
    covariance : ndarray, (m, m) or (m,)
        Covariance of the mean, or the variances alone where covariances are not kept.
    ess : float
        Effective sample size as a fraction of the points.
    seconds : float
        Time taken.
    is_used : bool
        Whether it contributes to the result.
    weight : float
        Its share in the result, relative to the other iterations that contribute. It must not depend on the
        values of f, or the result would be biased.
    error_dof : float
        Degrees of freedom of the error, which is the standard deviation of Student's t: those of the scatter
        of batches. Infinite where that is not known.

    Examples
    --------
    >>> result = vf.integrate(lambda x: x[:, 0], 2, n_calls=300, seed=1)
    >>> iteration = result.history[-1]
    >>> iteration.stage, iteration.n_calls, iteration.is_used
    ('refine', 300, True)
    >>> iteration.mean.shape, iteration.covariance.shape
    ((1,), (1, 1))
    """

    stage: str
    n_calls: int
    mean: Array
    covariance: Array
    ess: float
    seconds: float
    is_used: bool
    weight: float
    error_dof: float = math.inf


def times_power(values: npt.ArrayLike, exponent: int) -> Array:
    """Multiply values by 2^exponent; they may underflow to 0 or overflow to inf."""
    with np.errstate(over="ignore", under="ignore"):
        product: Array = np.ldexp(values, max(-FARTHEST, min(exponent, FARTHEST)))
    return product


def scaled(iteration: Iteration, exponent: int) -> Iteration:
    """Multiply an iteration's integrand by 2^exponent; a covariance may underflow to 0 or overflow to inf."""
    if exponent == 0:
        return iteration
    mean, covariance = times_power(iteration.mean, exponent), times_power(iteration.covariance, 2 * exponent)
    return replace(iteration, mean=mean, covariance=covariance)


def check_history(history: list[Iteration], m: int) -> None:
    """Raise ValueError unless the shapes and weights are valid and at least one iteration is used."""
    for number, iteration in enumerate(history, 1):
        shapes = np.shape(iteration.mean), np.shape(iteration.covariance)
        if shapes not in (((m,), (m, m)), ((m,), (m,))):
            raise ValueError(
                f"mean and covariance of iteration {number} must have shapes ({m},) and ({m}, {m}), or "
                f"({m},) twice, found {shapes[0]} and {shapes[1]}"
            )
        if iteration.is_used and not 0 < iteration.weight < math.inf:
            raise ValueError(f"the weight of iteration {number} must be above 0, got {iteration.weight}")
    if not any(iteration.is_used for iteration in history):
        raise ValueError("a result needs an iteration that is used")


def pack_history(history: Sequence[Iteration], m: int) -> dict[str, Array]:
    """Pack all but the stages into arrays with one row per iteration, for m components."""
    rows = {"mean": (m,), "covariance": history[0].covariance.shape if history else (m, m)}
    return {
        name: np.array([getattr(one, name) for one in history], dtype).reshape(
            len(history), *rows.get(name, ())
        )
        for name, dtype in _HISTORY.items()
    }


def unpack_history(stages: list[str], arrays: dict[str, Array], m: int) -> list[Iteration]:
    """Rebuild the iterations, after a check of types and shapes, since a file may be inconsistent."""
    columns = {}
    rows = {"mean": (m,), "covariance": (m,) if arrays["covariance"].ndim == 2 else (m, m)}
    for name, dtype in _HISTORY.items():
        shape = (len(stages), *rows.get(name, ()))
        column = arrays[name]
        if column.dtype.newbyteorder("=") != dtype or column.shape != shape:
            raise ValueError(
                f"{name} must be {dtype} of shape {shape}, found {column.dtype} of shape {column.shape}"
            )
        column = column.astype(dtype)
        columns[name] = [*column] if name in ("mean", "covariance") else column.tolist()
    return [
        Iteration(stage=stage, **dict(zip(columns, values, strict=True)))
        for stage, *values in zip(stages, *columns.values(), strict=True)
    ]
