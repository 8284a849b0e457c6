"""A flow on a GPU: its tables and parameters in device memory, and its transforms."""

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
from numba import cuda

from varflow.flow.architecture import Architecture
from varflow.flow.latent import block_rows
from varflow.kernels import cuda as kernels
from varflow.kernels.cuda import IS_SIMULATED, THREADS, TILE_ROWS
from varflow.kernels.layout import Layout
from varflow.runtime.device import as_device_array, launch

__all__ = ["DeviceFlow", "count_tiles"]

MAX_BLOCKS = 512  # thread blocks that map points at once; each has its own rows of the workspace
BLOCKS_A_LAYER = 2 if IS_SIMULATED else 16  # thread blocks that transpose the weights of a layer


def count_tiles(n: int) -> int:
    """Count the tiles needed for n rows."""
    return -(-n // TILE_ROWS)


class DeviceFlow:
    """Tables and parameters of a flow on the GPU, and its transforms.

    Parameters
    ----------
    architecture : Architecture
        Architecture of the flow.
    layout : Layout
        Its tables.
    precision : {"mixed", "float32", "float64"}
        Coordinates are float32 for "float32", and float64 otherwise.
    """

    def __init__(self, architecture: Architecture, layout: Layout, precision: str) -> None:
        self.architecture = architecture
        self.real = np.float32 if precision == "float32" else np.float64
        parts: dict[str, Any] = layout._asdict()
        tables = {name: cuda.to_device(part) for name, part in parts.items() if isinstance(part, np.ndarray)}
        self.layout = layout._replace(**tables)
        self.params = cuda.device_array((architecture.n_params,), architecture.dtype)
        self.transposed = cuda.device_array((architecture.n_params,), architecture.dtype)
        self.lock = threading.Lock()
        self._work: kernels.Workspace | None = None

    def upload(self, params: np.ndarray) -> None:
        """Copy parameters (n_params,) from the host."""
        self.params.copy_to_device(np.ascontiguousarray(params))

    def transpose_weights(self) -> None:
        """Update the transposed weights, which subsequent kernels read."""
        n_cells, n_layers, _ = self.architecture.layers.shape
        grid = n_cells * n_layers, BLOCKS_A_LAYER
        launch(kernels.transpose_weights, grid, self.transposed, self.params, self.layout.layers)

    def transform(
        self, params: np.ndarray, points: Any, is_inverse: bool, log_volume: float
    ) -> tuple[Any, Any]:
        """Map points from target to latent space, or the other way if is_inverse.

        Parameters
        ----------
        params : ndarray, (n_params,)
            Parameters, on the host.
        points : array, (n, d + c)
            Points on the device, in the box, or in latent space if is_inverse, and their conditions as
            `columns` joins them.
        is_inverse : bool
            Whether to map from latent to target space.
        log_volume : float
            Log of the volume of the box; zero for densities with respect to the unit cube.

        Returns
        -------
        out : device array, (n, d)
            Images of the points.
        log_det : device array, (n,)
            log |dz/dx|, and the log of the latent density where that is normal.
        """
        n = points.shape[0]
        out = cuda.device_array((n, self.architecture.d), np.float64)
        log_det = cuda.device_array((n,), np.float64)
        with self.lock:
            self.upload(params)
            self.transpose_weights()
            n_blocks = min(count_tiles(n), MAX_BLOCKS)
            launch(
                kernels.transform,
                n_blocks,
                out,
                log_det,
                points,
                is_inverse,
                log_volume,
                self.params,
                self.transposed,
                self.layout,
                self._workspace(n_blocks * TILE_ROWS),
            )
        return out, log_det

    def _workspace(self, n_rows: int) -> kernels.Workspace:
        if self._work is None or self._work.coordinates.shape[0] < n_rows:
            self._work = kernels.make_workspace(self.architecture.sizes, n_rows, False, self.real)
        return self._work

    def transform_from_host(
        self, params: np.ndarray, points: np.ndarray, is_inverse: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """Map points (n, d + c) on the host; log_det is with respect to the unit cube."""
        out, log_det = self.transform(params, cuda.to_device(points), is_inverse, 0.0)
        return out.copy_to_host(), log_det.copy_to_host()

    def columns(self, points: Any, conditions: np.ndarray) -> Any:
        """Join points (n, d) on the device and conditions (n, c) on the host, in the unit interval."""
        n_conditions = self.architecture.n_conditions
        if n_conditions == 0:
            return points
        n = points.shape[0]
        joined = cuda.device_array((n, self.architecture.d + n_conditions), np.float64)
        there = cuda.to_device(np.ascontiguousarray(conditions))
        launch(kernels.join_columns, -(-joined.size // THREADS), joined, points, there)
        return joined

    def checked_points(self, name: str, points: Any, is_latent: bool) -> Any:
        """Check that points on the device are finite and in the box, or in the unit cube if is_latent.

        Parameters
        ----------
        name : str
            Name of the argument, for error messages.
        points : object with ``__cuda_array_interface__``, (n, d)
            The points.
        is_latent : bool
            Whether they must lie in the unit cube, rather than in the box.

        Returns
        -------
        device array, (n, d)
            A Numba device array that shares the memory of `points`.

        Raises
        ------
        TypeError, ValueError
            If the points have the wrong dtype or shape, or if a row is not finite or lies outside; the
            message names the first such row.
        """
        array = as_device_array(points)
        d = self.architecture.d
        if array.dtype.kind != "f":
            raise TypeError(f"{name} must hold floating-point numbers, found dtype {array.dtype}")
        if array.ndim != 2 or array.shape[1] != d or array.shape[0] == 0:
            raise ValueError(f"{name} must have shape (n, {d}), found {array.shape}")
        n = array.shape[0]
        found = cuda.to_device(np.array([n], np.int64))
        launch(kernels.first_outside, -(-n * d // THREADS), found, array, is_latent, self.layout)
        row = int(found.copy_to_host()[0])
        if row < n:
            where, found = "the unit cube" if is_latent else "the flow's bounds", array[row].copy_to_host()
            rule = "" if self.architecture.latent == "normal" else f" and lie within {where}"
            raise ValueError(f"{name} must be finite{rule}, found {found} in row {row}")
        return array

    def latent_blocks(self, rows: range, key: np.ndarray, points_a_block: int) -> Iterator[Any]:
        """Draw the same latent points as on the CPU, bit for bit; see `varflow.flow.latent.random_rows`.

        Normal ones are quantiles of these, which differ from those on the CPU by rounding.

        Parameters
        ----------
        rows : range
            Which points of the sample.
        key : ndarray of uint64, (2,)
            Key of the generator.
        points_a_block : int
            Number of points per block.

        Yields
        ------
        device array, (m, d)
            Points in latent space.
        """
        d = self.architecture.d
        for part in block_rows(rows, points_a_block):
            z = cuda.device_array((part.n, d), np.float64)
            grid = -(-z.size // THREADS)
            is_normal = self.architecture.latent == "normal"
            launch(kernels.latent_points, grid, z, part.block, part.begin, key[0], key[1], is_normal)
            yield z
