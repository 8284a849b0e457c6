"""Stateless trainers: the state of a training is in the flow and in Adam."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from varflow.data.dataset import Dataset
from varflow.errors import InvalidLossError
from varflow.flow.conditions import check_unconditional
from varflow.flow.discrete_flow import DiscreteFlow
from varflow.flow.flow import Flow
from varflow.flow.mixture import discrete_columns
from varflow.runtime.communicator import ALONE, Communicator
from varflow.training.adam import Adam
from varflow.training.losses import Loss, as_loss
from varflow.training.make_steps import make_steps
from varflow.training.objective import LatentPrior, Objective, check_same_box
from varflow.training.recipe import n_epochs_for, optimiser_for
from varflow.training.settings import check_optim, chosen_rows
from varflow.training.steps import Steps, StepTaken
from varflow.validation import check_flag, positive_int

__all__ = [
    "BasicDKLTrainer",
    "BasicTrainer",
    "BasicVarTrainer",
    "LossLike",
    "Schedule",
    "check_no_schedule",
    "shuffled",
]


class Schedule(NamedTuple):
    """What a schedule of the learning rate spans: more epochs than those of one call, where it has others."""

    n_before: int  # epochs of the calls before
    n_epochs: int  # of all calls

    def progress(self, epoch: float) -> float:
        """Give the share of the training, from 0 to 1, that is over after so many epochs of this call."""
        return (self.n_before + epoch) / self.n_epochs


LossLike = str | Loss | tuple[Callable[..., float], Callable[..., np.ndarray]]


class BasicTrainer:
    """Steps of Adam on a flow's loss, without memory of their own: the state is in the flow and in Adam.

    Parameters
    ----------
    flow : Flow
        The flow to be trained, in place.
    latent_prior : LatentPrior, optional
        Density in latent space: an object with ``log_prob(z)`` (n,), ``grad_log_prob(z)`` (n, d) and
        ``sample(n, generator)`` (n, d), its support the unit cube. Uniform if not given. It belongs to
        the trainer: what `sample_forward` draws has it, ``flow.sample`` does not.
    loss : str, Loss or pair of callables
        "variance", "dkl", or (value, derivative in log q), two NumPy functions of (fx, px, logqx).
    control_variate : bool
        Whether gradients of the variance and the DKL loss have a control variate, by which a finite set of
        points teaches far more: the mean of (q/p) grad(log q), whose expectation is zero (Ranganath et al.,
        arXiv 1401.0118, section 3.2, for points from q). It needs p to be normalised.

    Raises
    ------
    TypeError, ValueError
        If the flow is none, the prior lacks a method, or the loss is unknown.

    Examples
    --------
    One step at a time, on points of one's own:

    >>> f = lambda x: np.exp(-5 * x.sum(axis=1))
    >>> flow, optim = vf.Flow(2, n_bins=4, d_hidden=8, seed=1), vf.Adam(lr=0.01)
    >>> trainer = vf.BasicTrainer(flow, loss="variance")
    >>> x, px = trainer.sample_forward(500, seed=1)
    >>> fx = f(x)
    >>> losses = [trainer.train_step_on_target_minibatch(x, px, fx, optim) for _ in range(50)]
    >>> trainer.compute_loss(x, px, fx) < losses[-1] < losses[0]
    True

    Epochs in minibatches, on these points and then on new ones:

    >>> trainer.train_step_on_target_batch(x, px, fx, optim, minibatch_size=100)
    >>> trainer.train_on_target_batch(x, px, fx, optim, n_epochs=2)
    >>> trainer.train_on_target_batches_from_posterior(
    ...     f=f, batch_size=200, n_batches=2, n_epochs_per_batch=2,
    ...     target_posterior=trainer.sample_forward, optim=optim,
    ... )
    >>> x, px, fx = trainer.generate_target_batch_from_posterior(200, f, trainer.sample_forward)

    Below both, for loops of one's own over the rows of a dataset that was checked once:

    >>> objective = trainer.objective(vf.Dataset(x, px, fx))
    >>> loss = trainer.step(objective, np.arange(100), optim)
    """

    comm: Communicator = ALONE  # ranks that take the same steps

    def __init__(
        self,
        flow: Flow,
        latent_prior: LatentPrior | None = None,
        *,
        loss: LossLike,
        control_variate: bool = True,
    ) -> None:
        if not isinstance(flow, Flow):
            raise TypeError(f"flow must be a Flow, got {type(flow).__name__}")
        if latent_prior is not None and flow.latent == "normal":
            raise ValueError(
                "latent_prior is for flows whose latent density is uniform in the unit cube, and that of "
                f"cells {flow.architecture.cell!r} is normal: leave latent_prior out"
            )
        if latent_prior is not None and isinstance(flow, DiscreteFlow):
            raise ValueError(
                "latent_prior is for flows without discrete coordinates, whose latent density stays uniform: "
                "leave latent_prior out"
            )
        for method in ("log_prob", "grad_log_prob", "sample"):
            if latent_prior is not None and not callable(getattr(latent_prior, method, None)):
                raise TypeError(
                    f"latent_prior must have a method {method}, {type(latent_prior).__name__} has none"
                )
        self.flow = flow
        self.latent_prior = latent_prior
        self.loss = as_loss(loss)
        check_flag("control_variate", control_variate)
        self.control_variate = control_variate
        self._steps: Steps | None = None

    def sample_forward(
        self, n: int, seed: int | None = None, conditions: npt.ArrayLike | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draw points from the flow.

        Parameters
        ----------
        n : int
            Number of points.
        seed : int, optional
            Seed of the random numbers; drawn from the system if not given.
        conditions : array_like, (n, c) or (c,), optional
            Conditions of each point, or of all of them, for a flow that has some.

        Returns
        -------
        x : ndarray, (n, d)
            Points.
        px : ndarray, (n,)
            Density they were drawn from: q(x). It may overflow where ``flow.sample`` gives its log.
        """
        n = positive_int("n", n)
        if self.latent_prior is None:
            x, logqx = self.flow.sample(n, seed, conditions=conditions)
        else:
            z = self.latent_prior.sample(n, np.random.default_rng(seed))
            x, logqx = self.flow.from_latent(z, conditions)
            logqx = logqx + self.latent_prior.log_prob(z)
        return x, np.exp(logqx)

    def compute_loss(
        self,
        x: npt.ArrayLike,
        px: npt.ArrayLike,
        fx: npt.ArrayLike,
        conditions: npt.ArrayLike | None = None,
    ) -> float:
        """Compute the loss of the flow as it is on weighted points.

        Parameters
        ----------
        x : array_like, (n, d)
            Points.
        px : array_like, (n,)
            Density they were drawn from.
        fx : array_like, (n,)
            Function values.
        conditions : array_like, (n, c), optional
            Conditions of each point, for a flow that has some.

        Returns
        -------
        float
            The loss, of f scaled such that the mean of |f|/p over the points is one.

        Raises
        ------
        TypeError, ValueError
            If the points are refused; see `Dataset`.
        """
        data = self._dataset(x, px, fx, conditions)
        return self.objective(data).value(np.arange(data.n))

    def train_step_on_target_minibatch(
        self,
        x: npt.ArrayLike,
        px: npt.ArrayLike,
        fx: npt.ArrayLike,
        optim: Adam,
        conditions: npt.ArrayLike | None = None,
    ) -> float:
        """Take one training step on all points given.

        Parameters
        ----------
        x : array_like, (n, d)
            Points, within the flow's bounds.
        px : array_like, (n,)
            Density they were drawn from.
        fx : array_like, (n,)
            Function values. Where they have both signs, |f| is learnt.
        optim : Adam
            Settings and state of the optimiser.
        conditions : array_like, (n, c), optional
            Conditions of each point, for a flow that has some.

        Returns
        -------
        float
            The loss before the step, of f scaled such that the mean of |f|/p over the points is one.

        Raises
        ------
        TypeError, ValueError
            If the points are refused; see `Dataset`.
        InvalidLossError
            If the loss or its gradient is not finite. Flow and optimiser are then as before.
        """
        check_optim(optim)
        check_no_schedule(optim)
        data = self._dataset(x, px, fx, conditions)
        return self.step(self.objective(data), np.arange(data.n), optim)

    def train_step_on_target_batch(
        self,
        x: npt.ArrayLike,
        px: npt.ArrayLike,
        fx: npt.ArrayLike,
        optim: Adam,
        minibatch_size: int | float | None = None,
        conditions: npt.ArrayLike | None = None,
    ) -> None:
        """Train for one epoch, as one of any number of calls.

        Parameters
        ----------
        x : array_like, (n, d)
            Points, within the flow's bounds.
        px : array_like, (n,)
            Density they were drawn from.
        fx : array_like, (n,)
            Function values. Where they have both signs, |f| is learnt.
        optim : Adam
            Settings and state of the optimiser.
        minibatch_size : int or float, optional
            Rows a step, as in `train_on_target_batch`.
        conditions : array_like, (n, c), optional
            Conditions of each point, for a flow that has some.

        Raises
        ------
        TypeError, ValueError
            If an argument is refused, as a schedule of the learning rate other than "constant" is: the number
            of calls is not known. Nothing was trained then.
        InvalidLossError
            If a loss or its gradient is not finite. Flow and optimiser are as before that step.
        """
        check_optim(optim)
        check_no_schedule(optim)
        self.train_on_target_batch(x, px, fx, optim, 1, minibatch_size, conditions)

    def train_on_target_batch(
        self,
        x: npt.ArrayLike,
        px: npt.ArrayLike,
        fx: npt.ArrayLike,
        optim: Adam | None = None,
        n_epochs: int | None = None,
        minibatch_size: int | float | None = None,
        conditions: npt.ArrayLike | None = None,
    ) -> None:
        """Train for several epochs, in minibatches.

        The schedule of the learning rate spans these epochs. The order of the points depends on the number of
        steps that `optim` has taken before: each call has minibatches of its own, and a program that is run
        again has the same ones.

        Parameters
        ----------
        x : array_like, (n, d)
            Points, within the flow's bounds.
        px : array_like, (n,)
            Density they were drawn from.
        fx : array_like, (n,)
            Function values. Where they have both signs, |f| is learnt.
        optim : Adam, optional
            Settings and state of the optimiser.
        n_epochs : int, optional
            How many times.
        minibatch_size : int or float, optional
            Rows a step; a float in (0, 1] is a fraction of all. What is not given follows from the numbers of
            points and dimensions.
        conditions : array_like, (n, c), optional
            Conditions of each point, for a flow that has some.

        Raises
        ------
        TypeError, ValueError
            If an argument is refused. Nothing was trained then.
        InvalidLossError
            If a loss or its gradient is not finite. Flow and optimiser are as before that step.
        """
        self._train(self._dataset(x, px, fx, conditions), optim, n_epochs, minibatch_size)

    @staticmethod
    def generate_target_batch_from_posterior(
        n_points: int,
        f: Callable[[np.ndarray], npt.ArrayLike],
        target_posterior: Callable[[int], tuple[np.ndarray, np.ndarray]],
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Draw points and evaluate f on them.

        Parameters
        ----------
        n_points : int
            Number of points.
        f : callable
            The function, (n, d) -> (n,).
        target_posterior : callable
            Draws n points x, (n, d), and gives their density, (n,), as `sample_forward` does.

        Returns
        -------
        x : ndarray, (n, d)
            Points.
        px : ndarray, (n,)
            Density they were drawn from.
        fx : ndarray, (n,)
            Function values.
        """
        x, px = target_posterior(positive_int("n_points", n_points))
        return x, px, np.asarray(f(x))

    def train_on_target_batches_from_posterior(
        self,
        *,
        f: Callable[[np.ndarray], npt.ArrayLike],
        batch_size: int,
        n_batches: int = 1,
        n_epochs_per_batch: int,
        minibatch_size: int | float | None = None,
        target_posterior: Callable[[int], tuple[np.ndarray, np.ndarray]],
        optim: Adam,
    ) -> None:
        """Train on several batches of new points in turn, for flows without conditions.

        Parameters
        ----------
        f : callable
            The function, (n, d) -> (n,).
        batch_size : int
            Points a batch.
        n_batches : int
            Number of batches.
        n_epochs_per_batch : int
            How many times each batch is gone through.
        minibatch_size : int, float or None
            Rows a step, as in `train_on_target_batch`.
        target_posterior : callable
            Draws n points x, (n, d), and gives their density, (n,), as `sample_forward` does.
        optim : Adam
            Settings and state of the optimiser. The schedule of the learning rate spans all batches.

        Raises
        ------
        TypeError, ValueError
            If an argument is refused, or what was drawn is none of the above.
        InvalidLossError
            If a loss or its gradient is not finite. Flow and optimiser are as before that step.
        """
        check_unconditional("training on batches from a posterior", self.flow.n_conditions)
        n_epochs = positive_int("n_epochs_per_batch", n_epochs_per_batch)
        in_all = positive_int("n_batches", n_batches) * n_epochs
        for before in range(0, in_all, n_epochs):
            batch = self.generate_target_batch_from_posterior(batch_size, f, target_posterior)
            self._train(self._dataset(*batch), optim, n_epochs, minibatch_size, Schedule(before, in_all))

    def _dataset(
        self,
        x: npt.ArrayLike,
        px: npt.ArrayLike,
        fx: npt.ArrayLike,
        conditions: npt.ArrayLike | None = None,
    ) -> Dataset:
        shape: tuple[int, ...] = ()
        with suppress(ValueError):  # of lists of different lengths, which are refused below
            shape = np.shape(x)
        if len(shape) == 2 and shape[1] != self.flow.d:
            raise ValueError(f"x must have shape (n, {self.flow.d}), as the flow has, found {shape}")
        discrete = discrete_columns(self.flow) or None
        return Dataset(x, px, fx, bounds=self.flow.bounds, conditions=conditions, discrete=discrete)

    def objective(self, data: Dataset, comm: Communicator = ALONE) -> Objective:
        """Make the objective: the loss as a function of the flow's parameters.

        Parameters
        ----------
        data : Dataset
            The points, with the flow's bounds.
        comm : Communicator
            Ranks that share the rows.

        Returns
        -------
        Objective
            What `step` makes small. A flow that does not know the range of its conditions takes it from the
            points.
        """
        check_same_box(self.flow, data)
        self.flow.condition_map.learn(data.conditions)
        return Objective(
            self.flow, data, self.loss, self.latent_prior, control_variate=self.control_variate, comm=comm
        )

    def _train(
        self,
        data: Dataset,
        optim: Adam | None,
        n_epochs: int | None,
        minibatch_size: int | float | None,
        schedule: Schedule | None = None,
    ) -> None:
        """Train for some epochs, which the schedule of the learning rate spans unless one is given."""
        optim = optimiser_for(data.n, self.flow.architecture) if optim is None else optim
        check_optim(optim)
        n_epochs = n_epochs_for(data.n) if n_epochs is None else positive_int("n_epochs", n_epochs)
        schedule = schedule or Schedule(0, n_epochs)
        minibatch = chosen_rows(minibatch_size, data.n)
        objective, turn = self.objective(data), optim.t
        for epoch in range(n_epochs):
            order = shuffled(np.arange(data.n), 0, epoch, turn)
            for _ in self._epoch(objective, order, minibatch, optim, epoch, schedule):
                pass
        if optim.averaged is not None:
            self.flow.params = optim.averaged

    def _epoch(
        self,
        objective: Objective,
        order: np.ndarray,
        minibatch: int,
        optim: Adam,
        epoch: int,
        schedule: Schedule,
        scale: float = 1.0,
        first: int = 0,
    ) -> Iterator[list[StepTaken]]:
        """Go through rows from `first` on, in their order; yields steps once they are taken.

        On a GPU, it takes all of them before it yields.
        """
        begins = range(first, len(order), minibatch)
        steps = self._steps_for(min(minibatch, len(order)))
        at_once = steps.at_once or len(begins)
        for k in range(0, len(begins), at_once):
            some = begins[k : k + at_once]
            rows = [order[begin : begin + minibatch] for begin in some]
            progress = [schedule.progress(epoch + begin / len(order)) for begin in some]
            taken = steps.take(objective, rows, optim, progress, scale)
            yield taken.steps
            if taken.error is not None:
                raise InvalidLossError(taken.error)

    def _steps_for(self, n_batch: int) -> Steps:
        """Return the object that takes steps on minibatches of so many rows."""
        if self._steps is None or self._steps.n_batch < n_batch:
            self._steps = make_steps(self.flow, n_batch, self.comm)
        return self._steps

    def step(
        self,
        objective: Objective,
        rows: np.ndarray,
        optim: Adam,
        progress: float | None = None,
        scale: float = 1.0,
    ) -> float:
        """Take one step on some rows of an objective.

        Parameters
        ----------
        objective : Objective
            What is to be made small.
        rows : ndarray of int64, (n_batch,)
            Which of its rows make the minibatch.
        optim : Adam
            Settings and state of the optimiser.
        progress : float, optional
            How much of the training is over, from 0 to 1; a schedule other than "constant" needs it.
        scale : float
            Factor of the learning rate besides.

        Returns
        -------
        float
            The loss before the step.

        Raises
        ------
        InvalidLossError
            If the loss or its gradient is not finite. Flow and optimiser are then as before.
        """
        if progress is None:
            check_no_schedule(optim)
        with self.comm.together():
            taken = self._steps_for(len(rows)).take(objective, [rows], optim, [progress or 0.0], scale)
        if taken.error is not None:
            raise InvalidLossError(taken.error)
        return taken.steps[0].loss


class BasicVarTrainer(BasicTrainer):
    """`BasicTrainer` with the variance loss.

    Parameters
    ----------
    flow : Flow
        The flow to be trained, in place.
    latent_prior : LatentPrior, optional
        See `BasicTrainer`.
    control_variate : bool
        See `BasicTrainer`.

    Examples
    --------
    >>> flow = vf.Flow(2, n_bins=4, d_hidden=8, seed=1)
    >>> trainer = vf.BasicVarTrainer(flow)
    >>> x, px = trainer.sample_forward(500, seed=1)
    >>> trainer.train_on_target_batch(x, px, x[:, 0], n_epochs=5)
    >>> uniform = vf.BasicVarTrainer(vf.Flow(2)).compute_loss(x, px, x[:, 0])
    >>> trainer.compute_loss(x, px, x[:, 0]) < uniform
    True
    """

    def __init__(
        self, flow: Flow, latent_prior: LatentPrior | None = None, *, control_variate: bool = True
    ) -> None:
        super().__init__(flow, latent_prior, loss="variance", control_variate=control_variate)


class BasicDKLTrainer(BasicTrainer):
    """`BasicTrainer` with the DKL loss.

    Parameters
    ----------
    flow : Flow
        The flow to be trained, in place.
    latent_prior : LatentPrior, optional
        See `BasicTrainer`.
    control_variate : bool
        See `BasicTrainer`.

    Examples
    --------
    >>> flow = vf.Flow(2, n_bins=4, d_hidden=8, seed=1)
    >>> trainer = vf.BasicDKLTrainer(flow)
    >>> x, px = trainer.sample_forward(500, seed=1)
    >>> trainer.train_on_target_batch(x, px, x[:, 0], n_epochs=5)
    >>> trainer.compute_loss(x, px, x[:, 0]) < 0  # what the uniform density has
    True
    """

    def __init__(
        self, flow: Flow, latent_prior: LatentPrior | None = None, *, control_variate: bool = True
    ) -> None:
        super().__init__(flow, latent_prior, loss="dkl", control_variate=control_variate)


def shuffled(rows: np.ndarray, seed: int, epoch: int, turn: int = 0) -> np.ndarray:
    """Shuffle rows (n,) with a counter-based generator keyed by seed, epoch and turn."""
    generator = np.random.Generator(np.random.Philox(key=[seed, epoch], counter=[0, 0, 0, turn]))
    return generator.permutation(rows)


def check_no_schedule(optim: Adam) -> None:
    """Raise ValueError if the schedule needs the length of the training."""
    if optim.schedule != "constant":
        raise ValueError(
            f"optim has the schedule {optim.schedule!r}, which must know how long the training is: call "
            "train_on_target_batch with n_epochs, or take schedule='constant'"
        )
