"""Varflow's training step on a GPU beside ZüNIS's in PyTorch, eager and as a CUDA graph.

    python tests/benchmarks/gpu.py --torch-python PYTHON [--rounds 3] [case ...]

PYTHON is the interpreter of an environment that has PyTorch with CUDA; `torch_step.py` beside this file runs
there. The three take turns in one run, each in a process of its own, in float32 (varflow's coordinates in
float64: precision "mixed"); figures are medians over the rounds of medians by device events. The float32
rate and the memory bandwidth of the GPU are measured in the same run: a step costs 6 floating-point
operations a parameter and row. Prints a line of JSON for each case, also kept in `results`.
"""

import argparse
import json
import math
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numba import cuda
from results import peer_versions, record

import varflow as vf
from varflow.runtime.backend import missing
from varflow.training.benchmark import FLOP_A_PARAMETER
from varflow.training.losses import LOSSES
from varflow.training.make_steps import make_steps
from varflow.training.objective import Objective

TORCH_STEP = Path(__file__).with_name("torch_step.py")
N_BINS = 10
CASES: dict[str, dict[str, Any]] = {}
for _width, _depth, _masking in ((64, 3, "iflow"), (256, 9, "checkerboard")):
    for _d, _batch in ((4, 1000), (8, 10_000), (8, 100_000)):
        CASES[f"d{_d}-batch{_batch}-width{_width}"] = {
            "d": _d, "batch": _batch, "d_hidden": _width, "n_hidden": _depth, "masking": _masking,
        }  # fmt: skip
CASES["d4-batch1000-width64"]["masking"] = "checkerboard"  # as beside_zunis.py has it

CHAINS = 8  # of dependent multiply-adds a thread, so that none waits for another
UNROLLED = 16  # of each, between which nothing is counted
THREADS, BLOCKS, TIMES, COPIED = 256, 4096, 4096, 1 << 28


