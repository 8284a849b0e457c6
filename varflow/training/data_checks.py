"""What in the data, or in a flow on held-out points, makes the outcome of a training doubtful, in words."""

import numpy as np

from varflow.data.dataset import Dataset
from varflow.training.evaluation import relative_variance
from varflow.training.held_out import held_out_loss
from varflow.training.normalization import estimate_normalization
from varflow.training.objective import Objective

__all__ = ["check_enough", "data_warnings", "flow_warnings", "has_enough", "normalization_warnings"]

MIN_POINTS = 50  # that anything is trained on
MIN_NONZERO = 10  # of them, where f is not zero
FEW_POINTS = 20.0  # effective ones, below which neither the points nor the held-out ones say much about f


def has_enough(n: int, n_nonzero: int) -> bool:
    """Tell whether n points, with f != 0 at n_nonzero of them, are enough to be trained on."""
    return n >= MIN_POINTS and n_nonzero >= MIN_NONZERO


def check_enough(data: Dataset) -> None:
    """Raise ValueError where the points are too few to train on."""
    n_nonzero = data.n_nonzero
    if not has_enough(data.n, n_nonzero):
        raise ValueError(
            f"training needs at least {MIN_POINTS} points, {MIN_NONZERO} of them where f is not zero; got "
            f"{data.n} points, {n_nonzero} of them where f is not zero"
        )


def data_warnings(data: Dataset) -> list[str]:
    """Tell what is wrong with points whatever is trained on them."""
    has_states_alone = len(data.discrete) == data.d  # of which copies are usual
    if data.n_duplicates == 0 or has_states_alone:
        return []
    return [
        f"{data.n_duplicates} of {data.n} points are copies of others, so that held-out points are among "
        "those that were trained on, and their figures are too good: was a file given twice?"
    ]


def normalization_warnings(data: Dataset) -> list[str]:
    """Tell whether the points contradict that p is normalised over the box.

    A density that varies with conditions is not looked at: how these are distributed is not known.
    """
    if data.n_conditions > 0 and np.ptp(data.logpx) > 0:
        return []
    found = estimate_normalization(_spread(data), data.logpx, data.bounds)
    if not found.is_wrong:
        return []
    integral, error = found.factor, found.factor * found.error
    return [
        f"p is not normalised: the points say that its integral is {integral:.3g} ± {error:.1g}. Usually "
        "a constant or a Jacobian was forgotten, the bounds are wrong, or points were cut away. Trained "
        "without the control variate, which leaves a larger variance; correct p, or if it cannot be "
        "normalised, say p_normalized=False"
    ]


def _spread(data: Dataset) -> np.ndarray:
    """Give the points, with states spread evenly over the unit interval above each, where p is the same."""
    if not data.discrete:
        return data.x
    x, generator = data.x.copy(), np.random.default_rng(0)
    for column in data.discrete:
        x[:, column] += generator.random(data.n)
    return x


def flow_warnings(objective: Objective, rows: np.ndarray, n_eff: float) -> list[str]:
    """Tell whether a flow may be worse than p.

    Parameters
    ----------
    objective : Objective
        The objective, with the flow as the training has left it.
    rows : ndarray of int64, (m,)
        Rows that the flow was not trained on, where there are such.
    n_eff : float
        Effective sample size of the weights f/p over all points.

    Returns
    -------
    list of str
        Nothing, or what is to be feared and done.
    """
    n = len(objective.log_ratios)
    before = n / n_eff - 1
    log_ratios, log_q_over_p = objective.log_ratios[rows], objective.log_q_over_p(rows)
    if objective.has_control_variate:  # p is normalised, and what q has where p is zero counts
        after = held_out_loss(log_ratios, log_q_over_p, objective.logpx[rows], 2) - 1
    else:
        with np.errstate(all="ignore"):
            after = relative_variance(log_ratios - log_q_over_p, log_q_over_p).value
    if not (after < before or after == 0):
        return [
            f"the flow is no better than p on held-out points (relative variance {after:.3g} of f/q, "
            f"{before:.3g} of f/p): keep sampling from p, or train on more points"
        ]
    if n_eff < FEW_POINTS:
        return [
            f"f is so narrow that {n} points are worth {n_eff:.1f} of equal weight f/p: neither they nor the "
            "held-out ones among them say much about f. Add points where f is large, or keep sampling from p "
            "beside the flow"
        ]
    return []
