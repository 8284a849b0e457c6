"""Values of f at points of a box, as they were received, and those of the integrand on the unit cube."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from varflow.errors import InvalidIntegrandError
from varflow.integration.components import (
    Components,
    FloatArray,
    Shape,
    Values,
    columns_of,
    components_of,
    describe_shapes,
    shapes_of,
)
from varflow.validation import unknown_name

__all__ = ["Received"]

ON_INVALID = ("raise", "zero")
MAX_LOG = 1e12  # beyond which differences of logarithms have no digits left


class Received:
    """What was received so far: the structure of the values, and how many were not finite.

    Parameters
    ----------
    on_invalid : {"raise", "zero"}
        Whether to raise an exception where a value is not finite, or to replace the value by 0.
    is_log : bool
        Whether values are logarithms of those of f; -inf stands for 0.

    Attributes
    ----------
    n_invalid : int
        Number of points at which f, or its product with the Jacobian, was not finite.
    shapes : tuple of int, dict of these, or None
        Shape of the value of f at one point; None as long as none is known.
    """

    def __init__(self, on_invalid: str, is_log: bool) -> None:
        if on_invalid not in ON_INVALID:
            raise unknown_name("on_invalid", on_invalid, ON_INVALID)
        self.on_invalid, self.is_log, self.n_invalid = on_invalid, is_log, 0
        self.shapes: Shape | dict[str, Shape] | None = None

    @property
    def components(self) -> Components | None:
        """Structure of a value, keys in the order of the first dict; None as long as none is known."""
        return None if self.shapes is None else components_of(self.shapes)

    def state(self) -> dict[str, Any]:
        """Return the count and the structure, in a form for JSON; see `restore`."""
        found = self.components
        return {
            "n_invalid": self.n_invalid,
            "components": None if found is None else [found.keys, found.shapes],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned."""
        self.n_invalid, self.shapes = int(state["n_invalid"]), None
        if state["components"] is not None:
            keys, shapes = state["components"]
            shapes = [tuple(shape) for shape in shapes]
            self.shapes = shapes[0] if keys is None else dict(zip(keys, shapes, strict=True))

    def columns(
        self, results: list[Values], words: str = "f must return the same at every call"
    ) -> FloatArray:
        """Join values of several blocks of points, after a check that their structure is that known so far.

        Parameters
        ----------
        results : list of ndarray (n, ...), or of dicts of these
            The values.
        words : str
            What to say where the structure is another.

        Returns
        -------
        ndarray, (n, m)
            The values, with a column for each component.
        """
        known = shapes_of(results[0]) if self.shapes is None else self.shapes
        if self.is_log and known != ():
            raise ValueError(
                f"with log=True, f must return one logarithm a point, an array (n,), got "
                f"{describe_shapes(known)} at each"
            )
        self.shapes = known
        for found in map(shapes_of, results):
            if found != known:
                before, now = describe_shapes(known), describe_shapes(found)
                raise ValueError(f"{words}: got {now}, before {before}")
        keys = components_of(known).keys
        columns = [columns_of(result, keys) for result in results]
        return columns[0] if len(columns) == 1 else np.concatenate(columns)

    def on_cube(
        self, x: FloatArray, values: FloatArray, log_jacobian: FloatArray, what: str = "f"
    ) -> FloatArray:
        """Multiply values (n, m) at points x (n, d) by the Jacobian, and see to those that are not finite.

        Of logarithms, the sum is returned; -inf is as good as finite there.

        Parameters
        ----------
        x, values, log_jacobian : ndarray, (n, d), (n, m) and (n,)
            Points of the box, values of f there, and the log of |dx/du|.
        what : str
            What the values are called in messages, with a place for the row: "values[{row}]".

        Raises
        ------
        InvalidIntegrandError
            If a value is not finite and ``on_invalid="raise"``.
        """
        if self.is_log:
            product = values + log_jacobian[:, None]
            finite = product < MAX_LOG
        else:
            product = _times_exp(values, log_jacobian)
            finite = np.isfinite(product)
        good: npt.NDArray[np.bool_] = np.logical_and.reduce(finite, axis=1)
        n_bad = len(good) - int(np.count_nonzero(good))
        self.n_invalid += n_bad
        if n_bad and self.on_invalid == "raise":
            first = int(np.argmin(good))
            raise self._invalid(what.format(row=first), x[first].copy(), values[first], n_bad, len(good))
        if n_bad:
            product[~finite] = -math.inf if self.is_log else 0.0
        return product

    def _invalid(
        self, what: str, x: FloatArray, value: FloatArray, n_bad: int, n: int
    ) -> InvalidIntegrandError:
        """Make the error for a point x (d,) and the value of f there, (m,)."""
        assert self.components is not None
        shown = self.components.unpack(value)
        found = f"{'log ' if self.is_log else ''}{what} is {shown} at x = {x.tolist()}"
        if np.isfinite(value).all() and not self.is_log:
            found = f"{what} times the Jacobian |dx/du| overflows at x = {x.tolist()}, where f is {shown}"
        error = InvalidIntegrandError(
            f'{found}; {n_bad} of {n} points are not finite (on_invalid="zero" takes such values as 0)'
        )
        error.x = x
        return error


def _times_exp(values: FloatArray, logs: FloatArray) -> FloatArray:
    """Compute the product of values (n, m) and exp(logs), (n,).

    Powers of two are applied last, to the exponent of the product. So the product is finite for small enough
    values even if exp(logs) alone would overflow, and 0 stays 0.
    """
    if not logs.any():
        return values.copy()
    powers = np.rint(logs / math.log(2.0))
    with np.errstate(over="ignore", under="ignore"):
        factors = np.exp(logs - powers * math.log(2.0))
        product: FloatArray = np.ldexp(values * factors[:, None], powers[:, None].astype(np.int32))
    return product
