"""Settings of an integration, checked once, whoever gives them: an integrator or the command line."""

from dataclasses import asdict, dataclass
from typing import Any

from varflow.integration.proposal import LATENT_POINTS
from varflow.integration.steps import MIN_POINTS
from varflow.integration.survey import STRATEGIES
from varflow.training.losses import LOSSES
from varflow.validation import check_name, checked_int, positive_int

__all__ = ["IterationSizes", "SurveySettings"]


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
    covariance: bool | None
    seed: int | None
    deterministic: bool

    def __post_init__(self) -> None:
        check_name("survey_strategy", self.survey_strategy, STRATEGIES)
        check_name("loss", self.loss, LOSSES)
        check_name("latent_points", self.latent_points, LATENT_POINTS)
        if not isinstance(self.covariance, bool | None):
            raise TypeError(f"covariance must be True, False or None, got {self.covariance!r}")
        if not isinstance(self.deterministic, bool):
            raise TypeError(f"deterministic must be True or False, got {self.deterministic!r}")
        if self.seed is not None:
            checked_int("seed", self.seed)

    def identity(self) -> dict[str, Any]:
        """Give the settings, for a checkpoint to be known by: all have `deterministic`."""
        return {name: value for name, value in asdict(self).items() if name != "deterministic"}


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
