"""A flow of points with discrete coordinates: their probabilities, and a flow that is conditioned on them.

The density of a point with states s and continuous coordinates x is

    q(s, x) = P(s) q(x | s),

with P as in `varflow.flow.categorical`, and q(x | s) that of a flow whose conditions are the states, encoded
as 0 and 1: to its networks, the weights of these columns embed the states. Where all coordinates are
discrete, P is all that there is.

**As a flow of the unit cube.** A discrete coordinate with k states may have (0, 1) as its bounds, as an
integral's engine has it: it is any real number then, of which the k intervals of equal length are the states,
and q counts as a density there. With (0, k), points have whole numbers, and q is the probability of the
states times the density of the others.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from varflow.data.arrays import checked_bounds, checked_points
from varflow.data.discrete import Discrete, check_whole, separated, states_of
from varflow.errors import FileFormatError
from varflow.flow.architecture import Architecture
from varflow.flow.categorical import Table, encoded, make_categorical, n_encoded
from varflow.flow.conditions import ConditionMap
from varflow.flow.flow import Flow
from varflow.flow.notebook import box_table
from varflow.kernels.layout import aligned_zeros
from varflow.kernels.splines import SPLINES
from varflow.markup import pairs
from varflow.runtime.archive import Kind, read_archive
from varflow.runtime.threads import default_threads
from varflow.validation import check_name, positive_int

__all__ = ["FILE", "DiscreteFlow", "flow_of"]

FLAT_SHARE = 0.05  # of all states alike, in a table that is fitted to points
FLAT_SHARE_OF_KNOWN = 1e-3  # where each state has a single value

FILE = Kind("varflow discrete flow", version=1, oldest=1, sealed=1)


class DiscreteFlow(Flow):
    """Flow of points with discrete coordinates, beside continuous ones or alone.

    A new one has the probabilities of the weights that `Discrete` was given, and a uniform density besides.
    `integrate` and `train` make it where bounds or datasets have discrete coordinates.

    Parameters
    ----------
    bounds : sequence
        For each coordinate, a pair of finite bounds or a `Discrete`; one of them at least is the latter.
    cell : {"pwquad", "pwlinear", "rqs"}
        Kind of cell of the continuous coordinates.
    masking : str
        Which of these coordinates each cell transforms; see `Flow`.
    n_bins, d_hidden, n_hidden, repetitions : int, optional
        Sizes of its networks; see `Flow`.
    dtype : {"float32", "float64"}
        Type of all parameters.
    seed : int, optional
        Seed of the initial parameters.
    threads : int, optional
        Number of threads; all cores if not given.

    Attributes
    ----------
    discrete : dict
        The `Discrete` of each discrete coordinate, by its number.
    continuous : Flow or None
        The flow of the other coordinates, on the unit cube, conditioned on the states.

    Raises
    ------
    TypeError, ValueError
        If an argument is refused, or no coordinate is discrete.

    Examples
    --------
    >>> flow = vf.DiscreteFlow([vf.Discrete([3, 1]), (0, 2)], seed=1)
    >>> flow.d, flow.discrete
    (2, {0: Discrete([0.75, 0.25])})
    >>> np.exp(flow.log_prob([[0, 0.3], [1, 0.3]])).round(6)  # a probability times a density of 1 / 2
    array([0.375, 0.125])
    >>> x, logqx = flow.sample(1000, seed=1)
    >>> bool(abs((x[:, 0] == 0).mean() - 0.75) < 0.06)
    True
    >>> flow.save("flow.npz")
    >>> vf.load_flow("flow.npz").params_digest() == flow.params_digest()
    True

    What its parts make of points: their states, what the continuous flow reads, and the logits of a table:

    >>> flow.states(x[:1]).shape, flow.continuous_columns(x[:1], flow.states(x[:1])).shape
    ((1, 1), (1, 2))
    >>> flow.whole, np.exp(flow.params_of_states).round(6)
    ({0: Discrete([0.75, 0.25])}, array([0.75, 0.25], dtype=float32))
    >>> flow.fit_table(x, np.log(1 + x[:, 0]), logqx, 1.0)
    >>> bool(np.diff(flow.params_of_states)[0] > -0.2)  # nearly 1/2 and 1/2
    True
    >>> flow.initial_params(np.random.default_rng(1)).shape == flow.params.shape, flow.threads >= 1
    (True, True)
    >>> u, logqu = flow.on_box((0, 1)).sample(10, seed=1)  # any points of the unit cube
    >>> bool(((u > 0) & (u < 1)).all())
    True
    """

    _file = FILE

    def __init__(
        self,
        bounds: Sequence[Any],
        cell: str = "pwquad",
        masking: str = "iflow",
        n_bins: int | None = None,
        d_hidden: int | None = None,
        n_hidden: int | None = None,
        *,
        repetitions: int | None = None,
        dtype: str = "float32",
        seed: int | None = None,
        threads: int | None = None,
    ) -> None:
        pairs_of_bounds, discrete = separated(bounds)
        if not discrete:
            raise ValueError(f"bounds of a DiscreteFlow must have a Discrete among them, found {bounds!r}")
        self._threads = default_threads() if threads is None else positive_int("threads", threads)
        box = checked_bounds(pairs_of_bounds, len(bounds))
        options = {"masking": masking, "n_bins": n_bins, "d_hidden": d_hidden, "n_hidden": n_hidden}
        options |= {"repetitions": repetitions, "dtype": dtype, "cell": cell}
        self._make(box, discrete, options, seed)

    def _make(
        self, bounds: np.ndarray, discrete: Mapping[int, Discrete], options: dict[str, Any], seed: int | None
    ) -> None:
        """Do what every way of making one has in common."""
        check_name("cell", options["cell"], SPLINES)
        d = len(bounds)
        self.discrete, self.bounds = dict(discrete), bounds
        self._columns_of_states = np.array(sorted(discrete), np.int64)
        self._columns_of_points = np.delete(np.arange(d), self._columns_of_states)
        self.sizes = [discrete[column].k for column in self._columns_of_states.tolist()]
        self.categorical = make_categorical(self.sizes)
        n, n_given = len(self._columns_of_points), n_encoded(self.sizes)
        given: dict[str, Any] = {"n_conditions": n_given, "condition_bounds": (0, 1) if n_given else None}
        self.continuous = Flow(n, **options, **given, threads=self.threads, seed=seed) if n else None
        # Where nothing is continuous, nothing is made of it but the dtype of the parameters.
        known = {name: option for name, option in options.items() if option is not None}
        self.architecture = self.continuous.architecture if self.continuous else Architecture(1, **known)
        self.condition_map, self.backend, self.precision = ConditionMap(0), "cpu", self.architecture.dtype
        self.location = self.scale = None
        self._idle_workspaces = []
        self._params = aligned_zeros(
            (self._n_continuous + self.categorical.n_params,), self.architecture.dtype
        )
        self._params[:] = self.initial_params(np.random.default_rng(seed))
        self._bind()

    @property
    def _n_continuous(self) -> int:
        return 0 if self.continuous is None else self.continuous.architecture.n_params

    def _bind(self) -> None:
        """Let the parameters of the continuous flow be the first of all."""
        if self.continuous is not None:
            self.continuous._params = self._params[: self._n_continuous]

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._bind()

    def __repr__(self) -> str:
        return f"DiscreteFlow(d={self.d}, discrete={self.discrete}, continuous={self.continuous})"

    def _repr_html_(self) -> str:
        """Return numbers of states and of parameters, and the box, as HTML, for notebooks."""
        shown = {
            "dimensions": self.d,
            "discrete": ", ".join(f"x{column + 1}: {one.k} states" for column, one in self.discrete.items()),
            "probabilities": type(self.categorical).__name__.lower(),
            "parameters": f"{self.n_params:,}",
        }
        return pairs("Flow with discrete coordinates", shown) + box_table(self.bounds)

    def initial_params(self, generator: np.random.Generator) -> np.ndarray:
        """Draw parameters of a new flow: a uniform density, and the probabilities to begin with.

        Parameters
        ----------
        generator : Generator
            Source of the random numbers.

        Returns
        -------
        ndarray, (n_params,)
            The parameters: those of the continuous flow, and then those of the probabilities.
        """
        weights = [self.discrete[column].weights for column in self._columns_of_states.tolist()]
        of_states = self.categorical.initial_params(weights, generator)
        if self.continuous is None:
            return of_states.astype(self.architecture.dtype)
        of_points = self.continuous.initial_params(generator)
        return np.concatenate([of_points, of_states.astype(of_points.dtype)])

    @property
    def d(self) -> int:
        """Number of dimensions, the discrete ones included."""
        return len(self.bounds)

    @property
    def n_conditions(self) -> int:
        """Number of conditions that points come with: none. Those of `continuous` are the states."""
        return 0

    @property
    def threads(self) -> int:
        """Number of threads."""
        return self._threads

    @threads.setter
    def threads(self, n: int) -> None:
        self._threads = n
        if self.continuous is not None:
            self.continuous.threads = n

    @property
    def log_volume(self) -> float:
        """Logarithm of the volume of the box, in which each discrete coordinate has its number of states."""
        return float(np.log(self.bounds[:, 1] - self.bounds[:, 0]).sum())

    # Points, states and the unit cube

    @property
    def params_of_states(self) -> np.ndarray:
        """The parameters of the probabilities, the last ones; a view."""
        return self._params[self._n_continuous :]

    def states(self, points: np.ndarray) -> np.ndarray:
        """Tell the states of points.

        Parameters
        ----------
        points : ndarray, (n, d)
            Points of the box, which have been checked.

        Returns
        -------
        ndarray of int, (n, D)
            State of each discrete coordinate, in the order of the coordinates.
        """
        columns, sizes = self._columns_of_states, np.array(self.sizes)
        return states_of(points[:, columns] * (sizes / self.bounds[columns, 1]), sizes)

    def continuous_columns(self, points: np.ndarray, states: np.ndarray) -> np.ndarray:
        """Make what the continuous flow reads.

        Parameters
        ----------
        points : ndarray, (n, d)
            Points of the box, which have been checked.
        states : ndarray of int, (n, D)
            Their states.

        Returns
        -------
        ndarray, (n, n_columns)
            The other coordinates, in the unit cube, and the states, encoded by columns of 0 and 1.
        """
        lower, upper = self.bounds[self._columns_of_points].T
        inside = np.clip((points[:, self._columns_of_points] - lower) / (upper - lower), 0.0, 1.0)
        if len(self.sizes) == 0 or n_encoded(self.sizes) == 0:
            return inside
        return np.concatenate([inside, encoded(states, self.sizes)], axis=1)

    def to_latent(
        self, x: npt.ArrayLike, conditions: npt.ArrayLike | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Map points to latent space, as `Flow.to_latent` does; states come to the middle of their share.

        Parameters
        ----------
        x : array_like, (n, d)
            Points in the box, with whole numbers where they are discrete.
        conditions : None
            There are none.

        Returns
        -------
        z : ndarray, (n, d)
            Latent points, in the unit cube.
        logqx : ndarray, (n,)
            Logarithm of the probability of the states times the density of the other coordinates.

        Raises
        ------
        TypeError, ValueError
            As `Flow.to_latent` does, and where a discrete coordinate is not one of its states.
        """
        points = checked_points("x", x, self.bounds)
        check_whole("x", points, {column: one for column, one in self.whole.items() if one.k > 1})
        return super().to_latent(points, conditions)

    def fit_table(self, u: np.ndarray, log_f: np.ndarray, log_q: np.ndarray, power: float) -> None:
        """Set a table of probabilities to what points tell of the integrals of |f| over each state.

        Rare states would be learnt late by steps. Where nothing is continuous, each state has a single value,
        which is known once it is met. A network is left as it is.

        Parameters
        ----------
        u : ndarray, (n, d)
            Points of the box.
        log_f, log_q : ndarray, (n,)
            Logs of |f|, not -inf at all of them, and of the density that they were drawn from.
        power : float
            Power of their weights |f|/q, where few of them count.
        """
        if not isinstance(self.categorical, Table):
            return
        states, flat_share = self.states(u), FLAT_SHARE
        log_weights = power * (log_f - log_q)
        if self.continuous is None:
            log_weights, flat_share = log_f - np.log(self.categorical.counts(states)), FLAT_SHARE_OF_KNOWN
        with np.errstate(under="ignore"):
            weights = np.exp(log_weights - log_weights.max())
        of_states = self.params_of_states
        of_states[:] = self.categorical.fitted_params(of_states, states, weights, flat_share)

    def _transform(self, points: np.ndarray, is_inverse: bool) -> tuple[np.ndarray, np.ndarray]:
        return self._from_latent(points) if is_inverse else self._to_latent_of(points)

    def _to_latent_of(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Map points to latent space, and compute log q with respect to the unit cube."""
        states, z = self.states(points), np.empty((len(points), self.d))
        places = self._on_cube(points)[:, self._columns_of_states] * self.sizes - states
        latent, log_prob = self.categorical.to_latent(
            self.params_of_states, states, np.clip(places, 0.0, 1.0)
        )
        z[:, self._columns_of_states] = latent
        log_q = log_prob + np.log(self.sizes).sum()
        if self.continuous is not None:
            columns = self.continuous_columns(points, states)
            z[:, self._columns_of_points], log_rest = self.continuous.columns_to_latent(columns)
            log_q = log_q + log_rest
        return z, log_q

    def _from_latent(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        latent = np.ascontiguousarray(z[:, self._columns_of_states])
        states, places, log_prob = self.categorical.from_latent(self.params_of_states, latent)
        points, whole = np.empty((len(z), self.d)), self._is_whole
        of_states = np.where(whole, states, (states + places) / self.sizes)
        points[:, self._columns_of_states] = of_states
        log_q = log_prob + np.log(self.sizes).sum()
        if self.continuous is not None:
            rest = z[:, self._columns_of_points]
            columns = np.concatenate([rest, encoded(states, self.sizes)], axis=1)
            u, log_rest = self.continuous.columns_from_latent(np.ascontiguousarray(columns))
            lower, upper = self.bounds[self._columns_of_points].T
            points[:, self._columns_of_points] = np.clip(lower + u * (upper - lower), lower, upper)
            log_q = log_q + log_rest
        return points, log_q

    def _on_cube(self, points: np.ndarray) -> np.ndarray:
        """Give points of the unit cube, those with whole numbers in the middle of their states."""
        lower, upper = self.bounds.T
        u = (points - lower) / (upper - lower)
        whole = self._columns_of_states[self._is_whole]
        u[:, whole] = (np.floor(points[:, whole]) + 0.5) / upper[whole]
        return u

    @property
    def whole(self) -> dict[int, Discrete]:
        """The discrete coordinates that points have as whole numbers, by their numbers."""
        return {column: self.discrete[column] for column in self._columns_of_states[self._is_whole].tolist()}

    @property
    def _is_whole(self) -> np.ndarray:
        """Which discrete coordinates (D,) are whole numbers, rather than points of the unit interval."""
        is_whole: np.ndarray = self.bounds[self._columns_of_states, 1] == self.sizes
        return is_whole

    # Copies and files

    def on_box(self, bounds: npt.ArrayLike) -> "DiscreteFlow":
        """Make the same flow on another box, as `Flow.on_box` does.

        Parameters
        ----------
        bounds : array_like, (d, 2)
            Lower and upper bound of each dimension. Where that is discrete, (0, k), for points with whole
            numbers; or (0, 1), for points of the unit cube, of which k equal intervals are the states.

        Returns
        -------
        DiscreteFlow
            The flow, with parameters of its own.

        Raises
        ------
        TypeError, ValueError
            If the bounds are refused.
        """
        return self._again({"bounds": bounds})

    def _again(self, space: dict[str, Any]) -> "DiscreteFlow":
        bounds = checked_bounds(space["bounds"], self.d)
        for column, one in self.discrete.items():
            if bounds[column].tolist() not in ([0.0, 1.0], [0.0, float(one.k)]):
                raise ValueError(
                    f"bounds[{column}] is {bounds[column].tolist()}: that coordinate has {one.k} states, and "
                    f"must have bounds (0, {one.k})"
                )
        again = DiscreteFlow.__new__(DiscreteFlow)
        again._threads = self.threads
        again._make(bounds, self.discrete, self._options, seed=0)
        again._params[:] = self._params
        return again

    @property
    def _options(self) -> dict[str, Any]:
        """Arguments of the continuous flow."""
        return {name: size for name, size in self.architecture.as_dict().items() if name in OPTIONS}

    def description(self) -> dict[str, Any]:
        """Describe the flow without its parameters; the inverse of `from_description`.

        Returns
        -------
        dict
            Weights of the states of each discrete coordinate, bounds, and the architecture of the continuous
            flow, as JSON data.
        """
        weights = {str(column): one.weights.tolist() for column, one in self.discrete.items()}
        return {"discrete": weights, "bounds": self.bounds.tolist(), "architecture": self._options}

    @classmethod
    def from_description(
        cls,
        description: dict[str, Any],
        params: npt.ArrayLike,
        threads: int | None = None,
        backend: str = "cpu",
    ) -> "DiscreteFlow":
        """Create a flow from the result of `description` and its parameters.

        Parameters
        ----------
        description : dict
            What `description` has returned.
        params : array_like, (n_params,)
            All parameters.
        threads : int, optional
            As for a new flow.
        backend : {"cpu"}
            Other backends have no discrete coordinates.

        Returns
        -------
        DiscreteFlow
            The flow.

        Raises
        ------
        KeyError, TypeError, ValueError
            If something is missing in the description, or out of range, or the parameters are not finite or
            not so many.
        """
        check_on_cpu(backend)
        flow = cls.__new__(cls)
        flow._threads = default_threads() if threads is None else positive_int("threads", threads)
        bounds = checked_bounds(description["bounds"], len(description["bounds"]))
        discrete = {int(column): Discrete(one) for column, one in description["discrete"].items()}
        flow._make(bounds, discrete, dict(description["architecture"]), seed=0)
        flow.params = params
        return flow

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], threads: int | None = None, backend: str = "cpu"
    ) -> "DiscreteFlow":
        """Read a flow from a file.

        Parameters
        ----------
        path : str or path
            A file written by `Flow.save`.
        threads : int, optional
            As for a new flow.
        backend : {"cpu"}
            Other backends have no discrete coordinates.

        Returns
        -------
        DiscreteFlow
            The flow.

        Raises
        ------
        FileFormatError
            If the file does not contain such a flow, is truncated or damaged, or has an unsupported version.
        OSError
            If the file cannot be opened.
        """
        header, arrays = read_archive(path, FILE)
        try:
            return cls.from_description(header, arrays["params"], threads, backend)
        except (KeyError, TypeError, ValueError) as error:
            raise FileFormatError(f"{path}: {error}") from error


OPTIONS = ("cell", "masking", "n_bins", "d_hidden", "n_hidden", "repetitions", "dtype")


def check_on_cpu(backend: str | None) -> None:
    """Raise ValueError for a backend that knows no discrete coordinates."""
    if backend not in (None, "cpu"):
        raise ValueError(
            f"flows with discrete coordinates are evaluated on the CPU alone, got backend={backend!r}"
        )


def flow_of(
    description: dict[str, Any], params: npt.ArrayLike, threads: int | None = None, backend: str = "cpu"
) -> Flow:
    """Create a flow of either kind from its description and parameters."""
    kind = DiscreteFlow if "discrete" in description else Flow
    return kind.from_description(description, params, threads, backend)
