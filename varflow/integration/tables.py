"""Formatting of estimates and iterations as text."""

import decimal
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from varflow.integration.averages import probability, standard_deviations
from varflow.integration.iteration import LOG_OF_2, Array, Iteration, times_power

__all__ = [
    "TITLES",
    "accumulated_cells",
    "aligned",
    "effort_cells",
    "first_component",
    "first_estimate",
    "format_array",
    "format_estimate",
    "frame_row",
    "log_estimate",
    "with_relative_error",
]

_DIGITS = 15  # decimal digits that every float64 holds
_DECIMAL = decimal.Context(prec=2 * _DIGITS)  # independent of the precision that the caller has set
TITLES = ("itn", "stage", "integral", "accumulated", "chi2/dof", "Q", "calls", "ess", "seconds")


def format_estimate(mean: float, sdev: float) -> str:
    """Format a number with its error: two digits in parentheses, in units of the number's last places.

    Parameters
    ----------
    mean : float
        The number.
    sdev : float
        Its error, not negative.

    Returns
    -------
    str
        For instance 1.0012(34), 0.00(12), 12.3(4.5), 1.234(56)e-10. An error of zero is written as (0). The
        sign ± is used where one of the two is not finite, or the error lies beyond the digits of a float.
    """
    if not (math.isfinite(mean) and math.isfinite(sdev)):
        return f"{mean:g} ± {sdev:g}"
    if sdev == 0:
        mantissa, e, exponent = f"{mean + 0.0:.{_DIGITS}g}".partition("e")  # + 0.0 makes 0 of -0
        return f"{mantissa}(0){e}{exponent}"
    error = decimal.Decimal(f"{sdev:.1e}")
    place = error.adjusted() - 1  # decimal exponent of the error's second digit
    exact = decimal.Decimal.from_float(float(mean))
    if exact and exact.adjusted() - place >= _DIGITS:
        return f"{mean:.{_DIGITS}g} ± {sdev:.1e}"
    return _with_parentheses(exact, error, place)


def _with_parentheses(mean: decimal.Decimal, error: decimal.Decimal, place: int) -> str:
    """Round the mean to the place of the error's last digit, and format both."""
    rounded = mean.quantize(decimal.Decimal((0, (1,), place)), context=_DECIMAL)
    if not rounded:
        rounded = rounded.copy_abs()  # never -0.00(12)
    power = max(rounded.adjusted(), error.adjusted()) if rounded else error.adjusted()
    if place <= 0 and power >= -4:
        power = 0  # no exponent is needed: both digits of the error are shown, after few leading zeros
    decimals = power - place
    number = f"{rounded.scaleb(-power, context=_DECIMAL):.{decimals}f}"
    digits = "".join(map(str, error.as_tuple().digits))
    if decimals == 1:
        digits = f"{digits[0]}.{digits[1]}"  # the decimal point lies between the error's digits
    return f"{number}({digits})" + (f"e{power:+03d}" if power else "")


def format_array(part: Any) -> str:
    """Format an array of strings, or return a single string."""
    return np.array2string(part, formatter={"object": str}) if isinstance(part, np.ndarray) else part


def first_estimate(mean: Array, covariance: Array, exponent: int, is_log: bool) -> tuple[float, float]:
    """Compute mean and standard deviation of the first component, given in units of 2^exponent.

    Where `is_log`, these are those of its logarithm; see `log_estimate`.
    """
    sdev = standard_deviations(covariance)
    if is_log:
        log_mean, log_sdev = log_estimate(mean[:1], sdev[:1], exponent)
        return float(log_mean[0]), float(log_sdev[0])
    return float(times_power(mean[0], exponent)), float(times_power(sdev[0], exponent))


def log_estimate(mean: Array, sdev: Array, exponent: int) -> tuple[Array, Array]:
    """Compute logarithms of means (m,), given in units of 2^exponent, and their errors to first order.

    The log of a mean below zero is NaN; that of zero is -inf, and its error infinite.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        log_mean: Array = np.log(mean) + exponent * LOG_OF_2
        log_sdev: Array = np.where(mean == 0, math.inf, sdev / np.abs(mean))
    return log_mean, log_sdev


def first_component(mean: Array, covariance: Array, exponent: int, is_log: bool) -> str:
    """Format the estimate of the first component, given in units of 2^exponent.

    Where `is_log`, it is written as exp(-36.09(12)).
    """
    if math.isnan(mean[0]):
        return "-"
    text = format_estimate(*first_estimate(mean, covariance, exponent, is_log))
    return f"exp({text})" if is_log else text


def with_relative_error(mean: Array, covariance: Array, exponent: int, is_log: bool) -> str:
    """Format the estimate of the first component as in 1.0012(34), 0.34 %."""
    estimate, error = first_estimate(mean, covariance, exponent, is_log)
    relative = error if is_log else error / abs(estimate) if estimate else math.inf
    return f"{first_component(mean, covariance, exponent, is_log)}, {100 * relative:.2g} %"


def accumulated_cells(
    mean: Array, covariance: Array, chi2: float, dof: int, exponent: int, is_log: bool
) -> tuple[str, str, str]:
    """Format the estimate, given in units of 2^exponent, chi2/dof and Q."""
    estimate = first_component(mean, covariance, exponent, is_log)
    return (estimate, f"{chi2 / dof:.3g}", f"{probability(chi2, dof):.2g}") if dof else (estimate, "-", "-")


def effort_cells(n_calls: int, ess: float, seconds: float) -> tuple[str, str, str]:
    """Format the number of calls, the effective sample size and the seconds."""
    return f"{n_calls:,}", "-" if math.isnan(ess) else f"{ess:.1%}", f"{seconds:.2f}"


def aligned(row: Sequence[str], widths: list[int]) -> str:
    """Format a row of a table, with words and estimates aligned left and numbers aligned right."""
    cells = [
        cell.ljust(width) if title in ("stage", "integral", "accumulated") else cell.rjust(width)
        for cell, width, title in zip(row, widths, TITLES, strict=True)
    ]
    return "  ".join(cells).rstrip()


def frame_row(
    number: int,
    iteration: Iteration,
    accumulated: tuple[Array, Array, float, int] | None,
    exponent: int,
    is_log: bool,
) -> dict[str, Any]:
    """Make a row of a pandas table, of values in units of 2^exponent, or of their logarithms."""
    nothing = np.full(1, math.nan), np.full((1, 1), math.nan), math.nan, 0
    mean, covariance, chi2, dof = accumulated or nothing
    of_iteration = first_estimate(iteration.mean, iteration.covariance, exponent, is_log)
    of_all = first_estimate(mean, covariance, exponent, is_log)
    names = ("log_mean", "log_sdev") if is_log else ("mean", "sdev")
    return {
        "itn": number,
        "stage": iteration.stage,
        **dict(zip(names, of_iteration, strict=True)),
        **dict(zip((f"accumulated_{name}" for name in names), of_all, strict=True)),
        "chi2": chi2,
        "dof": dof,
        "Q": probability(chi2, dof),
        "n_calls": iteration.n_calls,
        "ess": iteration.ess,
        "seconds": iteration.seconds,
        "is_used": iteration.is_used,
        "weight": iteration.weight,
    }
