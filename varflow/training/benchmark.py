"""How fast a flow trains and samples on this machine, beside what its matrix products allow."""

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np

from varflow.data.dataset import Dataset
from varflow.flow.flow import Flow
from varflow.kernels import cpu
from varflow.kernels.layout import aligned_zeros
from varflow.kernels.product import repeat_product
from varflow.runtime.threads import run
from varflow.training.adam import Adam
from varflow.training.make_steps import make_steps
from varflow.training.trainers import BasicVarTrainer

__all__ = ["benchmark"]

STEPS_AT_ONCE = 50  # on a GPU, as training takes many there before the host looks
FLOP_A_PARAMETER = 6  # and row: a product and a sum, in the forward pass and twice in the backward pass


def benchmark(flow: Flow, batch: int, seconds: float = 1.0) -> dict[str, Any]:
    """Time training steps and sampling calls.

    Parameters
    ----------
    flow : Flow
        The flow; it is trained on a smooth function, so its parameters change.
    batch : int
        Points a step and a sampling call.
    seconds : float
        How long each is repeated, but at least five times, after two that are not timed.

    Returns
    -------
    dict
        n_params; backend; threads; step_s (of the loop of a training, whose points were checked once) and
        sample_s, medians in seconds; gflop_s, what a step reaches;
        roofline_gflop_s, what matrix products of tiles in cache reach alone; roofline_share, their ratio;
        the last two are None on a GPU.
    """
    x = np.random.default_rng(0).random((batch, flow.d))
    px, fx = np.ones(batch), 1 + x.sum(axis=1) ** 2
    trainer, optim = BasicVarTrainer(flow), Adam()
    objective, rows = trainer.objective(Dataset(x, px, fx)), np.arange(batch)
    steps = make_steps(flow, batch)
    n_steps = steps.at_once or STEPS_AT_ONCE
    minibatches, progress = [rows] * n_steps, [0.0] * n_steps
    step_s = _median_time(lambda: steps.take(objective, minibatches, optim, progress), seconds) / n_steps
    sample_s = _median_time(lambda: trainer.sample_forward(batch), seconds)
    gflop_s = FLOP_A_PARAMETER * flow.n_params * batch / step_s * 1e-9
    roofline = _roofline(flow, seconds) if flow.backend == "cpu" else None
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


def _median_time(call: Callable[[], object], seconds: float) -> float:
    call()
    call()
    times: list[float] = []
    while len(times) < 5 or sum(times) < seconds:
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return median(times)


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
