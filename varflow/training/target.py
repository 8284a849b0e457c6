"""What a flow learns on its way to f, where the points say little about f.

Where f is narrow, few of the points x ~ p carry its integral, and a flow that piles its density onto them has
a huge variance elsewhere. What is learnt is therefore, instead of f in units of its integral,

    g = p w^b / mean(w^b),    w = (1 - s) f/p + s.

**Share of p.** The share s of p bounds the variance: if the flow learns g, no weight f/q exceeds f/(s p).
It follows from the effective sample size of the weights f/p over the points,

    n_eff = (sum f/p)^2 / sum (f/p)^2,    s = min(LARGEST_SHARE, (SCARCE_POINTS / n_eff)^2),

and is negligible, and zero, where n_eff is above ``MANY_POINTS``.

**Tempering.** The power b rises linearly from that of `varflow.training.tempering.tempered_power`, over the
share ``TEMPERED`` of the training, to one. Where the weights f/p are even enough, it is one all the time.
"""

import math
from collections.abc import Callable

import numpy as np

from varflow.data.arrays import log_mean_exp
from varflow.runtime.communicator import ALONE, Communicator
from varflow.training.tempering import effective_size, tempered_power

__all__ = ["Target"]

SCARCE_POINTS = 2.0
LARGEST_SHARE = 0.5
MANY_POINTS = 100.0
TEMPERED = 0.5


class Target:
    """The function that is learnt at each moment of a training; see the module's docstring.

    Parameters
    ----------
    log_ratios : ndarray, (n,)
        log(f/p) at points x ~ p, f in units of the mean of f/p over them; -inf where f is zero.
    rows : ndarray of int64, (m,)
        The points that are learnt from.
    comm : Communicator
        Ranks that learn the same.

    Attributes
    ----------
    n_eff : float
        Effective sample size of the weights f/p over the points.
    share : float
        The share of p, from 0 to ``LARGEST_SHARE``.
    spread : float
        Variance of the mean of f/p over the points.
    """

    def __init__(self, log_ratios: np.ndarray, rows: np.ndarray, comm: Communicator = ALONE) -> None:
        self._log_ratios, self._rows, self._comm = log_ratios, rows, comm
        self.n_eff, self._first_power = comm.first(
            lambda: (effective_size(log_ratios), tempered_power(log_ratios[rows]))
        )
        self.spread = 1 / self.n_eff - 1 / len(log_ratios)
        self.share = (
            min(LARGEST_SHARE, (SCARCE_POINTS / self.n_eff) ** 2) if self.n_eff < MANY_POINTS else 0.0
        )

    def power(self, progress: float) -> float:
        """Compute the power b after a share of the training, from 0 to 1."""
        return min(1.0, self._first_power + (1 - self._first_power) * progress / TEMPERED)

    def log_ratios(self, progress: float, log_unit: float) -> Callable[[int, int], np.ndarray]:
        """Prepare log(g/p) after a share of the training, for f in a unit of exp(log_unit).

        Returns
        -------
        callable
            (begin, end) -> its values (end - begin,) at the points from one to another that ends them.
        """
        power, log_mean = self.power(progress), 0.0
        if power < 1:
            log_mean = self._comm.first(
                lambda: log_mean_exp(self._powers(self._log_ratios[self._rows], power, log_unit))
            )

        def values(begin: int, end: int) -> np.ndarray:
            ratios = self._powers(self._log_ratios[begin:end], power, log_unit)
            return ratios - log_mean if power < 1 else ratios

        return values

    def _powers(self, log_ratios: np.ndarray, power: float, log_unit: float) -> np.ndarray:
        """Compute log(w^b) where log(f/p) is given."""
        ratios: np.ndarray = log_ratios - log_unit
        if self.share > 0:
            ratios += math.log1p(-self.share)
            with np.errstate(under="ignore"):
                np.logaddexp(ratios, math.log(self.share), out=ratios)
        return ratios * power if power < 1 else ratios
