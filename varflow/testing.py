"""For tests of code that uses varflow: Hypothesis strategies, and the laws of a flow as functions.

The laws raise AssertionError where they do not hold. Their tolerances follow from each flow: from how much it
amplifies rounding, and from how much an estimate scatters or hangs on its step.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from varflow.data.dataset import Dataset
from varflow.flow.architecture import DTYPES, Architecture
from varflow.flow.flow import Flow
from varflow.flow.masks import MASKS, make_masks
from varflow.integration.sobol import sobol_points
from varflow.kernels.layout import aligned_zeros
from varflow.kernels.splines import CELLS
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

SEEDS = st.integers(0, 2**32 - 1)
DIMENSIONS = st.integers(1, 8)

CELL_NAMES = st.sampled_from(sorted(CELLS))
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
) -> Architecture:
    """Strategy of small architectures, over all cells, maskings and precisions.

    Parameters
    ----------
    d : int or strategy
        Number of dimensions; 1 to 8 if not given.
    cell : str or strategy
        Kind of spline; any if not given.
    dtype : str or strategy
        Precision of the networks; either if not given.

    Returns
    -------
    strategy of Architecture
        At most 12 bins, 12 neurons a layer, 3 hidden layers and 2 repetitions, so that examples are fast.
    """
    return Architecture(
        d=_drawn(draw, d),
        cell=_drawn(draw, cell),
        masking=draw(st.sampled_from(sorted(MASKS))),
        n_bins=draw(st.integers(1, 12)),
        d_hidden=draw(st.integers(1, 12)),
        n_hidden=draw(st.integers(1, 3)),
        repetitions=draw(st.integers(1, 2)),
        dtype=_drawn(draw, dtype),
    )


@st.composite
def masks(draw: st.DrawFn, *, d: int | st.SearchStrategy[int] = DIMENSIONS) -> np.ndarray:
    """Strategy of the masks of all cells of a flow, as `varflow.flow.masks.make_masks` builds them.

    Parameters
    ----------
    d : int or strategy
        Number of dimensions; 1 to 8 if not given.

    Returns
    -------
    strategy of ndarray of bool, shape (n_cells, d)
        True where the cell transforms the coordinate. All maskings, gone through once to three times.
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
) -> Flow:
    """Strategy of flows with random parameters, on random boxes.

    Parameters
    ----------
    d : int or strategy
        Number of dimensions; 1 to 8 if not given.
    cell : str or strategy
        Kind of spline; any if not given.
    dtype : str or strategy
        Precision of the networks; either if not given.
    scale : float
        How far from the identity they are, as in `normal_params`. At 0.5, rounding is not amplified much.

    Returns
    -------
    strategy of Flow
        With an architecture of `architectures`, bounds of `boxes` and 1 to 3 threads.
    """
    architecture = draw(architectures(d=d, cell=cell, dtype=dtype))
    bounds = draw(boxes(architecture.d))
    flow = Flow(**architecture.as_dict(), bounds=bounds, seed=0, threads=draw(st.integers(1, 3)))
    flow.params = normal_params(architecture, scale, np.random.default_rng(draw(SEEDS)))
    return flow


@st.composite
def datasets(
    draw: st.DrawFn,
    *,
    d: int | st.SearchStrategy[int] = DIMENSIONS,
    bounds: npt.ArrayLike | None = None,
    n_max: int = 50,
) -> Dataset:
    """Strategy of datasets, with p and |f| over up to 200 orders of magnitude.

    Parameters
    ----------
    d : int or strategy
        Number of dimensions; 1 to 8 if not given. With `bounds`, it is theirs.
    bounds : array_like, (d, 2), optional
        Lower and upper bound of each dimension; those of `boxes` if not given.
    n_max : int
        Largest number of points.

    Returns
    -------
    strategy of Dataset
        One point or more, some on faces of the box. Where f is given by its values, it has either sign and is
        sometimes zero; p, f or both may be given by their logarithms.
    """
    box = draw(boxes(_drawn(draw, d))) if bounds is None else np.asarray(bounds, np.float64)
    n, generator = draw(st.integers(1, n_max)), np.random.default_rng(draw(SEEDS))
    decades = draw(st.sampled_from([0, 1, 10, 100]))
    logpx, logfx = np.log(10) * generator.uniform(-decades, decades, (2, n))
    logfx[1:][generator.random(n - 1) < 0.2] = -np.inf
    p = {"logpx": logpx} if draw(st.booleans()) else {"px": np.exp(logpx)}
    f = {"logfx": logfx} if draw(st.booleans()) else {"fx": generator.choice([-1, 1], n) * np.exp(logfx)}
    return Dataset(in_box(_points(n, len(box), generator), box), **p, **f, bounds=box)


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
    """Move points of the unit cube to a box.

    Parameters
    ----------
    points : ndarray, (..., d)
        Points of the unit cube.
    bounds : ndarray, (d, 2)
        Lower and upper bound of each dimension.

    Returns
    -------
    ndarray, (..., d)
        Points of the box.
    """
    lower, upper = bounds.T
    return np.clip(lower + (upper - lower) * points, lower, upper)


