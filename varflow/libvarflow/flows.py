"""Flows of the host program: made and sampled, with their densities and parameters."""

import ctypes

from varflow.flow.flow import Flow
from varflow.flow.mixture import Mixture
from varflow.integration.result import Result
from varflow.libvarflow.handles import keep, look_up
from varflow.libvarflow.integrals import FLOW_SIZES
from varflow.libvarflow.memory import Address, FloatArray, array_at, box_at, not_null, set_at
from varflow.libvarflow.options import parse
from varflow.libvarflow.run import Run
from varflow.validation import positive_int

__all__ = [
    "dimension",
    "flow_new",
    "get_parameters",
    "log_prob",
    "n_parameters",
    "sample",
    "set_parameters",
]

FLOW = ("cell", *FLOW_SIZES, "seed", "threads", "backend")


def flow_new(d: int, bounds: Address, options: bytes | None, flow: Address) -> None:
    """Do what `vf_flow_new` says."""
    given = parse(options, FLOW)
    not_null("flow", flow)
    set_at("flow", flow, ctypes.c_int64, keep(Flow(d, bounds=box_at(d, bounds), **given)))


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


def dimension(handle: int, d: Address) -> None:
    """Do what `vf_dimension` says."""
    set_at("d", d, ctypes.c_int32, _dimension(look_up(handle)))


def _dimension(kept: Flow | Mixture | Result | Run) -> int:
    if isinstance(kept, Run):
        return kept.domain.d
    return kept.flow.d if isinstance(kept, Result) else kept.d


def _parameters(handle: int, n: int, address: Address) -> tuple[Flow, FloatArray]:
    """Give a flow, and the host program's array of its parameters."""
    flow: Flow = look_up(handle, Flow)
    if n != flow.n_params:
        raise ValueError(f"n must be {flow.n_params}, as the flow has so many parameters, got {n}")
    return flow, array_at("parameters", address, n)
