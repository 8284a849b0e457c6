"""Settings of a training, checked once, whoever gives them: a trainer, an integrator or the command line."""

from dataclasses import dataclass, fields, replace
from typing import Any, TypedDict

from varflow.data.dataset import minibatch_rows
from varflow.flow.architecture import Architecture
from varflow.runtime.archive import FilePath
from varflow.runtime.checkpoint import CheckpointSettings
from varflow.training import recipe
from varflow.training.adam import Adam
from varflow.validation import check_flag, check_number, checked_int, positive_int, unknown_name

__all__ = ["ChosenSettings", "TrainingConfig", "TrainingSettings", "check_optim", "chosen_rows"]

MAX_ROWS = 2**62  # no dataset has more


class TrainingConfig(TypedDict, total=False):
    """Settings by name, for editors and type checkers; see `TrainingSettings`."""

    n_epochs: int | None
    minibatch_size: int | float | None
    optim: Adam | None
    holdout: float | None
    patience: int | None
    p_normalized: bool | None
    max_reloads: int
    seed: int
    checkpoint: FilePath | None
    resume: bool
    checkpoint_seconds: float


@dataclass(frozen=True)
class TrainingSettings(CheckpointSettings):
    """Settings of a stateful trainer; see `BasicStatefulTrainer`, whose arguments they are.

    Where one is None, `chosen_for` chooses it.

    Raises
    ------
    TypeError, ValueError
        If a setting is out of range; the message names it.
    """

    n_epochs: int | None = None
    minibatch_size: int | float | None = None
    optim: Adam | None = None
    holdout: float | None = None
    patience: int | None = None
    p_normalized: bool | None = None
    max_reloads: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in (("n_epochs", self.n_epochs), ("patience", self.patience)):
            if value is not None:
                self._set(**{name: positive_int(name, value)})
        minibatch_rows(self.minibatch_size, MAX_ROWS)
        if self.optim is not None:
            check_optim(self.optim)
        if self.holdout is not None:
            check_number("holdout", self.holdout, lambda share: 0 <= share < 1, "in [0, 1)")
        if self.p_normalized is not None:
            check_flag("p_normalized", self.p_normalized)
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

    def chosen_for(self, n: int, architecture: Architecture) -> "ChosenSettings":
        """Choose what is None for n points and a flow; see `varflow.training.recipe`."""
        holdout = recipe.held_out_share(n) if self.holdout is None else self.holdout
        n_epochs = recipe.n_epochs_for(n) if self.n_epochs is None else self.n_epochs
        return ChosenSettings(
            n_epochs=n_epochs,
            minibatch=chosen_rows(self.minibatch_size, n - round(holdout * n)),
            optim=recipe.optimiser_for(n, architecture) if self.optim is None else self.optim,
            holdout=holdout,
            patience=recipe.patience_for(n_epochs) if self.patience is None else self.patience,
            p_normalized=self.p_normalized,
            max_reloads=self.max_reloads,
            seed=self.seed,
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the settings by name."""
        return {one.name: getattr(self, one.name) for one in fields(self)}

    def identity(self) -> dict[str, Any]:
        """Return the settings that determine the bits of a training, to identify a checkpoint."""
        names = ("n_epochs", "minibatch_size", "holdout", "patience", "p_normalized", "max_reloads", "seed")
        optim = None if self.optim is None else self.optim.settings()
        return {"optim": optim, **{name: getattr(self, name) for name in names}}


@dataclass(frozen=True)
class ChosenSettings:
    """Settings of a training on given points, none of them left open; see `TrainingSettings`."""

    n_epochs: int
    minibatch: int  # rows
    optim: Adam
    holdout: float
    patience: int
    p_normalized: bool | None
    max_reloads: int
    seed: int

    def identity(self) -> dict[str, Any]:
        """Return the settings that determine the bits of a training, to identify a checkpoint."""
        return {one.name: getattr(self, one.name) for one in fields(self)} | {"optim": self.optim.settings()}


def chosen_rows(minibatch_size: int | float | None, n: int) -> int:
    """Return the rows of a minibatch of n: those that are given, or else that `recipe` chooses."""
    return recipe.rows_a_step(n) if minibatch_size is None else minibatch_rows(minibatch_size, n)


def check_optim(optim: object) -> None:
    """Raise TypeError unless an optimiser is an `Adam`."""
    if not isinstance(optim, Adam):
        raise TypeError(f"optim must be an Adam, got {optim!r}")
