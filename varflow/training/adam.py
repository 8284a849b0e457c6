"""The optimiser Adam, its state, and schedules of the learning rate."""

import math
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from numbers import Real
from typing import Any, NamedTuple

import numpy as np

from varflow.errors import InvalidLossError
from varflow.kernels import adam as kernels
from varflow.runtime.threads import SLICE, run, share
from varflow.validation import check_finite_from_0, check_name, check_number, checked_int

__all__ = ["SCHEDULES", "Adam", "AdamState"]


def constant(progress: float) -> float:
    """Return 1: the learning rate does not change."""
    return 1.0


def cosine(progress: float) -> float:
    """Fall from 1 to 0 by half a cosine (Loshchilov and Hutter, arXiv 1608.03983, eq. 5, no restarts)."""
    return 0.5 * (1 + math.cos(math.pi * progress))


def one_cycle(progress: float) -> float:
    """Rise from 1/25 to 1 in the first 30 %, then fall to 0, each by half a cosine (arXiv 1708.07120)."""
    if progress < 0.3:
        return 1 / 25 + (1 - 1 / 25) * cosine(1 - progress / 0.3)
    return cosine((progress - 0.3) / 0.7)


SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": constant,
    "cosine": cosine,
    "one_cycle": one_cycle,
}


class AdamState(NamedTuple):
    """State of `Adam`; see its attributes."""

    m: np.ndarray | None
    v: np.ndarray | None
    averaged: np.ndarray | None
    t: int

    def arrays(self, prefix: str) -> dict[str, np.ndarray]:
        """Return all parts of the state that are not None as arrays to be saved; see `of`."""
        known = {name: np.asarray(value) for name, value in self._asdict().items() if value is not None}
        return {f"{prefix}_{name}": value for name, value in known.items()}

    @classmethod
    def of(cls, prefix: str, arrays: Mapping[str, np.ndarray]) -> "AdamState":
        """Rebuild the state from what `arrays` returned."""
        m, v, averaged = (arrays.get(f"{prefix}_{name}") for name in ("m", "v", "averaged"))
        return cls(m, v, averaged, int(arrays[f"{prefix}_t"]))


