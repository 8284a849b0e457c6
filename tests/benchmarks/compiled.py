"""What calling a compiled integrand costs beyond the function itself, and seconds beside vegas with cffi.

    python tests/benchmarks/compiled.py [--rounds 9] [--vegas-python PYTHON]

The function is that of vegas's example for cffi, a Gaussian in four dimensions, built by gcc; its own time is
that of a loop in C that calls it by a pointer. `call` is the time of a call of `vf.CompiledIntegrand` at 8192
points, the fastest of 50. `refine` is the time that a refinement spends on values of the integrand, less the
same for a Python function that returns an array it has, which is varflow's own share. Both are nanoseconds of
a processor's time a point, on one thread, medians over the rounds, in which all take turns.

PYTHON is the interpreter of an environment that has vegas 6 and cffi. There, the function is integrated as
vegas's documentation does it, and here as a "batch", to a relative error; both begin anew, take turns, and
are in processes of their own that have compiled everything before the clock starts. varflow uses all cores.
"""

import argparse
import ctypes
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from time import thread_time
from typing import Any
from unittest.mock import patch

import numpy as np
from results import peer_versions, record

import varflow as vf
from varflow.integration.integrand import Integrand

BOUNDS = [(-1, 1), (0, 1), (0, 1), (0, 1)]
SYMBOLS = {"batch": "batch", "scipy": "scipy_kind", "cuba": "cuba", "vegas77": "vegas77"}
N_CALL, N_REFINE = 8192, 400_000
RTOLS = "1e-3", "1e-4"

VARFLOW = """
import varflow as vf
f = vf.CompiledIntegrand(options["library"], "batch", kind="batch")
vf.integrate(f, bounds, n_calls=20_000, seed=0)  # compiles
begin = perf_counter()
result = vf.integrate(f, bounds, rtol=rtol, n_calls=10**9, seed=seed)
seconds, calls = perf_counter() - begin, result.n_calls
"""

VEGAS = """
import cffi, gvar, numpy as np, vegas
ffi = cffi.FFI()
ffi.cdef("int batch(const double *x, int64_t n, int32_t d, double *out, int32_t m, void *user);")
library, calls = ffi.dlopen(options["library"]), 0
@vegas.lbatchintegrand
def f(x):
    global calls
    n, d = x.shape
    calls += n
    values = np.empty(n)
    at, to = (ffi.cast("double *", array.ctypes.data) for array in (x, values))
    library.batch(at, n, d, to, 1, ffi.NULL)
    return values
vegas.Integrator(bounds)(f, nitn=2, neval=1000)
gvar.ranseed(seed)
calls, neval = 0, 1000
begin = perf_counter()
integrator = vegas.Integrator(bounds)
integrator(f, nitn=5, neval=neval)
while True:
    result = integrator(f, nitn=10, neval=neval)
    if result.sdev <= rtol * abs(result.mean):
        break
    neval *= 2
seconds = perf_counter() - begin
"""

BEGIN = """
import json, sys
from time import perf_counter
options = json.loads(sys.argv[1])
bounds, rtol, seed = options["bounds"], options["rtol"], options["seed"]
"""

END = """
print(json.dumps(dict(calls=calls, seconds=seconds, pull=float((result.mean - 1) / result.sdev))))
"""


def built(folder: str) -> Path:
    """Build the library."""
    target = Path(folder) / "libkinds.so"
    source = Path(__file__).with_name("compiled_kinds.c")
    subprocess.run(["gcc", "-O2", "-shared", "-fPIC", "-o", target, source, "-lm"], check=True)
    return target


def of_call(f: Callable[[], object]) -> float:
    """Nanoseconds a point of a call at N_CALL points, the fastest of 50."""
    times = []
    for _ in range(50):
        begin = thread_time()
        f()
        times.append(thread_time() - begin)
    return min(times) / N_CALL * 1e9


