"""What an integration found: the estimate, how its iterations agree, and the flow it was made with."""

import decimal
import html
import importlib
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from varflow.archive import Kind, read_archive, refused_as, write_archive
from varflow.flow import Flow
from varflow.integrand import Components

__all__ = [
    "Iteration",
    "Result",
    "average",
    "format_estimate",
    "pack_history",
    "standard_deviations",
    "unpack_history",
]

Array = npt.NDArray[Any]

FILE = Kind("varflow result", version=2, oldest=1, sealed=2)
_HISTORY = {  # members of a file that have a row an iteration, besides the stages, which are in the header
    "n_calls": np.dtype(np.int64),
    "mean": np.dtype(np.float64),
    "covariance": np.dtype(np.float64),
    "ess": np.dtype(np.float64),
    "seconds": np.dtype(np.float64),
    "is_used": np.dtype(np.bool_),
    "weight": np.dtype(np.float64),
}

_ROUNDING = 1e-12  # relative error that the sums behind a mean may have even where f is constant
_RESOLVED = 1e-10  # relative variance below which a combination of components counts as constant
_DIGITS = 15  # decimal digits that a float64 always holds
_DECIMAL = decimal.Context(prec=2 * _DIGITS)  # own, as the caller may have set another precision
_TITLES = ("itn", "stage", "integral", "accumulated", "chi2/dof", "Q", "calls", "ess", "seconds")


@dataclass(frozen=True, eq=False)
class Iteration:
    """One iteration of an integration.

    Attributes
    ----------
    stage : str
        "survey", which trains the flow, or "refine"; "scouts" that look for regions the flow has lost, and
        "regain", which draws points there, have no estimate.
    n_calls : int
        Number of points.
    mean : ndarray, (m,)
        Estimate of each component.
    covariance : ndarray, (m, m)
        Covariance of the mean.
    ess : float
        Effective sample size as a fraction of the points.
    seconds : float
        Time it took.
    is_used : bool
        Whether it counts in the result.
    weight : float
        Its share in the result relative to the others that count. It must not depend on the values of f,
        or the result were biased.
    """

    stage: str
    n_calls: int
    mean: Array
    covariance: Array
    ess: float
    seconds: float
    is_used: bool
    weight: float


class Source(Protocol):
    """What can draw more points: the integrator that made a result."""

    def sample(self, n: int, *, unweight: bool, seed: int | None) -> Any:
        """Draw points."""

    def extend(self, n_calls: int) -> "Result":
        """Go on with the integration."""