@cuda.jit
def multiply_add(out, times):
    """CHAINS chains of `times` multiply-adds a thread."""
    one, x = np.float32(1), np.float32(cuda.grid(1)) * np.float32(1e-9)
    a, b, c, d, e, f, g, h = x, x + one, x - one, -x, one - x, x + x, one, -one
    for _ in range(times // UNROLLED):
        for _ in range(UNROLLED):
            a, b, c, d = a * x + one, b * x + one, c * x + one, d * x + one
            e, f, g, h = e * x + one, f * x + one, g * x + one, h * x + one
    out[cuda.grid(1)] = a + b + c + d + e + f + g + h


@cuda.jit
def copy(target, source):
    """One number a thread."""
    i = cuda.grid(1)
    if i < target.shape[0]:
        target[i] = source[i]


def device_seconds(call: Any, n: int = 5) -> float:
    """Median time of calls on the device, by events."""
    call()
    times = []
    for _ in range(n):
        begin, end = cuda.event(), cuda.event()
        begin.record()
        call()
        end.record()
        end.synchronize()
        times.append(cuda.event_elapsed_time(begin, end) * 1e-3)
    return median(times)


def ceilings() -> dict[str, float]:
    """Float32 rate in TFLOP/s and memory bandwidth in TB/s of the GPU."""
    out = cuda.device_array(BLOCKS * THREADS, np.float32)
    seconds = device_seconds(lambda: multiply_add[BLOCKS, THREADS](out, TIMES))
    tflop_s = 2 * CHAINS * TIMES * BLOCKS * THREADS / seconds * 1e-12
    source, target = cuda.device_array(COPIED, np.float32), cuda.device_array(COPIED, np.float32)
    seconds = device_seconds(lambda: copy[COPIED // THREADS, THREADS](target, source))
    return {"tflop_s": tflop_s, "tb_s": 2 * 4 * COPIED / seconds * 1e-12}


def varflow_step(d: int, batch: int, d_hidden: int, n_hidden: int, masking: str) -> dict[str, Any]:
    """Seconds a step of a training that goes on, and seconds of a sampling call that stays on the device."""
    flow = vf.Flow(d, "pwlinear", masking, N_BINS, d_hidden, n_hidden, seed=1, backend="cuda")
    x = np.random.default_rng(0).random((batch, d))
    data = vf.Dataset(x, np.ones(batch), 1 + x.sum(axis=1) ** 2)
    objective, optim = Objective(flow, data, LOSSES["variance"]), vf.Adam(lr=1e-7)
    steps, rows = make_steps(flow, batch), np.arange(batch)

    def take(n: int) -> None:
        taken = steps.take(objective, [rows] * n, optim, [0.0] * n)
        assert taken.error is None, taken.error

    take(3)  # compiles
    once = device_seconds(lambda: take(10)) / 10
    n = max(10, min(1000, math.ceil(1.0 / once)))
    step_s = device_seconds(lambda: take(n), 3) / n
    sample_s = device_seconds(lambda: list(flow.sample_blocks_on_device(batch, seed=1)))
    return {"n_params": flow.n_params, "step_s": step_s, "sample_s": sample_s}


def run(command: list[str]) -> dict[str, Any]:
    """Last line of what a process prints, which is JSON."""
    process = subprocess.run(command, capture_output=True, text=True)
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{process.stderr}")
    return json.loads(process.stdout.splitlines()[-1])


def torch_command(python: str, mode: str, case: dict[str, Any]) -> list[str]:
    """Command of torch_step.py for a case."""
    options = [word for name, value in case.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    return [python, str(TORCH_STEP), *options, "--n-bins", str(N_BINS), "--mode", mode, "--device", "cuda"]


def compare(name: str, case: dict[str, Any], python: str, n_rounds: int) -> dict[str, Any]:
    """Let the three take turns on a case."""
    commands = {
        "varflow": [sys.executable, __file__, "--varflow-case", name],
        "eager": torch_command(python, "eager", case),
        "graph": torch_command(python, "graph", case),
    }
    rounds = [{which: run(command) for which, command in commands.items()} for _ in range(n_rounds)]
    n_params = {found["n_params"] for one in rounds for found in one.values()}
    assert len(n_params) == 1, f"different numbers of parameters: {n_params}"
    times = {which: median(one[which]["step_s"] for one in rounds) for which in commands}
    flop = FLOP_A_PARAMETER * n_params.pop() * case["batch"]
    return {"case": name, **times, "tflop_s": flop / times["varflow"] * 1e-12}


def main() -> None:
    """Parse arguments and run the cases."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "cases", nargs="*", metavar="case", help=f"among {', '.join(CASES)}; all if not given"
    )
    parser.add_argument("--torch-python", metavar="PYTHON")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--varflow-case", choices=CASES, help=argparse.SUPPRESS
    )  # what a process of its own runs
    arguments = parser.parse_args()
    if arguments.varflow_case:
        print(json.dumps(varflow_step(**CASES[arguments.varflow_case])))
        return
    if not arguments.torch_python:
        parser.error("--torch-python is needed")
    if reason := missing():
        parser.error(f"no GPU to measure: {reason}")
    gpu = cuda.get_current_device().name
    machine = {"gpu": gpu.decode() if isinstance(gpu, bytes) else gpu}
    peers = peer_versions(arguments.torch_python, ["torch"])
    most = ceilings()
    print(json.dumps(most), flush=True)
    record("gpu", "device", {**machine, **most}, machine=machine)
    for name in arguments.cases or CASES:
        found = compare(name, CASES[name], arguments.torch_python, arguments.rounds)
        figures = {
            "rounds": arguments.rounds,
            **{f"{which}_s": found[which] for which in ("varflow", "eager", "graph")},
            "rate_share": found["tflop_s"] / most["tflop_s"],
        }
        print(json.dumps({"case": name, **figures}), flush=True)
        record("gpu", name, figures, peers=peers, machine=machine)


if __name__ == "__main__":
    main()
