"""The error that a user wants."""

from dataclasses import dataclass

import numpy as np

from varflow.integration.averages import standard_deviations
from varflow.integration.iteration import times_power
from varflow.validation import check_finite_from_0

__all__ = ["Tolerance"]


@dataclass(frozen=True)
class Tolerance:
    """Error that is enough: relative, or absolute where that is larger. None where both are 0.

    Raises
    ------
    TypeError, ValueError
        If one is not a finite number of at least 0.
    """

    rtol: float = 0.0
    atol: float = 0.0

    def __post_init__(self) -> None:
        check_finite_from_0("rtol", self.rtol)
        check_finite_from_0("atol", self.atol)

    def __bool__(self) -> bool:
        return self.rtol > 0 or self.atol > 0

    def shortfall(self, mean: np.ndarray, covariance: np.ndarray, exponent: int = 0) -> float:
        """Compute how many times too large the error is, for the component where it is most so.

        Parameters
        ----------
        mean : ndarray, (m,)
            Estimate of each component.
        covariance : ndarray, (m, m) or (m,)
            Its covariance, or variances.
        exponent : int
            Both are in units of 2^exponent; the tolerance is not.

        Returns
        -------
        float
            At most 1 where the error is small enough.
        """
        sdev = standard_deviations(covariance)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore", under="ignore"):
            target = np.maximum(times_power(self.atol, -exponent), self.rtol * np.abs(mean))
            return float(np.where(sdev == 0, 0.0, sdev / target).max())
