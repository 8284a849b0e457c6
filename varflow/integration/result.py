"""Result of an integration: the estimate, the consistency of its iterations, and the flow."""

import importlib
import math
import os
from collections.abc import Iterable, Sequence
from functools import cached_property
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from varflow.flow.discrete_flow import flow_of
from varflow.flow.flow import Flow
from varflow.flow.mixture import Mixture, load_flow
from varflow.flow.notebook import box_table
from varflow.integration.averages import (
    average,
    consistency,
    degrees_of_freedom,
    estimate,
    probability,
    standard_deviations,
)
from varflow.integration.channel_table import (
    CHANNEL_TITLES,
    ChannelEstimate,
    channel_cells,
    channels_of_file,
    channels_to_file,
)
from varflow.integration.components import Components
from varflow.integration.domain import domain_of
from varflow.integration.iteration import (
    Array,
    Iteration,
    check_history,
    pack_history,
    scaled,
    times_power,
    unpack_history,
)
from varflow.integration.sampling import proposed_points, sampling_generator
from varflow.integration.tables import (
    TITLES,
    accumulated_cells,
    aligned,
    effort_cells,
    first_component,
    format_array,
    format_estimate,
    frame_row,
    log_estimate,
)
from varflow.integration.tail import Tail
from varflow.markup import bullets, paragraph, table
from varflow.runtime.archive import FilePath, Kind, format_of, read_archive, refused_as, write_archive
from varflow.runtime.communicator import Communicator
from varflow.runtime.ranks import as_communicator
from varflow.runtime.threads import share
from varflow.validation import positive_int

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Result", "load_density", "result_tables"]

FILE = Kind("varflow result", version=7, oldest=1, sealed=2)
SINCE_ERROR_DOF = 6  # version
LARGE_PART = 0.5  # of the error, that is told
FEW_DOF = 30  # below which the tails of Student's t are seen


class Source(Protocol):
    """Source of more points: the integrator that made a result."""

    def sample(self, n: int, *, unweight: bool, seed: int | None) -> Any:
        """Draw points."""

    def extend(self, n_calls: int) -> "Result":
        """Continue the integration."""


