"""Arrays on a GPU, and the launching of kernels."""

import threading
from typing import Any

import numpy as np
from numba import config, cuda

from varflow.kernels.cuda import THREADS, point_kernel

__all__ = ["as_device_array", "launch", "point_kernel", "to_device", "to_host", "value_at_each"]

_configuring = threading.Lock()


def launch(kernel: Any, grid: int | tuple[int, int], *arguments: Any) -> None:
    """Launch a kernel on a grid of thread blocks, without Numba's warning about low occupancy."""
    with _configuring:  # two threads at once would leave the host's setting as the other had it
        warns = getattr(config, "CUDA_LOW_OCCUPANCY_WARNINGS", 0)
        config.CUDA_LOW_OCCUPANCY_WARNINGS = 0
        try:
            configured = kernel[grid, THREADS]
        finally:
            config.CUDA_LOW_OCCUPANCY_WARNINGS = warns
    configured(*arguments)


def to_device(array: np.ndarray) -> Any:
    """Copy an array to the GPU."""
    return cuda.to_device(array)


def as_device_array(array: Any) -> Any:
    """View any array on the GPU as a Numba device array."""
    return array if hasattr(array, "__cuda_ndarray__") else cuda.as_cuda_array(array)


def to_host(array: Any) -> np.ndarray:
    """Copy an array from the GPU."""
    return as_device_array(array).copy_to_host()


def value_at_each(kernel: Any, points: Any) -> np.ndarray:
    """Evaluate a function at points (n, d) on the GPU by its `point_kernel`; return values (n,)."""
    values = cuda.device_array((points.shape[0],), np.float64)
    launch(kernel, -(-points.shape[0] // THREADS), values, points)
    return values.copy_to_host()
