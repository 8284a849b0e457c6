"""Discrete coordinates: those that are one of k states, numbered from 0, and no point of an interval.

A sum over states is written as an integral: a discrete coordinate lies in [0, k), and its state is the whole
number below it. So all that is known of boxes holds of it, with the interval (0, k) as its bounds, and the
density of a point, for one unit of the coordinate, is the probability of its state.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from varflow.data.arrays import FloatArray, as_floats, check_rows, is_unbounded
from varflow.validation import positive_int

__all__ = ["Discrete", "bounds_of_states", "check_whole", "checked_discrete", "separated", "states_of"]


class Discrete:
    """A coordinate that is one of k states, which f gets as whole numbers from 0 to k - 1.

    It stands for the bounds of a coordinate, beside intervals: the integral is then the sum over the states
    of the integrals over all other coordinates.

    Parameters
    ----------
    states : int or array_like, (k,)
        How many states there are; or a weight for each, to which the probabilities are proportional that
        learning begins with. Without weights, all begin alike. A state whose weight is 0 begins as a rare
        one: the uniform points still find it, and it is learnt, and warned of, where f is not 0 there.

    Attributes
    ----------
    k : int
        Number of states.
    weights : ndarray, (k,)
        Probabilities to begin with; their sum is 1.

    Raises
    ------
    TypeError
        If `states` is neither a whole number nor numbers.
    ValueError
        If there is no state, or a weight is negative or not finite, or all are 0.

    Examples
    --------
    A sum over two helicities of integrals over an angle:

    >>> def f(x):
    ...     helicity, cosine = 2 * x[:, 0] - 1, x[:, 1]
    ...     return (1 + helicity * cosine) ** 2
    >>> result = vf.integrate(f, [vf.Discrete(2), (-1, 1)], n_calls=2000, seed=1)
    >>> bool(abs(result.mean - 16 / 3) < 5 * result.sdev)
    True
    >>> x, weights = result.sample(1000, seed=1)
    >>> np.unique(x[:, 0])
    array([0., 1.])
    >>> vf.Discrete([3, 1]), vf.Discrete([3, 1]).k, vf.Discrete([3, 1]).weights
    (Discrete([0.75, 0.25]), 2, array([0.75, 0.25]))
    """

    def __init__(self, states: int | npt.ArrayLike) -> None:
        if np.ndim(states) == 0:
            self.k = positive_int("the number of states of Discrete", states)
            self.weights: FloatArray = np.full(self.k, 1 / self.k)
            return
        weights = as_floats("the weights of Discrete", states)
        if weights.ndim != 1 or len(weights) == 0:
            raise ValueError(f"the weights of Discrete must be one for each state, found {weights.shape}")
        for state in np.flatnonzero(~(np.isfinite(weights) & (weights >= 0))):
            raise ValueError(
                f"the weights of Discrete must be finite and not negative, found {weights[state]} for state "
                f"{state}"
            )
        largest = float(weights.max())
        if largest == 0:
            raise ValueError("the weights of Discrete are all 0: one of them must not be")
        scaled = weights / largest  # whose sum cannot overflow
        self.k, self.weights = len(weights), scaled / scaled.sum()

    def __repr__(self) -> str:
        is_uniform = bool((self.weights == self.weights[0]).all())
        return f"Discrete({self.k if is_uniform else self.weights.tolist()})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Discrete) and np.array_equal(self.weights, other.weights)

    __hash__ = None  # type: ignore[assignment]  # weights are an array


def separated(bounds: Any) -> tuple[Any, dict[int, Discrete]]:
    """Replace discrete coordinates among bounds by intervals (0, k), and give them by their numbers.

    Anything but a sequence with discrete coordinates is returned as it is.
    """
    if isinstance(bounds, Discrete):
        raise TypeError(f"bounds must be a sequence: for one coordinate, give [{bounds!r}]")
    if not isinstance(bounds, Sequence) or isinstance(bounds, str):
        return bounds, {}
    discrete = {row: one for row, one in enumerate(bounds) if isinstance(one, Discrete)}
    if not discrete:
        return bounds, {}
    return [(0.0, float(one.k)) if isinstance(one, Discrete) else one for one in bounds], discrete


def checked_discrete(discrete: Mapping[int, Any] | None, d: int) -> dict[int, Discrete]:
    """Check discrete columns {column: states} of points (n, d); columns count from 0."""
    if discrete is None:
        return {}
    if not isinstance(discrete, Mapping):
        raise TypeError(f"discrete must be a dict from columns to numbers of states, got {discrete!r}")
    for column in discrete:
        if not isinstance(column, int | np.integer) or isinstance(column, bool):
            raise TypeError(f"discrete must have whole numbers of columns as its keys, got {column!r}")
        if not 0 <= column < d:
            raise ValueError(f"discrete names column {column}, and x has columns 0 to {d - 1}")
    return {
        int(column): one if isinstance(one, Discrete) else Discrete(one)
        for column, one in sorted(discrete.items())
    }


def bounds_of_states(bounds: FloatArray, discrete: Mapping[int, Discrete]) -> FloatArray:
    """Give bounds (d, 2) with (0, k) where coordinates are discrete, whatever they were there.

    Raises
    ------
    ValueError
        If there are no bounds elsewhere.
    """
    if is_unbounded(bounds):
        raise ValueError("points with discrete columns need finite bounds in all others, found -inf and inf")
    found = bounds.copy()
    for column, one in discrete.items():
        found[column] = 0.0, one.k
    return found


def check_whole(name: str, points: FloatArray, discrete: Mapping[int, Discrete]) -> None:
    """Raise ValueError unless discrete columns of points (n, d) hold whole numbers from 0, below k."""
    for column, one in discrete.items():
        rule = f"have whole numbers from 0 to {one.k - 1} where it is discrete, in column {column}"
        check_rows(name, points[:, column], rule, partial(_are_states, k=one.k))


def _are_states(values: FloatArray, k: int) -> npt.NDArray[np.bool_]:
    return (values == np.floor(values)) & (values >= 0) & (values < k)


def states_of(points: FloatArray, k: int | npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Tell the states of coordinates in [0, k], of which k itself counts as the last."""
    return np.clip(points.astype(np.int64), 0, np.subtract(k, 1))