class Result:
    """Estimate of an integral from the iterations of an integration.

    The iterations that are used are averaged with fixed weights, so that the estimate is unbiased; its
    covariance follows from theirs.

    Parameters
    ----------
    history : sequence of Iteration
        All iterations in order. At least one is used, and each used one has a weight above zero.
    flow : Flow
        The flow from which the last iteration drew its points.
    components : Components
        Structure of what the integrand returns.
    bounds : array_like, (d, 2)
        Lower and upper bound of each dimension of the integral; may be infinite.
    defensive_share : float
        Share of the uniform density in the mixture that points are drawn from.
    n_invalid : int
        Number of points where f was not finite.
    warnings : sequence of str
        What the user should know about the result, each a sentence.
    exponent : int
        The history that is given is in units of 2^exponent, so that squares of errors of tiny and huge
        integrals can be computed.
    log : bool
        Whether the integrand was given by its logarithm, so that estimates are shown by theirs.
    k : float
        Shape of the generalised Pareto distribution that fits the largest weights |f|/q of the refinement
        (Vehtari et al., arXiv 1507.02646). Weights have a finite variance below 0.5; above 0.7 the error
        cannot be relied upon. -inf where weights are bounded and reach their bound, NaN where it cannot be
        told.
    lost : float
        What regions that the flow has lost may have of the integral, relative to the estimate: an error of
        all components besides their own.
    heavier : array_like, (m,)
        What a point with a larger weight |f|/q than all that were drawn is expected to add, in the same
        units: an error of all components besides their own, which is large where the weights' tail is heavy,
        and infinite where few points have nearly all of the weight.
    resolution : float
        Share of the box that the points that looked everywhere would have hit with a probability of 95 %, had
        f been anywhere in it: what fills less, and is far from all that the flow knows, may have been missed.
    tail : Tail, optional
        The largest weights |f|/q of the refinement.
    notes : sequence of str
        What was decided on the way to a tolerance or in a given time, and why, each a sentence: how long a
        flow was trained, and what further training was expected to take.
    seconds : float
        How long the integration took, by the clock on the wall. NaN where that is not known, as for a `Run`.
    source : Source, optional
        The integrator, to which `sample` and `extend` are delegated.
    channels : sequence of ChannelEstimate
        What each channel has brought, where there are several; the history has their sum then, and the flow
        is that of the one with most of the integral of |f|, on the unit cube before its map.

    Attributes
    ----------
    history : list of Iteration
        In units of f. Where integrals are below 1e-150 or above 1e150, covariances may underflow or overflow
        here; `sdev` and `summary` do not.
    is_log : bool
        Whether the integrand was given by its logarithm.
    flow, components, bounds, defensive_share, n_invalid, k, lost, heavier, resolution, tail, seconds, source
        As given, with arrays for what is array_like.
    warnings, notes : tuple of str
        As given.
    channels : tuple of ChannelEstimate
        As given; empty for an integral without channels.

    Raises
    ------
    ValueError
        If shapes disagree, no iteration is used, or a used one does not have a finite weight above zero.

    Examples
    --------
    Two integrals at once:

    >>> def f(x):
    ...     peak = np.exp(-5 * x.sum(axis=1))
    ...     return {"norm": peak, "mean of x1": peak * x[:, 0]}
    >>> small = {"n_bins": 8, "d_hidden": 16}
    >>> result = vf.integrate(f, 2, n_calls=40_000, seed=1, flow_options=small)
    >>> print(result)
    {'norm': 0.0394..., 'mean of x1': 0.007...}
    >>> result.sdev["norm"] < 0.001 * result.mean["norm"]
    True
    >>> norm, first = result.components.keys
    >>> covariance = result.covariance
    >>> bool(np.isclose(covariance[0, 0], result.sdev[norm] ** 2))
    True
    >>> abs(result.log_mean[norm] - np.log(result.mean[norm])) < 1e-9 < result.log_sdev[norm]
    True

    Whether it can be relied upon: iterations that agree, errors with enough degrees of freedom, weights that
    are alike and have no heavy tail:

    >>> result.Q > 0.001, result.chi2 < 5 * result.dof, result.error_dof > 10
    (True, True, True)
    >>> result.n_calls, result.ess > 0.5, result.k < 0.7, result.warnings
    (40000, True, True, ())
    >>> print(result.summary())
      itn  stage   integral ...
    total ...
    >>> result.rows()[-1]["stage"]
    'refine'

    More points make a new result; files have all but the integrand:

    >>> result.extend(20_000).sdev["norm"] < result.sdev["norm"]
    True
    >>> result.save("result.npz")
    >>> vf.Result.load("result.npz").mean == result.mean
    True
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
        exponent: int = 0,
        log: bool = False,
        k: float = math.nan,
        lost: float = 0.0,
        heavier: npt.ArrayLike = 0.0,
        resolution: float = 1.0,
        tail: Tail | None = None,
        notes: Iterable[str] = (),
        seconds: float = math.nan,
        source: Source | None = None,
        channels: Sequence[ChannelEstimate] = (),
    ) -> None:
        self._scaled, self._exponent = list(history), int(exponent)
        self.history = [scaled(iteration, self._exponent) for iteration in self._scaled]
        self.flow = flow
        self.components = components
        self.bounds = np.array(bounds, np.float64)
        self.defensive_share = float(defensive_share)
        self.n_invalid, self.is_log = int(n_invalid), bool(log)
        self.k, self.lost, self.resolution = float(k), float(lost), float(resolution)
        self.heavier = np.array(np.broadcast_to(heavier, components.size), np.float64)
        self.warnings, self.notes, self.seconds = tuple(warnings), tuple(notes), float(seconds)
        self.tail, self.source, self.channels = tail, source, tuple(channels)
        check_history(self._scaled, components.size)
        if self.bounds.shape != (flow.d, 2):
            raise ValueError(f"bounds must have shape ({flow.d}, 2), found {self.bounds.shape}")

    @property
    def mean(self) -> Any:
        """The estimate: a float, an array, or a dict of these, in the form that the integrand returns.

        NaN where it is too small or too large for a float64; `log_mean` is not.
        """
        return self.components.unpack(self._in_units_of_f(self._average[0]))

    @property
    def sdev(self) -> Any:
        """Standard deviation of the estimate, in the same form."""
        return self.components.unpack(self._in_units_of_f(standard_deviations(self._average[1])))

    @property
    def log_mean(self) -> Any:
        """Logarithm of the estimate, in the same form; NaN where that is negative."""
        return self.components.unpack(self._log_estimate[0])

    @property
    def log_sdev(self) -> Any:
        """Standard deviation of the logarithm, to first order: the relative error of the estimate."""
        return self.components.unpack(self._log_estimate[1])

    @property
    def covariance(self) -> Array:
        """Covariance of all components, (m, m), in the order of the dict and of each array's ``ravel()``.

        It is 0 or infinite where squares of errors underflow or overflow.

        Raises
        ------
        ValueError
            If there are variances alone; see `covariance` of `Integrator`.
        """
        covariance = self._average[1]
        if covariance.ndim == 1:
            raise ValueError(
                f"covariances of {len(covariance)} components were not kept: sdev has their errors, and an "
                "integration with covariance=True their covariances"
            )
        return times_power(covariance, 2 * self._exponent)

    @property
    def chi2(self) -> float:
        """Sum of the squared deviations of the used iterations from their common mean.

        Deviations are in units of the covariances of the iterations, and the common mean is weighted with
        the inverse covariances (Lepage, arXiv 2009.05112, section 2).
        """
        return self._consistency[0]

    @property
    def dof(self) -> int:
        """Degrees of freedom of chi2: number of components times (number of used iterations - 1).

        Components that depend linearly on the others do not count.
        """
        return self._consistency[1]

    @property
    def error_dof(self) -> float:
        """Degrees of freedom of the error, which is the standard deviation of Student's t.

        With few of them, large errors are more frequent than those of a normal distribution: see
        `scipy.stats.t`. Of several components, the fewest. Those of errors that `lost` and `heavier` add are
        not known, and not in it. Infinite where a file of an older version does not tell.
        """
        return degrees_of_freedom(self._used)

    @property
    def Q(self) -> float:  # noqa: N802 - the name that vegas gave it
        """Probability of a chi2 at least as large by chance; NaN for a single iteration."""
        return probability(*self._consistency)

    @property
    def n_calls(self) -> int:
        """Number of points of all iterations, used or not."""
        return sum(iteration.n_calls for iteration in self.history)

    @property
    def ess(self) -> float:
        """Effective sample size as a fraction of the points, averaged over the points that are used."""
        n_calls = [iteration.n_calls for iteration in self._used]
        return float(np.average([iteration.ess for iteration in self._used], weights=n_calls))

    @property
    def _used(self) -> list[Iteration]:
        return [iteration for iteration in self._scaled if iteration.is_used]

    @cached_property
    def _average(self) -> tuple[Array, Array]:
        return estimate(self._used, self.heavier, self.lost)

    def _in_units_of_f(self, values: Array) -> Array:
        """Convert means or errors, (m,), to units of f; NaN where that underflows or overflows."""
        converted = times_power(values, self._exponent)
        is_lost = ((converted == 0) & (values != 0)) | (np.isinf(converted) & np.isfinite(values))
        return np.where(is_lost, math.nan, converted)

    @property
    def _log_estimate(self) -> tuple[Array, Array]:
        """Logarithms of the means and their errors, (m,) each."""
        mean, covariance = self._average
        return log_estimate(mean, standard_deviations(covariance), self._exponent)

    @property
    def _texts(self) -> Array:
        """The estimates as strings, (m,)."""
        if self.is_log:
            return np.array(
                [f"exp({format_estimate(*one)})" for one in zip(*self._log_estimate, strict=True)], object
            )
        mean, covariance = self._average
        of_f = (self._in_units_of_f(one) for one in (mean, standard_deviations(covariance)))
        return np.array([*map(format_estimate, *of_f)], object)

    @cached_property
    def _consistency(self) -> tuple[float, int]:
        if self.channels:
            return sum(one.chi2 for one in self.channels), sum(one.dof for one in self.channels)
        return consistency(self._used)

    def __str__(self) -> str:
        """Return the estimate, followed by the warnings, one per line."""
        estimate = self.components.unpack(self._texts)
        if isinstance(estimate, dict):
            parts = [f"{key!r}: {format_array(part)}" for key, part in estimate.items()]
            text = "{" + ", ".join(parts) + "}"
        else:
            text = format_array(estimate)
        return "\n".join([text, *(f"warning: {warning}" for warning in self.warnings)])

    def summary(self) -> str:
        """Format a table with one line per iteration.

        Returns
        -------
        str
            The table. Estimates are those of the first component, chi2 and Q those of all components. The
            accumulated values are the average of the used iterations so far, and left out for iterations
            that are not used. The last line of the table holds the totals. Below it stand the shape of the
            weights' tail, and what may have been missed, and above these what `notes` has.
        """
        rows = [TITLES, *self._table()]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join([*(aligned(row, widths) for row in rows), *self._channel_lines(), *self._remarks()])

    def _channel_lines(self) -> list[str]:
        """Format the table of the channels, if there are any."""
        if not self.channels:
            return []
        rows = [CHANNEL_TITLES, *channel_cells(self.channels, self.is_log)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return [
            "  ".join(
                cell.ljust(width) if k < 2 else cell.rjust(width)
                for k, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            for row in rows
        ]

    def _remarks(self) -> list[str]:
        """Say what the table does not."""
        remarks = list(self.notes)
        if self.lost:
            remarks.append(f"the error has {self.lost:.1%} of the integral for what the flow has lost")
        mean, covariance = self._average
        if self.heavier[0] >= LARGE_PART * standard_deviations(covariance)[0] > 0:
            share = self.heavier[0] / abs(mean[0]) if mean[0] else math.inf
            remarks.append(
                f"the error has {share:.1%} of the integral for weights larger than those so far"
                if math.isfinite(share)
                else "the error is not known: weights larger than those so far may have any part of it"
            )
        if self.error_dof < FEW_DOF:
            remarks.append(f"the error is that of Student's t with {self.error_dof:.0f} degrees of freedom")
        if not math.isnan(self.k):
            remarks.append(f"Pareto shape of the weights: k = {self.k:.2f}")
        if self.resolution < 1:
            n_calls = float(f"{10 * self.n_calls:.1g}")
            remarks.append(
                f"a region that fills less than {self.resolution:.2g} of the box may have been missed; "
                f"to see a tenth of it takes some {n_calls:,.0f} calls"
            )
        return remarks

    def _repr_html_(self) -> str:
        """Return the estimate, the table of `summary` and the warnings as HTML, for notebooks."""
        return result_tables(self) + bullets(self.warnings)

    def _tables(self) -> str:
        names = self.components.names
        if names == [""]:
            estimates, of_which = paragraph(f"integral: {self._texts[0]}"), ""
        else:
            rows = zip(names, self._texts, strict=True)
            estimates = table("Integrals", ["component", "integral"], rows)
            of_which = f" of the component {names[0]}"
        iterations = table(f"Iterations{of_which}", TITLES, self._table())
        if self.channels:
            cells = channel_cells(self.channels, self.is_log)
            iterations += table(f"Channels{of_which}", CHANNEL_TITLES, cells)
        return estimates + iterations + bullets(self._remarks()) + box_table(self.bounds)

    def _table(self) -> list[tuple[str, ...]]:
        """Return the cells of the lines below the titles."""
        rows, form = [], (self._exponent, self.is_log)
        for number, (iteration, accumulated) in enumerate(self._accumulated(), 1):
            rows.append(
                (
                    str(number),
                    iteration.stage,
                    first_component(iteration.mean, iteration.covariance, *form),
                    *(accumulated_cells(*accumulated, *form) if accumulated else ("-", "-", "-")),
                    *effort_cells(iteration.n_calls, iteration.ess, iteration.seconds),
                )
            )
        totals = accumulated_cells(*self._average, *self._consistency, *form)
        seconds = sum(iteration.seconds for iteration in self.history)
        return [*rows, ("total", "", "", *totals, *effort_cells(self.n_calls, self.ess, seconds))]

    def _accumulated(self) -> list[tuple[Iteration, tuple[Array, Array, float, int] | None]]:
        """Return each iteration with mean, covariance, chi2 and dof of those used so far; None if unused."""
        rows: list[tuple[Iteration, tuple[Array, Array, float, int] | None]] = []
        used: list[Iteration] = []
        for iteration in self._scaled:
            if iteration.is_used:
                used.append(iteration)
                rows.append((iteration, (*average(used), *consistency(used))))
            else:
                rows.append((iteration, None))
        return rows

    def to_gvar(self) -> Any:
        """Convert the estimate to the Gaussian variables of Lepage's package gvar.

        Returns
        -------
        gvar.GVar, ndarray of them in the integrand's shape, or dict of these
            Their correlations are those of the components, if covariances were kept.

        Raises
        ------
        ImportError
            If gvar is not installed.
        OverflowError
            If the estimate is too small or too large for a float64.

        Examples
        --------
        >>> result = vf.integrate(lambda x: {"a": x[:, 0], "b": x[:, 1]}, 2, n_calls=300, seed=1)
        >>> variables = result.to_gvar()
        >>> print(variables["a"] + variables["b"])
        1.0008(40)
        """
        gvar = _import("gvar", "to_gvar")
        mean, covariance = self._average
        if np.isnan(self._in_units_of_f(mean)).any():
            raise OverflowError("the estimate does not fit into a float64: take gvar(log_mean, log_sdev)")
        errors = covariance if covariance.ndim == 2 else standard_deviations(covariance)
        variables = np.asarray(gvar.gvar(mean, errors))
        if self._exponent:
            variables = variables * float(times_power(1.0, self._exponent))
        return self.components.unpack(variables)

    def to_frame(self) -> Any:
        """Convert the history to a pandas table.

        Returns
        -------
        pandas.DataFrame
            One row per iteration. mean, sdev, accumulated_mean and accumulated_sdev are those of the first
            component, and of its logarithm, by the names log_mean and so on, where the integrand was given by
            that; accumulated values are NaN where the iteration is not used.

        Raises
        ------
        ImportError
            If pandas is not installed.

        Examples
        --------
        >>> result = vf.integrate(lambda x: x[:, 0], 2, n_calls=300, seed=1)
        >>> result.to_frame()[["itn", "stage", "n_calls"]]
           itn   stage  n_calls
        0    1  refine      300
        """
        return _import("pandas", "to_frame").DataFrame(self.rows())

    def rows(self) -> list[dict[str, Any]]:
        """Return the history as plain data.

        Returns
        -------
        list of dict
            One per iteration, whose keys are the columns of `to_frame`.
        """
        return [
            frame_row(number, iteration, accumulated, self._exponent, self.is_log)
            for number, (iteration, accumulated) in enumerate(self._accumulated(), 1)
        ]

    def plot(self) -> "Figure":
        """Draw the estimates, the tail of the weights, their effective sample size, and calls and seconds.

        Estimates are those of the first component, and of its logarithm where the integrand was given by
        that.

        Returns
        -------
        matplotlib.figure.Figure
            The picture, with four panels. ``figure.savefig("result.pdf")`` writes it, and notebooks show it.

        Raises
        ------
        ImportError
            If Matplotlib is not installed: the extra `plot`.

        Examples
        --------
        >>> vf.integrate(lambda x: x[:, 0], 2, n_calls=300, seed=1).plot().savefig("result.png")
        """
        from varflow.plots.result import draw_result  # which draws what stands here

        return draw_result(self)

    def sample(
        self, n: int, *, unweight: bool = False, seed: int | None = None, comm: Any = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draw points from the flow, with their weights where the integrand is known.

        Parameters
        ----------
        n : int
            Number of points.
        unweight : bool
            Whether to accept points with probabilities that make weights equal; see `Integrator.sample`.
        seed : int, optional
            Seed of the random numbers; drawn from the system if not given.
        comm : mpi4py.MPI.Intracomm, optional
            Ranks that share the points of a result without an integrand: each gets its share alone, as from
            `Flow.sample`. An integrand is called by the ranks of its own integrator, which all get all
            points.

        Returns
        -------
        x : ndarray, (n, d), or (share of n, d)
            Points, in the coordinates of f.
        w or log_q : ndarray, (n,) or (n, m)
            Weights f/q, as `Integrator.sample` returns them. Where the result has no integrand, as it comes
            from a file or a `Run`: the log of the density q at the points, (n,); once f is known there,
            ``f * np.exp(-log_q)`` are the weights.

        Raises
        ------
        ValueError
            If the points are to be unweighted, and there is no integrand; or if there is one, and `comm` is
            given; or if there is none, and the result has channels.

        Examples
        --------
        >>> f = lambda x: x[:, 0] ** 2
        >>> result = vf.integrate(f, 2, n_calls=300, seed=1)
        >>> x, weights = result.sample(1000, seed=2)
        >>> x.shape, round(weights.mean().item(), 1)
        ((1000, 2), 0.3)
        >>> x, ones = result.sample(100, unweight=True, seed=2)
        >>> np.unique(ones)
        array([1.])

        From a file, without f:

        >>> result.save("result.npz")
        >>> x, log_q = vf.Result.load("result.npz").sample(1000, seed=2)
        >>> weights = f(x) * np.exp(-log_q)
        """
        if self.source is not None:
            if comm is not None:
                raise ValueError(
                    "comm is for a result without an integrand, and this one's has the ranks of its "
                    "integrator: leave comm out, and all ranks get all points"
                )
            return self.source.sample(n, unweight=unweight, seed=seed)
        if self.channels:
            raise ValueError(
                "this result has channels and no integrand: a file holds their flows, but not their maps; "
                "take the method sample of the result that integrate has returned"
            )
        ranks = as_communicator(comm)
        with ranks.running():
            if unweight:
                raise ValueError(
                    "unweight=True needs the integrand, which this result does not have: make "
                    "Integrator(f, ..., flow=result.flow)"
                )
            n, generator = positive_int("n", n), self._agreed_generator(n, seed, ranks)
            rows = slice(*share(ranks.rank, ranks.size, n))
            if rows.start == rows.stop:  # there are more ranks than points
                return np.empty((0, self.flow.d)), np.empty(0)
            u, log_q = proposed_points(n, self.flow, self.defensive_share, generator, rows)
            x, log_jacobian = domain_of(self.bounds, self.flow).from_cube(u)
            return x, log_q - log_jacobian

    def _agreed_generator(self, n: int, seed: int | None, ranks: Communicator) -> np.random.Generator:
        """Make the source of random numbers, with the first rank's entropy where there is no seed."""
        if ranks.size > 1:
            ranks.check_same(
                "arguments", {"n": n, "seed": seed, "digest of the flow": self.flow.params_digest()}
            )
        return sampling_generator(ranks.first(lambda: np.random.SeedSequence(seed).entropy))

    def extend(self, n_calls: int) -> "Result":
        """Continue the integration that made this result.

        Parameters
        ----------
        n_calls : int
            Number of points to add, at least 32; a few less where they do not make batches of equal size.

        Returns
        -------
        Result
            The new result, as returned by `Integrator.extend`.

        Raises
        ------
        RuntimeError
            If the result has no integrator, because it comes from a file or a `Run`.
        """
        if self.source is None:
            raise RuntimeError(
                "this result has no integrand: call the method extend of its Run, or make "
                "Integrator(f, ..., flow=result.flow)"
            )
        return self.source.extend(n_calls)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the result to a file: history, warnings, flow and bounds, but not the integrand.

        Parameters
        ----------
        path : str or path
            The file, with the name exactly as given. An existing file is replaced once the new one is
            complete.

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
        arrays |= {"heavier": self.heavier, **pack_history(self._scaled, self.components.size)}
        arrays |= self.tail.arrays("tail") if self.tail else {}
        header, of_channels = channels_to_file(self.channels)
        write_archive(path, FILE, self._header() | {"channels": header}, arrays | of_channels)

    def _header(self) -> dict[str, Any]:
        return {
            "flow": self.flow.description(),
            "keys": self.components.keys,
            "shapes": self.components.shapes,
            "stages": [iteration.stage for iteration in self.history],
            "defensive_share": self.defensive_share,
            "exponent": self._exponent,
            "log": self.is_log,
            "k": None if math.isnan(self.k) else repr(self.k),
            "resolution": self.resolution,
            "lost": self.lost,
            "n_invalid": self.n_invalid,
            "warnings": self.warnings,
            "notes": self.notes,
            "seconds": None if math.isnan(self.seconds) else self.seconds,
        }

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Result":
        """Read a result from a file.

        Parameters
        ----------
        path : str or path
            A file written by `save`.

        Returns
        -------
        Result
            The result, without an integrator.

        Raises
        ------
        FileFormatError
            If the file does not hold a result, is truncated or damaged, or has an unknown version.
        OSError
            If the file cannot be opened.
        """
        header, arrays = read_archive(path, FILE)
        with refused_as(path, "result", (KeyError, TypeError, ValueError, OverflowError)):
            flow = flow_of(header["flow"], arrays["params"])
            components = _parse_components(header["keys"], header["shapes"])
            if header["version"] < SINCE_ERROR_DOF:
                arrays["error_dof"] = np.full(len(header["stages"]), math.inf)
            return cls(
                unpack_history(header["stages"], arrays, components.size),
                flow,
                components=components,
                bounds=arrays["bounds"],
                defensive_share=header["defensive_share"],
                exponent=header.get("exponent", 0),
                log=header.get("log", False),
                k=float(header.get("k") or math.nan),
                lost=header.get("lost", 0.0),
                heavier=arrays.get("heavier", 0.0),
                resolution=header.get("resolution", 1.0),
                n_invalid=header["n_invalid"],
                warnings=header["warnings"],
                notes=header.get("notes", ()),
                seconds=float(header.get("seconds") or math.nan),
                tail=Tail.of("tail", arrays) if "tail_numbers" in arrays else None,
                channels=channels_of_file(header.get("channels", ()), arrays, components.size),
            )


def result_tables(result: Result) -> str:
    """Make tables, in HTML, of the estimates, the iterations and the box."""
    return result._tables()


def load_density(path: FilePath, **options: Any) -> Flow | Mixture | Result:
    """Read whatever points can be drawn from: a result, a flow or a mixture.

    Parameters
    ----------
    path : str or path
        The file.
    **options
        Arguments of `load_flow`, for a flow or a mixture.

    Raises
    ------
    FileFormatError, OSError
        As for `load_flow`.
    """
    return Result.load(path) if format_of(path) == FILE.name else load_flow(path, **options)


def _import(name: str, method: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"Result.{method} needs {name}: pip install {name}") from error


def _parse_components(keys: list[str] | None, shapes: list[list[int]]) -> Components:
    return Components(None if keys is None else tuple(keys), tuple(map(tuple, shapes)))
