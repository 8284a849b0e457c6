"""The flow: an invertible map between target space and latent space, and the density that it defines."""

import os
from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from varflow.data.arrays import checked_points, read_only
from varflow.errors import FileFormatError
from varflow.flow.architecture import Architecture
from varflow.flow.conditions import ConditionMap
from varflow.flow.defaults import default_sizes
from varflow.flow.density import Density, Points
from varflow.flow.latent import SAMPLE_BLOCK, block_rows, latent_key, normal_quantiles, random_rows
from varflow.flow.notebook import box_table, cells_table, scale_table
from varflow.flow.space import checked_space
from varflow.kernels import cpu
from varflow.kernels.splines import CELLS, SPLINES
from varflow.markup import pairs
from varflow.runtime.archive import Kind, read_archive, write_archive
from varflow.runtime.backend import choose_backend, choose_precision, is_on_device, load_gpu
from varflow.runtime.fingerprint import digest
from varflow.runtime.threads import default_threads, run
from varflow.validation import positive_int

if TYPE_CHECKING:
    from varflow.flow.device_flow import DeviceFlow

__all__ = ["Flow"]

LATENT_BOUNDS = {"uniform": (0.0, 1.0), "normal": (-np.inf, np.inf)}
# Version 1 ordered the parameters differently; until 3 there were neither conditions nor unbounded points.
FILE = Kind("varflow flow", version=4, oldest=2, sealed=3)


