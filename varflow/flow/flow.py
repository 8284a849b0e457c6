"""The flow: an invertible map between target space and latent space, and the density that it defines."""

import os
from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from varflow.data.arrays import checked_bounds, checked_points, read_only
from varflow.errors import FileFormatError
from varflow.flow.architecture import Architecture
from varflow.flow.defaults import default_sizes
from varflow.flow.density import Density, Points
from varflow.flow.latent import SAMPLE_BLOCK, block_rows, latent_key, random_rows
from varflow.kernels import cpu
from varflow.runtime.archive import Kind, read_archive, write_archive
from varflow.runtime.backend import choose_backend, choose_precision, is_on_device, load_gpu
from varflow.runtime.fingerprint import digest
from varflow.runtime.threads import default_threads, run
from varflow.validation import positive_int

if TYPE_CHECKING:
    from varflow.flow.device_flow import DeviceFlow

__all__ = ["Flow"]

FILE = Kind("varflow flow", version=3, oldest=2, sealed=3)  # version 1 ordered the parameters differently


class Flow(Density):
    """Coupling flow from a box to the unit cube, with density q(x) = |dz/dx|.

    A new flow is the identity, up to the scaling of the box: q is uniform.

    Parameters
    ----------
    d : int
        Number of dimensions, at least 1.
    cell : {"pwquad", "pwlinear", "rqs"}
        Kind of spline in the coupling layers ("cells"): piecewise quadratic or piecewise linear (Müller et
        al., arXiv 1808.03856), or rational-quadratic (Durkan et al., arXiv 1906.04032).
    masking : {"iflow", "checkerboard", "maximal"}
        Which coordinates each cell transforms; see `varflow.flow.masks`.
    n_bins : int, optional
        Number of bins of each spline. This and the other three sizes follow from d and the cell if they are
        not given; see `varflow.flow.defaults`.
    d_hidden : int, optional
        Number of neurons in each hidden layer of the networks.
    n_hidden : int, optional
        Number of hidden layers. ZüNIS does not count the first: its n_hidden=2 corresponds to 3 here.
    repetitions : int, optional
        Number of times that the sequence of masks is repeated.
    dtype : {"float32", "float64"}
        Precision of the networks. Coordinates and densities are float64 in either case.
    seed : int, optional
        Seed of the initial parameters. If not given, entropy is taken from the operating system.
    bounds : array_like, (d, 2) or (2,), optional
        Lower and upper bound of each dimension, or of all of them. The default is the unit cube.
    threads : int, optional
        Number of threads. The default is the number of cores available to the process, limited by
        OMP_NUM_THREADS if that is set. Results are bitwise independent of the number of threads.
    backend : {"cpu", "cuda", "auto"}
        Where the flow is evaluated: on the CPU or on a GPU. "auto" selects the GPU if there is one.
    precision : {"mixed", "float32", "float64"}, optional
        Precision on a GPU. "mixed" means float32 networks with float64 coordinates; "float32" and "float64"
        apply to both. By default, networks have the precision `dtype`, and coordinates are float64.

    Attributes
    ----------
    architecture : Architecture
        The architecture.
    bounds : ndarray, (d, 2)
        The bounds.
    threads : int
        The number of threads.
    backend : {"cpu", "cuda"}
        The backend in use.
    precision : {"mixed", "float32", "float64"}
        The precision in use.

    Raises
    ------
    TypeError, ValueError
        If an argument is invalid.
    BackendError
        If backend "cuda" is requested and something that it needs is missing; the message says what.
    """

    def __init__(
        self,
        d: int,
        cell: str = "pwquad",
        masking: str = "iflow",
        n_bins: int | None = None,
        d_hidden: int | None = None,
        n_hidden: int | None = None,
        *,
        repetitions: int | None = None,
        dtype: str = "float32",
        seed: int | None = None,
        bounds: npt.ArrayLike | None = None,
        threads: int | None = None,
        backend: str = "cpu",
        precision: str | None = None,
    ) -> None:
        given = {
            "n_bins": n_bins,
            "d_hidden": d_hidden,
            "n_hidden": n_hidden,
            "repetitions": repetitions,
        }
        sizes = {name: size for name, size in given.items() if size is not None}
        if len(sizes) < len(given):
            sizes = default_sizes(positive_int("d", d), cell) | sizes
        self.architecture = Architecture(d, cell, masking, dtype=dtype, **sizes)
        self.backend = choose_backend(backend)
        self.precision = choose_precision(precision, self.architecture.dtype, self.backend)
        self.bounds = checked_bounds(bounds, self.d)
        self.threads = default_threads() if threads is None else positive_int("threads", threads)
        self.layout = self.architecture.layout(self.bounds)
        self._params = self.architecture.initial_params(np.random.default_rng(seed))
        self._idle_workspaces: list[cpu.Workspace] = []

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in self.architecture.as_dict().items())
        return f"Flow({options})"

    @property
    def d(self) -> int:
        """Number of dimensions."""
        return self.architecture.d

    @property
    def params(self) -> np.ndarray:
        """All parameters, in one flat array (n_params,) that may be modified in place."""
        return self._params

    @params.setter
    def params(self, values: npt.ArrayLike) -> None:
        with np.errstate(over="ignore"):  # values too large for float32 become inf, which is rejected below
            values = np.asarray(values).astype(self._params.dtype)
        if values.shape != self._params.shape:
            raise ValueError(f"params must have shape {self._params.shape}, got {values.shape}")
        if not np.isfinite(values).all():
            raise ValueError(f"params must be finite, got {values[~np.isfinite(values)][0]}")
        self._params[:] = values

    @property
    def n_params(self) -> int:
        """Number of parameters."""
        return len(self._params)

    @property
    def log_volume(self) -> float:
        """Logarithm of the volume of the box."""
        return float(np.log(self.layout.width).sum())

    @cached_property
    def device(self) -> "DeviceFlow":
        """The part of the flow that resides on the GPU, with backend "cuda"."""
        load_gpu()  # raises if something is missing
        from varflow.flow.device_flow import DeviceFlow  # numba.cuda is slow to import

        return DeviceFlow(self.architecture, self.layout, self.precision)

    def to_latent(self, x: npt.ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """Map points to latent space.

        Parameters
        ----------
        x : array_like, (n, d)
            Points in the box. With backend "cuda", this may also be an array on the GPU (an object with
            ``__cuda_array_interface__``). It is then used in place, and the results are Numba device arrays.

        Returns
        -------
        z : ndarray, (n, d)
            Latent points, in the unit cube.
        log_det : ndarray, (n,)
            log |dz/dx|, which is log q(x).

        Raises
        ------
        TypeError, ValueError
            If x has the wrong shape, or if a row is not finite or lies outside the box; the message names the
            first such row.
        """
        if is_on_device(x):
            return self._transform_on_device("x", x, is_inverse=False)
        x = checked_points("x", x, self.bounds)
        z, log_det = self._transform(x, is_inverse=False)
        return z, log_det - self.log_volume

    def from_latent(self, z: npt.ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """Map latent points to target space: the inverse of `to_latent`.

        Parameters
        ----------
        z : array_like, (n, d)
            Points in the unit cube, on the host or the GPU as in `to_latent`.

        Returns
        -------
        x : ndarray, (n, d)
            Points in the box.
        logqx : ndarray, (n,)
            log |dz/dx|, which is log q(x).

        Raises
        ------
        TypeError, ValueError
            If z has the wrong shape, or if a row is not finite or lies outside the unit cube; the message
            names the first such row.
        """
        if is_on_device(z):
            return self._transform_on_device("z", z, is_inverse=True)
        z = checked_points("z", z, np.tile([0.0, 1.0], (self.d, 1)))
        x, log_det = self._transform(z, is_inverse=True)
        return x, log_det - self.log_volume

    def log_prob(self, x: npt.ArrayLike) -> np.ndarray:
        """Compute log q(x).

        Parameters
        ----------
        x : array_like, (n, d)
            Points in the box, on the host or the GPU as in `to_latent`.

        Returns
        -------
        ndarray, (n,)
            Logarithm of the density, which has the units of 1 / (volume of the box).

        Raises
        ------
        TypeError, ValueError
            As in `to_latent`.
        """
        return self.to_latent(x)[1]

    def _draw(self, rows: range, key: np.ndarray) -> Iterator[Points]:
        if self.backend == "cuda":
            for x, logqx in self._draw_on_device(rows, key):
                yield x.copy_to_host(), logqx.copy_to_host()
            return
        for part in block_rows(rows):
            x, log_det = self._transform(random_rows(key, part, self.d), is_inverse=True)
            yield x, log_det - self.log_volume

    def sample_blocks_on_device(self, n: int, seed: int | None = None) -> Iterator[tuple[Any, Any]]:
        """Draw the points of `sample` in blocks that stay on the GPU.

        Parameters
        ----------
        n : int
            Number of points.
        seed : int, optional
            Seed of the random numbers, as in `sample`.

        Returns
        -------
        iterator of (device array (m, d), device array (m,))
            Points in the box, and the logarithm of their density, as float64 Numba device arrays, which CuPy
            and other libraries can use without a copy.

        Raises
        ------
        TypeError, ValueError
            If n is not a positive integer, or the backend of the flow is not "cuda".
        """
        n = positive_int("n", n)
        self._check_on_device("sample_blocks_on_device")
        return self._draw_on_device(range(n), latent_key(seed))

    def _draw_on_device(self, rows: range, key: np.ndarray) -> Iterator[tuple[Any, Any]]:
        blocks = self.device.latent_blocks(rows, key, SAMPLE_BLOCK)
        return (self.device.transform(self._params, z, True, self.log_volume) for z in blocks)

    def _check_on_device(self, what: str) -> None:
        if self.backend != "cuda":
            raise TypeError(f"{what} needs a flow with backend 'cuda', found {self.backend!r}")

    def _transform_on_device(self, name: str, points: Any, is_inverse: bool) -> tuple[Any, Any]:
        """Check and map points (n, d) that reside on the GPU."""
        self._check_on_device(f"an array {name} on the GPU")
        points = self.device.checked_points(name, points, is_inverse)
        return self.device.transform(self._params, points, is_inverse, self.log_volume)

    def _transform(self, points: np.ndarray, is_inverse: bool) -> tuple[np.ndarray, np.ndarray]:
        """Run the kernel on all points; return their images, and log_det with respect to the unit cube."""
        if self.backend == "cuda":
            return self.device.transform_from_host(self._params, points, is_inverse)
        n, points = len(points), read_only(points)
        out, log_det = np.empty_like(points), np.empty(n)
        n_tiles = -(-n // cpu.TILE_ROWS)
        n_threads = min(self.threads, n_tiles)
        next_tile = np.zeros(1, np.int64)

        def work(k: int) -> None:
            cpu.transform(
                out, log_det, points, is_inverse, next_tile, self._params, self.layout, workspaces[k]
            )

        workspaces = [self._workspace() for _ in range(n_threads)]
        run(work, n_threads)
        self._idle_workspaces += workspaces
        return out, log_det

    def _workspace(self) -> cpu.Workspace:
        """Take an idle workspace, or make one; safe to call from several threads."""
        try:
            return self._idle_workspaces.pop()
        except IndexError:
            return cpu.make_workspace(self.architecture.sizes, keeps_all=False)

    def __getstate__(self) -> dict[str, Any]:
        kept = {name: value for name, value in self.__dict__.items() if name != "device"}
        return {**kept, "_idle_workspaces": []}

    def copy(self) -> "Flow":
        """Copy the flow, including its parameters."""
        return self.on_box(self.bounds)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the flow to a file.

        Parameters
        ----------
        path : str or path
            Name of the file, used as given. An existing file is replaced once the new one is complete.

        Raises
        ------
        OSError
            If the file cannot be written.
        ValueError
            If the parameters are not finite.
        """
        if not np.isfinite(self._params).all():
            raise ValueError("params must be finite")
        write_archive(path, FILE, self.description(), {"params": self._params})

    def on_box(self, bounds: npt.ArrayLike) -> "Flow":
        """Make the same flow on another box, to which it is stretched linearly.

        Parameters
        ----------
        bounds : array_like, (d, 2) or (2,)
            Lower and upper bound of each dimension, or of all of them; finite.

        Returns
        -------
        Flow
            The flow, with parameters of its own. A flow of an integral, which is on the unit cube, gives
            points of the integral by ``result.flow.on_box(result.bounds)``.

        Raises
        ------
        TypeError, ValueError
            If the bounds are refused.
        """
        stretched = Flow(
            **self.architecture.as_dict(),
            bounds=bounds,
            threads=self.threads,
            seed=0,
            backend=self.backend,
            precision=self.precision,
        )
        stretched._params[:] = self._params
        return stretched

    def description(self) -> dict[str, Any]:
        """Describe the flow without its parameters, as JSON data; the inverse of `from_description`."""
        return {"architecture": self.architecture.as_dict(), "bounds": self.bounds.tolist()}

    def params_digest(self) -> str:
        """Compute a SHA-256 sum of all parameters."""
        return digest(self._params)

    def fingerprint(self) -> dict[str, Any]:
        """Return everything but the parameters that the bits of a run with the flow depend on."""
        where = {} if self.backend == "cpu" else {"backend": self.backend, "precision": self.precision}
        return self.description() | where

    @classmethod
    def from_description(
        cls,
        description: dict[str, Any],
        params: npt.ArrayLike,
        threads: int | None = None,
        backend: str = "cpu",
    ) -> "Flow":
        """Create a flow from the result of `description` and its parameters (n_params,)."""
        flow = cls(
            **description["architecture"],
            bounds=description["bounds"],
            seed=0,
            threads=threads,
            backend=backend,
        )
        flow.params = params
        return flow

    @classmethod
    def load(cls, path: str | os.PathLike[str], threads: int | None = None, backend: str = "cpu") -> "Flow":
        """Read a flow from a file.

        Parameters
        ----------
        path : str or path
            A file written by `save`.
        threads : int, optional
            As for a new flow.
        backend : {"cpu", "cuda", "auto"}
            As for a new flow; the file does not record where the flow was trained.

        Returns
        -------
        Flow
            The flow.

        Raises
        ------
        FileFormatError
            If the file does not contain a flow, is truncated or damaged, or has an unsupported version.
        OSError
            If the file cannot be opened.
        """
        backend = choose_backend(backend)
        header, arrays = read_archive(path, FILE)
        try:
            return cls.from_description(header, arrays["params"], threads, backend)
        except (KeyError, TypeError, ValueError) as error:
            raise FileFormatError(f"{path}: {error}") from error
