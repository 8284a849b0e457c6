"""What an integration to a tolerance costs: seconds of this machine, or calls of the integrand alone."""

from dataclasses import dataclass

from varflow.kernels.compile import announcement, is_kept
from varflow.kernels.cpu import gradient

__all__ = ["Costs"]

SECONDS_A_PARAMETER = 3e-8  # of a step of training, as long as none has been taken
SECONDS_OF_COMPILING = 20.0  # of what training needs, where none of it is in the cache
COMPILING = 4.0  # what compiling takes that training needs, in units of what drawing points has needed


@dataclass
class Costs:
    """Costs by which a survey to a tolerance decides how long it trains.

    Where f is cheap, training takes longer than the calls that it saves. Costs in seconds tell, but they are
    not the same twice; in units of a call, where training is free, they are.

    Attributes
    ----------
    is_measured : bool
        Whether they are in seconds, or in calls.
    call : float
        Cost of a point, with the integrand there, as of the last estimate.
    step : float
        Cost of a step of training.
    evaluation : float
        Seconds that the integrand alone takes for a point, as of its last evaluation.
    scramble : float
        Seconds that the latent points of a scramble take, as of the last estimate.
    has_trained : bool
        Whether any step of training was taken, so that its kernels are there.
    """

    is_measured: bool = False
    call: float = 1.0
    step: float = 0.0
    evaluation: float = 0.0
    scramble: float = 0.0
    has_trained: bool = False

    @classmethod
    def in_seconds(cls, n_params: int) -> "Costs":
        """Begin with what steps cost that train so many parameters on two cores of today."""
        return cls(True, 0.0, SECONDS_A_PARAMETER * n_params)

    def note_calls(self, seconds: float, n_calls: int) -> None:
        """Note how long the points of an estimate took."""
        if self.is_measured:
            self.call = seconds / n_calls

    def note_steps(self, seconds: float, n_steps: int) -> None:
        """Note how long steps of training took."""
        if self.is_measured:
            self.step = seconds / n_steps
        self.has_trained = True

    @property
    def compiling(self) -> float:
        """Seconds that the kernels of a first training are expected to compile: none that are in the cache.

        Where others had to, so have these.
        """
        if self.has_trained or gradient.signatures:
            return 0.0
        return max(COMPILING * announcement.seconds, 0.0 if is_kept(gradient) else SECONDS_OF_COMPILING)

    def in_words(self, cost: float) -> str:
        """Name a cost with its unit."""
        return f"{cost:.2g} s" if self.is_measured else f"{cost:,.3g} calls"
