"""Adam: settings, and the state that steps leave behind."""

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
from varflow.validation import check_finite_from_0, check_name, check_number

__all__ = ["SCHEDULES", "Adam", "AdamState"]


def constant(progress: float) -> float:
    """Keep the learning rate constant."""
    return 1.0


def cosine(progress: float) -> float:
    """Decay along half a cosine from 1 to 0 (Loshchilov and Hutter, arXiv 1608.03983, equation 5)."""
    return 0.5 * (1 + math.cos(math.pi * progress))


def one_cycle(progress: float) -> float:
    """Rise from 1/25 to 1 over the first 30 %, then fall to 0, each by half a cosine (arXiv 1708.07120)."""
    if progress < 0.3:
        return 1 / 25 + (1 - 1 / 25) * cosine(1 - progress / 0.3)
    return cosine((progress - 0.3) / 0.7)


SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": constant,
    "cosine": cosine,
    "one_cycle": one_cycle,
}


class AdamState(NamedTuple):
    """What `Adam` remembers; see there."""

    m: np.ndarray | None
    v: np.ndarray | None
    averaged: np.ndarray | None
    t: int

    def arrays(self, prefix: str) -> dict[str, np.ndarray]:
        """Return the state as arrays for a file."""
        known = {name: np.asarray(value) for name, value in self._asdict().items() if value is not None}
        return {f"{prefix}_{name}": value for name, value in known.items()}

    @classmethod
    def of(cls, prefix: str, arrays: Mapping[str, np.ndarray]) -> "AdamState":
        """Restore the state that `arrays` returned."""
        m, v, averaged = (arrays.get(f"{prefix}_{name}") for name in ("m", "v", "averaged"))
        return cls(m, v, averaged, int(arrays[f"{prefix}_t"]))


@dataclass(eq=False)
class Adam:
    """Adam (Kingma and Ba, arXiv 1412.6980) with its state, which goes on from one training to the next.

    The state belongs to the flow that it was made for: with another flow, a step is refused until `reset` is
    called. What `restore` takes up, and a copy, belong to the flow that takes the next step.

    Parameters
    ----------
    lr : float
        Learning rate, > 0.
    betas : tuple of float
        Decay of the first and of the second moment a step, in [0, 1).
    eps : float
        Added to the root of the second moment, > 0. Gradients are those of a loss of order one, whatever
        the units of f.
    weight_decay : float
        Share of the learning rate by which parameters shrink a step, >= 0 (arXiv 1711.05101).
    clip_norm : float, optional
        Gradients longer than this are shortened to it.
    schedule : {"constant", "cosine", "one_cycle"}
        How the learning rate changes in the course of a training.
    average : float
        Decay a step of the moving average of the parameters, in [0, 1); 0 for no average. Where there is one,
        it is what a training leaves in the flow.

    Attributes
    ----------
    m, v : ndarray, (n_params,), or None
        First and second moment of the gradient; None before the first step.
    averaged : ndarray, (n_params,), or None
        Moving average of the parameters.
    t : int
        Number of steps.

    Raises
    ------
    ValueError
        If a setting is out of range, or the schedule's name unknown.
    """

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip_norm: float | None = None
    schedule: str = "constant"
    average: float = 0.0
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

    def settings(self) -> dict[str, Any]:
        """Return the settings by name, without the state."""
        return {one.name: getattr(self, one.name) for one in fields(self) if one.init}

    def reset(self) -> None:
        """Discard the state."""
        self.m = self.v = self.averaged = self._owner = None
        self.t = 0

    def state(self) -> AdamState:
        """Copy the state, for `restore`."""
        return AdamState(_copy(self.m), _copy(self.v), _copy(self.averaged), self.t)

    def restore(self, state: AdamState) -> None:
        """Take up a state; it belongs to the flow that takes the next step."""
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
    ) -> None:
        """Update the parameters.

        Parameters
        ----------
        params : ndarray, (n_params,)
            Parameters, changed in place.
        dparams : ndarray, (n_lanes, n_params)
            Gradient in shares, whose sum it is; the first is overwritten with it.
        progress : float
            How much of the training is over, from 0 to 1: what the schedule goes by.
        scale : float
            Factor of the learning rate besides.
        threads : int
            Threads to be used.
        unit : float
            What the gradient is divided by first, above 0.

        Raises
        ------
        InvalidLossError
            If the gradient is not finite, or its squares are not. Nothing has changed then.
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
        settings = (*self.factors(t, progress, scale), factor)
        next_slice = np.zeros(1, np.int64)

        def work(k: int) -> None:
            kernels.adam_step(params, self.m, self.v, dparams[0], next_slice, SLICE, *settings)

        try:
            run(work, min(threads, -(-len(params) // SLICE)))
        finally:  # a step that Ctrl-C ends has been taken, or has not been begun
            if next_slice[0] > 0:
                self.t = t
        if self.average > 0:
            self._add_to_average(params)

    def claim(self, params: np.ndarray) -> None:
        """Make the state that of these parameters; raise ValueError where it belongs to another flow."""
        if self.m is not None and self.m.shape != params.shape:
            raise ValueError(f"optim has the state of {len(self.m)} parameters, the flow has {len(params)}")
        if self.m is not None and self._owner is not None and self._owner() is not params:
            raise ValueError(
                f"optim has the state of {self.t} steps with another flow: make a new Adam for this flow, or "
                "call optim.reset() first"
            )
        self._owner = weakref.ref(params)

    def factors(self, t: int, progress: float, scale: float) -> tuple[float, ...]:
        """Compute step size, both betas, epsilon and weight decay of step t, counted from 1."""
        # Both corrections of the algorithm in one factor of the step (end of section 2 of the paper); eps
        # moves with the second, so that it means what it does in the algorithm.
        root = math.sqrt(1 - self.betas[1] ** t)
        lr = self.lr * scale * SCHEDULES[self.schedule](progress)
        step_size = lr * root / (1 - self.betas[0] ** t)
        return step_size, *self.betas, self.eps * root, lr * self.weight_decay

    def renewal(self, t: int) -> float:
        """Compute the weight that the parameters after step t have in the moving average."""
        return 1 - min(self.average, t / (10 + t))  # the first steps are soon forgotten

    def _add_to_average(self, params: np.ndarray) -> None:
        if self.averaged is None:
            self.averaged = params.copy()
        with np.errstate(
            over="ignore", invalid="ignore"
        ):  # whoever uses the average looks whether it is finite
            self.averaged += self.renewal(self.t) * (params - self.averaged)


def _copy(array: np.ndarray | None) -> np.ndarray | None:
    return None if array is None else array.copy()


def _fold(dparams: np.ndarray, threads: int) -> float:
    """Add up the shares of the gradient. Returns the sum of squares, in an order that is always the same."""
    squares = {}

    def fold(begin: int, end: int) -> None:
        squares[begin] = kernels.fold_lanes(dparams, begin, end)

    _by_slices(fold, dparams.shape[1], threads)
    return sum(squares[begin] for begin in sorted(squares))


def _by_slices(task: Callable[[int, int], None], n: int, threads: int) -> None:
    """Call task(begin, end) for slices of n parameters, in threads where there are many."""
    slices = range(0, n, SLICE)
    threads = min(threads, len(slices))

    def work(k: int) -> None:
        for begin in slices[slice(*share(k, threads, len(slices)))]:
            task(begin, min(begin + SLICE, n))

    run(work, threads)
