"""Steps of Adam on a flow's loss, on a GPU: which kernels run in which order."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numba import cuda

from varflow.flow.architecture import Architecture
from varflow.flow.device_flow import DeviceFlow, count_tiles
from varflow.kernels import cuda as kernels
from varflow.kernels.cuda import THREADS, TILE_COLUMNS, TILE_ROWS
from varflow.runtime.device import launch
from varflow.training.adam import Adam
from varflow.training.objective import Objective
from varflow.training.steps import StepTaken, Taken

__all__ = ["DeviceSteps"]

CHUNK_ROWS = 32_768  # of a minibatch that have rows of the workspace at once
MIN_ROWS_A_PART, MAX_PARTS = 512, 64  # of the gradient, which is added up in parts


def tile_jobs(architecture: Architecture) -> np.ndarray:
    """Tiles that the gradient is made of, (n_jobs, 4): cell, layer, first row, first column.

    Those with the first row of a matrix make the biases' part, too: there is one where it has no rows.
    """
    jobs = [
        (c, k, row, column)
        for c, cell in enumerate(architecture.layers.tolist())
        for k, (n_in, n_out, _, _) in enumerate(cell)
        for row in range(0, max(n_in, 1), TILE_ROWS)
        for column in range(0, n_out, TILE_COLUMNS)
    ]
    return np.array(jobs, np.int64)


def rows_a_part(n_batch: int) -> int:
    """Rows of a minibatch whose gradient is added up together: whole tiles, and a divisor of CHUNK_ROWS."""
    n_rows = MIN_ROWS_A_PART
    while n_rows < CHUNK_ROWS and n_rows * MAX_PARTS < n_batch:
        n_rows *= 2
    return n_rows


class _Points(NamedTuple):
    """What a step reads, on the device; see `gradient` of kernels/cuda.py."""

    x: Any
    weights: Any
    log_p: Any
    dz: Any


class DeviceSteps:
    """Steps of Adam that stay on the GPU from the first to the last of a call; see `CpuSteps`.

    Parameters
    ----------
    flow : Flow
        The flow, with backend "cuda".
    n_batch : int
        Rows of the largest minibatch.
    """

    at_once: int | None = None

    def __init__(self, flow: Any, n_batch: int) -> None:
        self.flow, self.n_batch = flow, n_batch
        self.device: DeviceFlow = flow.device
        architecture = flow.architecture
        n_rows = min(count_tiles(n_batch) * TILE_ROWS, CHUNK_ROWS)
        self._work = kernels.make_workspace(architecture.sizes, n_rows, True, self.device.real)
        self._jobs = cuda.to_device(tile_jobs(architecture))
        n_parts = -(-n_batch // rows_a_part(n_batch))
        most_parts = max(n_parts, min(-(-n_batch // MIN_ROWS_A_PART), MAX_PARTS))  # of smaller ones, too
        self._parts = cuda.device_array((most_parts, architecture.n_params), architecture.dtype)
        self._dparams = cuda.device_array((architecture.n_params,), architecture.dtype)
        self._losses = cuda.device_array((count_tiles(n_batch),), np.float64)
        self._squares = cuda.device_array((-(-architecture.n_params // THREADS),), np.float64)
        self._uploaded: tuple[Objective, _Points] | None = None

    def take(
        self,
        objective: Objective,
        minibatches: Sequence[np.ndarray],
        optim: Adam,
        progress: Sequence[float],
        scale: float = 1.0,
        is_of_log: bool = False,
    ) -> Taken:
        """Take a step on each minibatch; arguments and what is returned are those of `CpuSteps.take`."""
        if objective.is_known_to_kernels:
            rows = cuda.to_device(np.concatenate(minibatches))
            ends = np.cumsum([len(minibatch) for minibatch in minibatches]).tolist()
            batches = [rows[end - len(one) : end] for one, end in zip(minibatches, ends, strict=True)]
            is_variance, points = objective.loss.power == 2, self._points(objective)
            return self._take(points, batches, is_variance, optim, progress, scale, is_of_log)
        steps: list[StepTaken] = []
        for minibatch, moment in zip(minibatches, progress, strict=True):
            loss, weights, dz = objective.derivative(minibatch)
            if not math.isfinite(loss):
                return Taken(steps, f"the loss is {loss}")
            points = _Points(*map(cuda.to_device, (objective.x[minibatch], weights, objective.log_p, dz)))
            rows = cuda.to_device(np.arange(len(minibatch)))
            taken = self._take(points, [rows], False, optim, [moment], scale, is_of_log)
            if taken.error is not None:
                return Taken(steps, taken.error)
            steps.append(taken.steps[0]._replace(loss=loss))
        return Taken(steps, None)

    def _points(self, objective: Objective) -> _Points:
        """Points of an objective on the device, where they stay until there is another objective."""
        before, points = self._uploaded or (None, None)
        if before is objective and points is not None:
            return points
        weights = cuda.to_device(objective.weights)
        if before is not None and points is not None and _have_same_points(before, objective):
            points = points._replace(weights=weights)
        else:
            x = cuda.to_device(objective.x) if objective.device_x is None else objective.device_x
            no_dz = cuda.device_array((0, self.flow.d), np.float64)
            points = _Points(x, weights, cuda.to_device(objective.log_p), no_dz)
        self._uploaded = objective, points
        return points

    def _take(
        self,
        points: _Points,
        batches: list[Any],
        is_variance: bool,
        optim: Adam,
        progress: Sequence[float],
        scale: float,
        is_of_log: bool,
    ) -> Taken:
        params = self.flow.params
        optim.claim(params)
        start = optim.t
        zeros = np.zeros_like(params)
        m, v = (cuda.to_device(zeros if array is None else array) for array in (optim.m, optim.v))
        average = params if optim.averaged is None else optim.averaged
        averaged = cuda.to_device(average if optim.average > 0 else zeros[:0])
        state = cuda.to_device(np.zeros(3))
        rates: list[float] = []
        losses, lengths = (cuda.to_device(np.zeros(len(batches))) for _ in range(2))
        with self.device.lock:
            self.device.upload(params)
            try:
                for k, (rows, moment) in enumerate(zip(batches, progress, strict=True)):
                    self._add_gradient(points, rows, is_variance)
                    t = start + k + 1
                    renewal = 1.0 if average is params and k == 0 else optim.renewal(t)
                    rates.append(optim.learning_rate(t, moment, scale))
                    settings = (*optim.factors(t, rates[-1]), renewal)
                    self._judge(rows.shape[0], losses, lengths, k, state, optim.clip_norm, is_of_log)
                    launch(
                        kernels.adam_step,
                        self._squares.shape[0],
                        self.device.params,
                        m,
                        v,
                        averaged,
                        self._dparams,
                        state,
                        *settings,
                    )
            finally:  # Ctrl-C comes between steps, or leaves one without its update
                n_done = int(state.copy_to_host()[kernels.N_DONE])
                if n_done > 0:
                    params[:] = self.device.params.copy_to_host()
                    optim.m, optim.v, optim.t = m.copy_to_host(), v.copy_to_host(), start + n_done
                    optim.averaged = averaged.copy_to_host() if optim.average > 0 else optim.averaged
        found = losses.copy_to_host().tolist()
        steps = list(map(StepTaken, found[:n_done], rates, lengths.copy_to_host().tolist()))
        if n_done == len(batches) or (is_of_log and found[n_done] == 0):
            return Taken(steps, None)
        return Taken(steps, _failure(found[n_done], params.dtype))

    def _add_gradient(self, points: _Points, rows: Any, is_variance: bool) -> None:
        """Gradient of a minibatch, by parts."""
        device, n_batch = self.device, rows.shape[0]
        device.transpose_weights()
        n_rows_a_part = rows_a_part(n_batch)
        log_volume = 0.0 if is_variance else self.flow.log_volume  # that loss has it in its weights
        for begin in range(0, n_batch, CHUNK_ROWS):
            n_tiles = count_tiles(min(CHUNK_ROWS, n_batch - begin))
            launch(
                kernels.gradient,
                n_tiles,
                self._losses,
                begin,
                points.x,
                rows,
                points.weights,
                points.log_p,
                points.dz,
                is_variance,
                log_volume,
                device.params,
                device.transposed,
                device.layout,
                self._work,
            )
            n_rows = n_tiles * TILE_ROWS
            grid = (self._jobs.shape[0], -(-n_rows // n_rows_a_part))
            launch(
                kernels.weight_gradients,
                grid,
                self._parts,
                begin // n_rows_a_part,
                self._jobs,
                n_rows,
                n_rows_a_part,
                device.layout.layers,
                self._work.inputs,
                self._work.hidden,
                self._work.dhidden,
                self._work.dlogits,
            )

    def _judge(
        self,
        n_batch: int,
        losses: Any,
        lengths: Any,
        k: int,
        state: Any,
        clip_norm: float | None,
        is_of_log: bool,
    ) -> None:
        """Add up loss and gradient of step k, and see whether both are finite."""
        n_parts = -(-n_batch // rows_a_part(n_batch))
        n_blocks = self._squares.shape[0]
        launch(kernels.fold_parts, n_blocks, self._dparams, self._squares, self._parts, n_parts)
        launch(
            kernels.judge,
            1,
            state,
            losses,
            lengths,
            k,
            self._losses,
            count_tiles(n_batch),
            self._squares,
            n_batch,
            is_of_log,
            math.inf if clip_norm is None else float(clip_norm),
            float(np.finfo(self.flow.architecture.dtype).max),
        )


def _have_same_points(one: Objective, other: Objective) -> bool:
    """Tell whether two objectives differ in what is learnt alone."""
    return one.x is other.x and one.log_p is other.log_p and one.device_x is other.device_x


def _failure(loss: float, dtype: Any) -> str:
    if not math.isfinite(loss):
        return f"the loss is {loss}"
    return f"the gradient is not finite, or its squares overflow in {dtype}"
