"""Trainings of the host program: on its weighted points, and what they have led to; the gradient besides."""

import ctypes
from dataclasses import fields
from typing import Any

import numpy as np

from varflow.data.dataset import Dataset
from varflow.errors import InvalidLossError
from varflow.flow.architecture import Architecture
from varflow.flow.defaults import default_sizes
from varflow.flow.flow import Flow
from varflow.flow.mixture import Mixture
from varflow.libvarflow.handles import keep, look_up, set_warnings
from varflow.libvarflow.integrals import FLOW_SIZES
from varflow.libvarflow.memory import Address, FloatArray, array_at, box_at, not_null, set_at
from varflow.libvarflow.options import parse, take, value_of
from varflow.training.adam import Adam
from varflow.training.evaluation import Evaluation
from varflow.training.evaluation import evaluate as evaluate_flow
from varflow.training.objective import GradientBuffers
from varflow.training.recipe import optimiser_for
from varflow.training.stateful_trainers import BasicStatefulTrainer
from varflow.training.train import train as train_new_flows
from varflow.training.trainers import BasicTrainer
from varflow.validation import check_flag, positive_int

__all__ = ["evaluate", "gradient", "train", "train_new"]

LOGARITHMS = ("logpx", "logfx")
LOSS = ("loss", "control_variate")
TRAINING = (
    *("n_epochs", "minibatch_size", "holdout", "patience", "p_normalized", "max_reloads", "seed"),
    *("checkpoint", "resume", "checkpoint_seconds"),
)
ADAM = ("lr", "betas", "eps", "weight_decay", "clip_norm", "schedule", "warm_up", "average")
NEW = ("cell", *FLOW_SIZES, "threads", "backend", "n_flows", "defensive", "test")
WITHOUT = {"callback": "vf_warnings tells what is doubtful about a training once it has ended"}


class Figures(ctypes.Structure):
    """`vf_evaluation` of the header."""

    _fields_ = tuple(
        (one.name, ctypes.c_int64 if one.name == "n" else ctypes.c_double) for one in fields(Evaluation)
    )


def train(handle: int, n: int, x: Address, p: Address, f: Address, options: bytes | None) -> None:
    """Do what `vf_train` says."""
    given = parse(options, LOSS + TRAINING + ADAM + LOGARITHMS, WITHOUT)
    flow: Flow = look_up(handle, Flow)
    data = _dataset(flow.bounds, n, x, p, f, given)
    optim = _optimiser(n, flow.architecture, given)
    trainer = BasicStatefulTrainer(flow, optim=optim, **{"loss": "variance"} | given)
    set_warnings(handle, trainer.train_on_dataset(data).warnings)


def train_new(
    d: int,
    bounds: Address,
    n: int,
    x: Address,
    p: Address,
    f: Address,
    options: bytes | None,
    figures: Address,
    handle: Address,
) -> None:
    """Do what `vf_train_new` says."""
    given = parse(options, LOSS + TRAINING + ADAM + LOGARITHMS + NEW, WITHOUT)
    for name, address in (("evaluation", figures), ("flow", handle)):
        not_null(name, address)
    data = _dataset(box_at(d, bounds), n, x, p, f, given)
    cell, own = given.pop("cell", "pwquad"), take(given, FLOW_SIZES)
    sizes = {name: size for name, size in own.items() if name != "precision"}
    architecture = Architecture(d, cell, **default_sizes(d, cell, n) | sizes)
    training = train_new_flows(
        data, cell=cell, flow_options=own, optim=_optimiser(n, architecture, given), **given
    )
    _set_figures(figures, training.evaluation)
    set_at("flow", handle, ctypes.c_int64, keep(training.flow, training.warnings))


def evaluate(
    handle: int, n: int, x: Address, p: Address, f: Address, options: bytes | None, figures: Address
) -> None:
    """Do what `vf_evaluate` says."""
    given = parse(options, LOGARITHMS)
    flow: Flow | Mixture = look_up(handle, Flow, Mixture)
    not_null("evaluation", figures)
    evaluation = evaluate_flow(flow, _dataset(flow.bounds, n, x, p, f, given))
    _set_figures(figures, evaluation)
    set_warnings(handle, evaluation.warnings)


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
    given = parse(options, LOSS + LOGARITHMS)
    flow: Flow = look_up(handle, Flow)
    target = array_at("gradient", dparameters, flow.n_params)
    not_null("loss", loss)
    data = _dataset(flow.bounds, n, x, p, f, given)
    objective = BasicTrainer(flow, **{"loss": "variance"} | given).objective(data)
    value, parts = objective.gradient(np.arange(n), GradientBuffers(flow, n))
    total = parts.sum(axis=0, dtype=np.float64)
    if not (np.isfinite(value) and np.isfinite(total).all()):
        raise InvalidLossError("the loss or its gradient is not finite")
    set_at("loss", loss, ctypes.c_double, value)
    target[:] = total


def _dataset(
    bounds: FloatArray, n: int, x: Address, p: Address, f: Address, given: dict[str, Any]
) -> Dataset:
    """Give the points; options that say what p and f are by their logarithms are taken out."""
    n = positive_int("n", n)
    points = array_at("x", x, n, len(bounds))
    values: dict[str, Any] = {"px": array_at("p", p, n), "fx": array_at("f", f, n)}
    for name, is_log in take(given, LOGARITHMS).items():
        check_flag(name, is_log)
        if is_log:
            values[name] = values.pop(name.removeprefix("log"))
    return Dataset(points, **values, bounds=bounds)


def _optimiser(n: int, architecture: Architecture, given: dict[str, Any]) -> Adam | None:
    """Make the optimiser where something of it is given, which is taken out."""
    settings = take(given, ADAM)
    if "betas" in settings:
        settings["betas"] = tuple(value_of(beta) for beta in str(settings["betas"]).split(","))
    return optimiser_for(n, architecture, **settings) if settings else None


def _set_figures(address: Address, evaluation: Evaluation) -> None:
    figures = Figures.from_address(not_null("evaluation", address))
    for one in fields(Evaluation):
        setattr(figures, one.name, getattr(evaluation, one.name))
