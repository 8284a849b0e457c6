"""Stateful trainers: they monitor a training, keep its record, and recover from bad steps."""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from varflow.data.dataset import Dataset, minibatch_rows
from varflow.errors import InvalidLossError, NoCheckpoint, TrainingInterruption
from varflow.flow.flow import Flow
from varflow.flow.make_flow import make_flow
from varflow.runtime.archive import FilePath, Kind, refused_as
from varflow.runtime.checkpoint import SECONDS, Checkpoint, Saved
from varflow.runtime.fingerprint import digest, fingerprint
from varflow.training.adam import Adam, AdamState
from varflow.training.losses import LOSSES
from varflow.training.objective import LatentPrior, Objective
from varflow.training.record import TrainingRecord
from varflow.training.settings import TrainingConfig, TrainingSettings
from varflow.training.trainers import BasicTrainer, LossLike, Schedule, shuffled

if TYPE_CHECKING:
    from typing import Unpack

__all__ = ["BasicStatefulDKLTrainer", "BasicStatefulTrainer", "BasicStatefulVarTrainer", "StatefulTrainer"]

logger = logging.getLogger(__name__)

FILE = Kind("varflow training checkpoint", version=2, oldest=1, sealed=1)  # 1 knew fewer runs apart
MAX_CHECKED_ROWS = 20_000  # of the training, for the loss after an epoch where none are held out

Callback = Callable[[TrainingRecord], object]


class GoodState(NamedTuple):
    """State to go back to."""

    params: np.ndarray
    optim: Adam
    optim_state: AdamState


@dataclass
class _Task:
    """What a training is given."""

    settings: TrainingSettings
    objective: Objective
    rows: np.ndarray  # to train on
    checked: np.ndarray  # rows that tell the loss after an epoch
    minibatch: int  # rows
    schedule: Schedule
    turn: int  # which calls with the same seed differ by: see `BasicTrainer.train_on_target_batch`
    callback: Callback | None


@dataclass
class _Place:
    """Where a training stands, besides its record."""

    best_params: np.ndarray
    n_epochs: int = 0  # done
    n_rows: int = 0  # done of the epoch at hand
    n_reloads: int = 0