def check_round_trip(flow: Flow, *, n: int = 100, seed: int = 0) -> None:
    """Check that `to_latent` and `from_latent` are inverse to each other and agree on log q.

    Each point must come back to 1e-10 of the box's width, and log q to 1e-10, or to what rounding beside each
    of the cells amounts to on the way back, where the cell is flat. With networks in float32, that is so for
    half of the points, and 1e-4 for the others.

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
    """
    points = _points(n, flow.d, np.random.default_rng(seed))
    _check_there_and_back(flow, "to_latent", "from_latent", in_box(points, flow.bounds), flow.bounds)
    _check_there_and_back(flow, "from_latent", "to_latent", points, _cube(flow.d))


def check_density(flow: Flow, *, n: int = 64, seed: int = 0) -> None:
    r"""Check that q is the density of the flow's points.

    Three laws: `sample` and `log_prob` give the same log q; it is the log-determinant of the Jacobian, by
    central differences of `to_latent` (of a flow in float32, that of a copy in float64); and

    .. math:: \int \frac{2 q}{q + u} \, \frac{q + u}{2} \, dx = 1

    for the uniform density u, over points half of which are uniform and half from the flow, each 32 times
    4 n scrambled Sobol points. The first factor is at most 2 (balance heuristic; Veach and Guibas, SIGGRAPH
    1995, p. 419), so that the scatter over the scrambles shows the error however narrow the peaks of q are.
    Points where the map is so steep that differences cannot tell the Jacobian are left out of the second law.

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
        "variance", "dkl", or (value, derivative) as in `Loss`.
    data : Dataset, optional
        The points, with the flow's bounds; uniform ones with random p and f if not given.
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
    """
    generator = np.random.default_rng(seed)
    data = _random_data(flow.bounds, n, generator) if data is None else data
    objective = Objective(_in_float64(flow), data, as_loss(loss))
    buffers = GradientBuffers(objective.flow, data.n)
    n_smooth = []
    for name, block in _blocks(flow.architecture):
        direction = np.zeros(flow.n_params)
        direction[block] = generator.normal(size=block.stop - block.start)
        n_smooth.append(_check_along(objective, buffers, direction / np.linalg.norm(direction), name))
    if np.mean(n_smooth) < data.n / 2:
        raise AssertionError(f"log q is smooth in {np.mean(n_smooth):.3g} of {data.n} rows only, on average")


