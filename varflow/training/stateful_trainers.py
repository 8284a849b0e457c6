"""Stateful trainers: they monitor a training, keep its record, and recover from bad steps."""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from varflow.data.dataset import Dataset, permuted_rows
from varflow.errors import InvalidLossError, NoCheckpoint, TrainingInterruption
from varflow.flow.flow import Flow
from varflow.flow.make_flow import make_flow
from varflow.runtime.archive import FilePath, Kind, refused_as
from varflow.runtime.checkpoint import SECONDS, Checkpoint, Saved
from varflow.runtime.communicator import Communicator
from varflow.runtime.fingerprint import digest, fingerprint
from varflow.runtime.ranks import as_communicator
from varflow.training.adam import Adam, AdamState
from varflow.training.data_checks import check_enough, data_warnings, flow_warnings, normalization_warnings
from varflow.training.held_out import held_out_loss, log_unit
from varflow.training.losses import LOSSES
from varflow.training.objective import LatentPrior, Objective, check_same_box
from varflow.training.record import TrainingRecord
from varflow.training.settings import ChosenSettings, TrainingConfig, TrainingSettings
from varflow.training.target import Target
from varflow.training.trainers import BasicTrainer, LossLike, Schedule, shuffled

if TYPE_CHECKING:
    from typing import Unpack

__all__ = ["BasicStatefulDKLTrainer", "BasicStatefulTrainer", "BasicStatefulVarTrainer", "StatefulTrainer"]

logger = logging.getLogger(__name__)