@dataclass(eq=False)
class Adam:
    """Adam (Kingma and Ba, arXiv 1412.6980), with a state that is kept from one training to the next.

    The state belongs to the flow whose steps it comes from; with another flow, steps are refused until
    `reset` is called. A state set by `restore`, or that of a copy, belongs to the flow that takes the next
    step.

    Parameters
    ----------
    lr : float
        Learning rate, > 0.
    betas : tuple of float
        Decay rates per step of the first and of the second moment, in [0, 1).
    eps : float
        Added to the root of the second moment, > 0. Gradients are those of a loss of order one, whatever
        the units of f.
    weight_decay : float
        Decoupled weight decay, >= 0: each step also shrinks the parameters by this times the present learning
        rate, as a fraction (Loshchilov and Hutter, arXiv 1711.05101).
    clip_norm : float, optional
        Largest norm of the gradient, > 0; longer gradients are scaled down to it.
    schedule : {"constant", "cosine", "one_cycle"}
        Schedule of the learning rate in the course of a training.
    average : float
        Decay rate per step of a moving average of the parameters, in [0, 1); 0 for no average. With an
        average, a training leaves that in the flow.
    warm_up : int
        Number of steps in which the learning rate rises linearly to that of the schedule, counted from the
        first step of this state; 0 for none.

    Attributes
    ----------
    m, v : ndarray, (n_params,), or None
        First and second moment of the gradient; None before the first step.
    averaged : ndarray, (n_params,), or None
        Moving average of the parameters; None without an average, or before the first step.
    t : int
        Number of steps.

    Raises
    ------
    TypeError
        If a setting is not a number, or `betas` are not numbers.
    ValueError
        If a setting is out of range, or the name of the schedule is unknown.

    Examples
    --------
    >>> flow = vf.Flow(2, n_bins=4, d_hidden=8, seed=1)
    >>> x = np.random.default_rng(1).random((500, 2))
    >>> optim = vf.Adam(lr=0.005, schedule="cosine", average=0.9)
    >>> trainer = vf.BasicVarTrainer(flow)
    >>> trainer.train_on_target_batch(x, np.ones(500), x[:, 0], optim, n_epochs=2, minibatch_size=100)
    >>> optim.t
    10

    Its state can be kept, and a copy of it put back; another flow begins without one:

    >>> state = optim.state()
    >>> optim.reset()
    >>> optim.t, optim.m
    (0, None)
    >>> optim.restore(state)
    >>> optim.claim(flow.params)  # from here on, it is this flow's again
    >>> optim.t
    10

    What a step does, on parameters alone:

    >>> optim, params, gradient = vf.Adam(lr=0.1), np.ones(2), np.array([[3.0, -4.0]])
    >>> optim.step(params, gradient, progress=0.0, scale=1.0, threads=1)
    (0.1, 5.0)
    >>> params.round(6)
    array([0.9, 1.1])
    >>> optim.learning_rate(t=2, progress=0.5, scale=1.0), optim.renewal(t=1)
    (0.1, 1.0)
    >>> step_size, *betas, eps, decay = optim.factors(t=1, lr=0.1)
    >>> vf.Adam(**optim.settings()).lr
    0.1
    """

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip_norm: float | None = None
    schedule: str = "constant"
    average: float = 0.0
    warm_up: int = 0
    m: np.ndarray | None = field(default=None, init=False, repr=False)
    v: np.ndarray | None = field(default=None, init=False, repr=False)
    averaged: np.ndarray | None = field(default=None, init=False, repr=False)
    t: int = field(default=0, init=False, repr=False)
    _owner: "weakref.ref[np.ndarray] | None" = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        check_number("lr", self.lr, lambda lr: 0 < lr < math.inf, "positive and finite")
        check_number("eps", self.eps, lambda eps: 0 < eps < math.inf, "positive and finite")
        check_finite_from_0("weight_decay", self.weight_decay)
        check_number("average", self.average, lambda average: 0 <= average < 1, "in [0, 1)")
        if self.clip_norm is not None:
            check_number("clip_norm", self.clip_norm, lambda norm: norm > 0, "positive, or None")
        if not isinstance(self.betas, tuple | list) or not all(isinstance(beta, Real) for beta in self.betas):
            raise TypeError(f"betas must be two numbers, got {self.betas!r}")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must be two numbers in [0, 1), got {self.betas!r}")
        check_name("schedule", self.schedule, SCHEDULES)
        self.warm_up = checked_int("warm_up", self.warm_up)

    def settings(self) -> dict[str, Any]:
        """Return the settings by name, without the state.

        Returns
        -------
        dict
            The arguments that make the optimiser anew.
        """
        return {one.name: getattr(self, one.name) for one in fields(self) if one.init}

    def reset(self) -> None:
        """Discard the state, as if no step had been taken."""
        self.m = self.v = self.averaged = self._owner = None
        self.t = 0

    def state(self) -> AdamState:
        """Return a copy of the state, for `restore`.

        Returns
        -------
        AdamState
            A tuple of m, v, averaged and t.
        """
        return AdamState(_copy(self.m), _copy(self.v), _copy(self.averaged), self.t)

    def restore(self, state: AdamState) -> None:
        """Set the state, which then belongs to the flow that takes the next step.

        Parameters
        ----------
        state : AdamState
            What `state` has returned; it is copied.
        """
        self.m, self.v, self.averaged, self.t = _copy(state.m), _copy(state.v), _copy(state.averaged), state.t
        self._owner = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_owner": None}

    def step(
        self,
        params: np.ndarray,
        dparams: np.ndarray,
        progress: float,
        scale: float,
        threads: int,
        unit: float = 1.0,
    ) -> tuple[float, float]:
        """Update the parameters.

        Parameters
        ----------
        params : ndarray, (n_params,)
            Parameters, updated in place.
        dparams : ndarray, (n_lanes, n_params)
            Parts of the gradient, which is their sum. The first part is overwritten by the sum.
        progress : float
            Completed fraction of the training, from 0 to 1, for the schedule.
        scale : float
            Additional factor of the learning rate.
        threads : int
            Number of threads.
        unit : float
            Divisor of the gradient, above 0, applied first.

        Returns
        -------
        learning_rate : float
            Learning rate of the step.
        length : float
            Length of the gradient, before it is clipped.

        Raises
        ------
        InvalidLossError
            If the gradient or its squares are not finite, or it cannot be divided by `unit`. Parameters and
            state are unchanged then.
        ValueError
            If the state belongs to another flow.
        """
        self.claim(params)
        if not unit > 0:
            raise InvalidLossError(f"the gradient cannot be divided by {unit:.2g}")
        norm = math.sqrt(_fold(dparams, threads)) / unit
        if not math.isfinite(norm):
            raise InvalidLossError("the gradient is not finite")
        shortened = min(1.0, self.clip_norm / norm) if self.clip_norm and norm > 0 else 1.0
        if (norm * shortened) * (norm * shortened) > float(np.finfo(params.dtype).max):
            raise InvalidLossError(f"the gradient is {norm:.2g} long, its squares overflow in {params.dtype}")
        factor = shortened / unit
        if not factor <= float(np.finfo(params.dtype).max):
            raise InvalidLossError(f"the gradient cannot be divided by {unit:.2g} in {params.dtype}")
        if self.m is None or self.v is None:
            self.m, self.v = np.zeros_like(params), np.zeros_like(params)
        t = self.t + 1
        lr = self.learning_rate(t, progress, scale)
        settings = (*self.factors(t, lr), factor)
        next_slice = np.zeros(1, np.int64)

        def work(k: int) -> None:
            kernels.adam_step(params, self.m, self.v, dparams[0], next_slice, SLICE, *settings)

        try:
            run(work, min(threads, -(-len(params) // SLICE)))
        finally:  # a step interrupted by Ctrl-C has been taken completely, or not been begun
            if next_slice[0] > 0:
                self.t = t
        if self.average > 0:
            self._add_to_average(params)
        return lr, norm

    def claim(self, params: np.ndarray) -> None:
        """Let the state belong to a flow.

        Parameters
        ----------
        params : ndarray, (n_params,)
            The parameters of the flow.

        Raises
        ------
        ValueError
            If it belongs to another flow, or is of another number of parameters.
        """
        if self.m is not None and self.m.shape != params.shape:
            raise ValueError(f"optim has the state of {len(self.m)} parameters, the flow has {len(params)}")
        if self.m is not None and self._owner is not None and self._owner() is not params:
            raise ValueError(
                f"optim has the state of {self.t} steps with another flow: make a new Adam for this flow, or "
                "call optim.reset() first"
            )
        self._owner = weakref.ref(params)

    def factors(self, t: int, lr: float) -> tuple[float, ...]:
        """Compute the numbers that the kernel of a step needs.

        Parameters
        ----------
        t : int
            Number of the step, counted from 1.
        lr : float
            Its learning rate.

        Returns
        -------
        tuple of float
            Step size, both betas, epsilon and decay.
        """
        # Both bias corrections are combined in the step size (end of section 2 of the paper); eps is scaled
        # along with the second moment, so that it has the meaning that it has in algorithm 1.
        root = math.sqrt(1 - self.betas[1] ** t)
        step_size = lr * root / (1 - self.betas[0] ** t)
        return step_size, *self.betas, self.eps * root, lr * self.weight_decay

    def learning_rate(self, t: int, progress: float, scale: float) -> float:
        """Compute the learning rate of a step.

        Parameters
        ----------
        t : int
            Number of the step, counted from 1.
        progress : float
            Completed fraction of the training, from 0 to 1.
        scale : float
            Additional factor of the learning rate.

        Returns
        -------
        float
            The learning rate.
        """
        lr = self.lr * scale * SCHEDULES[self.schedule](progress)
        return lr * t / self.warm_up if t < self.warm_up else lr

    def renewal(self, t: int) -> float:
        """Compute the share that parameters after a step get in their moving average.

        Parameters
        ----------
        t : int
            Number of the step, counted from 1.

        Returns
        -------
        float
            The share, in (0, 1].
        """
        return 1 - min(self.average, t / (10 + t))  # larger at first, so that the first steps soon fade

    def _add_to_average(self, params: np.ndarray) -> None:
        if self.averaged is None:
            self.averaged = params.copy()
        with np.errstate(over="ignore", invalid="ignore"):  # users of the average check that it is finite
            self.averaged += self.renewal(self.t) * (params - self.averaged)


def _copy(array: np.ndarray | None) -> np.ndarray | None:
    return None if array is None else array.copy()


def _fold(dparams: np.ndarray, threads: int) -> float:
    """Add up the parts of the gradient, and return its sum of squares, computed in a fixed order."""
    squares = {}

    def fold(begin: int, end: int) -> None:
        squares[begin] = kernels.fold_lanes(dparams, begin, end)

    _by_slices(fold, dparams.shape[1], threads)
    return sum(squares[begin] for begin in sorted(squares))


def _by_slices(task: Callable[[int, int], None], n: int, threads: int) -> None:
    """Call task(begin, end) for slices of n parameters, in several threads if there are several slices."""
    slices = range(0, n, SLICE)
    threads = min(threads, len(slices))

    def work(k: int) -> None:
        for begin in slices[slice(*share(k, threads, len(slices)))]:
            task(begin, min(begin + SLICE, n))

    run(work, threads)