def amplified_rounding(
    flow: Flow, there: str, back: str, points: np.ndarray, bounds: np.ndarray, rounding: float
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
    bounds : ndarray, (d, 2)
        Their box.
    rounding : float
        What numbers near one are rounded by.

    Returns
    -------
    slack : ndarray, (n, d)
        How far each coordinate may be off, in widths of the box; inf where that is not small.
    log_q_slack : ndarray, (n,)
        How far log q may be off.
    """
    slack = np.tile(rounding * _coarseness(bounds), (len(points), 1))
    log_q_slack = np.zeros(len(points))
    for part in _parts(flow, there):
        image_bounds = _image_bounds(part, there)
        images, _ = getattr(part, there)(points)
        moves = rounding * _coarseness(image_bounds)
        changes, log_q_changes = _changes(getattr(part, back), images, image_bounds, moves)
        slack += changes / _widths(bounds)
        log_q_slack += log_q_changes
    log_q_slack += _changes(getattr(_in_float64(flow), there), points, bounds, np.minimum(slack, 0.5))[1]
    is_lost = slack > MAX_SLACK
    return np.where(is_lost, np.inf, slack), np.where(is_lost.any(axis=1), np.inf, log_q_slack)


def _drawn(draw: st.DrawFn, value: T | st.SearchStrategy[T]) -> T:
    return draw(value) if isinstance(value, st.SearchStrategy) else value


def _points(n: int, d: int, generator: np.random.Generator) -> np.ndarray:
    """Uniform points (n, d) of the unit cube, a tenth of their coordinates moved to its faces."""
    points = generator.random((n, d))
    return np.where(generator.random((n, d)) < 0.1, np.round(points), points)


def _random_data(bounds: np.ndarray, n: int, generator: np.random.Generator) -> Dataset:
    """Uniform points, with f of either sign, every seventh zero."""
    x = in_box(generator.random((n, len(bounds))), bounds)
    fx = generator.normal(size=n) * (np.arange(n) % 7 != 3)
    return Dataset(x, generator.uniform(0.5, 2, n), fx, bounds=bounds)


def _in_float64(flow: Flow) -> Flow:
    """Copy a flow, of whatever class it is, to networks in float64 with the same parameters."""
    double = copy.copy(flow)
    double.architecture = replace(flow.architecture, dtype="float64")
    double._params = aligned_zeros((flow.n_params,), "float64")
    double._params[:] = flow.params
    return double


def _cube(d: int) -> np.ndarray:
    return np.tile([0.0, 1.0], (d, 1))


def _widths(bounds: np.ndarray) -> np.ndarray:
    return bounds[:, 1] - bounds[:, 0]


def _coarseness(bounds: np.ndarray) -> np.ndarray:
    """Rounding of points of a box, in its widths, as a multiple of that of numbers near one, (d,)."""
    return 1 + np.abs(bounds).max(axis=1) / _widths(bounds)


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


def _check_there_and_back(flow: Flow, there: str, back: str, points: np.ndarray, bounds: np.ndarray) -> None:
    """Check that points, (n, d) within bounds, come back from their images, and log q with them."""
    images, log_q = getattr(flow, there)(points)
    _check_inside(there, points, images, _image_bounds(flow, there))
    again, log_q_again = getattr(flow, back)(images)
    _check_inside(f"{back} after {there}", points, again, bounds)
    error = np.abs(again - points) / _widths(bounds)
    log_q_error = np.abs(log_q_again - log_q)
    for floor, rounding, share in PRECISIONS[flow.architecture.dtype]:
        slack, log_q_slack = amplified_rounding(flow, there, back, points, bounds, rounding)
        what = f"{back} after {there} does not give the points back, in widths"
        _check_within(what, points, error, floor + slack, share)
        what = f"log q of {back} is not that of {there}"
        _check_within(what, points, log_q_error, floor + log_q_slack, share)


def _image_bounds(flow: Flow, transform: str) -> np.ndarray:
    return _cube(flow.d) if transform == "to_latent" else flow.bounds


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
    transform: Callable[..., tuple[np.ndarray, np.ndarray]],
    points: np.ndarray,
    bounds: np.ndarray,
    moves: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """How much images (n, d) and log q (n,) change in all as points move along one axis after the other."""
    inward = np.where(points > bounds.mean(axis=1), -moves, moves) * _widths(bounds)
    images, log_q = transform(points)
    moved = [transform(points + inward * axis) for axis in np.eye(points.shape[1])]
    image_changes = np.sum([np.abs(found - images) for found, _ in moved], axis=0)
    return image_changes, np.sum([np.abs(found - log_q) for _, found in moved], axis=0)


def _check_log_q_of_samples(flow: Flow, n: int, seed: int) -> None:
    x, log_q = flow.sample(n, seed)
    z, _ = flow.to_latent(x)
    error = np.abs(flow.log_prob(x) - log_q)
    for floor, rounding, share in PRECISIONS[flow.architecture.dtype]:
        _, slack = amplified_rounding(flow, "from_latent", "to_latent", z, _cube(flow.d), rounding)
        _check_within("log_prob of samples is not what sample says", x, error, floor + slack, share)


def _check_log_det(flow: Flow, n: int, seed: int) -> None:
    """Compare log q with the Jacobian; its elements' errors count as much as the inverse is large."""
    double = _in_float64(flow)
    u = 2 * STEP + (1 - 4 * STEP) * np.random.default_rng(seed).random((n, flow.d))
    x = in_box(u, flow.bounds)

    def along(axis: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return _central_difference(lambda t: double.to_latent(in_box(u + t * axis, flow.bounds))[0])

    columns = [along(axis) for axis in np.eye(flow.d)]
    jacobian, uncertainty = (np.stack(parts, axis=1) for parts in zip(*columns, strict=True))
    uncertainty += ROUNDING / STEP * (1 + _coarseness(flow.bounds)[:, None] * np.abs(jacobian))
    inverse = np.abs(np.linalg.pinv(jacobian, 0.0)).swapaxes(1, 2)  # inv would raise where one is singular
    tolerance = (inverse * uncertainty).sum(axis=(1, 2))
    log_det = np.linalg.slogdet(jacobian)[1]
    is_known = (tolerance < MAX_UNCERTAINTY) & (log_det > -np.inf)
    for name, log_q in (("log_prob", double.log_prob(x)), ("log q of to_latent", double.to_latent(x)[1])):
        error = np.abs(log_q + np.log(_widths(flow.bounds)).sum() - log_det)
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
    generator = np.random.default_rng(seed)
    estimates = np.empty(SCRAMBLES)
    for k in range(SCRAMBLES):
        uniform = in_box(sobol_points(n, flow.d, generator), flow.bounds)
        x, _ = flow.from_latent(sobol_points(n, flow.d, generator))
        log_ratio = flow.log_prob(np.concatenate([uniform, x])) + np.log(_widths(flow.bounds)).sum()
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


def _check_along(objective: Objective, buffers: GradientBuffers, direction: np.ndarray, name: str) -> int:
    """Check one derivative. Returns how many rows are smooth along the direction, for which it was done."""
    flow, params = objective.flow, objective.flow.params.copy()

    def log_q(t: float) -> np.ndarray:
        flow.params[:] = params + t * direction
        return flow.log_prob(objective.x)

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