FILE = Kind("varflow training checkpoint", version=4, oldest=4, sealed=4)  # until 2, gradients were plain
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

    settings: ChosenSettings
    objective: Objective
    target: Target
    rows: np.ndarray  # to train on
    checked: np.ndarray  # rows that tell the loss after an epoch
    schedule: Schedule
    turn: int  # which calls with the same seed differ by: see `BasicTrainer.train_on_target_batch`
    callback: Callback | None

    @property
    def steps_an_epoch(self) -> int:
        """Number of steps in an epoch."""
        return -(-len(self.rows) // self.settings.minibatch)


@dataclass
class _Place:
    """Where a training stands, besides its record."""

    best_params: np.ndarray
    n_epochs: int = 0  # done
    n_rows: int = 0  # done of the epoch at hand
    n_reloads: int = 0
    log_unit: float = 0.0  # of the integral of f, in units of the mean of f/p


class BasicStatefulTrainer(BasicTrainer):
    """Trainer that keeps a record, the best parameters and the last good state.

    After each epoch the loss is computed on held-out rows; where none are held out, on some fixed rows of the
    training. A training leaves the parameters with the least such loss in the flow, those that it began with
    included. Where a loss or gradient is not finite, it goes back to the state after the last epoch and goes
    on with half the learning rate, and gives up after `max_reloads` times.

    What is not given follows from the numbers of points and dimensions, by rules fitted to trainings on 500
    to 200 000 points. With a control variate, the flow learns f in units of an integral that is estimated
    from the held-out rows as well, and where f is narrow it learns a mixture of f and p. What in the data
    makes the outcome doubtful is told in `TrainingRecord.warnings`, and by a warning of the logger "varflow".

    Parameters
    ----------
    flow : Flow
        The flow to be trained, in place.
    latent_prior : LatentPrior, optional
        Density in latent space; uniform if not given. See `BasicTrainer`.
    loss : str, Loss or pair of callables
        See `BasicTrainer`.
    control_variate : bool
        See `BasicTrainer`.
    n_epochs : int, optional
        Number of passes over the points.
    minibatch_size : int or float, optional
        Rows a step; a float in (0, 1] is a fraction of all.
    optim : Adam, optional
        Settings and state of the optimiser; a new one for each training if not given.
    holdout : float, optional
        Fraction of the rows that is held out, in [0, 1).
    patience : int, optional
        Epochs without improvement after which training ends.
    p_normalized : bool, optional
        Whether p is normalised over the box. If it is not, there is no control variate. If it is not said,
        that is looked for in the points, and warned of.
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
    comm : mpi4py.MPI.Intracomm, optional
        Ranks that train together: all make the same calls with the same arguments, and get the same bits,
        whatever their number. They share the rows of a step where that is found to be faster. The first alone
        has the checkpoint and the callback; what is raised on one of them is raised on all.

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

    Examples
    --------
    >>> x = np.random.default_rng(1).random((500, 2))
    >>> px, fx = np.ones(500), np.exp(-5 * x.sum(axis=1))
    >>> trainer = vf.BasicStatefulTrainer(vf.Flow(2, seed=1), loss="variance", n_epochs=5)
    >>> record = trainer.train_on_batch(x, px, fx)
    >>> record.best_loss < record.initial_loss
    True
    >>> record is trainer.train_on_dataset(vf.Dataset(x, px, fx), held_out=np.arange(100))
    False

    Settings stay until they are changed; those of a call hold for that call:

    >>> trainer.set_config(seed=2)
    >>> trainer.get_config()["seed"], trainer.get_config()["n_epochs"]
    (2, 5)
    >>> trainer.train_on_batch(x, px, fx, n_epochs=1).epoch
    1

    The state in memory, and the state at the beginning:

    >>> trainer.set_checkpoint()
    >>> trainer.flow.params += 1
    >>> trainer.restore_checkpoint()
    >>> bool(np.all(trainer.flow.params == trainer.good_state.params))
    True
    >>> trainer.reset()
    >>> trainer.record.epoch, trainer.flow.log_prob([[0.2, 0.6]])
    (0, array([0.]))
    """

    def __init__(
        self,
        flow: Flow,
        latent_prior: LatentPrior | None = None,
        *,
        loss: LossLike,
        control_variate: bool = True,
        n_epochs: int | None = None,
        minibatch_size: int | float | None = None,
        optim: Adam | None = None,
        holdout: float | None = None,
        patience: int | None = None,
        p_normalized: bool | None = None,
        max_reloads: int = TrainingSettings.max_reloads,
        seed: int = TrainingSettings.seed,
        checkpoint: FilePath | None = None,
        resume: bool = False,
        checkpoint_seconds: float = SECONDS,
        comm: Any = None,
    ) -> None:
        self.comm = as_communicator(comm)
        with self.comm.together():
            super().__init__(flow, latent_prior, loss=loss, control_variate=control_variate)
            self._settings = TrainingSettings(
                n_epochs=n_epochs,
                minibatch_size=minibatch_size,
                optim=optim,
                holdout=holdout,
                patience=patience,
                p_normalized=p_normalized,
                max_reloads=max_reloads,
                seed=seed,
                checkpoint=checkpoint,
                resume=resume,
                checkpoint_seconds=checkpoint_seconds,
            )
        self.record = TrainingRecord()
        self.good_state: GoodState | None = None
        self._initial_params = flow.params.copy()
        self._initial_range = flow.condition_bounds

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
        """Return all settings by name.

        Returns
        -------
        dict
            A new dict; None where a setting follows from the points.
        """
        return self._settings.as_dict()

    def train_on_batch(
        self,
        x: npt.ArrayLike,
        px: npt.ArrayLike,
        fx: npt.ArrayLike,
        *,
        conditions: npt.ArrayLike | None = None,
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
        conditions : array_like, (n, c), optional
            Conditions of each point, for a flow that has some.
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
            If an argument is refused, or there are too few points, or too few where f is not zero. Nothing
            was trained then.
        TrainingInterruption
            If losses were not finite too often. The flow has the last good parameters.
        """
        return self.train_on_dataset(self._dataset(x, px, fx, conditions), callback=callback, **config)

    def train_on_dataset(
        self,
        data: Dataset,
        *,
        held_out: npt.ArrayLike | None = None,
        callback: Callback | None = None,
        **config: "Unpack[TrainingConfig]",
    ) -> TrainingRecord:
        """Train on a dataset, which may hold logs of p and f; otherwise as `train_on_batch`.

        Parameters
        ----------
        data : Dataset
            The points, with the flow's bounds.
        held_out : array_like of int, (m,), optional
            Rows that are held out, instead of a random share `holdout`.
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
        TypeError, ValueError, TrainingInterruption
            As `train_on_batch` does.
        """
        self.record = TrainingRecord()
        self._train_by(self._settings.replaced(**config), data, None, callback, held_out=held_out)
        return self.record

    def train_on_target_batch(self, *arguments: Any, **options: Any) -> TrainingRecord:  # type: ignore[override]
        """Train for several epochs; return the record.

        Parameters
        ----------
        *arguments
            Those of `BasicTrainer.train_on_target_batch`.
        **options
            Likewise, by name.

        Returns
        -------
        TrainingRecord
            The record, which is `record` too.

        Raises
        ------
        TypeError, ValueError, TrainingInterruption
            As `train_on_batch` does.
        """
        self.record = TrainingRecord()
        super().train_on_target_batch(*arguments, **options)
        return self.record

    def train_on_target_batches_from_posterior(self, **arguments: Any) -> TrainingRecord:  # type: ignore[override]
        """Train on several batches of new points; return the record.

        Parameters
        ----------
        **arguments
            Those of `BasicTrainer.train_on_target_batches_from_posterior`.

        Returns
        -------
        TrainingRecord
            The record, which is `record` too.

        Raises
        ------
        TypeError, ValueError, TrainingInterruption
            As `train_on_batch` does; and if the trainer has a checkpoint, which would not hold the points.
        """
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
            The optimiser; that of the settings if not given, or else that of the last training.

        Raises
        ------
        ValueError
            If the state of the optimiser belongs to another flow.
        """
        optim = optim or self._settings.optim or (self.good_state.optim if self.good_state else Adam())
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
        self.flow.condition_bounds = self._initial_range
        if self._settings.optim is not None:
            self._settings.optim.reset()
        self.record = TrainingRecord()
        self.good_state = None

    def _train(
        self,
        data: Dataset,
        optim: Adam | None,
        n_epochs: int | None,
        minibatch_size: int | float | None,
        schedule: Schedule | None = None,
    ) -> None:
        given = {"optim": optim, "n_epochs": n_epochs, "minibatch_size": minibatch_size}
        known = {name: value for name, value in given.items() if value is not None}
        settings = self._settings.replaced(**known)
        turn = 0 if settings.optim is None else settings.optim.t
        self._train_by(settings, data, schedule, None, turn)

    def _train_by(
        self,
        settings: TrainingSettings,
        data: Dataset,
        schedule: Schedule | None,
        callback: Callback | None,
        turn: int = 0,
        held_out: npt.ArrayLike | None = None,
    ) -> None:
        with self.comm.running():
            self._train_together(settings, data, schedule, callback, turn, held_out)

    def _train_together(
        self,
        settings: TrainingSettings,
        data: Dataset,
        schedule: Schedule | None,
        callback: Callback | None,
        turn: int,
        held_out: npt.ArrayLike | None,
    ) -> None:
        """Train, on each rank."""
        if callback is not None and not callable(callback):
            raise TypeError(f"callback must be callable, got {callback!r}")
        check_same_box(self.flow, data)
        check_enough(data)
        if held_out is not None:
            held_out = _checked_rows(held_out, data.n)
            settings = settings.replaced(holdout=len(held_out) / data.n)
        chosen = settings.chosen_for(data.n, self.flow.architecture)
        rows, checked = _divide(data.n, chosen.holdout, chosen.seed, held_out, self.comm)
        schedule = schedule or Schedule(0, chosen.n_epochs)
        self.flow.condition_map.learn(data.conditions)
        self._compare(settings, chosen, data, checked)
        objective = self._trusted_objective(data, chosen)
        target = Target(objective.log_ratios, rows, self.comm)
        task = _Task(
            chosen, objective, target, rows, checked, schedule, turn, callback if self.comm.is_first else None
        )
        chosen.optim.claim(self.flow.params)
        checkpoint = self._open_checkpoint(settings, task, data)
        self._log_begin(task)
        with checkpoint.running():
            place = self._watched(task, checkpoint)
            self._log_end()
            self.flow.params[:] = place.best_params  # before the last write, which may be interrupted
            if chosen.holdout > 0:  # points that were trained on cannot tell
                self._warn(flow_warnings(objective, checked, target.n_eff))
            checkpoint.try_to_write(lambda: self._saved(task, place))

    def _log_begin(self, task: _Task) -> None:
        """Log what is trained, and how."""
        settings = task.settings
        logger.info(
            "training %d parameters on %d points, and %d held out: %d epochs of %d steps, learning rate %g",
            self.flow.n_params, len(task.rows), len(task.checked) if settings.holdout > 0 else 0,
            settings.n_epochs, task.steps_an_epoch, settings.optim.lr,
        )  # fmt: skip

    def _log_end(self) -> None:
        """Log what the training has come to."""
        record = self.record
        logger.info(
            "the best epoch was %s of %d, with a loss of %.4g after %.4g at first%s",
            record.best_epoch, record.epoch, record.best_loss, record.initial_loss,
            "; training has ended early, for lack of improvement" if record.stopped_early else "",
        )  # fmt: skip

    def _compare(
        self, settings: TrainingSettings, chosen: ChosenSettings, data: Dataset, checked: np.ndarray
    ) -> None:
        """Make sure that all ranks train on the same."""
        if self.comm.size == 1:
            return
        self.comm.check_same(
            "training",
            {
                **self._identity(chosen, data, checked),
                "has a checkpoint": settings.checkpoint is not None,
            },
        )

    def _trusted_objective(self, data: Dataset, settings: ChosenSettings) -> Objective:
        """Make the objective, without a control variate where p is not normalised."""
        self._warn(self.comm.first(lambda: data_warnings(data)))
        objective = self.objective(data, self.comm)
        if not objective.has_control_variate or settings.p_normalized:
            return objective
        warnings: list[str] = []
        if settings.p_normalized is None:
            warnings = self.comm.first(lambda: normalization_warnings(data))
        self._warn(warnings)
        is_trusted = settings.p_normalized is None and not warnings
        return objective if is_trusted else objective.without_control_variate()

    def _warn(self, warnings: list[str]) -> None:
        """Tell what is new, to the record and to the log."""
        for warning in warnings:
            if warning not in self.record.warnings:
                self.record.warnings.append(warning)
                logger.warning("%s", warning)

    def _watched(self, task: _Task, checkpoint: Checkpoint) -> _Place:
        """Run the epochs, repeating one where a loss is not finite."""
        place = self._resumed(task, checkpoint) or self._begun(task)
        record = self.record
        self._plan(task, place)
        while place.n_epochs < task.settings.n_epochs and not record.stopped_early:
            try:
                self._go_through_epoch(task, place, checkpoint)
                loss, params = self._loss_after_epoch(task, place)
            except InvalidLossError as error:
                place.n_reloads += 1
                self._go_back(error, place.n_reloads, task.settings.max_reloads)
                place.n_rows = 0
                self._plan(task, place)
                continue
            self.comm.add_up(about=params.tobytes())  # to end with a rank that has failed
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

    def _plan(self, task: _Task, place: _Place) -> None:
        """Note what is left of a training."""
        n_left, n_taken = task.settings.n_epochs - place.n_epochs, place.n_rows // task.settings.minibatch
        self.record.plan(n_left, n_left * task.steps_an_epoch - n_taken)

    def _begun(self, task: _Task) -> _Place:
        place = _Place(self.flow.params.copy())
        self.record.begin(self._checked_loss(task, place))
        self.set_checkpoint(task.settings.optim)
        return place

    def _go_through_epoch(self, task: _Task, place: _Place, checkpoint: Checkpoint) -> None:
        """Take the steps that are left of an epoch."""
        order = self.comm.fill_shared(
            task.rows.shape,
            lambda *_: shuffled(task.rows, task.settings.seed, place.n_epochs, task.turn),
            is_by_first=True,
            dtype=np.int64,
        )
        objective, unit = self._learnt(task, place), 1.0
        if task.objective.has_control_variate:
            unit = math.exp(task.objective.power * place.log_unit)
        if place.n_rows == 0:
            self.record.new_epoch()
        for steps in self._epoch(
            objective,
            order,
            task.settings.minibatch,
            task.settings.optim,
            place.n_epochs,
            task.schedule,
            scale=0.5**place.n_reloads,
            first=place.n_rows,
        ):
            for step in steps:
                self.record.log_step(step.loss * unit, step.learning_rate, step.gradient_length * unit)
                place.n_rows += task.settings.minibatch
            checkpoint.step(lambda: self._saved(task, place))
            if task.callback is not None:
                task.callback(self.record)

    def _learnt(self, task: _Task, place: _Place) -> Objective:
        """Give the objective of the next epoch."""
        if not task.objective.has_control_variate:
            return task.objective
        progress = task.schedule.progress(place.n_epochs)
        return task.objective.learning(task.target.log_ratios(progress, place.log_unit))

    def _open_checkpoint(self, settings: TrainingSettings, task: _Task, data: Dataset) -> Checkpoint:
        """Open the file that the settings name, if any."""
        if settings.checkpoint is None:
            return Checkpoint(settings, FILE, {})
        return Checkpoint(settings, FILE, self._identity(task.settings, data, task.checked), self.comm)

    def _identity(self, settings: ChosenSettings, data: Dataset, checked: np.ndarray) -> dict[str, Any]:
        """Collect what two trainings must have in common to be the same."""
        return {
            "flow": self.flow.fingerprint(),
            "loss": next((name for name, loss in LOSSES.items() if loss == self.loss), "custom"),
            "latent_prior": type(self.latent_prior).__name__,
            "definition of loss and latent_prior": self._definition(),
            "initial parameters": digest(self.flow.params),
            "initial state of optim": digest(*settings.optim.state().arrays("").values()),
            **settings.identity(),
            "control_variate": self.control_variate,
            "data": data.digest(),
            "held out": digest(checked),
        }

    def _definition(self) -> str | None:
        """What a loss and a prior of the user's are known by; None where there are none."""
        parts: list[Any] = [] if self.loss in LOSSES.values() else list(self.loss)
        parts += [] if self.latent_prior is None else [self.latent_prior]
        return fingerprint(parts) if parts else None

    def _saved(self, task: _Task, place: _Place) -> Saved:
        """State of a training, for a file."""
        good = self.good_state
        assert good is not None  # set before the first step
        numbers = [place.n_epochs, place.n_rows, place.n_reloads, place.log_unit]
        header = {"place": numbers, "record": self.record.scalars()}
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

    def _loss_after_epoch(self, task: _Task, place: _Place) -> tuple[float, np.ndarray]:
        """Loss with the parameters that training would leave if it ended now, and those parameters."""
        optim, params = task.settings.optim, self.flow.params.copy()
        final = params if optim.averaged is None else optim.averaged.copy()
        self.flow.params[:] = final
        try:
            loss = self._checked_loss(task, place)
        finally:
            self.flow.params[:] = params
        if not (math.isfinite(loss) and np.isfinite(params).all() and np.isfinite(final).all()):
            raise InvalidLossError(f"the loss after the epoch is {loss}, or a parameter is not finite")
        return loss, final

    def _checked_loss(self, task: _Task, place: _Place) -> float:
        """Loss of the flow as it is on the checked rows; held-out ones give a unit of f, too."""
        objective, rows = task.objective, task.checked
        if not objective.has_control_variate:
            return objective.value(rows)
        log_ratios, log_q_over_p = objective.log_ratios[rows], objective.log_q_over_p(rows)
        if task.settings.holdout > 0:
            place.log_unit = log_unit(log_ratios, log_q_over_p, task.target.spread)
        return held_out_loss(
            log_ratios - place.log_unit, log_q_over_p, objective.logpx[rows], objective.power
        )

    def _go_back(self, error: InvalidLossError, n_reloads: int, max_reloads: int) -> None:
        """Restore the last good state; past the number of times that is allowed, end the training."""
        self.restore_checkpoint()
        if n_reloads > max_reloads:
            raise TrainingInterruption(
                f"{error}, after {n_reloads - 1} returns to the last good state, which the flow has now"
            ) from error
        self.record.reload()
        logger.warning("%s: back to the last good state, with half the learning rate", error)

    def _is_out_of_patience(self, patience: int | None) -> bool:
        best = self.record.best_epoch
        return patience is not None and best is not None and self.record.epoch - best >= patience


class BasicStatefulVarTrainer(BasicStatefulTrainer):
    """`BasicStatefulTrainer` with the variance loss.

    Parameters
    ----------
    flow : Flow
        The flow to be trained, in place.
    latent_prior : LatentPrior, optional
        See `BasicTrainer`.
    comm : mpi4py.MPI.Intracomm, optional
        Ranks that train together; see `BasicStatefulTrainer`.
    **config
        Settings; see `BasicStatefulTrainer`.

    Examples
    --------
    >>> x = np.random.default_rng(1).random((500, 2))
    >>> trainer = vf.BasicStatefulVarTrainer(vf.Flow(2, seed=1), n_epochs=5)
    >>> record = trainer.train_on_target_batch(x, np.ones(500), np.exp(-5 * x.sum(axis=1)))
    >>> record.best_loss < record.initial_loss
    True
    """

    def __init__(
        self,
        flow: Flow,
        latent_prior: LatentPrior | None = None,
        *,
        comm: Any = None,
        **config: "Unpack[TrainingConfig]",
    ) -> None:
        super().__init__(flow, latent_prior, loss="variance", comm=comm, **config)


class BasicStatefulDKLTrainer(BasicStatefulTrainer):
    """`BasicStatefulTrainer` with the DKL loss.

    Parameters
    ----------
    flow : Flow
        The flow to be trained, in place.
    latent_prior : LatentPrior, optional
        See `BasicTrainer`.
    comm : mpi4py.MPI.Intracomm, optional
        Ranks that train together; see `BasicStatefulTrainer`.
    **config
        Settings; see `BasicStatefulTrainer`.

    Examples
    --------
    >>> x = np.random.default_rng(1).random((500, 2))
    >>> trainer = vf.BasicStatefulDKLTrainer(vf.Flow(2, seed=1), n_epochs=5)
    >>> record = trainer.train_on_batch(x, np.ones(500), np.exp(-5 * x.sum(axis=1)))
    >>> record.best_loss < record.initial_loss
    True
    """

    def __init__(
        self,
        flow: Flow,
        latent_prior: LatentPrior | None = None,
        *,
        comm: Any = None,
        **config: "Unpack[TrainingConfig]",
    ) -> None:
        super().__init__(flow, latent_prior, loss="dkl", comm=comm, **config)


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
    comm : mpi4py.MPI.Intracomm, optional
        Ranks that train together; see `BasicStatefulTrainer`.
    **config
        Settings; see `BasicStatefulTrainer`.

    Raises
    ------
    TypeError, ValueError
        If an argument is refused, or options are given for a flow that is there already.

    Examples
    --------
    >>> x = np.random.default_rng(1).random((500, 2))
    >>> trainer = vf.StatefulTrainer(2, "variance", "rqs", flow_options={"n_bins": 8}, n_epochs=5)
    >>> record = trainer.train_on_batch(x, np.ones(500), np.exp(-5 * x.sum(axis=1)))
    >>> record.best_loss < record.initial_loss
    True
    """

    def __init__(
        self,
        d: int,
        loss: LossLike = "variance",
        flow: str | Flow = "pwquad",
        flow_prior: LatentPrior | None = None,
        flow_options: dict[str, Any] | None = None,
        backend: str | None = None,
        *,
        comm: Any = None,
        **config: "Unpack[TrainingConfig]",
    ) -> None:
        flow = make_flow(d, flow, flow_options, backend, seed=config.get("seed", TrainingSettings.seed))
        super().__init__(flow, flow_prior, loss=loss, comm=comm, **config)


def _checked_rows(rows: npt.ArrayLike, n: int) -> np.ndarray:
    """Check the rows of n that are to be held out."""
    rows = np.asarray(rows)
    if rows.ndim != 1 or rows.dtype.kind not in "iu":
        raise TypeError(f"held_out must be a list of row numbers, got {rows.dtype} of shape {rows.shape}")
    unique = np.unique(rows)
    if not 0 < len(unique) == len(rows) < n or unique[0] < 0 or unique[-1] >= n:
        raise ValueError(f"held_out must be some of the {n} rows, each once, and leave others to train on")
    return rows.astype(np.int64)


def _divide(
    n: int, holdout: float, seed: int, held_out: np.ndarray | None, comm: Communicator
) -> tuple[np.ndarray, np.ndarray]:
    """Choose the rows to train on, and those on which the loss is computed after an epoch."""
    if held_out is not None:
        given = held_out
        rows = comm.fill_shared(
            (n - len(given),), lambda *_: np.setdiff1d(np.arange(n), given), True, np.int64
        )
        return rows, given
    n_held_out = round(holdout * n)
    if holdout > 0 and not 0 < n_held_out < n:
        raise ValueError(f"holdout {holdout} of {n} rows leaves one part without rows")
    order = permuted_rows(n, seed, comm)
    held_out, rows = order[:n_held_out], order[n_held_out:]
    return rows, held_out if n_held_out > 0 else rows[:MAX_CHECKED_ROWS]
