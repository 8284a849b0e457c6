"""Settings of an integration, checked once, whoever gives them: an integrator or the command line."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from varflow.integration.averages import standard_deviations
from varflow.integration.iterations import MIN_POINTS
from varflow.integration.proposal import LATENT_POINTS
from varflow.integration.survey import STRATEGIES
from varflow.training.losses import LOSSES
from varflow.validation import check_finite_from_0, check_name, checked_int, positive_int

__all__ = ["IterationSizes", "SurveySettings", "Tolerance"]


@dataclass(frozen=True)
class SurveySettings:
    """How the flow of an integral is trained, and its points drawn: arguments of `Integrator`.

    Raises
    ------
    TypeError, ValueError
        If a setting is out of range; the message names it.
    """

    survey_strategy: str
    loss: str
    latent_points: str
    use_survey: bool
    seed: int | None

    def __post_init__(self) -> None:
        check_name("survey_strategy", self.survey_strategy, STRATEGIES)
        check_name("loss", self.loss, LOSSES)
        check_name("latent_points", self.latent_points, LATENT_POINTS)
        if self.seed is not None:
            checked_int("seed", self.seed)

    def identity(self) -> dict[str, Any]:
        """Give the settings, for a checkpoint to be known by."""
        return asdict(self)


@dataclass(frozen=True)
class IterationSizes:
    """Numbers of iterations, and of points in each, of a survey and of a refinement.

    Raises
    ------
    TypeError, ValueError
        If one is not an integer above zero, or points are fewer than the batches of an iteration need.
    """

    n_iter_survey: int
    n_points_survey: int
    n_iter_refine: int
    n_points_refine: int

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            object.__setattr__(self, name, positive_int(name, value))
            if name.startswith("n_points") and value < MIN_POINTS:
                raise ValueError(f"{name} must be at least {MIN_POINTS}, got {value}")


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

    def shortfall(self, mean: np.ndarray, covariance: np.ndarray) -> float:
        """Compute how many times too large the error is, for the component where it is most so.

        Parameters
        ----------
        mean : ndarray, (m,)
            Estimate of each component.
        covariance : ndarray, (m, m)
            Its covariance.

        Returns
        -------
        float
            At most 1 where the error is small enough.
        """
        sdev = standard_deviations(covariance)
        target = np.maximum(self.atol, self.rtol * np.abs(mean))
        with np.errstate(divide="ignore", invalid="ignore"):
            return float(np.where(sdev == 0, 0.0, sdev / target).max())
