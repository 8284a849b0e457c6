"""Integrals of the host program's functions, and runs in its own loops."""

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np

from varflow.errors import FunctionError
from varflow.flow.flow import Flow
from varflow.integration.integrator import integrate as integrate_function
from varflow.integration.result import Result
from varflow.libvarflow.handles import keep, look_up
from varflow.libvarflow.memory import Address, FloatArray, array_at, box_at, not_null, set_at
from varflow.libvarflow.options import parse, take
from varflow.libvarflow.run import Run
from varflow.validation import positive_int

__all__ = [
    "END",
    "FLOW_SIZES",
    "ask",
    "integrate",
    "mean",
    "run_extend",
    "run_forget",
    "run_new",
    "run_result",
    "run_step",
    "tell",
]

END = 1  # status of `ask` at the end of a run

FLOW_SIZES = ("masking", "n_bins", "d_hidden", "n_hidden", "repetitions", "dtype", "precision")
INTEGRAL = (
    *("n_calls", "rtol", "atol", "seed", "threads", "loss", "flow", "on_invalid", "use_survey"),
    *("covariance", "latent_points", "backend", "log", "m"),
)
INTEGRATE = ("deterministic", "checkpoint", "resume", "checkpoint_seconds")  # besides: not for runs
WITHOUT = {  # arguments of Python's that make no sense here, and what to do instead
    "callback": "integrate in a loop of your own, by vf_run_new",
    "progress": "nothing is printed",
    "vectorized": "f takes many points at once",
    "workers": (
        "f cannot be sent to other processes; evaluate points in threads of your own, in f or by vf_run_new"
    ),
}

CallHost = Callable[[int, Any, int, int, Any, int, Address], int]


class Figures(ctypes.Structure):
    """`vf_result` of the header."""

    _fields_ = (
        *((name, ctypes.c_double) for name in ("mean", "sdev", "log_mean", "log_sdev", "chi2", "Q")),
        *((name, ctypes.c_int64) for name in ("dof", "n_calls", "n_warnings", "handle")),
    )


def integrate(
    call_host: CallHost,
    f: Address,
    user: Address,
    d: int,
    bounds: Address,
    options: bytes | None,
    figures: Address,
) -> None:
    """Do what `vf_integrate` says; `call_host` calls f in the host program's floating-point environment."""
    given = parse(options, INTEGRAL + INTEGRATE + FLOW_SIZES, WITHOUT)
    box, m = box_at(d, bounds), positive_int("m", given.pop("m", 1))
    address = not_null("f", f)
    not_null("result", figures)

    def integrand(x: FloatArray) -> FloatArray:
        values = np.full((len(x), m), np.nan)  # what f does not set is refused
        status = call_host(address, x.ctypes.data, len(x), d, values.ctypes.data, m, user)
        if status != 0:
            first = ", ".join(f"{coordinate:.6g}" for coordinate in x[0])
            raise FunctionError(f"f returned status {status} for {len(x)} points, the first at ({first})")
        return values[:, 0] if m == 1 else values

    result = integrate_function(integrand, box, progress=False, **_arguments(given))
    result.source = None  # it would call f, which may be gone by then
    _give(result, figures)


def run_new(d: int, bounds: Address, options: bytes | None, run: Address) -> None:
    """Do what `vf_run_new` says."""
    given = parse(options, (*INTEGRAL, "train_in", *FLOW_SIZES), WITHOUT)
    m = positive_int("m", given.pop("m", 1))
    not_null("run", run)
    set_at("run", run, ctypes.c_int64, keep(Run(box_at(d, bounds), m=m, **_arguments(given))))


def ask(handle: int, n: Address, x: Address) -> int:
    """Do what `vf_ask` says; returns END at the end of the run."""
    run: Run = look_up(handle, Run)
    room = ctypes.c_int64.from_address(not_null("n", n)).value
    d = run.domain.d
    target = array_at("x", x, positive_int("n", room), d)
    points = run.give(room)
    count = 0 if points is None else len(points)
    target[:count] = np.empty((0, d)) if points is None else points
    set_at("n", n, ctypes.c_int64, count)
    return END if points is None else 0


def tell(handle: int, n: int, values: Address) -> None:
    """Do what `vf_tell` says."""
    run: Run = look_up(handle, Run)
    run.take(array_at("values", values, n, run.m))


def run_forget(handle: int, n: int) -> None:
    """Do what `vf_run_forget` says."""
    run: Run = look_up(handle, Run)
    run.give_up(positive_int("n", n))


def run_step(handle: int) -> None:
    """Do what `vf_run_step` says."""
    run: Run = look_up(handle, Run)
    run.step()


def run_extend(handle: int, n_calls: int) -> None:
    """Do what `vf_run_extend` says."""
    run: Run = look_up(handle, Run)
    run.extend(n_calls)


def run_result(handle: int, figures: Address) -> None:
    """Do what `vf_run_result` says."""
    run: Run = look_up(handle, Run)
    not_null("result", figures)
    _give(run.result(), figures)


def mean(handle: int, m: int, means: Address, covariance: Address) -> None:
    """Do what `vf_mean` says."""
    result: Result = look_up(handle, Result)
    if m != result.components.size:
        raise ValueError(f"m must be {result.components.size}, as f has so many components, got {m}")
    target = array_at("mean", means, m)
    if covariance is not None:
        array_at("covariance", covariance, m, m)[:] = result.covariance
    target[:] = np.ravel(result.mean)


def _give(result: Result, address: Address) -> None:
    """Keep a result, and set its figures."""
    figures = Figures.from_address(not_null("result", address))
    for name in ("mean", "sdev", "log_mean", "log_sdev"):
        setattr(figures, name, np.ravel(getattr(result, name))[0])
    figures.chi2, figures.Q, figures.dof = result.chi2, result.Q, result.dof
    figures.n_calls, figures.n_warnings = result.n_calls, len(result.warnings)
    figures.handle = keep(result, result.warnings)


def _arguments(given: dict[str, Any]) -> dict[str, Any]:
    """Give the options as arguments of Python's: sizes of the flow together, and one that has a handle."""
    sizes = take(given, FLOW_SIZES)
    if type(given.get("flow")) is int:
        kept: Flow | Result = look_up(given["flow"], Flow, Result)
        given["flow"] = kept.flow if isinstance(kept, Result) else kept
    return given | {"flow_options": sizes or None}