class Result:
    """Estimate of an integral from the iterations of an integration.

    The iterations that are used are averaged with their fixed weights, so that the estimate has no bias, and
    its covariance is what follows from theirs.

    Parameters
    ----------
    history : sequence of Iteration
        All iterations in their order. One at least is used, and all that are have a weight above zero.
    flow : Flow
        The flow that the last one drew its points from.
    components : Components
        What the integrand returns.
    bounds : array_like, (d, 2)
        Lower and upper bound of each dimension of the integral; may be infinite.
    defensive_share : float
        Share of the points that were drawn without the flow.
    n_invalid : int
        Number of points where f was not finite.
    warnings : sequence of str
        What the user ought to know about the result, a sentence each.
    source : Source, optional
        The integrator, which `sample` and `extend` are passed on to.

    Attributes
    ----------
    history : list of Iteration
    flow : Flow
    components : Components
    bounds : ndarray, (d, 2)
    defensive_share : float
    n_invalid : int
    warnings : tuple of str
    source : Source or None
        As given.

    Raises
    ------
    ValueError
        If shapes disagree, no iteration is used, or one that is has no weight above zero.
    """

    def __init__(
        self,
        history: Sequence[Iteration],
        flow: Flow,
        *,
        components: Components,
        bounds: npt.ArrayLike,
        defensive_share: float = 0.0,
        n_invalid: int = 0,
        warnings: Iterable[str] = (),
        source: Source | None = None,
    ) -> None:
        self.history = list(history)
        self.flow = flow
        self.components = components
        self.bounds = np.array(bounds, np.float64)
        self.defensive_share = float(defensive_share)
        self.n_invalid = int(n_invalid)
        self.warnings = tuple(warnings)
        self.source = source
        _check_history(self.history, components.size)
        if self.bounds.shape != (flow.d, 2):
            raise ValueError(f"bounds must have shape ({flow.d}, 2), found {self.bounds.shape}")

    @property
    def mean(self) -> Any:
        """The estimate: a float, an array, or a dict of them, as the integrand returns."""
        return self.components.unpack(self._average[0])

    @property
    def sdev(self) -> Any:
        """Its standard deviation, in the same form."""
        return self.components.unpack(standard_deviations(self._average[1]))

    @property
    def covariance(self) -> Array:
        """Covariance of all components, (m, m), in the order of the dict and of the arrays' ravel()."""
        return self._average[1].copy()

    @property
    def chi2(self) -> float:
        """Squared deviations of the used iterations from their common mean, in units of their covariances.

        The common mean is that with inverse covariances for weights (Lepage, arXiv 2009.05112, section 2).
        """
        return self._consistency[0]

    @property
    def dof(self) -> int:
        """Degrees of freedom of chi2: components times one less than the used iterations.

        A component that depends linearly on the others does not count.
        """
        return self._consistency[1]

    @property
    def Q(self) -> float:  # noqa: N802 - the name that vegas gave it
        """Probability of a chi2 at least as large by chance; nan for one iteration."""
        return _probability(*self._consistency)

    @property
    def n_calls(self) -> int:
        """Number of points of all iterations, used or not."""
        return sum(iteration.n_calls for iteration in self.history)

    @property
    def ess(self) -> float:
        """Effective sample size as a fraction of the points, mean over the points that are used."""
        n_calls = [iteration.n_calls for iteration in self._used]
        return float(np.average([iteration.ess for iteration in self._used], weights=n_calls))

    @property
    def _used(self) -> list[Iteration]:
        return [iteration for iteration in self.history if iteration.is_used]

    @cached_property
    def _average(self) -> tuple[Array, Array]:
        return average(self._used)

    @cached_property
    def _consistency(self) -> tuple[float, int]:
        return _consistency(self._used)

    def __str__(self) -> str:
        """Return the estimate, and the warnings in lines that follow."""
        mean, covariance = self._average
        texts = np.array([*map(format_estimate, mean, standard_deviations(covariance))], object)
        estimate = self.components.unpack(texts)
        if isinstance(estimate, dict):
            parts = [f"{key!r}: {_format_array(part)}" for key, part in estimate.items()]
            text = "{" + ", ".join(parts) + "}"
        else:
            text = _format_array(estimate)
        return "\n".join([text, *(f"warning: {warning}" for warning in self.warnings)])

    def summary(self) -> str:
        """Make a table with a line for each iteration.

        Returns
        -------
        str
            Estimates are those of the first component, chi2 and Q of all. What is accumulated is the
            average of the used iterations so far; those that are not used have none. The last line has the
            totals.
        """
        rows = [_TITLES, *self._table()]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join(_aligned(row, widths) for row in rows)

    def _repr_html_(self) -> str:
        """Make the table of `summary` for notebooks, below the estimate."""
        head = "".join(f"<th>{html.escape(title)}</th>" for title in _TITLES)
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
            for row in self._table()
        )
        return f"<pre>{html.escape(str(self))}</pre><table><tr>{head}</tr>{body}</table>"

    def _table(self) -> list[tuple[str, ...]]:
        """Cells of the lines below the titles."""
        rows = []
        for number, (iteration, accumulated) in enumerate(self._accumulated(), 1):
            rows.append(
                (
                    str(number),
                    iteration.stage,
                    _first_component(iteration.mean, iteration.covariance),
                    *(_accumulated_cells(*accumulated) if accumulated else ("-", "-", "-")),
                    *_effort_cells(iteration.n_calls, iteration.ess, iteration.seconds),
                )
            )
        totals = _accumulated_cells(*self._average, *self._consistency)
        seconds = sum(iteration.seconds for iteration in self.history)
        return [*rows, ("total", "", "", *totals, *_effort_cells(self.n_calls, self.ess, seconds))]

    def _accumulated(self) -> list[tuple[Iteration, tuple[Array, Array, float, int] | None]]:
        """For each iteration the mean, covariance, chi2 and dof of those used so far, None if it is not."""
        rows: list[tuple[Iteration, tuple[Array, Array, float, int] | None]] = []
        used: list[Iteration] = []
        for iteration in self.history:
            if iteration.is_used:
                used.append(iteration)
                rows.append((iteration, (*average(used), *_consistency(used))))
            else:
                rows.append((iteration, None))
        return rows

    def to_gvar(self) -> Any:
        """Convert the estimate to what Lepage's package gvar computes with.

        Returns
        -------
        gvar.GVar, ndarray of them in the integrand's shape, or dict of these
            They are correlated as the components are.

        Raises
        ------
        ImportError
            If gvar is not installed.
        """
        gvar = _import("gvar", "to_gvar")
        mean, covariance = self._average
        return self.components.unpack(np.asarray(gvar.gvar(mean, covariance)))

    def to_frame(self) -> Any:
        """Convert the history to a table of pandas.

        Returns
        -------
        pandas.DataFrame
            A row an iteration. mean, sdev, accumulated_mean and accumulated_sdev are those of the first
            component; accumulated values are nan where the iteration is not used.

        Raises
        ------
        ImportError
            If pandas is not installed.
        """
        pandas = _import("pandas", "to_frame")
        return pandas.DataFrame(
            [
                _frame_row(number, iteration, accumulated)
                for number, (iteration, accumulated) in enumerate(self._accumulated(), 1)
            ]
        )

    def sample(self, n: int, *, unweight: bool = False, seed: int | None = None) -> Any:
        """Draw points by the integrator that made this result.

        Parameters
        ----------
        n : int
            Number of points.
        unweight : bool
            Whether to keep points with probabilities that make all weights equal.
        seed : int, optional
            Seed of the random numbers; drawn from the system if not given.

        Returns
        -------
        object
            What the integrator's `sample` returns.

        Raises
        ------
        RuntimeError
            If there is no integrator.
        """
        return self._integrator().sample(n, unweight=unweight, seed=seed)

    def extend(self, n_calls: int) -> "Result":
        """Go on with the integration that made this result.

        Parameters
        ----------
        n_calls : int
            Number of points to add.

        Returns
        -------
        Result
            What the integrator's `extend` returns.

        Raises
        ------
        RuntimeError
            If there is no integrator.
        """
        return self._integrator().extend(n_calls)

    def _integrator(self) -> Source:
        if self.source is None:
            raise RuntimeError(
                "this result was loaded from a file and has no integrand: "
                "make Integrator(f, ..., flow=result.flow)"
            )
        return self.source

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the result to a file: history, warnings, flow and bounds, but not the integrand.

        Parameters
        ----------
        path : str or path
            The file, used as given. One that exists is replaced once the new one is complete.

        Raises
        ------
        OSError
            If the file cannot be written.
        ValueError
            If the parameters of the flow are not finite.
        """
        if not np.isfinite(self.flow.params).all():
            raise ValueError("params must be finite")
        arrays = {"params": self.flow.params, "bounds": self.bounds}
        arrays |= pack_history(self.history, self.components.size)
        write_archive(path, FILE, self._header(), arrays)

    def _header(self) -> dict[str, Any]:
        return {
            "flow": self.flow.description(),
            "keys": self.components.keys,
            "shapes": self.components.shapes,
            "stages": [iteration.stage for iteration in self.history],
            "defensive_share": self.defensive_share,
            "n_invalid": self.n_invalid,
            "warnings": self.warnings,
        }

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Result":
        """Read a result from a file.

        Parameters
        ----------
        path : str or path
            A file that `save` wrote.

        Returns
        -------
        Result
            The result, without an integrator.

        Raises
        ------
        FileFormatError
            If the file holds no result, is cut short or damaged, or has a version that is not understood.
        OSError
            If the file cannot be opened.
        """
        header, arrays = read_archive(path, FILE)
        with refused_as(path, "result", (KeyError, TypeError, ValueError, OverflowError)):
            flow = Flow.from_description(header["flow"], arrays["params"])
            components = _parse_components(header["keys"], header["shapes"])
            return cls(
                unpack_history(header["stages"], arrays, components.size),
                flow,
                components=components,
                bounds=arrays["bounds"],
                defensive_share=header["defensive_share"],
                n_invalid=header["n_invalid"],
                warnings=header["warnings"],
            )


def _check_history(history: list[Iteration], m: int) -> None:
    for number, iteration in enumerate(history, 1):
        shapes = np.shape(iteration.mean), np.shape(iteration.covariance)
        if shapes != ((m,), (m, m)):
            raise ValueError(
                f"mean and covariance of iteration {number} must have shapes ({m},) and ({m}, {m}), "
                f"found {shapes[0]} and {shapes[1]}"
            )
        if iteration.is_used and not 0 < iteration.weight < math.inf:
            raise ValueError(f"the weight of iteration {number} must be above 0, got {iteration.weight}")
    if not any(iteration.is_used for iteration in history):
        raise ValueError("a result needs an iteration that is used")


# Statistics


def average(used: list[Iteration]) -> tuple[Array, Array]:
    """Average iterations with their weights. Returns the mean, (m,), and its covariance, (m, m)."""
    weights = np.array([iteration.weight for iteration in used])
    shares = weights / weights.max()  # first, so that the sum cannot overflow
    shares /= shares.sum()
    with np.errstate(over="ignore", invalid="ignore"):  # a mean that is not finite shows in the result
        mean = sum(share * iteration.mean for share, iteration in zip(shares, used, strict=True))
        covariance = sum(
            share**2 * iteration.covariance for share, iteration in zip(shares, used, strict=True)
        )
    return np.asarray(mean), np.asarray(covariance)


def standard_deviations(covariance: Array) -> Array:
    """Standard deviations, (m,); rounding may have left variances below zero where they are zero."""
    variances = np.diag(covariance)
    return np.sqrt(np.where(variances < 0, 0.0, variances))


def _consistency(used: list[Iteration]) -> tuple[float, int]:
    """Compute chi2 and its degrees of freedom.

    Components are measured in units of their largest mean or error, where rounding errors are alike, and
    then of their errors, where it can be seen which combinations of them do not fluctuate. Those are left
    out. What fluctuates, but not in some iteration, pins the common mean to that iteration: its error there
    counts as small, not as zero.
    """
    n, m = len(used), len(used[0].mean)
    if n == 1:
        return 0.0, 0
    means = np.array([iteration.mean for iteration in used])
    covariances = np.array([iteration.covariance for iteration in used])
    if not (np.isfinite(means).all() and np.isfinite(covariances).all()):
        return math.nan, (n - 1) * m
    variances = np.diagonal(covariances, axis1=1, axis2=2)
    unit = np.maximum(abs(means), np.sqrt(abs(variances))).max(axis=0)
    means, covariances = _in_units(unit, means, covariances)
    covariances += _ROUNDING**2 * np.eye(m)
    means, covariances = _in_units(standard_deviations(covariances.mean(axis=0)), means, covariances)
    values, basis = np.linalg.eigh(covariances.mean(axis=0))
    basis = basis[:, values > _RESOLVED * values[-1]]
    chi2 = _chi2((means - means[0]) @ basis, basis.T @ covariances @ basis)
    return chi2, (n - 1) * basis.shape[1]


def _in_units(unit: Array, means: Array, covariances: Array) -> tuple[Array, Array]:
    """Divide components by their units, (m,), one after the other as the products may underflow."""
    unit = np.where(unit == 0, 1.0, unit)
    return means / unit, covariances / unit[:, None] / unit


def _chi2(means: Array, covariances: Array) -> float:
    """Compute chi2 of means (n, r) with covariances (n, r, r) of order 1, singular ones included."""
    values, vectors = np.linalg.eigh(covariances)
    scaled = vectors / np.sqrt(np.maximum(values, _RESOLVED))[:, None, :]
    inverses = scaled @ scaled.swapaxes(1, 2)
    pulls = (inverses @ means[:, :, None]).sum(axis=0)
    common = np.linalg.solve(inverses.sum(axis=0), pulls)[:, 0]
    deviations = means - common
    return float(np.einsum("ij,ijk,ik", deviations, inverses, deviations))


def _probability(chi2: float, dof: int) -> float:
    from scipy.special import gammaincc  # here, as importing it takes as long as importing varflow

    return float(gammaincc(dof / 2, chi2 / 2)) if dof > 0 else math.nan


# Text


def format_estimate(mean: float, sdev: float) -> str:
    """Write a number with its error in parentheses, which has two digits and counts in the last places.

    Parameters
    ----------
    mean : float
        The number.
    sdev : float
        Its error, not below zero.

    Returns
    -------
    str
        Such as 1.0012(34), 0.00(12), 12.3(4.5), 1.234(56)e-10. It is written with ± where one of the two is
        not finite, or the error is smaller than the digits that a float has.
    """
    if not (math.isfinite(mean) and math.isfinite(sdev)):
        return f"{mean:g} ± {sdev:g}"
    if sdev == 0:
        mantissa, e, exponent = f"{mean + 0.0:.{_DIGITS}g}".partition("e")  # + 0.0 makes 0 of -0
        return f"{mantissa}(0){e}{exponent}"
    error = decimal.Decimal(f"{sdev:.1e}")
    place = error.adjusted() - 1  # power of ten of the error's second digit
    exact = decimal.Decimal.from_float(float(mean))
    if exact and exact.adjusted() - place >= _DIGITS:
        return f"{mean:.{_DIGITS}g} ± {sdev:.1e}"
    return _with_parentheses(exact, error, place)


def _with_parentheses(mean: decimal.Decimal, error: decimal.Decimal, place: int) -> str:
    """Round the mean to the place of the error's last digit, and write both."""
    rounded = mean.quantize(decimal.Decimal((0, (1,), place)), context=_DECIMAL)
    if not rounded:
        rounded = rounded.copy_abs()  # there is no -0.00(12)
    power = max(rounded.adjusted(), error.adjusted()) if rounded else error.adjusted()
    if place <= 0 and power >= -4:
        power = 0  # every digit has its own place, and few zeros stand before them
    decimals = power - place
    number = f"{rounded.scaleb(-power, context=_DECIMAL):.{decimals}f}"
    digits = "".join(map(str, error.as_tuple().digits))
    if decimals == 1:
        digits = f"{digits[0]}.{digits[1]}"  # the error reaches over the decimal point
    return f"{number}({digits})" + (f"e{power:+03d}" if power else "")


