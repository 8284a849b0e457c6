"""The space that a flow maps: a finite box, or all of space at a location and on a scale."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from varflow.data.arrays import as_floats, checked_bounds, infinite_bounds, is_unbounded
from varflow.flow.architecture import LATENTS, Architecture
from varflow.kernels.layout import Layout
from varflow.kernels.splines import SPLINES
from varflow.validation import check_name

__all__ = ["Space", "checked_space"]


class Space(NamedTuple):
    """Where the points of a flow are.

    Attributes
    ----------
    bounds : ndarray, (d, 2)
        Lower and upper bound of each dimension: finite, or -inf and inf.
    location, scale : ndarray, (d,), or None
        What is subtracted from coordinates, and what they are then divided by, where there are no bounds.
    """

    bounds: np.ndarray
    location: np.ndarray | None
    scale: np.ndarray | None

    def layout(self, architecture: Architecture) -> Layout:
        """Build the tables that the kernels read."""
        layout = architecture.layout(self.bounds)
        if self.location is None or self.scale is None:
            return layout
        layout.lower[: len(self.location)], layout.width[: len(self.scale)] = self.location, self.scale
        return layout


def checked_space(
    architecture: Architecture,
    bounds: npt.ArrayLike | None,
    latent: str | None,
    location: npt.ArrayLike | None,
    scale: npt.ArrayLike | None,
) -> Space:
    """Check arguments of `Flow` against the kind of cell; see there.

    Raises
    ------
    TypeError, ValueError
        If one of them is not what the cell can map; the message says what to give.
    """
    cell, d = architecture.cell, architecture.d
    if latent is not None:
        check_name("latent", latent, LATENTS)
        if latent != architecture.latent:
            raise ValueError(_wrong_latent(cell, latent))
    if architecture.latent == "normal":
        _check_unbounded(cell, bounds, d)
        return Space(infinite_bounds(d), _checked_location(location, d), _checked_scale(scale, d))
    for name, value in (("location", location), ("scale", scale)):
        if value is not None:
            raise ValueError(
                f"{name} is for a latent density that is normal, and that of cells {cell!r} is uniform: "
                f"leave {name} out and give bounds, or take cell='realnvp'"
            )
    if bounds is not None and is_unbounded(np.asarray(bounds)):
        raise ValueError(
            f"bounds must be finite for cells {cell!r}, which map a box to the unit cube, found "
            f"{np.asarray(bounds).tolist()}: give a finite box, or take cell='realnvp' for unbounded points"
        )
    return Space(checked_bounds(bounds, d), None, None)


def _wrong_latent(cell: str, latent: str) -> str:
    if latent == "normal":
        return (
            f"latent='normal' needs a cell that maps all real numbers, and cells {cell!r} map a finite box "
            "to the unit cube: take cell='realnvp', or leave latent out"
        )
    return (
        f"latent={latent!r} needs cells that map a finite box to the unit cube, and cells {cell!r} map all "
        f"real numbers: take one of {', '.join(map(repr, SPLINES))}, or leave latent out"
    )


def _check_unbounded(cell: str, bounds: npt.ArrayLike | None, d: int) -> None:
    if bounds is None:
        return
    array = checked_bounds(bounds, d, may_be_infinite=True)
    if not is_unbounded(array):
        raise ValueError(
            f"bounds must be -inf and inf for cells {cell!r}, which map all real numbers, found "
            f"{array[0].tolist()} in row 0: take one of {', '.join(map(repr, SPLINES))} for points in a "
            "finite box; for unbounded points, leave the bounds out here, and give bounds=(-inf, inf) to a "
            "Dataset"
        )


def _checked_location(location: npt.ArrayLike | None, d: int) -> np.ndarray:
    array = _one_each("location", 0.0 if location is None else location, d)
    for k in np.flatnonzero(~np.isfinite(array)):
        raise ValueError(f"location must be finite, got {array[k]} in dimension {k}")
    return array


def _checked_scale(scale: npt.ArrayLike | None, d: int) -> np.ndarray:
    array = _one_each("scale", 1.0 if scale is None else scale, d)
    for k in np.flatnonzero(~((array >= np.finfo(np.float64).tiny) & (array < np.inf))):
        raise ValueError(f"scale must be positive and finite, got {array[k]} in dimension {k}")
    return array


def _one_each(name: str, values: npt.ArrayLike, d: int) -> np.ndarray:
    array = as_floats(name, values)
    if array.shape not in ((), (1,), (d,)):
        raise ValueError(f"{name} must be a number or have shape ({d},), found {array.shape}")
    return np.broadcast_to(array, (d,)).copy()