class BasicStatefulTrainer(BasicTrainer):
    """Trainer that keeps a record, the best parameters and the last good state.

    After each epoch the loss is computed on held-out rows; where none are held out, on some fixed rows of the
    training. A training leaves the parameters with the least such loss in the flow. Where a loss or gradient
    is not finite, it goes back to the state after the last epoch and goes on with half the learning rate, and
    gives up after `max_reloads` times.

    Parameters
    ----------
    flow : Flow
        The flow to be trained, in place.
    latent_prior : LatentPrior, optional
        Density in latent space; uniform if not given. See `BasicTrainer`.
    loss : str, Loss or pair of callables
        See `BasicTrainer`.
    n_epochs : int
        Number of passes over the points.
    minibatch_size : int, float or None
        Rows a step; a float in (0, 1] is a fraction of all, None is all of them.
    optim : Adam, optional
        Settings and state of the optimiser; ``Adam()`` if not given.
    holdout : float
        Fraction of the rows that is held out, in [0, 1).
    patience : int, optional
        Epochs without improvement after which training ends; it never does if not given.
    max_reloads : int
        How often a training may go back to the last good state.
    seed : int
        Seed of the order of rows and of what is held out.
    checkpoint : path, optional
        File that the state is written to every `checkpoint_seconds` and at the end, at once or not at all.
        A training that goes on from it ends with the same bits as one that was never interrupted.
    resume : bool
        Whether to go on from that file if it exists. If not, a file that exists is an error.
    checkpoint_seconds : float
        Time between two checkpoints.

    Attributes
    ----------
    record : TrainingRecord
        The last training's.
    good_state : GoodState or None
        What `restore_checkpoint` goes back to.

    Raises
    ------
    TypeError, ValueError
        If a setting is unknown or out of range.
    """

    def __init__(
        self,
        flow: Flow,
        latent_prior: LatentPrior | None = None,
        *,
        loss: LossLike,
        n_epochs: int = TrainingSettings.n_epochs,
        minibatch_size: int | float | None = None,
        optim: Adam | None = None,
        holdout: float = TrainingSettings.holdout,
        patience: int | None = None,
        max_reloads: int = TrainingSettings.max_reloads,
        seed: int = TrainingSettings.seed,
        checkpoint: FilePath | None = None,
        resume: bool = False,
        checkpoint_seconds: float = SECONDS,
    ) -> None:
        super().__init__(flow, latent_prior, loss=loss)
        self._settings = TrainingSettings(
            n_epochs=n_epochs,
            minibatch_size=minibatch_size,
            optim=Adam() if optim is None else optim,
            holdout=holdout,
            patience=patience,
            max_reloads=max_reloads,
            seed=seed,
            checkpoint=checkpoint,
            resume=resume,
            checkpoint_seconds=checkpoint_seconds,
        )
        self.record = TrainingRecord()
        self.good_state: GoodState | None = None
        self._initial_params = flow.params.copy()

    def set_config(self, **config: "Unpack[TrainingConfig]") -> None:
        """Change settings; they stay until they are changed again.

        Parameters
        ----------
        **config
            Settings by name, which are the keyword arguments of the class.

        Raises
        ------
        TypeError, ValueError
            If one is unknown or out of range. None is changed then.
        """
        self._settings = self._settings.replaced(**config)

    def get_config(self) -> dict[str, Any]:
        """Return all settings by name, as a new dict."""
        return self._settings.as_dict()

    def train_on_batch(
        self,
        x: npt.ArrayLike,
        px: npt.ArrayLike,
        fx: npt.ArrayLike,
        *,
        callback: Callback | None = None,
        **config: "Unpack[TrainingConfig]",
    ) -> TrainingRecord:
        """Train on weighted points.

        Parameters
        ----------
        x : array_like, (n, d)
            Points, within the flow's bounds.
        px : array_like, (n,)
            Density they were drawn from.
        fx : array_like, (n,)
            Function values. Where they have both signs, |f| is learnt.
        callback : callable, optional
            Called with the record after each step, and after each epoch; on a GPU after each epoch.
        **config
            Settings for this call alone; the others are those of the trainer.

        Returns
        -------
        TrainingRecord
            The record, which is `record` too.

        Raises
        ------
        TypeError, ValueError
            If an argument is refused. Nothing was trained then.
        TrainingInterruption
            If losses were not finite too often. The flow has the last good parameters.
        """
        return self.train_on_dataset(self._dataset(x, px, fx), callback=callback, **config)

    def train_on_dataset(
        self, data: Dataset, *, callback: Callback | None = None, **config: "Unpack[TrainingConfig]"
    ) -> TrainingRecord:
        """Train on a dataset, which may hold logs of p and f; otherwise as `train_on_batch`.

        Parameters
        ----------
        data : Dataset
            The points, with the flow's bounds.
        callback : callable, optional
            Called with the record after each step, and after each epoch; on a GPU after each epoch.
        **config
            Settings for this call alone; the others are those of the trainer.

        Returns
        -------
        TrainingRecord
            The record, which is `record` too.
        """
        settings = self._settings.replaced(**config)
        self.record = TrainingRecord()
        self._train_by(settings, data, Schedule(0, settings.n_epochs), callback)
        return self.record

    def train_on_target_batch(self, *arguments: Any, **options: Any) -> TrainingRecord:  # type: ignore[override]
        """Train for several epochs, see `BasicTrainer`; return the record."""
        self.record = TrainingRecord()
        super().train_on_target_batch(*arguments, **options)
        return self.record

    def train_on_target_batches_from_posterior(self, **arguments: Any) -> TrainingRecord:  # type: ignore[override]
        """Train on several batches of new points, see `BasicTrainer`; return the record."""
        if self._settings.checkpoint is not None:
            raise ValueError("checkpoint is for given points; what is drawn anew is not in the file")
        self.record = TrainingRecord()
        super().train_on_target_batches_from_posterior(**arguments)
        return self.record

    def set_checkpoint(self, optim: Adam | None = None) -> None:
        """Store the parameters and the state of the optimiser in memory.

        Parameters
        ----------
        optim : Adam, optional
            The optimiser; that of the settings if not given.
        """
        optim = self._settings.optim if optim is None else optim
        optim.claim(self.flow.params)
        self.good_state = GoodState(self.flow.params.copy(), optim, optim.state())

    def restore_checkpoint(self) -> None:
        """Restore what `set_checkpoint` stored; training calls that after each good epoch.

        Raises
        ------
        NoCheckpoint
            If there is none.
        """
        if self.good_state is None:
            raise NoCheckpoint("there is no checkpoint: call set_checkpoint or train first")
        self.flow.params[:] = self.good_state.params
        self.good_state.optim.restore(self.good_state.optim_state)
        self.good_state.optim.claim(self.flow.params)

    def reset(self) -> None:
        """Reset flow, optimiser and record to their state when the trainer was made."""
        self.flow.params[:] = self._initial_params
        self._settings.optim.reset()
        self.record = TrainingRecord()
        self.good_state = None

    def _train(
        self,
        data: Dataset,
        optim: Adam,
        n_epochs: int,
        minibatch_size: int | float | None,
        schedule: Schedule | None = None,
    ) -> None:
        settings = self._settings.replaced(optim=optim, n_epochs=n_epochs, minibatch_size=minibatch_size)
        self._train_by(settings, data, schedule or Schedule(0, n_epochs), None, turn=optim.t)

    def _train_by(
        self,
        settings: TrainingSettings,
        data: Dataset,
        schedule: Schedule,
        callback: Callback | None,
        turn: int = 0,
    ) -> None:
        if callback is not None and not callable(callback):
            raise TypeError(f"callback must be callable, got {callback!r}")
        rows, checked = _divide(data.n, settings.holdout, settings.seed)
        minibatch = minibatch_rows(settings.minibatch_size, len(rows))
        task = _Task(settings, self.objective(data), rows, checked, minibatch, schedule, turn, callback)
        settings.optim.claim(self.flow.params)
        checkpoint = self._open_checkpoint(task, data)
        with checkpoint.running():
            place = self._watched(task, checkpoint)
            self.flow.params[:] = place.best_params  # before the last write, which may be interrupted
            checkpoint.try_to_write(lambda: self._saved(task, place))

    def _watched(self, task: _Task, checkpoint: Checkpoint) -> _Place:
        """Run the epochs, repeating one where a loss is not finite."""
        place = self._resumed(task, checkpoint) or self._begun(task)
        record = self.record
        while place.n_epochs < task.settings.n_epochs and not record.stopped_early:
            try:
                self._go_through_epoch(task, place, checkpoint)
                loss, params = self._loss_after_epoch(task.objective, task.checked, task.settings.optim)
            except InvalidLossError as error:
                place.n_reloads += 1
                self._go_back(error, place.n_reloads, task.settings.max_reloads)
                place.n_rows = 0
                continue
            place.n_epochs, place.n_rows = place.n_epochs + 1, 0
            self.set_checkpoint(task.settings.optim)
            if record.end_epoch(loss):
                place.best_params = params
            record.stopped_early = place.n_epochs < task.settings.n_epochs and self._is_out_of_patience(
                task.settings.patience
            )
            if task.callback is not None:
                task.callback(record)
        return place

    def _begun(self, task: _Task) -> _Place:
        place = _Place(self.flow.params.copy())
        self.record.begin(task.objective.value(task.checked))
        self.set_checkpoint(task.settings.optim)
        return place

    def _go_through_epoch(self, task: _Task, place: _Place, checkpoint: Checkpoint) -> None:
        """Take the steps that are left of an epoch."""
        order = shuffled(task.rows, task.settings.seed, place.n_epochs, task.turn)
        if place.n_rows == 0:
            self.record.new_epoch()
        for losses in self._epoch(
            task.objective,
            order,
            task.minibatch,
            task.settings.optim,
            place.n_epochs,
            task.schedule,
            scale=0.5**place.n_reloads,
            first=place.n_rows,
        ):
            for loss in losses:
                self.record.log_loss(loss)
                place.n_rows += task.minibatch
            checkpoint.step(lambda: self._saved(task, place))
            if task.callback is not None:
                task.callback(self.record)

    def _open_checkpoint(self, task: _Task, data: Dataset) -> Checkpoint:
        """Open the file that the settings name, if any."""
        if task.settings.checkpoint is None:
            return Checkpoint(task.settings, FILE, {})
        identity = {
            "flow": self.flow.fingerprint(),
            "loss": next((name for name, loss in LOSSES.items() if loss == self.loss), "custom"),
            "latent_prior": type(self.latent_prior).__name__,
            "definition of loss and latent_prior": self._definition(),
            "initial parameters": digest(self.flow.params),
            "initial state of optim": digest(*task.settings.optim.state().arrays("").values()),
            **task.settings.identity(),
            "minibatch": task.minibatch,
            "data": data.digest(),
        }
        return Checkpoint(task.settings, FILE, identity)

    def _definition(self) -> str | None:
        """What a loss and a prior of the user's are known by; None where there are none."""
        parts: list[Any] = [] if self.loss in LOSSES.values() else list(self.loss)
        parts += [] if self.latent_prior is None else [self.latent_prior]
        return fingerprint(parts) if parts else None

    def _saved(self, task: _Task, place: _Place) -> Saved:
        """State of a training, for a file."""
        good = self.good_state
        assert good is not None  # set before the first step
        header = {"place": [place.n_epochs, place.n_rows, place.n_reloads], "record": self.record.scalars()}
        arrays = {"params": self.flow.params, "best_params": place.best_params, "good_params": good.params}
        arrays |= self.record.arrays() | task.settings.optim.state().arrays("optim")
        return header, arrays | good.optim_state.arrays("good_optim")

    def _resumed(self, task: _Task, checkpoint: Checkpoint) -> _Place | None:
        """Go on from a file, if there is one."""
        saved = checkpoint.read()
        if saved is None:
            return None
        header, arrays = saved
        with refused_as(str(checkpoint.path), "checkpoint", (KeyError, TypeError, ValueError)):
            record = TrainingRecord.of(header["record"], arrays)
            place = _Place(arrays["best_params"], *header["place"])
            optim_state, good_state = (AdamState.of(name, arrays) for name in ("optim", "good_optim"))
        self.record = record
        self.flow.params[:] = arrays["params"]
        task.settings.optim.restore(optim_state)
        task.settings.optim.claim(self.flow.params)
        self.good_state = GoodState(arrays["good_params"], task.settings.optim, good_state)
        return place

    def _loss_after_epoch(
        self, objective: Objective, rows: np.ndarray, optim: Adam
    ) -> tuple[float, np.ndarray]:
        """Loss with the parameters that training would leave if it ended now, and those parameters."""
        params = self.flow.params.copy()
        final = params if optim.averaged is None else optim.averaged.copy()
        self.flow.params[:] = final
        try:
            loss = objective.value(rows)
        finally:
            self.flow.params[:] = params
        if not (math.isfinite(loss) and np.isfinite(params).all() and np.isfinite(final).all()):
            raise InvalidLossError(f"the loss after the epoch is {loss}, or a parameter is not finite")
        return loss, final

    def _go_back(self, error: InvalidLossError, n_reloads: int, max_reloads: int) -> None:
        """Restore the last good state; past the number of times that is allowed, end the training."""
        self.restore_checkpoint()
        if n_reloads > max_reloads:
            raise TrainingInterruption(
                f"{error}, after {n_reloads - 1} returns to the last good state, which the flow has now"
            ) from error
        self.record.n_reloads += 1
        logger.warning("%s: back to the last good state, with half the learning rate", error)

    def _is_out_of_patience(self, patience: int | None) -> bool:
        best = self.record.best_epoch
        return patience is not None and best is not None and self.record.epoch - best >= patience


