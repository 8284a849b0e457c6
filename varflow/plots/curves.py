"""Curves of learning."""

from typing import TYPE_CHECKING

import numpy as np

from varflow.plots.picture import AFTER, BEFORE, panels
from varflow.training.learning_curve import LearningCurve

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["learning_curve"]


def learning_curve(curve: LearningCurve) -> "Figure":
    """Draw the relative variance against the number of points, with the power law that fits it.

    Parameters
    ----------
    curve : LearningCurve
        What the function `varflow.learning_curve` found.

    Returns
    -------
    matplotlib.figure.Figure
        The picture.

    Raises
    ------
    ImportError
        If Matplotlib is not installed.

    Examples
    --------
    >>> x = np.random.default_rng(1).random((1000, 2))
    >>> data = vf.Dataset(x, px=np.ones(1000), fx=np.exp(-5 * x.sum(axis=1)))
    >>> curve = vf.learning_curve(data, seed=1, n_epochs=5)
    >>> vf.plots.learning_curve(curve).savefig("learning_curve.png")
    """
    figure, (axes,) = panels(1, 1)
    axes.axhline(curve.variance_before, color=BEFORE, linewidth=1, label="f/p, x from p")
    axes.errorbar(curve.n, curve.variance, curve.variance_error, fmt="o", color=AFTER, label="f/q, x from q")
    law = np.exp(curve.log_prefactor - curve.exponent * np.log(curve.n))
    text = f"power law: exponent {-curve.exponent:.2f} ± {curve.exponent_error:.2f}"
    axes.plot(curve.n, law, "--", color=AFTER, label=text)
    axes.set(title="learning curve", xlabel="points that were learnt from", xscale="log")
    axes.set(ylabel="relative variance of the weights", yscale="log")
    axes.legend()
    return figure
