"""Integrals of the host program's functions, and runs in its own loops."""

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np

from varflow.errors import FunctionError
from varflow.integration.integrator import integrate as integrate_function
from varflow.integration.result import Result
from varflow.libvarflow.handles import keep, look_up
from varflow.libvarflow.memory import Address, FloatArray, array_at, box_at, not_null, set_at
from varflow.libvarflow.options import parse, take
from varflow.libvarflow.run import Run
from varflow.validation import positive_int

__all__ = ["END", "FLOW_SIZES", "ask", "integrate", "mean", "run_new", "run_result", "tell"]

END = 1  # status of `ask` at the end of a run

FLOW_SIZES = ("masking", "n_bins", "d_hidden", "n_hidden", "repetitions", "dtype")
INTEGRAL = (
    *("n_calls", "rtol", "atol", "seed", "threads", "loss", "flow", "on_invalid", "use_survey"),
    *("latent_points", "backend", "m"),
)
CHECKPOINT = ("checkpoint", "resume", "checkpoint_seconds")

CallHost = Callable[[int, Any, int, int, Any, int, Address], int]


class Figures(ctypes.Structure):
    """`vf_result` of the header."""

    _fields_ = (
        *((name, ctypes.c_double) for name in ("mean", "sdev", "chi2", "Q")),
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
    given = parse(options, INTEGRAL + CHECKPOINT + FLOW_SIZES)
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

    result = integrate_function(integrand, box, progress=False, **_with_sizes(given))
    result.source = None  # it would call f, which may be gone by then
    _give(result, figures)


def run_new(d: int, bounds: Address, options: bytes | None, run: Address) -> None:
    """Do what `vf_run_new` says."""
    given = parse(options, INTEGRAL + FLOW_SIZES)
    m = positive_int("m", given.pop("m", 1))
    not_null("run", run)
    set_at("run", run, ctypes.c_int64, keep(Run(box_at(d, bounds), m=m, **_with_sizes(given))))


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
    targets = array_at("mean", means, m), array_at("covariance", covariance, m, m)
    targets[0][:], targets[1][:] = np.ravel(result.mean), result.covariance


def _give(result: Result, address: Address) -> None:
    """Keep a result, and set its figures."""
    figures = Figures.from_address(not_null("result", address))
    figures.mean, figures.sdev = np.ravel(result.mean)[0], np.ravel(result.sdev)[0]
    figures.chi2, figures.Q, figures.dof = result.chi2, result.Q, result.dof
    figures.n_calls, figures.n_warnings = result.n_calls, len(result.warnings)
    figures.handle = keep(result, result.warnings)


def _with_sizes(given: dict[str, Any]) -> dict[str, Any]:
    """Collect the options that describe the flow's size."""
    sizes = take(given, FLOW_SIZES)
    return given | {"flow_options": sizes or None}
