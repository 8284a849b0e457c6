"""A flow on a GPU: its tables and parameters there, and its maps."""

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
from numba import cuda

from varflow.flow.architecture import Architecture
from varflow.kernels import cuda as kernels
from varflow.kernels.cuda import IS_SIMULATED, THREADS, TILE_ROWS
from varflow.kernels.layout import Layout
from varflow.runtime.device import as_device_array, launch

__all__ = ["DeviceFlow", "count_tiles"]

MOST_BLOCKS = 512  # that map points at once; each has rows of the workspace
BLOCKS_A_LAYER = 2 if IS_SIMULATED else 16  # that transpose its weights


def count_tiles(n: int) -> int:
    """Count the tiles that n rows fill."""
    return -(-n // TILE_ROWS)


class DeviceFlow:
    """A flow's tables and parameters on the GPU, and its maps.

    Parameters
    ----------
    architecture : Architecture
        What the flow is made of.
    layout : Layout
        Its tables.
    precision : {"mixed", "float32", "float64"}
        Precision of the coordinates: "float32", or else float64.
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
        """Take over parameters (n_params,) of the host."""
        self.params.copy_to_device(np.ascontiguousarray(params))

    def transpose_weights(self) -> None:
        """Renew the transposed weights, which the kernels that follow read."""
        n_cells, n_layers, _ = self.architecture.layers.shape
        grid = n_cells * n_layers, BLOCKS_A_LAYER
        launch(kernels.transpose_weights, grid, self.transposed, self.params, self.layout.layers)

    def transform(
        self, params: np.ndarray, points: Any, is_inverse: bool, log_volume: float
    ) -> tuple[Any, Any]:
        """Map points from target to latent space, or back if is_inverse.

        Parameters
        ----------
        params : ndarray, (n_params,)
            Parameters, on the host.
        points : array, (n, d)
            Points on the device, in the box, or in the unit cube if is_inverse.
        is_inverse : bool
            Which way to go.
        log_volume : float
            Of the box; zero for densities in the unit cube.

        Returns
        -------
        out : device array, (n, d)
            Their images.
        log_det : device array, (n,)
            log |dz/dx|.
        """
        n = points.shape[0]
        out, log_det = cuda.device_array(points.shape, np.float64), cuda.device_array((n,), np.float64)
        with self.lock:
            self.upload(params)
            self.transpose_weights()
            n_blocks = min(count_tiles(n), MOST_BLOCKS)
            launch(
                kernels.transform, n_blocks, out, log_det, points, is_inverse, log_volume, self.params,
                self.transposed, self.layout, self._workspace(n_blocks * TILE_ROWS),
            )  # fmt: skip
        return out, log_det

    def _workspace(self, n_rows: int) -> kernels.Workspace:
        if self._work is None or self._work.coordinates.shape[0] < n_rows:
            self._work = kernels.make_workspace(self.architecture.sizes, n_rows, False, self.real)
        return self._work

    def transform_from_host(
        self, params: np.ndarray, points: np.ndarray, is_inverse: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """Map points (n, d) of the host; log_det is that of the unit cube."""
        out, log_det = self.transform(params, cuda.to_device(points), is_inverse, 0.0)
        return out.copy_to_host(), log_det.copy_to_host()

    def checked_points(self, name: str, points: Any, is_latent: bool) -> Any:
        """Check that points on the device are finite and in the box, or in the unit cube if is_latent.

        Parameters
        ----------
        name : str
            The argument's name, for the message.
        points : object with ``__cuda_array_interface__``, (n, d)
            The points.
        is_latent : bool
            Where they must be.

        Returns
        -------
        device array, (n, d)
            The same memory, as numba's device array.

        Raises
        ------
        TypeError, ValueError
            If they are not; the message names the first wrong row.
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
            raise ValueError(f"{name} must be finite and lie within {where}, found {found} in row {row}")
        return array

    def latent_blocks(self, n: int, key: np.ndarray, points_a_block: int) -> Iterator[Any]:
        """Draw the points of `latent_blocks` of flow.py, bit by bit the same, on the device.

        Parameters
        ----------
        n : int
            Number of points.
        key : ndarray of uint64, (2,)
            Key of the generator.
        points_a_block : int
            Points that are drawn together.

        Yields
        ------
        device array, (m, d)
            Points of the unit cube.
        """
        d = self.architecture.d
        for begin in range(0, n, points_a_block):
            z = cuda.device_array((min(points_a_block, n - begin), d), np.float64)
            block = begin // points_a_block
            launch(kernels.latent_points, -(-z.size // THREADS), z, block, key[0], key[1])
            yield z