class BasicStatefulVarTrainer(BasicStatefulTrainer):
    """`BasicStatefulTrainer` with the variance loss."""

    def __init__(
        self, flow: Flow, latent_prior: LatentPrior | None = None, **config: "Unpack[TrainingConfig]"
    ) -> None:
        super().__init__(flow, latent_prior, loss="variance", **config)


class BasicStatefulDKLTrainer(BasicStatefulTrainer):
    """`BasicStatefulTrainer` with the DKL loss."""

    def __init__(
        self, flow: Flow, latent_prior: LatentPrior | None = None, **config: "Unpack[TrainingConfig]"
    ) -> None:
        super().__init__(flow, latent_prior, loss="dkl", **config)


class StatefulTrainer(BasicStatefulTrainer):
    """`BasicStatefulTrainer` that makes its own flow.

    Parameters
    ----------
    d : int
        Number of dimensions.
    loss : str, Loss or pair of callables
        See `BasicTrainer`.
    flow : str or Flow
        Kind of cell of a flow to be made, or a flow.
    flow_prior : LatentPrior, optional
        Density in latent space; uniform if not given. See `BasicTrainer`.
    flow_options : dict, optional
        Arguments of `Flow` besides d, cell and backend.
    backend : {"cpu", "cuda", "auto"}, optional
        Backend of a flow to be made; "cpu" if not given. See `Flow`.
    **config
        Settings; see `BasicStatefulTrainer`.

    Raises
    ------
    TypeError, ValueError
        If an argument is refused, or options are given for a flow that is there already.
    """

    def __init__(
        self,
        d: int,
        loss: LossLike = "variance",
        flow: str | Flow = "pwlinear",
        flow_prior: LatentPrior | None = None,
        flow_options: dict[str, Any] | None = None,
        backend: str | None = None,
        **config: "Unpack[TrainingConfig]",
    ) -> None:
        flow = make_flow(d, flow, flow_options, backend, seed=config.get("seed", TrainingSettings.seed))
        super().__init__(flow, flow_prior, loss=loss, **config)


def _divide(n: int, holdout: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Choose the rows to train on, and those on which the loss is computed after an epoch."""
    n_held_out = round(holdout * n)
    if holdout > 0 and not 0 < n_held_out < n:
        raise ValueError(f"holdout {holdout} of {n} rows leaves one part without rows")
    order = np.random.default_rng(seed).permutation(n)
    held_out, rows = order[:n_held_out], order[n_held_out:]
    return rows, held_out if n_held_out > 0 else rows[:MAX_CHECKED_ROWS]
