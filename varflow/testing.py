"""For tests of code that uses varflow: Hypothesis strategies, and the laws of a flow as functions.

The laws raise AssertionError where they do not hold. Their tolerances follow from each flow: from how much it
amplifies rounding, and from how much an estimate scatters or hangs on its step.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from varflow.data.arrays import infinite_bounds, is_unbounded
from varflow.data.dataset import Dataset
from varflow.flow.architecture import DTYPES, Architecture
from varflow.flow.flow import Flow
from varflow.flow.latent import normal_quantiles
from varflow.flow.masks import MASKS, make_masks
from varflow.integration.sobol import sobol_points
from varflow.kernels.layout import aligned_zeros
from varflow.kernels.splines import SPLINES
from varflow.training.evaluation import log_prob_of
from varflow.training.losses import Loss, as_loss
from varflow.training.objective import GradientBuffers, Objective

try:
    from hypothesis import strategies as st
except ImportError as error:
    raise ImportError("varflow.testing needs Hypothesis: pip install varflow[testing]") from error

__all__ = [
    "architectures",
    "boxes",
    "check_density",
    "check_gradient",
    "check_round_trip",
    "datasets",
    "flows",
    "in_box",
    "masks",
    "normal_params",
]

T = TypeVar("T")
Given = tuple[np.ndarray, ...]  # conditions of points, where a flow has some

SEEDS = st.integers(0, 2**32 - 1)
DIMENSIONS = st.integers(1, 8)

CELL_NAMES = st.sampled_from(sorted(SPLINES))
DTYPE_NAMES = st.sampled_from(DTYPES)

# What a round trip may be off by whatever the flow, what rounding of numbers near one amounts to in it, and
# the share of rows that may be worse. Networks in float32 see their inputs rounded: where a last bit changes,
# that of a float32 may.
PRECISIONS = {"float64": [(1e-10, 1e-14, 0.0)], "float32": [(1e-10, 1e-14, 0.5), (1e-4, 5e-6, 0.0)]}
ROUNDING = 1e-14
MAX_SLACK = 1e-5  # in widths: beyond it, rounding may do more than what one small move shows
MAX_UNCERTAINTY = 1e-3  # of a log-determinant, likewise
STEP = 1e-6  # of central differences, in widths or in the parameters
SCRAMBLES = 32
QUANTILE = 8.6  # what Student's t with 31 degrees of freedom exceeds once in 10^9, either way


@st.composite
def architectures(
    draw: st.DrawFn,
    *,
    d: int | st.SearchStrategy[int] = DIMENSIONS,
    cell: str | st.SearchStrategy[str] = CELL_NAMES,
    dtype: str | st.SearchStrategy[str] = DTYPE_NAMES,
    n_conditions: int | st.SearchStrategy[int] = 0,
) -> Architecture:
    """Strategy of small architectures, over all splines, maskings and precisions.

    Parameters
    ----------
    d : int or strategy
        Number of dimensions; 1 to 8 if not given.
    cell : str or strategy
        Kind of cell; any spline if not given. "realnvp", whose points have no bounds, is had by its name.
    dtype : str or strategy
        Precision of the networks; either if not given.
    n_conditions : int or strategy
        Number of conditions; none if not given.

    Returns
    -------
    strategy of Architecture
        At most 12 bins, 12 neurons a layer, 3 hidden layers and 2 repetitions, so that examples are fast.

    Examples
    --------
    >>> from hypothesis import given, settings
    >>> from varflow.testing import architectures
    >>> @settings(max_examples=5)
    ... @given(architectures(d=2))
    ... def test_description(architecture):
    ...     assert vf.Architecture(**architecture.as_dict()) == architecture
    >>> test_description()
    """
    d, cell = _drawn(draw, d), _drawn(draw, cell)
    return Architecture(
        d=d,
        cell=cell,
        masking=draw(st.sampled_from(sorted(MASKS))),
        n_bins=draw(st.integers(1, 12)) if cell in SPLINES else 1,
        d_hidden=draw(st.integers(1, 12)),
        n_hidden=draw(st.integers(1, 3)),
        repetitions=draw(st.integers(1, 2)),
        dtype=_drawn(draw, dtype),
        n_conditions=_drawn(draw, n_conditions),
    )


@st.composite
def masks(draw: st.DrawFn, *, d: int | st.SearchStrategy[int] = DIMENSIONS) -> np.ndarray:
    """Strategy of the masks of all cells of a flow, as `varflow.Architecture.masks` has them.

    Parameters
    ----------
    d : int or strategy
        Number of dimensions; 1 to 8 if not given.

    Returns
    -------
    strategy of ndarray of bool, shape (n_cells, d)
        True where the cell transforms the coordinate. All maskings, gone through once to three times.

    Examples
    --------
    >>> from hypothesis import given, settings
    >>> from varflow.testing import masks
    >>> @settings(max_examples=5)
    ... @given(masks())
    ... def test_each_coordinate_is_transformed(masks):
    ...     assert masks.any(axis=0).all()
    >>> test_each_coordinate_is_transformed()
    """
    masking = draw(st.sampled_from(sorted(MASKS)))
    return make_masks(_drawn(draw, d), masking, draw(st.integers(1, 3)))


@st.composite
def boxes(draw: st.DrawFn, d: int) -> np.ndarray:
    """Strategy of bounds: the unit cube, or a box whose bounds have no digits in common.

    Parameters
    ----------
    d : int
        Number of dimensions.

    Returns
    -------
    strategy of ndarray, (d, 2)
        Lower and upper bound of each dimension, at most two widths from zero.

    Examples
    --------
    >>> from hypothesis import given, settings
    >>> from varflow.testing import boxes
    >>> @settings(max_examples=5)
    ... @given(boxes(3))
    ... def test_round_trip(bounds):
    ...     domain = vf.Domain(bounds)
    ...     x, _ = domain.from_cube([[0.5, 0.25, 0.75]])
    ...     assert np.allclose(domain.to_cube(x)[0], [[0.5, 0.25, 0.75]])
    >>> test_round_trip()
    """
    if draw(st.booleans()):
        return _cube(d)
    generator = np.random.default_rng(draw(SEEDS))
    return np.column_stack([generator.uniform(-10, 1, d), generator.uniform(2, 100, d)])


@st.composite
def flows(
    draw: st.DrawFn,
    *,
    d: int | st.SearchStrategy[int] = DIMENSIONS,
    cell: str | st.SearchStrategy[str] = CELL_NAMES,
    dtype: str | st.SearchStrategy[str] = DTYPE_NAMES,
    scale: float = 0.5,
    n_conditions: int | st.SearchStrategy[int] = 0,
) -> Flow:
    """Strategy of flows with random parameters, on random boxes.

    Parameters
    ----------
    d : int or strategy
        Number of dimensions; 1 to 8 if not given.
    cell : str or strategy
        Kind of cell; any spline if not given. "realnvp", whose points have no bounds, is had by its name.
    dtype : str or strategy
        Precision of the networks; either if not given.
    scale : float
        How far from the identity they are, as in `normal_params`. At 0.5, rounding is not amplified much.
    n_conditions : int or strategy
        Number of conditions; none if not given.

    Returns
    -------
    strategy of Flow
        With an architecture of `architectures`, bounds and ranges of conditions of `boxes`, and 1 to 3
        threads; with "realnvp", a location and a scale in place of the bounds.

    Examples
    --------
    >>> from hypothesis import given, settings
    >>> from varflow.testing import flows
    >>> @settings(max_examples=5, deadline=None)  # the first call compiles kernels
    ... @given(flows(d=2, dtype="float64"))
    ... def test_points_stay_inside(flow):
    ...     x, _ = flow.sample(10, seed=1)
    ...     assert ((x >= flow.bounds[:, 0]) & (x <= flow.bounds[:, 1])).all()
    >>> test_points_stay_inside()
    """
    architecture = draw(architectures(d=d, cell=cell, dtype=dtype, n_conditions=n_conditions))
    space, c = draw(_spaces(architecture)), architecture.n_conditions
    flow = Flow(**architecture.as_dict(), **space, seed=0, threads=draw(st.integers(1, 3)))
    if c > 0:
        flow.condition_bounds = draw(boxes(c))
    flow.params = normal_params(architecture, scale, np.random.default_rng(draw(SEEDS)))
    return flow


@st.composite
def datasets(
    draw: st.DrawFn,
    *,
    d: int | st.SearchStrategy[int] = DIMENSIONS,
    bounds: npt.ArrayLike | None = None,
    n_max: int = 50,
    n_conditions: int | st.SearchStrategy[int] = 0,
) -> Dataset:
    """Strategy of datasets, with p and |f| over up to 200 orders of magnitude.

    Parameters
    ----------
    d : int or strategy
        Number of dimensions; 1 to 8 if not given. With `bounds`, it is theirs.
    bounds : array_like, (d, 2), optional
        Lower and upper bound of each dimension, which may all be infinite; those of `boxes` if not given.
    n_max : int
        Largest number of points.
    n_conditions : int or strategy
        Number of conditions of a point, from 0 to 1 each; none if not given.

    Returns
    -------
    strategy of Dataset
        One point or more, some on faces of the box. Where f is given by its values, it has either sign and is
        sometimes zero; p, f or both may be given by their logarithms.

    Examples
    --------
    >>> from hypothesis import given, settings
    >>> from varflow.testing import datasets
    >>> @settings(max_examples=5)
    ... @given(datasets(d=2, n_max=10))
    ... def test_logarithms(data):
    ...     assert np.allclose(np.exp(data.logpx), data.px)
    >>> test_logarithms()
    """
    box = draw(boxes(_drawn(draw, d))) if bounds is None else np.asarray(bounds, np.float64)
    n, generator = draw(st.integers(1, n_max)), np.random.default_rng(draw(SEEDS))
    decades = draw(st.sampled_from([0, 1, 10, 100]))
    logpx, logfx = np.log(10) * generator.uniform(-decades, decades, (2, n))
    logfx[1:][generator.random(n - 1) < 0.2] = -np.inf
    p = {"logpx": logpx} if draw(st.booleans()) else {"px": np.exp(logpx)}
    f = {"logfx": logfx} if draw(st.booleans()) else {"fx": generator.choice([-1, 1], n) * np.exp(logfx)}
    x, c = in_box(_points(n, len(box), generator), box), _drawn(draw, n_conditions)
    return Dataset(x, **p, **f, bounds=box, conditions=_points(n, c, generator))


def normal_params(architecture: Architecture, scale: float, generator: np.random.Generator) -> np.ndarray:
    """Draw normal parameters with which logits are some `scale` apart, whatever the sizes of the layers.

    Parameters
    ----------
    architecture : Architecture
        What they are for.
    scale : float
        Standard deviation of the logits, or nearly; 0 gives the identity.
    generator : numpy.random.Generator
        Source of the random numbers.

    Returns
    -------
    ndarray, (n_params,)
        Parameters.

    Examples
    --------
    >>> from varflow.testing import normal_params
    >>> flow = vf.Flow(2, n_bins=4, d_hidden=8)
    >>> flow.params = normal_params(flow.architecture, 0.5, np.random.default_rng(1))
    """
    params = np.empty(architecture.n_params)
    for *hidden, last in architecture.layers:
        gains = [np.sqrt(2)] * len(hidden) + [scale]  # a ReLU takes half of the variance
        for gain, (n_in, n_out, weights, biases) in zip(gains, [*hidden, last], strict=True):
            deviation = gain / np.sqrt(n_in + 1)
            params[weights : weights + n_in * n_out] = deviation * generator.normal(size=n_in * n_out)
            params[biases : biases + n_out] = deviation * generator.normal(size=n_out)
    return params


def in_box(points: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """Move points of the unit cube to a box; to normal quantiles where it is infinite.

    Parameters
    ----------
    points : ndarray, (..., d)
        Points of the unit cube.
    bounds : ndarray, (d, 2)
        Lower and upper bound of each dimension, all finite or all infinite.

    Returns
    -------
    ndarray, (..., d)
        Points of the box.

    Examples
    --------
    >>> from varflow.testing import in_box
    >>> in_box(np.array([[0.5, 0.25]]), np.array([[0.0, 4.0], [-1.0, 1.0]]))
    array([[ 2. , -0.5]])
    """
    if is_unbounded(bounds):
        return normal_quantiles(points)
    lower, upper = bounds.T
    return np.clip(lower + (upper - lower) * points, lower, upper)


def check_round_trip(flow: Flow, *, n: int = 100, seed: int = 0) -> None:
    """Check that `varflow.Flow.to_latent` and `varflow.Flow.from_latent` are inverse and agree on log q.

    Each point must come back to 1e-10 of the box's width, or of the scale without a box, and log q to 1e-10,
    or to what rounding beside each of the cells amounts to on the way back, where the cell is flat. With
    networks in float32, that is so for half of the points, and 1e-4 for the others.

    Parameters
    ----------
    flow : Flow
        The flow.
    n : int
        Number of points in either space, a tenth of their coordinates on faces.
    seed : int
        Seed of the points.

    Raises
    ------
    AssertionError
        If a point does not come back or leaves the box or the cube, or log q differs.

    Examples
    --------
    >>> from varflow.testing import check_round_trip
    >>> check_round_trip(vf.Flow(2, seed=1), n=10)
    """
    points, given = _points(n, flow.d, np.random.default_rng(seed)), _conditions(flow, n, seed)
    _check_there_and_back(flow, "to_latent", "from_latent", _in_space(flow, points), given)
    _check_there_and_back(flow, "from_latent", "to_latent", flow.latent_of(points), given)


def check_density(flow: Flow, *, n: int = 64, seed: int = 0) -> None:
    """Check that q is the density of the flow's points.

    Three laws: `varflow.Flow.sample` and `varflow.Flow.log_prob` give the same log q; it is the log-
    determinant of the Jacobian, and the log of a normal density with "realnvp", by central differences of
    `varflow.Flow.to_latent` (of a flow in float32, that of a copy in float64); and

        ∫ [2 q / (q + u)] [(q + u) / 2] dx = 1

    for the uniform density u, or a normal one with "realnvp", over points half of which are from u and half
    from the flow, each 32 times 4 n scrambled Sobol points. The first factor is at most 2 (balance heuristic;
    Veach and Guibas, SIGGRAPH 1995, p. 419), so that the scatter over the scrambles shows the error however
    narrow the peaks of q are. Points where the map is so steep that differences cannot tell the Jacobian are
    left out of the second law. Each point has conditions of its own where the flow has some, but in the third
    law, where all have the same.

    Parameters
    ----------
    flow : Flow
        The flow.
    n : int
        Number of points at which log q is looked at.
    seed : int
        Seed of the points.

    Raises
    ------
    AssertionError
        If one of the laws does not hold.

    Examples
    --------
    >>> from varflow.testing import check_density
    >>> check_density(vf.Flow(2, n_bins=4, d_hidden=8, seed=1), n=16)
    """
    _check_log_q_of_samples(flow, n, seed)
    _check_log_det(flow, n, seed)
    _check_integral(flow, 4 * n, seed)


def check_gradient(
    flow: Flow,
    loss: str | Loss | tuple[Callable[..., float], Callable[..., np.ndarray]],
    *,
    data: Dataset | None = None,
    n: int = 100,
    seed: int = 0,
) -> None:
    """Check the gradient of a loss in the parameters against central differences.

    They are taken along a random direction in the weights, and one in the biases, of each layer of each cell,
    in float64. Rows that a kink or a jump of the flow passes within the steps are left out.

    Parameters
    ----------
    flow : Flow
        The flow; it is not changed.
    loss : str, Loss or pair of callables
        "variance", "dkl", or (value, derivative) as in `varflow.Loss`.
    data : Dataset, optional
        The points, with the flow's bounds; if not given, uniform ones, or the flow's with "realnvp", with
        random p and f.
    n : int
        Number of points where no data are given.
    seed : int
        Seed of the points and of the directions.

    Raises
    ------
    AssertionError
        If a derivative differs by more than the differences' own error, estimated from steps h and 2 h and
        from rounding.
    TypeError, ValueError
        If the loss is not what is said above, or the data are of another box.

    Examples
    --------
    >>> from varflow.testing import check_gradient
    >>> check_gradient(vf.Flow(2, n_bins=4, d_hidden=8, seed=1), "variance", n=20)
    """
    generator = np.random.default_rng(seed)
    data = _random_data(flow, n, generator) if data is None else data
    objective = Objective(_in_float64(flow), data, as_loss(loss))
    buffers = GradientBuffers(objective.flow, data.n)
    n_smooth = []
    for name, block in _blocks(flow.architecture):
        direction = np.zeros(flow.n_params)
        direction[block] = generator.normal(size=block.stop - block.start)
        direction /= np.linalg.norm(direction)
        n_smooth.append(_check_along(objective, data, buffers, direction, name))
    if np.mean(n_smooth) < data.n / 2:
        raise AssertionError(f"log q is smooth in {np.mean(n_smooth):.3g} of {data.n} rows only, on average")


def amplified_rounding(
    flow: Flow, there: str, back: str, points: np.ndarray, rounding: float, given: Given = ()
) -> tuple[np.ndarray, np.ndarray]:
    """Find what rounding beside each cell makes of points that were mapped there and back.

    Each cell's input is moved along one axis after the other, which shows what is lost even where one cell
    contracts what the next expands.

    Parameters
    ----------
    flow : Flow
        The flow.
    there, back : str
        "to_latent" and "from_latent", or the reverse.
    points : ndarray, (n, d)
        The points.
    rounding : float
        What numbers near one are rounded by.
    given : tuple of ndarray
        Conditions of the points, (n, c), where the flow has some.

    Returns
    -------
    slack : ndarray, (n, d)
        How far each coordinate may be off, in widths of the box, or scales; inf where that is not small.
    log_q_slack : ndarray, (n,)
        How far log q may be off.
    """
    frame, image_frame = _frame(flow, there), _frame(flow, back)
    slack = np.tile(rounding * frame.coarseness(points), (len(points), 1))
    log_q_slack = np.zeros(len(points))
    for part in _parts(flow, there):
        images, _ = getattr(part, there)(points, *given)
        moves = rounding * image_frame.coarseness(images)
        changes, log_q_changes = _changes(part, back, images, image_frame, moves, given)
        slack += changes / frame.widths
        log_q_slack += log_q_changes
    double, moves = _in_float64(flow), np.minimum(slack, 0.5)
    log_q_slack += _changes(double, there, points, frame, moves, given)[1]
    is_lost = slack > MAX_SLACK
    return np.where(is_lost, np.inf, slack), np.where(is_lost.any(axis=1), np.inf, log_q_slack)


def _drawn(draw: st.DrawFn, value: T | st.SearchStrategy[T]) -> T:
    return draw(value) if isinstance(value, st.SearchStrategy) else value


def _points(n: int, d: int, generator: np.random.Generator) -> np.ndarray:
    """Uniform points (n, d) of the unit cube, a tenth of their coordinates moved to its faces."""
    points = generator.random((n, d))
    return np.where(generator.random((n, d)) < 0.1, np.round(points), points)


def _conditions(flow: Flow, n: int, seed: int) -> Given:
    """Conditions (n, c) within the range that the flow knows; none where it has none."""
    if flow.n_conditions == 0:
        return ()
    bounds = _cube(flow.n_conditions) if flow.condition_bounds is None else flow.condition_bounds
    return (in_box(_points(n, len(bounds), np.random.default_rng([seed, 1])), bounds),)


def _random_data(flow: Flow, n: int, generator: np.random.Generator) -> Dataset:
    """Uniform points of a box, or points of the flow, with f of either sign, every seventh zero."""
    u = generator.random((n, flow.d))
    fx = generator.normal(size=n) * (np.arange(n) % 7 != 3)
    px, given = generator.uniform(0.5, 2, n), _conditions(flow, n, int(generator.integers(2**32)))
    x = in_box(u, flow.bounds) if flow.latent == "uniform" else flow.from_latent(flow.latent_of(u), *given)[0]
    x = np.where(np.isfinite(x), x, 0.0)  # so that the laws say what is wrong with a flow, not its points
    return Dataset(x, px, fx, bounds=flow.bounds, conditions=next(iter(given), None))


def _in_float64(flow: Flow) -> Flow:
    """Copy a flow, of whatever class it is, to networks in float64 with the same parameters."""
    double = copy.copy(flow)
    double.architecture = replace(flow.architecture, dtype="float64")
    double._params = aligned_zeros((flow.n_params,), "float64")
    double._params[:] = flow.params
    return double


def _cube(d: int) -> np.ndarray:
    return np.tile([0.0, 1.0], (d, 1))


@st.composite
def _spaces(draw: st.DrawFn, architecture: Architecture) -> dict[str, Any]:
    """Strategy of the arguments of `Flow` that say where its points are."""
    bounds = draw(boxes(architecture.d))
    if architecture.latent == "uniform":
        return {"bounds": bounds}
    return {"location": bounds[:, 0], "scale": bounds[:, 1] - bounds[:, 0]}


class _Frame(NamedTuple):
    """Where points are, and in which units they are looked at."""

    bounds: np.ndarray  # (d, 2)
    centre: np.ndarray  # (d,)
    widths: np.ndarray  # (d,): of the box, or scales

    def coarseness(self, points: np.ndarray) -> np.ndarray:
        """Rounding of points, in widths, as a multiple of that of numbers near one, (d,)."""
        largest = np.abs(points).max(axis=0) if is_unbounded(self.bounds) else np.abs(self.bounds).max(axis=1)
        return 1 + largest / self.widths


def _frame(flow: Flow, transform: str) -> _Frame:
    """Tell where the points are that a transform takes: "to_latent" or "from_latent"."""
    is_target, zeros, ones = transform == "to_latent", np.zeros(flow.d), np.ones(flow.d)
    if flow.location is not None and flow.scale is not None:
        where = (flow.location, flow.scale) if is_target else (zeros, ones)
        return _Frame(infinite_bounds(flow.d), *where)
    bounds = flow.bounds if is_target else _cube(flow.d)
    return _Frame(bounds, bounds.mean(axis=1), bounds[:, 1] - bounds[:, 0])


def _in_space(flow: Flow, points: np.ndarray) -> np.ndarray:
    """Move points of the unit cube to where those of the flow are."""
    x = in_box(points, flow.bounds)
    return x if flow.location is None else flow.location + flow.scale * x


def _log_normal(z: np.ndarray) -> np.ndarray:
    """Log of the standard normal density, (n,), at points z (n, d)."""
    return -0.5 * (z**2 + np.log(2 * np.pi)).sum(axis=1)


def _check_within(
    what: str, points: np.ndarray, error: np.ndarray, tolerance: npt.ArrayLike, share: float = 0.0
) -> None:
    """Raise AssertionError if an error, (n,) or (n, d), is too large or NaN in more than a share of rows."""
    tolerance = np.broadcast_to(tolerance, error.shape)
    is_wrong = ~(error <= tolerance)
    n_wrong = is_wrong.sum() if error.ndim == 1 else is_wrong.any(axis=1).sum()
    if n_wrong <= share * len(error):
        return
    with np.errstate(divide="ignore", invalid="ignore"):
        excess = np.where(is_wrong, np.nan_to_num(error / tolerance, nan=np.inf), 0)
    worst = np.unravel_index(excess.argmax(), error.shape)
    column = f", column {worst[1]}" if error.ndim > 1 else ""
    raise AssertionError(
        f"{what}: off by {error[worst]:.3g} in row {worst[0]}{column}, at {points[worst[0]].tolist()}; "
        f"tolerance {tolerance[worst]:.3g}; so in {n_wrong} of {len(error)} rows"
    )


def _check_inside(what: str, points: np.ndarray, images: np.ndarray, bounds: np.ndarray) -> None:
    lower, upper = bounds.T
    outside = np.maximum(np.maximum(lower - images, images - upper), 0)
    _check_within(f"{what} leaves {bounds.tolist()}", points, outside, 0.0)


def _check_there_and_back(flow: Flow, there: str, back: str, points: np.ndarray, given: Given) -> None:
    """Check that points (n, d) come back from their images, and log q with them."""
    frame = _frame(flow, there)
    images, log_q = getattr(flow, there)(points, *given)
    _check_inside(there, points, images, _frame(flow, back).bounds)
    again, log_q_again = getattr(flow, back)(images, *given)
    _check_inside(f"{back} after {there}", points, again, frame.bounds)
    error = np.abs(again - points) / frame.widths
    log_q_error = np.abs(log_q_again - log_q)
    for floor, rounding, share in PRECISIONS[flow.architecture.dtype]:
        slack, log_q_slack = amplified_rounding(flow, there, back, points, rounding, given)
        what = f"{back} after {there} does not give the points back, in widths"
        _check_within(what, points, error, floor + slack, share)
        what = f"log q of {back} is not that of {there}"
        _check_within(what, points, log_q_error, floor + log_q_slack, share)


def _parts(flow: Flow, there: str) -> Iterator[Flow]:
    """Flows that consist of the first cells that a transform goes through: of one, of two, and so on."""
    for n_cells in range(1, flow.architecture.n_cells + 1):
        part = _in_float64(flow)
        is_first = there == "to_latent"
        cells = slice(n_cells) if is_first else slice(-n_cells, None)
        tables = ("split", "n_inputs", "layers")
        part.layout = flow.layout._replace(**{name: getattr(flow.layout, name)[cells] for name in tables})
        yield part


def _changes(
    flow: Flow, transform: str, points: np.ndarray, frame: _Frame, moves: np.ndarray, given: Given
) -> tuple[np.ndarray, np.ndarray]:
    """How much images (n, d) and log q (n,) change in all as points move along one axis after the other."""
    inward = np.where(points > frame.centre, -moves, moves) * frame.widths
    images, log_q = getattr(flow, transform)(points, *given)
    moved = [getattr(flow, transform)(points + inward * axis, *given) for axis in np.eye(points.shape[1])]
    image_changes = np.sum([np.abs(found - images) for found, _ in moved], axis=0)
    return image_changes, np.sum([np.abs(found - log_q) for _, found in moved], axis=0)


def _check_log_q_of_samples(flow: Flow, n: int, seed: int) -> None:
    given = _conditions(flow, n, seed)
    x, log_q = flow.sample(n, seed, conditions=next(iter(given), None))
    z, _ = flow.to_latent(x, *given)
    error = np.abs(flow.log_prob(x, *given) - log_q)
    for floor, rounding, share in PRECISIONS[flow.architecture.dtype]:
        _, slack = amplified_rounding(flow, "from_latent", "to_latent", z, rounding, given)
        _check_within("log_prob of samples is not what sample says", x, error, floor + slack, share)


def _check_log_det(flow: Flow, n: int, seed: int) -> None:
    """Compare log q with the Jacobian; its elements' errors count as much as the inverse is large."""
    double, frame = _in_float64(flow), _frame(flow, "to_latent")
    given = _conditions(flow, n, seed)
    u = 2 * STEP + (1 - 4 * STEP) * np.random.default_rng(seed).random((n, flow.d))
    x = _in_space(flow, u)

    def moved(t: float, axis: np.ndarray) -> np.ndarray:
        return x + t * frame.widths * axis if flow.latent == "normal" else in_box(u + t * axis, flow.bounds)

    def along(axis: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return _central_difference(lambda t: double.to_latent(moved(t, axis), *given)[0])

    columns = [along(axis) for axis in np.eye(flow.d)]
    jacobian, uncertainty = (np.stack(parts, axis=1) for parts in zip(*columns, strict=True))
    uncertainty += ROUNDING / STEP * (1 + frame.coarseness(x)[:, None] * np.abs(jacobian))
    inverse = np.abs(np.linalg.pinv(jacobian, 0.0)).swapaxes(1, 2)  # inv would raise where one is singular
    tolerance = (inverse * uncertainty).sum(axis=(1, 2))
    log_det = np.linalg.slogdet(jacobian)[1]
    is_known = (tolerance < MAX_UNCERTAINTY) & (log_det > -np.inf)
    log_latent = _log_normal(double.to_latent(x, *given)[0]) if flow.latent == "normal" else 0.0
    of_both = {
        "log_prob": double.log_prob(x, *given),
        "log q of to_latent": double.to_latent(x, *given)[1],
    }
    for name, log_q in of_both.items():
        error = np.abs(log_q + np.log(frame.widths).sum() - log_latent - log_det)
        what = f"{name} is not the log-determinant of the Jacobian"
        _check_within(what, x[is_known], error[is_known], tolerance[is_known])


def _central_difference(value: Callable[[float], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Derivative at zero, and how uncertain it is.

    Steps h and 2 h show the error of what is smooth. The fourth difference is added: together they are at
    least the error that one kink or one jump makes, wherever it lies within the steps.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        far_below, below, centre, above, far_above = (np.asarray(value(k * STEP)) for k in range(-2, 3))
        fine, coarse = (above - below) / (2 * STEP), (far_above - far_below) / (4 * STEP)
        bend = (far_above + far_below - 4 * (above + below) + 6 * centre) / (2 * STEP)
        return fine, np.abs(bend) + 2 * np.abs(coarse - fine)


def _check_integral(flow: Flow, n: int, seed: int) -> None:
    given = tuple(conditions[0] for conditions in _conditions(flow, 1, seed))
    generator, frame = np.random.default_rng(seed), _frame(flow, "to_latent")
    estimates = np.empty(SCRAMBLES)
    for k in range(SCRAMBLES):
        others = _in_space(flow, sobol_points(n, flow.d, generator))
        x, _ = flow.from_latent(flow.latent_of(sobol_points(n, flow.d, generator)), *given)
        points = np.concatenate([others, x])
        log_ratio = flow.log_prob(points, *given) + np.log(frame.widths).sum()
        if flow.latent == "normal":
            log_ratio -= _log_normal((points - frame.centre) / frame.widths)
        with np.errstate(over="ignore"):
            estimates[k] = np.mean(2 / (1 + np.exp(-log_ratio)))
    error = abs(estimates.mean() - 1)
    tolerance = QUANTILE * estimates.std(ddof=1) / np.sqrt(SCRAMBLES) + 1e-10
    if not error <= tolerance:
        raise AssertionError(
            f"q does not integrate to 1: off by {error:.3g}, tolerance {tolerance:.3g}, "
            f"by {SCRAMBLES} times {2 * n} points, half of them of the flow"
        )


def _blocks(architecture: Architecture) -> Iterator[tuple[str, slice]]:
    """Names, and slices of the flat parameters, of the weights and the biases of each layer of each cell."""
    for cell, layers in enumerate(architecture.layers):
        for layer, (n_in, n_out, weights, biases) in enumerate(layers):
            if n_in * n_out > 0:
                yield f"weights of layer {layer} of cell {cell}", slice(weights, weights + n_in * n_out)
            if n_out > 0:
                yield f"biases of layer {layer} of cell {cell}", slice(biases, biases + n_out)


def _check_along(
    objective: Objective, data: Dataset, buffers: GradientBuffers, direction: np.ndarray, name: str
) -> int:
    """Check one derivative. Returns how many rows are smooth along the direction, for which it was done."""
    flow, params = objective.flow, objective.flow.params.copy()

    def log_q(t: float) -> np.ndarray:
        flow.params[:] = params + t * direction
        return log_prob_of(flow, data)

    def loss(t: float) -> np.ndarray:
        flow.params[:] = params + t * direction
        return np.asarray(objective.value(rows))

    rates, uncertainty = _central_difference(log_q)
    rows = np.flatnonzero(uncertainty <= 1e-4 * (1 + np.abs(rates)))
    if len(rows) == 0:
        return 0
    expected, tolerance = _central_difference(loss)
    flow.params[:] = params
    value, shares = objective.gradient(rows, buffers)
    gradient = shares.sum(axis=0)
    found = gradient @ direction
    # Results are those of parameters that are each off by some roundings.
    tolerance += ROUNDING / STEP * (1 + abs(value) + np.abs(gradient * params).sum())
    if not abs(found - expected) <= tolerance:
        raise AssertionError(
            f"gradient along the {name}: {found:.9g}, but {expected:.9g} by central differences; "
            f"off by {abs(found - expected):.3g}, tolerance {tolerance:.3g}, on {len(rows)} rows"
        )
    return len(rows)
