"""Record of a training: its losses and epochs."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from varflow.markup import bullets, pairs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["TrainingRecord", "record_table"]

_LISTS = {
    "losses": np.float64,
    "learning_rates": np.float64,
    "gradient_lengths": np.float64,
    "epochs": np.int64,
    "epoch_ends": np.int64,
    "epoch_losses": np.float64,
    "reloads": np.int64,
}
SMOOTHING = 0.3  # share of the newest loss in the running average


@dataclass
class TrainingRecord:
    """Record of a training, with losses for f scaled such that the mean of |f|/p is one.

    Where a training goes through several batches of points in turn, `initial_loss`, `best_loss`, `best_epoch`
    and `stopped_early` are those of the latest batch, and all else accumulates over the batches.

    Parameters
    ----------
    losses : list of float
        Loss on the minibatch of each step, before the step.
    learning_rates : list of float
        Learning rate of each step.
    gradient_lengths : list of float
        Length of the gradient of each step, before it is clipped, in units of the loss that is learnt.
    epochs : list of int
        Number of steps before each epoch, restarted epochs included.
    epoch_ends : list of int
        Number of steps before the end of each epoch that was completed.
    epoch_losses : list of float
        Loss after each epoch, on the held-out rows or, if there are none, on some of the training rows. With
        a control variate, it has one as well, which leaves it far less noise.
    reloads : list of int
        Number of steps before each return to the last good state.
    initial_loss : float or None
        Loss on the same rows before the training.
    loss : float or None
        Exponential moving average of the losses.
    best_loss : float or None
        Smallest one of the initial loss and the losses after epochs.
    best_epoch : int or None
        Epoch after which it was reached, counted from 1. If no epoch improved on the initial loss, the number
        of epochs before this batch of points: 0 for the first batch.
    planned_epochs, planned_steps : int or None
        Numbers of epochs and steps that there will be, unless training ends early or goes back: for bars of
        one's own, by a callback.
    stopped_early : bool
        Whether training ended for lack of improvement.
    warnings : list of str
        What in the data or in the outcome makes it doubtful, and what to do.

    Examples
    --------
    A training hands one to its callback:

    >>> x = np.random.default_rng(1).random((500, 2))
    >>> data = vf.Dataset(x, px=np.ones(500), fx=np.exp(-5 * x.sum(axis=1)))
    >>> (record,) = vf.train(data, n_epochs=5).records
    >>> record.epoch, record.step == len(record.losses), record.n_reloads
    (5, True, 0)

    Loops of one's own may keep one:

    >>> record = vf.TrainingRecord()
    >>> record.begin(loss=2.0)
    >>> record.new_epoch()
    >>> record.log_step(loss=1.9, learning_rate=0.001, gradient_length=0.5)
    >>> record.end_epoch(loss=1.8)
    True
    >>> record.reload()
    >>> record
    TrainingRecord(loss=1.9, best_loss=1.8, best_epoch=1, stopped_early=False)
    >>> vf.TrainingRecord.of(record.scalars(), record.arrays()) == record
    True
    """

    losses: list[float] = field(default_factory=list, repr=False)
    learning_rates: list[float] = field(default_factory=list, repr=False)
    gradient_lengths: list[float] = field(default_factory=list, repr=False)
    epochs: list[int] = field(default_factory=list, repr=False)
    epoch_ends: list[int] = field(default_factory=list, repr=False)
    epoch_losses: list[float] = field(default_factory=list, repr=False)
    reloads: list[int] = field(default_factory=list, repr=False)
    initial_loss: float | None = field(default=None, repr=False)
    loss: float | None = None
    best_loss: float | None = None
    best_epoch: int | None = None
    planned_epochs: int | None = field(default=None, repr=False)
    planned_steps: int | None = field(default=None, repr=False)
    stopped_early: bool = False
    warnings: list[str] = field(default_factory=list, repr=False)

    @property
    def step(self) -> int:
        """Number of steps."""
        return len(self.losses)

    @property
    def n_reloads(self) -> int:
        """Number of times that training went back to the last good state."""
        return len(self.reloads)

    @property
    def epoch(self) -> int:
        """Number of completed epochs."""
        return len(self.epoch_losses)

    def begin(self, loss: float) -> None:
        """Record the beginning of training on a batch of points.

        Parameters
        ----------
        loss : float
            The loss before it.
        """
        self.initial_loss, self.stopped_early = loss, False
        self.best_loss = loss if math.isfinite(loss) else math.inf
        self.best_epoch = self.epoch

    def plan(self, n_epochs: int, n_steps: int) -> None:
        """Record how many epochs and steps are left.

        Parameters
        ----------
        n_epochs, n_steps : int
            Their numbers.

        Examples
        --------
        >>> record = vf.TrainingRecord()
        >>> record.plan(n_epochs=5, n_steps=40)
        >>> record.planned_epochs, record.planned_steps
        (5, 40)
        """
        self.planned_epochs, self.planned_steps = self.epoch + n_epochs, self.step + n_steps

    def new_epoch(self) -> None:
        """Record the beginning of an epoch."""
        self.epochs.append(self.step)

    def log_step(self, loss: float, learning_rate: float, gradient_length: float) -> None:
        """Record a step.

        Parameters
        ----------
        loss : float
            The loss before it.
        learning_rate : float
            Its learning rate.
        gradient_length : float
            Length of its gradient, before it is clipped.
        """
        self.losses.append(loss)
        self.learning_rates.append(learning_rate)
        self.gradient_lengths.append(gradient_length)
        self.loss = loss if self.loss is None else (1 - SMOOTHING) * self.loss + SMOOTHING * loss

    def end_epoch(self, loss: float) -> bool:
        """Record the end of an epoch.

        Parameters
        ----------
        loss : float
            The loss after it.

        Returns
        -------
        bool
            Whether it is the best so far.
        """
        self.epoch_ends.append(self.step)
        self.epoch_losses.append(loss)
        if self.best_loss is not None and loss >= self.best_loss:
            return False
        self.best_loss, self.best_epoch = loss, self.epoch
        return True

    def reload(self) -> None:
        """Record a return to the last good state."""
        self.reloads.append(self.step)

    def plot(self) -> "Figure":
        """Draw the losses of steps and epochs, the learning rate, and the length of the gradient.

        Returns of the training to its last good state are dashed lines.

        Returns
        -------
        matplotlib.figure.Figure
            The picture, with three panels.

        Raises
        ------
        ImportError
            If Matplotlib is not installed: the extra `plot`.
        ValueError
            If no step was taken.

        Examples
        --------
        >>> x = np.random.default_rng(1).random((500, 2))
        >>> training = vf.train(vf.Dataset(x, px=np.ones(500), fx=x[:, 0]), n_epochs=5)
        >>> training.records[0].plot().savefig("training.png")
        """
        from varflow.plots.record import draw_record  # which draws what stands here

        return draw_record(self)

    def _repr_html_(self) -> str:
        """Return what became of the loss, and the warnings, as HTML, for notebooks."""
        return record_table(self) + bullets(self.warnings)

    def scalars(self) -> dict[str, Any]:
        """Return all fields except the lists, for the header of a file.

        Returns
        -------
        dict
            The fields by name, as JSON data.
        """
        return {one.name: getattr(self, one.name) for one in fields(self) if one.name not in _LISTS}

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the lists as arrays, for a file.

        Returns
        -------
        dict of ndarray
            The arrays by name.
        """
        return {name: np.array(getattr(self, name), dtype) for name, dtype in _LISTS.items()}

    @classmethod
    def of(cls, scalars: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> "TrainingRecord":
        """Rebuild the record from a file.

        Parameters
        ----------
        scalars : mapping
            What `scalars` has returned.
        arrays : mapping of ndarray
            What `arrays` has returned.

        Returns
        -------
        TrainingRecord
            The record.
        """
        return cls(**{name: arrays[name].tolist() for name in _LISTS}, **scalars)


def record_table(record: TrainingRecord) -> str:
    """Make a table, in HTML, of what became of the loss."""
    shown = {
        "steps": f"{record.step:,}",
        "epochs": f"{record.epoch:,}" + (", for lack of improvement" if record.stopped_early else ""),
        "loss before": _shown(record.initial_loss),
        "best loss": _shown(record.best_loss),
        "best epoch": _shown(record.best_epoch),
        "last loss": _shown(record.epoch_losses[-1] if record.epoch_losses else None),
        "last learning rate": _shown(record.learning_rates[-1] if record.learning_rates else None),
        "returns to a good state": record.n_reloads,
    }
    return pairs("Training, with losses for f of mean 1", shown)


def _shown(value: float | None) -> str:
    return "none yet" if value is None else f"{value:.5g}"