def in_refinement(f: Callable[..., Any]) -> float:
    """Nanoseconds a point that a refinement spends on values of f."""
    seconds, evaluate = 0.0, Integrand._evaluate

    def timed(integrand: Integrand, x: Any) -> Any:
        nonlocal seconds
        begin = thread_time()
        values = evaluate(integrand, x)
        seconds += thread_time() - begin
        return values

    flow = vf.Flow(4, bounds=BOUNDS, n_bins=2, d_hidden=2, n_hidden=1, seed=1, threads=1)
    integrator = vf.Integrator(f, BOUNDS, flow=flow, n_iter_refine=1, n_points_refine=N_REFINE, seed=1)
    with patch.object(Integrand, "_evaluate", timed):
        integrator.refine()
    return seconds / integrator.integrand.n_calls * 1e9


def costs(library: Path, rounds: int) -> dict[str, dict[str, float]]:
    """Nanoseconds a point of each kind: of the function, of a call, and in a refinement."""
    loaded = ctypes.CDLL(library)
    x, ones = np.random.default_rng(1).random((N_CALL, 4)), np.ones(N_REFINE)
    own = partial(loaded.own, x.ctypes.data_as(ctypes.c_void_p), ctypes.c_int64(N_CALL), 4, loaded.scipy_kind)
    kinds = {name: vf.CompiledIntegrand(library, symbol, kind=name) for name, symbol in SYMBOLS.items()}
    works: dict[tuple[str, str], Callable[[], float]] = {
        ("", "own"): partial(of_call, own),
        ("", "refine"): partial(in_refinement, lambda x: ones[: len(x)]),
        **{(name, "call"): partial(of_call, partial(f, x)) for name, f in kinds.items()},
        **{(name, "refine"): partial(in_refinement, f) for name, f in kinds.items()},
    }
    rows = [{key: measure() for key, measure in works.items()} for _ in range(rounds)]
    found = {key: median(row[key] for row in rows) for key in works}
    return {
        name: {
            "own_ns": found["", "own"],
            "call_ns": found[name, "call"],
            "refine_ns": found[name, "refine"] - found["", "refine"],
            "rounds": rounds,
        }
        for name in kinds
    }


def run(python: str, code: str, **options: Any) -> dict[str, Any]:
    """Run code in a process of its own; its last line of output is the result."""
    command = [python, "-W", "ignore", "-c", BEGIN + code + END, json.dumps({"bounds": BOUNDS, **options})]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode != 0:
        raise SystemExit(f"{python} failed:\n{process.stderr}")
    found: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return found


def beside_vegas(library: Path, rtol: str, python: str, rounds: int) -> dict[str, Any]:
    """Medians of seconds and calls of both to a relative error."""
    lines: dict[str, list[dict[str, Any]]] = {"vegas": [], "varflow": []}
    for seed in range(1, rounds + 1):
        options = {"library": str(library), "rtol": float(rtol), "seed": seed}
        lines["vegas"].append(run(python, VEGAS, **options))
        lines["varflow"].append(run(sys.executable, VARFLOW, **options))
    return {
        "rounds": rounds,
        **{
            who: {key: median(line[key] for line in found) for key in ("seconds", "calls")}
            | {"largest_pull": max(abs(line["pull"]) for line in found)}
            for who, found in lines.items()
        },
    }


def main() -> None:
    """Parse arguments and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--vegas-python")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        library = built(folder)
        for kind, figures in costs(library, options.rounds).items():
            print(json.dumps({"kind": kind, **figures}), flush=True)
            record("compiled", kind, figures)
        if options.vegas_python is None:
            return
        peers = peer_versions(options.vegas_python, ["vegas", "cffi"])
        for rtol in RTOLS:
            figures = beside_vegas(library, rtol, options.vegas_python, min(options.rounds, 3))
            print(json.dumps({"rtol": rtol, **figures}), flush=True)
            record("compiled_vegas", rtol, figures, peers=peers)


if __name__ == "__main__":
    main()