def _format_array(part: Any) -> str:
    return np.array2string(part, formatter={"object": str}) if isinstance(part, np.ndarray) else part


def _first_component(mean: Array, covariance: Array) -> str:
    if math.isnan(mean[0]):
        return "-"
    return format_estimate(float(mean[0]), float(standard_deviations(covariance)[0]))


def _accumulated_cells(mean: Array, covariance: Array, chi2: float, dof: int) -> tuple[str, str, str]:
    if dof == 0:
        return _first_component(mean, covariance), "-", "-"
    return _first_component(mean, covariance), f"{chi2 / dof:.3g}", f"{_probability(chi2, dof):.2g}"


def _effort_cells(n_calls: int, ess: float, seconds: float) -> tuple[str, str, str]:
    return f"{n_calls:,}", "-" if math.isnan(ess) else f"{ess:.1%}", f"{seconds:.2f}"


def _aligned(row: Sequence[str], widths: list[int]) -> str:
    """Make a line of a table: words and estimates to the left, numbers to the right."""
    cells = [
        cell.ljust(width) if title in ("stage", "integral", "accumulated") else cell.rjust(width)
        for cell, width, title in zip(row, widths, _TITLES, strict=True)
    ]
    return "  ".join(cells).rstrip()


# Other packages


def _import(name: str, method: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"Result.{method} needs {name}: pip install {name}") from error


