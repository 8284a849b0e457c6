"""How fast a flow trains and samples on this machine, beside what its matrix products allow."""

import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import numpy as np

from varflow.data.dataset import Dataset
from varflow.flow.flow import Flow
from varflow.kernels import cpu
from varflow.kernels.adam import fold_lanes
from varflow.kernels.layout import aligned_zeros
from varflow.kernels.parts import PARTS, SEARCH, SPLINES, repeat_part
from varflow.kernels.product import repeat_product
from varflow.runtime.progress import Progress
from varflow.runtime.threads import run
from varflow.training.adam import Adam
from varflow.training.make_steps import make_steps
from varflow.training.objective import GradientBuffers
from varflow.training.trainers import BasicVarTrainer

__all__ = ["benchmark", "step_parts"]

STEPS_AT_ONCE = 50  # on a GPU, as training takes many there before the host looks
REPEATS = 5  # of a part of a step, in one call
FLOP_A_PARAMETER = 6  # and row: a product and a sum, in the forward pass and twice in the backward pass


def benchmark(
    flow: Flow, batch: int, seconds: float = 1.0, progress: type[Progress] = Progress
) -> dict[str, Any]:
    """Time training steps and sampling calls.

    Parameters
    ----------
    flow : Flow
        The flow; it is trained on a smooth function, so its parameters change.
    batch : int
        Points a step and a sampling call.
    seconds : float
        How long each is repeated, but at least five times, after two that are not timed.
    progress : type of Progress
        How is shown which of them is timed.

    Returns
    -------
    dict
        n_params; backend; threads; step_s (of the loop of a training, whose points were checked once) and
        sample_s, medians in seconds; gflop_s, what a step reaches;
        roofline_gflop_s, what matrix products of tiles in cache reach alone; roofline_share, their ratio;
        the last two are None on a GPU.
    """
    trainer, optim, data, rows = _training(flow, batch)
    objective, steps = trainer.objective(data), make_steps(flow, batch)
    n_steps = steps.at_once or STEPS_AT_ONCE
    minibatches, moments = [rows] * n_steps, [0.0] * n_steps
    with progress(3, "measurement", "timing training steps") as shown:
        step_s = _median_time(lambda: steps.take(objective, minibatches, optim, moments), seconds) / n_steps
        shown.update(1, "timing sampling")
        sample_s = _median_time(lambda: trainer.sample_forward(batch), seconds)
        shown.update(2, "timing matrix products")
        roofline = _roofline(flow, seconds) if flow.backend == "cpu" else None
    gflop_s = FLOP_A_PARAMETER * flow.n_params * batch / step_s * 1e-9
    return {
        "n_params": flow.n_params,
        "backend": flow.backend,
        "threads": flow.threads,
        "step_s": step_s,
        "sample_s": sample_s,
        "gflop_s": gflop_s,
        "roofline_gflop_s": roofline,
        "roofline_share": None if roofline is None else gflop_s / roofline,
    }


def step_parts(flow: Flow, batch: int, seconds: float = 0.5) -> dict[str, float]:
    """Time the parts of a training step of a flow on the CPU, each by itself.

    Parameters
    ----------
    flow : Flow
        The flow; it is trained on a smooth function, so its parameters change.
    batch : int
        Points a step.
    seconds : float
        How long each is repeated, but at least five times, after two that are not timed.

    Returns
    -------
    dict
        Seconds a step and thread, by the names of the parts: those of `PARTS`, "folding" of the gradients of
        lanes, "Adam" and "calls", which is what else the processor is busy with, Python's part. "step" is
        all of a step by the clock, and "waiting" what that is longer than the processor is busy a thread:
        threads wait for each other, or for a core that has other work. Each is the least of many times.

    Raises
    ------
    ValueError
        If the flow is on a GPU.
    """
    if flow.backend != "cpu":
        raise ValueError(
            f"the parts of a step are timed on a CPU, the backend of the flow is {flow.backend!r}"
        )
    trainer, optim, data, rows = _training(flow, batch)
    objective, steps = trainer.objective(data), make_steps(flow, batch)

    def step() -> object:
        return steps.take(objective, [rows], optim, [0.0])

    step_s, busy_s = (min(_times(step, seconds, clock)) for clock in (time.perf_counter, time.process_time))
    times = {}
    buffers = GradientBuffers(flow, batch)
    n_threads = len(buffers.workspaces)
    _, lanes = objective.gradient(rows, buffers)  # leaves its buffers behind
    n_tiles = -(-batch // cpu.TILE_ROWS)
    a_thread = n_tiles / n_threads
    dparams, work = np.zeros_like(flow.params), buffers.workspaces[0]
    for part, name in enumerate(PARTS):
        repeat = partial(repeat_part, part, REPEATS, dparams, flow.params, flow.layout, work)
        times[name] = min(_times(repeat, seconds)) / REPEATS * a_thread
    times[PARTS[SPLINES]] -= times[PARTS[SEARCH]]
    times["folding"] = min(_times(lambda: fold_lanes(lanes, 0, flow.n_params), seconds))
    with_folding = _times(lambda: optim.step(flow.params, lanes, 0.0, 0.0, flow.threads, 1.0), seconds)
    times["Adam"] = min(with_folding) - times["folding"]
    times["calls"] = busy_s / n_threads - sum(times.values())
    return {"step": step_s, **times, "waiting": step_s - busy_s / n_threads}


def _training(flow: Flow, batch: int) -> tuple[BasicVarTrainer, Adam, Dataset, np.ndarray]:
    """Make what trains a flow on a smooth function, and the rows of a step."""
    x = np.random.default_rng(0).random((batch, flow.d))
    data = Dataset(x, np.ones(batch), 1 + x.sum(axis=1) ** 2, bounds=flow.bounds)
    return BasicVarTrainer(flow), Adam(), data, np.arange(batch)


def _median_time(call: Callable[[], object], seconds: float) -> float:
    return median(_times(call, seconds))


def _times(
    call: Callable[[], object], seconds: float, clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    call()
    call()
    times: list[float] = []
    while len(times) < 5 or sum(times) < seconds:
        begin = clock()
        call()
        times.append(clock() - begin)
    return times


def _roofline(flow: Flow, seconds: float) -> float:
    """Measure the GFLOP/s of all threads in products of a tile with a hidden layer's weights."""
    n_rows, width, n_products = cpu.TILE_ROWS, flow.architecture.d_hidden, 200
    shapes = [(n_rows, width), (n_rows, width), (width, width)]
    operands = [
        [aligned_zeros(shape, flow.architecture.dtype) for shape in shapes] for _ in range(flow.threads)
    ]
    median_s = _median_time(
        lambda: run(lambda k: repeat_product(*operands[k], n_products), flow.threads), seconds
    )
    return 2 * n_rows * width**2 * n_products * flow.threads / median_s * 1e-9
