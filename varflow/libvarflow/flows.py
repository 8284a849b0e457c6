"""Flows of the host program: made, trained, sampled and evaluated, with their parameters and gradients."""

import ctypes

import numpy as np

from varflow.data.dataset import Dataset
from varflow.errors import InvalidLossError
from varflow.flow.flow import Flow
from varflow.flow.mixture import Mixture
from varflow.integration.result import Result
from varflow.libvarflow.handles import keep, look_up, set_warnings
from varflow.libvarflow.integrals import FLOW_SIZES
from varflow.libvarflow.memory import Address, FloatArray, array_at, box_at, not_null, set_at
from varflow.libvarflow.options import parse, take
from varflow.libvarflow.run import Run
from varflow.training.adam import Adam
from varflow.training.objective import GradientBuffers
from varflow.training.recipe import optimiser_for
from varflow.training.stateful_trainers import BasicStatefulTrainer
from varflow.training.trainers import BasicTrainer
from varflow.validation import positive_int

__all__ = [
    "dimension",
    "flow_new",
    "get_parameters",
    "gradient",
    "log_prob",
    "n_parameters",
    "sample",
    "set_parameters",
    "train",
]

FLOW = ("cell", *FLOW_SIZES, "seed", "threads", "backend", "precision")
LOSS = ("loss", "control_variate")
TRAINING = (
    *("n_epochs", "minibatch_size", "holdout", "patience", "p_normalized", "max_reloads", "seed"),
    *("checkpoint", "resume", "checkpoint_seconds"),
)
ADAM = ("lr", "eps", "weight_decay", "clip_norm", "schedule", "warm_up", "average")


def flow_new(d: int, bounds: Address, options: bytes | None, flow: Address) -> None:
    """Do what `vf_flow_new` says."""
    given = parse(options, FLOW)
    not_null("flow", flow)
    set_at("flow", flow, ctypes.c_int64, keep(Flow(d, bounds=box_at(d, bounds), **given)))


def train(handle: int, n: int, x: Address, p: Address, f: Address, options: bytes | None) -> None:
    """Do what `vf_train` says."""
    given = parse(options, LOSS + TRAINING + ADAM)
    flow: Flow = look_up(handle, Flow)
    data = _dataset(flow, n, x, p, f)
    settings = take(given, ADAM)
    optim = None
    if settings:
        optim = Adam(**optimiser_for(n, flow.architecture).settings() | settings)
    trainer = BasicStatefulTrainer(flow, optim=optim, **{"loss": "variance"} | given)
    set_warnings(handle, trainer.train_on_dataset(data).warnings)


def sample(handle: int, n: int, seed: int, x: Address, log_q: Address) -> None:
    """Do what `vf_sample` says."""
    source = look_up(handle, Flow, Mixture, Result)
    n, d = positive_int("n", n), _dimension(source)
    targets = array_at("x", x, n, d), array_at("log_q", log_q, n)
    targets[0][:], targets[1][:] = source.sample(n, seed=None if seed < 0 else seed)


def log_prob(handle: int, n: int, x: Address, log_q: Address) -> None:
    """Do what `vf_log_prob` says."""
    flow: Flow | Mixture = look_up(handle, Flow, Mixture)
    target = array_at("log_q", log_q, positive_int("n", n))
    target[:] = flow.log_prob(array_at("x", x, n, flow.d))


def n_parameters(handle: int, n: Address) -> None:
    """Do what `vf_n_parameters` says."""
    flow: Flow = look_up(handle, Flow)
    set_at("n", n, ctypes.c_int64, flow.n_params)


def get_parameters(handle: int, n: int, parameters: Address) -> None:
    """Do what `vf_get_parameters` says."""
    flow, target = _parameters(handle, n, parameters)
    target[:] = flow.params


def set_parameters(handle: int, n: int, parameters: Address) -> None:
    """Do what `vf_set_parameters` says."""
    flow, values = _parameters(handle, n, parameters)
    flow.params = values


def gradient(
    handle: int,
    n: int,
    x: Address,
    p: Address,
    f: Address,
    options: bytes | None,
    loss: Address,
    dparameters: Address,
) -> None:
    """Do what `vf_gradient` says."""
    given = parse(options, LOSS)
    flow: Flow = look_up(handle, Flow)
    target = array_at("gradient", dparameters, flow.n_params)
    not_null("loss", loss)
    data = _dataset(flow, n, x, p, f)
    objective = BasicTrainer(flow, **{"loss": "variance"} | given).objective(data)
    value, parts = objective.gradient(np.arange(n), GradientBuffers(flow, n))
    total = parts.sum(axis=0, dtype=np.float64)
    if not (np.isfinite(value) and np.isfinite(total).all()):
        raise InvalidLossError("the loss or its gradient is not finite")
    set_at("loss", loss, ctypes.c_double, value)
    target[:] = total


def dimension(handle: int, d: Address) -> None:
    """Do what `vf_dimension` says."""
    set_at("d", d, ctypes.c_int32, _dimension(look_up(handle)))


def _dimension(kept: Flow | Mixture | Result | Run) -> int:
    if isinstance(kept, Run):
        return kept.domain.d
    return kept.flow.d if isinstance(kept, Result) else kept.d


def _dataset(flow: Flow, n: int, x: Address, p: Address, f: Address) -> Dataset:
    n = positive_int("n", n)
    points, px, fx = array_at("x", x, n, flow.d), array_at("p", p, n), array_at("f", f, n)
    return Dataset(points, px, fx, bounds=flow.bounds)


def _parameters(handle: int, n: int, address: Address) -> tuple[Flow, FloatArray]:
    """Give a flow, and the host program's array of its parameters."""
    flow: Flow = look_up(handle, Flow)
    if n != flow.n_params:
        raise ValueError(f"n must be {flow.n_params}, as the flow has so many parameters, got {n}")
    return flow, array_at("parameters", address, n)