def _frame_row(
    number: int, iteration: Iteration, accumulated: tuple[Array, Array, float, int] | None
) -> dict[str, Any]:
    nothing = np.full(1, math.nan), np.full((1, 1), math.nan), math.nan, 0
    mean, covariance, chi2, dof = accumulated or nothing
    return {
        "itn": number,
        "stage": iteration.stage,
        "mean": float(iteration.mean[0]),
        "sdev": float(standard_deviations(iteration.covariance)[0]),
        "accumulated_mean": float(mean[0]),
        "accumulated_sdev": float(standard_deviations(covariance)[0]),
        "chi2": chi2,
        "dof": dof,
        "Q": _probability(chi2, dof),
        "n_calls": iteration.n_calls,
        "ess": iteration.ess,
        "seconds": iteration.seconds,
        "is_used": iteration.is_used,
        "weight": iteration.weight,
    }


# Files


def _parse_components(keys: list[str] | None, shapes: list[list[int]]) -> Components:
    return Components(None if keys is None else tuple(keys), tuple(map(tuple, shapes)))


def pack_history(history: Sequence[Iteration], m: int) -> dict[str, Array]:
    """Arrays with a row an iteration, of all but the stages, for m components."""
    return {
        name: np.array([getattr(one, name) for one in history], dtype).reshape(len(history), *_row(name, m))
        for name, dtype in _HISTORY.items()
    }


def _row(name: str, m: int) -> tuple[int, ...]:
    """Shape of what an iteration has of that name."""
    return {"mean": (m,), "covariance": (m, m)}.get(name, ())


def unpack_history(stages: list[str], arrays: dict[str, Array], m: int) -> list[Iteration]:
    """Make the iterations again; the lengths are checked, as a file may tell of fewer than it has."""
    columns = {}
    for name, dtype in _HISTORY.items():
        shape = (len(stages), *_row(name, m))
        column = arrays[name]
        if column.dtype.newbyteorder("=") != dtype or column.shape != shape:
            raise ValueError(
                f"{name} must be {dtype} of shape {shape}, found {column.dtype} of shape {column.shape}"
            )
        column = column.astype(dtype)
        columns[name] = [*column] if name in ("mean", "covariance") else column.tolist()
    return [
        Iteration(stage=stage, **dict(zip(columns, values, strict=True)))
        for stage, *values in zip(stages, *columns.values(), strict=True)
    ]
