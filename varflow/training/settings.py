"""Settings of a training, checked once, whoever gives them: a trainer, an integrator or the command line."""

from dataclasses import dataclass, field, fields, replace
from typing import Any, TypedDict

from varflow.data.dataset import minibatch_rows
from varflow.runtime.archive import FilePath
from varflow.runtime.checkpoint import CheckpointSettings
from varflow.training.adam import Adam
from varflow.validation import check_number, checked_int, positive_int, unknown_name

__all__ = ["TrainingConfig", "TrainingSettings", "check_optim"]

MAX_ROWS = 2**62  # no dataset has more


class TrainingConfig(TypedDict, total=False):
    """Settings by name, for editors and type checkers; see `TrainingSettings`."""

    n_epochs: int
    minibatch_size: int | float | None
    optim: Adam
    holdout: float
    patience: int | None
    max_reloads: int
    seed: int
    checkpoint: FilePath | None
    resume: bool
    checkpoint_seconds: float


@dataclass(frozen=True)
class TrainingSettings(CheckpointSettings):
    """Settings of a stateful trainer; see `BasicStatefulTrainer`, whose arguments they are.

    Raises
    ------
    TypeError, ValueError
        If a setting is out of range; the message names it.
    """

    n_epochs: int = 10
    minibatch_size: int | float | None = None
    optim: Adam = field(default_factory=Adam)
    holdout: float = 0.0
    patience: int | None = None
    max_reloads: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set(n_epochs=positive_int("n_epochs", self.n_epochs))
        minibatch_rows(self.minibatch_size, MAX_ROWS)
        check_optim(self.optim)
        check_number("holdout", self.holdout, lambda share: 0 <= share < 1, "in [0, 1)")
        if self.patience is not None:
            self._set(patience=positive_int("patience", self.patience))
        self._set(
            max_reloads=checked_int("max_reloads", self.max_reloads), seed=checked_int("seed", self.seed)
        )

    def _set(self, **values: int) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def replaced(self, **config: Any) -> "TrainingSettings":
        """Return a copy with some settings changed; unknown names raise ValueError."""
        names = [one.name for one in fields(self)]
        for name in config:
            if name not in names:
                raise unknown_name("setting", name, names)
        return replace(self, **config)

    def as_dict(self) -> dict[str, Any]:
        """Return the settings by name."""
        return {one.name: getattr(self, one.name) for one in fields(self)}

    def identity(self) -> dict[str, Any]:
        """Return the settings that determine the bits of a training, to identify a checkpoint."""
        names = ("n_epochs", "holdout", "patience", "max_reloads", "seed")
        return {"optim": self.optim.settings(), **{name: getattr(self, name) for name in names}}


def check_optim(optim: object) -> None:
    """Raise TypeError unless an optimiser is an `Adam`."""
    if not isinstance(optim, Adam):
        raise TypeError(f"optim must be an Adam, got {optim!r}")