class Flow(Density):
    """Coupling flow from a box to the unit cube, with density q(x) = |dz/dx|; or of unbounded points.

    A new flow is the identity, up to the scaling of the box: q is uniform.

    With cells "realnvp", x and z are any real numbers and z is normal, so that q(x) = N(z) |dz/dx| with the
    density N of standard normal z: q is normal for a new flow.

    A flow may have conditions: numbers that each point comes with, on which the density of all its
    coordinates depends, q(x | conditions), and which are not drawn themselves: parameters of a family of
    functions, say. They may have any finite ranges.

    Parameters
    ----------
    d : int
        Number of dimensions, at least 1.
    cell : {"pwquad", "pwlinear", "rqs", "realnvp"}
        Kind of spline in the coupling layers ("cells"): piecewise quadratic or piecewise linear (Müller et
        al., arXiv 1808.03856), or rational-quadratic (Durkan et al., arXiv 1906.04032). For points without
        bounds: the affine map "realnvp" (Dinh, Sohl-Dickstein and Bengio, arXiv 1605.08803).
    masking : {"iflow", "checkerboard", "maximal"}
        Which coordinates each cell transforms. "iflow": for each binary digit of their index, those that have
        a 0 there and then those that have a 1, in 2 ceil(log2 d) cells (Gao, Isaacson and Krause, arXiv
        2001.05486, section 2.3); "checkerboard": the odd ones and the even ones, in two; "maximal": one after
        the other, in d.
    n_bins : int, optional
        Number of bins of each spline; "realnvp" has none. This and the other three sizes follow from d and
        the cell if they are not given.
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
        Lower and upper bound of each dimension, or of all of them. The default is the unit cube; with
        "realnvp", all of space, -inf and inf.
    latent : {"uniform", "normal"}, optional
        Density in latent space: uniform in the unit cube with splines, standard normal with "realnvp". It
        follows from the cell; what is given is checked against it.
    location, scale : float or array_like, (d,), optional
        Where points lie, and how far they scatter, roughly, with "realnvp": the first cell is given
        (x - location) / scale. 0 and 1 if not given; `varflow.train` takes them from the points.
    threads : int, optional
        Number of threads. The default is the number of cores available to the process, limited by
        OMP_NUM_THREADS if that is set. Results are bitwise independent of the number of threads.
    backend : {"cpu", "cuda", "auto"}
        Where the flow is evaluated: on the CPU or on a GPU. "auto" selects the GPU if there is one.
    precision : {"mixed", "float32", "float64"}, optional
        Precision on a GPU. "mixed" means float32 networks with float64 coordinates; "float32" and "float64"
        apply to both. By default, networks have the precision `dtype`, and coordinates are float64.
    n_conditions : int
        Number c of conditions.
    condition_bounds : array_like, (c, 2) or (2,), optional
        Range of each condition, or of all of them, which the networks see as [-1, 1]. Conditions outside are
        taken as the nearest inside, and the logger "varflow" warns of them. If it is not given, a training
        takes it from the first points that it is given; until then the density depends on no condition.

    Attributes
    ----------
    architecture : Architecture
        The architecture.
    bounds : ndarray, (d, 2)
        The bounds.
    location, scale : ndarray, (d,), or None
        Location and scale; None with splines.
    threads : int
        The number of threads.
    backend : {"cpu", "cuda"}
        The backend in use.
    precision : {"mixed", "float32", "float64"}
        The precision in use.
    condition_map : ConditionMap
        What maps conditions to the unit interval.

    Raises
    ------
    TypeError, ValueError
        If an argument is invalid.
    BackendError
        If backend "cuda" is requested and something that it needs is missing; the message says what.

    Examples
    --------
    A new flow on a box, whose density is uniform:

    >>> flow = vf.Flow(2, "rqs", n_bins=8, d_hidden=16, bounds=[(0, 1), (-2, 2)], seed=1)
    >>> flow.d, flow.n_params == len(flow.params) == len(flow.initial_params(np.random.default_rng(1)))
    (2, True)
    >>> np.exp(flow.log_prob([[0.5, 1.5]])), round(flow.log_volume, 6)
    (array([0.25]), 1.386294)

    Points of the box, points of the unit cube, and back:

    >>> z, log_det = flow.to_latent([[0.5, 1.5]])
    >>> z
    array([[0.5  , 0.875]])
    >>> x, logqx = flow.from_latent(z)
    >>> np.round(x, 10)
    array([[0.5, 1.5]])

    A copy is trained, which leaves the flow as it is:

    >>> trained = flow.copy()
    >>> points, _ = flow.sample(500, seed=1)
    >>> trainer = vf.BasicVarTrainer(trained)
    >>> trainer.train_on_target_batch(points, np.full(500, 0.25), np.exp(points[:, 1]), n_epochs=5)
    >>> bool(trained.log_prob([[0.5, 1.5]])[0] > flow.log_prob([[0.5, 1.5]])[0])
    True

    Points without bounds, some 5 from (10, 20), whose density is normal to begin with:

    >>> unbounded = vf.Flow(2, "realnvp", location=[10, 20], scale=5, d_hidden=16, seed=1)
    >>> unbounded.latent, unbounded.bounds.tolist()
    ('normal', [[-inf, inf], [-inf, inf]])
    >>> unbounded.to_latent([[15.0, 20.0]])[0]
    array([[1., 0.]])
    >>> np.allclose(unbounded.log_prob([[15.0, 20.0]]), -0.5 - np.log(2 * np.pi * 5 * 5))
    True

    Files have all but where a flow is evaluated; `description` and `fingerprint` are what they and
    checkpoints say of it:

    >>> trained.save("flow.npz")
    >>> same = vf.Flow.load("flow.npz")
    >>> same.params_digest() == trained.params_digest()
    True
    >>> same.fingerprint() == trained.description()
    True
    >>> again = vf.Flow.from_description(trained.description(), trained.params)

    A flow with a condition, that of 500 points at once:

    >>> given = vf.Flow(1, n_conditions=1, condition_bounds=(80, 100), seed=1)
    >>> x, logqx = given.sample(500, seed=1, conditions=[91.2])
    >>> np.allclose(given.log_prob(x, conditions=[91.2]), logqx)
    True
    >>> given.n_conditions, given.condition_bounds.tolist(), given.condition_map.to_unit(np.array([[90.0]]))
    (1, [[80.0, 100.0]], array([[0.5]]))
    """

    _file = FILE  # what `save` writes

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
        latent: str | None = None,
        location: npt.ArrayLike | None = None,
        scale: npt.ArrayLike | None = None,
        threads: int | None = None,
        backend: str = "cpu",
        precision: str | None = None,
        n_conditions: int = 0,
        condition_bounds: npt.ArrayLike | None = None,
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
        self.architecture = Architecture(d, cell, masking, dtype=dtype, n_conditions=n_conditions, **sizes)
        self.condition_map = ConditionMap(self.n_conditions, condition_bounds)
        self.backend = choose_backend(backend)
        self.precision = choose_precision(precision, self.architecture.dtype, self.backend)
        space = checked_space(self.architecture, bounds, latent, location, scale)
        self.bounds, self.location, self.scale = space.bounds, space.location, space.scale
        self.threads = default_threads() if threads is None else positive_int("threads", threads)
        self.layout = space.layout(self.architecture)
        self._params = self.architecture.initial_params(np.random.default_rng(seed))
        self._idle_workspaces: list[cpu.Workspace] = []

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in self.architecture.as_dict().items())
        return f"Flow({options})"

    def _repr_html_(self) -> str:
        """Return the cells, the numbers of parameters and the box as HTML, for notebooks."""
        of = self.architecture
        bins = f", {of.n_bins} bins" if of.latent == "uniform" else ""
        shown = {
            "dimensions": self.d,
            "cells": f"{of.n_cells}, {of.cell}{bins}, masking {of.masking}",
            "latent density": of.latent,
            "networks": f"{of.n_hidden} hidden layers of {of.d_hidden}, {of.dtype}",
            "parameters": f"{self.n_params:,}",
            "computed": "on a GPU" if self.backend == "cuda" else f"on the CPU, threads: {self.threads}",
        }
        if self.n_conditions > 0:
            shown["conditions"] = self.n_conditions
        return pairs("Flow", shown) + cells_table(of) + self._space_table()

    def _space_table(self) -> str:
        if self.location is None or self.scale is None:
            return box_table(self.bounds)
        return scale_table(self.location, self.scale)

    @property
    def d(self) -> int:
        """Number of dimensions."""
        return self.architecture.d

    @property
    def n_conditions(self) -> int:
        """Number of conditions."""
        return self.architecture.n_conditions

    @property
    def condition_bounds(self) -> np.ndarray | None:
        """Range of each condition, (c, 2), or None as long as it is not known; it may be set."""
        return self.condition_map.bounds

    @condition_bounds.setter
    def condition_bounds(self, bounds: npt.ArrayLike | None) -> None:
        self.condition_map.bounds = bounds

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

    def initial_params(self, generator: np.random.Generator) -> np.ndarray:
        """Draw parameters of a new flow, whose density is uniform; see `Architecture.initial_params`.

        Parameters
        ----------
        generator : Generator
            Source of the random numbers.

        Returns
        -------
        ndarray, (n_params,)
            The parameters.
        """
        return self.architecture.initial_params(generator)

    @property
    def latent(self) -> str:
        """Density in latent space, "uniform" or "normal"."""
        return self.architecture.latent

    @property
    def log_volume(self) -> float:
        """Logarithm of the volume of the box, or of the product of the scales where it is infinite."""
        return float(np.log(self.layout.width).sum())

    @cached_property
    def device(self) -> "DeviceFlow":
        """The part of the flow that resides on the GPU, with backend "cuda".

        Raises
        ------
        BackendError
            If there is no GPU, or something that it needs is missing.

        Examples
        --------
        >>> flow = vf.Flow(2, backend="cuda")
        >>> flow.device.params.shape == flow.params.shape
        True
        """
        load_gpu()  # raises if something is missing
        from varflow.flow.device_flow import DeviceFlow  # numba.cuda is slow to import

        return DeviceFlow(self.architecture, self.layout, self.precision)

    def to_latent(
        self, x: npt.ArrayLike, conditions: npt.ArrayLike | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Map points to latent space.

        Parameters
        ----------
        x : array_like, (n, d)
            Points in the box. With backend "cuda", this may also be an array on the GPU (an object with
            ``__cuda_array_interface__``). It is then used in place, and the results are Numba device arrays.
        conditions : array_like, (n, c) or (c,), optional
            Conditions of each point, or of all of them, for a flow that has some.

        Returns
        -------
        z : ndarray, (n, d)
            Latent points, in the unit cube; any real numbers with "realnvp".
        logqx : ndarray, (n,)
            Logarithm of the density, log q(x), which is that of the Jacobian, log |dz/dx|; with "realnvp",
            the log of the normal density of z is added to it.

        Raises
        ------
        TypeError, ValueError
            If x has the wrong shape, or if a row is not finite or lies outside the box; the message names the
            first such row. If conditions are missing, not wanted, of the wrong shape, or not finite.
        """
        if is_on_device(x):
            return self._transform_on_device("x", x, conditions, is_inverse=False)
        x = checked_points("x", x, self.bounds)
        return self._to_latent(self._columns(x, conditions))

    def _to_latent(self, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        z, logqu = self._transform(columns, is_inverse=False)
        return z, logqu - self.log_volume

    def columns_to_latent(self, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Map points that have been checked to latent space, as `to_latent` does.

        Parameters
        ----------
        columns : ndarray, (n, d + c)
            Points in the box, and their conditions as `condition_map` maps them.

        Returns
        -------
        z : ndarray, (n, d)
            Latent points.
        logqx : ndarray, (n,)
            Logarithm of the density q of the points.

        Examples
        --------
        >>> vf.Flow(1, bounds=(0, 4)).columns_to_latent(np.array([[1.0]]))[0]
        array([[0.25]])
        """
        return self.to_latent(columns) if self.n_conditions == 0 else self._to_latent(columns)

    def from_latent(
        self, z: npt.ArrayLike, conditions: npt.ArrayLike | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Map latent points to target space: the inverse of `to_latent`.

        Parameters
        ----------
        z : array_like, (n, d)
            Points in the unit cube, or any real ones with "realnvp"; on the host or the GPU as in
            `to_latent`.
        conditions : array_like, (n, c) or (c,), optional
            As in `to_latent`.

        Returns
        -------
        x : ndarray, (n, d)
            Points in the box.
        logqx : ndarray, (n,)
            Logarithm of the density, log q(x), as in `to_latent`.

        Raises
        ------
        TypeError, ValueError
            If z has the wrong shape, or if a row is not finite or lies outside the unit cube; the message
            names the first such row. If conditions are refused, as in `to_latent`.
        """
        if is_on_device(z):
            return self._transform_on_device("z", z, conditions, is_inverse=True)
        z = checked_points("z", z, np.tile(LATENT_BOUNDS[self.latent], (self.d, 1)))
        return self.columns_from_latent(self._columns(z, conditions))

    def columns_from_latent(self, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Map latent points that have been checked to target space, as `from_latent` does.

        Parameters
        ----------
        columns : ndarray, (n, d + c)
            Points in latent space, and their conditions as in `columns_to_latent`.

        Returns
        -------
        x : ndarray, (n, d)
            Points in the box.
        logqx : ndarray, (n,)
            Logarithm of the density q of the points.

        Examples
        --------
        >>> vf.Flow(1, bounds=(0, 4)).columns_from_latent(np.array([[0.25]]))[0]
        array([[1.]])
        """
        x, logqu = self._transform(columns, is_inverse=True)
        return x, logqu - self.log_volume

    def latent_of(self, u: np.ndarray) -> np.ndarray:
        """Make latent points of uniform ones: these themselves, or their normal quantiles with "realnvp".

        Parameters
        ----------
        u : ndarray, (n, d)
            Points of the unit cube, random or of a Sobol sequence.

        Returns
        -------
        ndarray, (n, d)
            Latent points, for `from_latent`.

        Examples
        --------
        >>> flow = vf.Flow(1, "realnvp", seed=1)
        >>> flow.latent_of(np.array([[0.5], [0.975]])).round(2)
        array([[0.  ],
               [1.96]])
        """
        return normal_quantiles(u) if self.latent == "normal" else u

    def _columns(self, points: np.ndarray, conditions: npt.ArrayLike | None) -> np.ndarray:
        """Check conditions, and join them to points (n, d) that have been checked."""
        return self.condition_map.columns(points, self.condition_map.checked(conditions, len(points)))

    def log_prob(self, x: npt.ArrayLike, conditions: npt.ArrayLike | None = None) -> np.ndarray:
        """Compute log q(x).

        Parameters
        ----------
        x : array_like, (n, d)
            Points in the box, on the host or the GPU as in `to_latent`.
        conditions : array_like, (n, c) or (c,), optional
            As in `to_latent`.

        Returns
        -------
        ndarray, (n,)
            Logarithm of the density, which has the units of 1 / (volume of the box).

        Raises
        ------
        TypeError, ValueError
            As in `to_latent`.
        """
        return self.to_latent(x)[1] if conditions is None else self.to_latent(x, conditions)[1]

    def _draw(self, rows: range, key: np.ndarray, conditions: np.ndarray) -> Iterator[Points]:
        if self.backend == "cuda":
            for x, logqx in self._draw_on_device(rows, key, conditions):
                yield x.copy_to_host(), logqx.copy_to_host()
            return
        for part in block_rows(rows):
            z = self.latent_of(random_rows(key, part, self.d))
            yield self.columns_from_latent(self.condition_map.columns(z, conditions[part.rows]))

    def sample_blocks_on_device(
        self, n: int, seed: int | None = None, conditions: npt.ArrayLike | None = None
    ) -> Iterator[tuple[Any, Any]]:
        """Draw the points of `sample` in blocks that stay on the GPU.

        Parameters
        ----------
        n : int
            Number of points.
        seed : int, optional
            Seed of the random numbers, as in `sample`.
        conditions : array_like, (n, c) or (c,), optional
            As in `sample`.

        Returns
        -------
        iterator of (device array (m, d), device array (m,))
            Points in the box, and the logarithm of their density, as float64 Numba device arrays, which CuPy
            and other libraries can use without a copy.

        Raises
        ------
        TypeError, ValueError
            If n is not a positive integer, the backend of the flow is not "cuda", or conditions are refused.

        Examples
        --------
        >>> flow = vf.Flow(2, n_bins=2, d_hidden=4, n_hidden=1, backend="cuda", seed=1)
        >>> for x, logqx in flow.sample_blocks_on_device(5, seed=1):
        ...     print(x.shape, np.abs(logqx.copy_to_host()).round(6))
        (5, 2) [0. 0. 0. 0. 0.]
        """
        n = positive_int("n", n)
        self._check_on_device("sample_blocks_on_device")
        return self._draw_on_device(range(n), latent_key(seed), self.condition_map.checked(conditions, n))

    def _draw_on_device(
        self, rows: range, key: np.ndarray, conditions: np.ndarray
    ) -> Iterator[tuple[Any, Any]]:
        blocks = self.device.latent_blocks(rows, key, SAMPLE_BLOCK)
        for part, z in zip(block_rows(rows), blocks, strict=True):
            columns = self.device.columns(z, self.condition_map.to_unit(conditions[part.rows]))
            yield self.device.transform(self._params, columns, True, self.log_volume)

    def _check_on_device(self, what: str) -> None:
        if self.backend != "cuda":
            raise TypeError(f"{what} needs a flow with backend 'cuda', found {self.backend!r}")

    def _transform_on_device(
        self, name: str, points: Any, conditions: npt.ArrayLike | None, is_inverse: bool
    ) -> tuple[Any, Any]:
        """Check and map points (n, d) that reside on the GPU."""
        self._check_on_device(f"an array {name} on the GPU")
        points = self.device.checked_points(name, points, is_inverse)
        conditions = self.condition_map.checked(conditions, points.shape[0])
        columns = self.device.columns(points, self.condition_map.to_unit(conditions))
        return self.device.transform(self._params, columns, is_inverse, self.log_volume)

    def _transform(self, points: np.ndarray, is_inverse: bool) -> tuple[np.ndarray, np.ndarray]:
        """Run the kernel on all points (n, d + c); return their images (n, d), and log q.

        The latter is with respect to the unit cube.
        """
        if self.backend == "cuda":
            return self.device.transform_from_host(self._params, points, is_inverse)
        n, points = len(points), read_only(points)
        out, log_det = np.empty((n, self.d)), np.empty(n)
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
        """Copy the flow, including its parameters.

        Returns
        -------
        Flow
            The copy.
        """
        return self._again(self._space)

    def _again(self, space: dict[str, Any]) -> "Flow":
        """Make a flow with the same parameters in another space."""
        again = Flow(
            **self.architecture.as_dict(),
            **space,
            threads=self.threads,
            seed=0,
            backend=self.backend,
            precision=self.precision,
            condition_bounds=self.condition_bounds,
        )
        again._params[:] = self._params
        return again

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
        write_archive(path, self._file, self.description(), {"params": self._params})

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
            If the bounds are refused, or the flow is one of unbounded points.

        Examples
        --------
        >>> result = vf.integrate(lambda x: np.exp(-x[:, 0]), [(0, 5), (2, 4)], n_calls=200, seed=1)
        >>> x, logqx = result.flow.on_box(result.bounds).sample(1000, seed=1)
        >>> x.max(axis=0).round(1)
        array([5., 4.])
        """
        if self.latent == "normal":
            raise ValueError(
                f"a flow of cells {self.architecture.cell!r} has all of space, and cannot be stretched to a "
                "box: leave its points as they are"
            )
        return self._again({"bounds": bounds})

    def description(self) -> dict[str, Any]:
        """Describe the flow without its parameters; the inverse of `from_description`.

        Returns
        -------
        dict
            Architecture and bounds, with "realnvp" location and scale in place of the bounds, and the range
            of conditions where there are some, as JSON data.
        """
        space = {name: values.tolist() for name, values in self._space.items()}
        description = {"architecture": self.architecture.as_dict(), **space}
        if self.n_conditions > 0:
            known = self.condition_bounds
            description["condition_bounds"] = None if known is None else known.tolist()
        return description

    @property
    def _space(self) -> dict[str, np.ndarray]:
        """The arguments of `Flow` that say where its points are: the bounds, or location and scale."""
        if self.location is None or self.scale is None:
            return {"bounds": self.bounds}
        return {"location": self.location, "scale": self.scale}

    def params_digest(self) -> str:
        """Compute a SHA-256 sum of all parameters.

        Returns
        -------
        str
            The sum, in hexadecimal digits.
        """
        return digest(self._params)

    def fingerprint(self) -> dict[str, Any]:
        """Return everything but the parameters that the bits of a run with the flow depend on.

        Returns
        -------
        dict
            The `description`, and on a GPU backend and precision.
        """
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
        """Create a flow from the result of `description` and its parameters.

        Parameters
        ----------
        description : dict
            What `description` has returned.
        params : array_like, (n_params,)
            All parameters.
        threads : int, optional
            As for a new flow.
        backend : {"cpu", "cuda", "auto"}
            As for a new flow.

        Returns
        -------
        Flow
            The flow.

        Raises
        ------
        KeyError, TypeError, ValueError
            If something is missing in the description, or out of range, or the parameters are not finite or
            not so many.
        """
        architecture = description["architecture"]
        is_unbounded = architecture["cell"] in CELLS and architecture["cell"] not in SPLINES
        names = ("location", "scale") if is_unbounded else ("bounds",)
        space = {name: description[name] for name in names}
        known = description.get("condition_bounds")
        flow = cls(**architecture, **space, condition_bounds=known, seed=0, threads=threads, backend=backend)
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
