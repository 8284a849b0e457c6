"""Figures of Matplotlib without the state that pyplot keeps, and what all pictures have in common."""

import importlib
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from varflow.data.arrays import is_unbounded

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "AFTER",
    "BEFORE",
    "NEUTRAL",
    "check_dims",
    "empty_figure",
    "import_for_plots",
    "panels",
    "shown_bounds",
    "whole_numbers",
]

# Colours of Okabe and Ito, which people who are colour-blind tell apart.
BEFORE, AFTER, NEUTRAL = "#0072B2", "#D55E00", "#555555"
DPI = 100  # of what notebooks show, and of PNG files
PANEL = 4.4, 3.4  # inches


def import_for_plots(name: str, wanted: str = "this picture") -> Any:
    """Import a module that only pictures need.

    Raises
    ------
    ImportError
        If it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"{wanted} needs {name.partition('.')[0]}: pip install 'varflow[plot]'") from error


def check_dims(dims: Sequence[int], d: int) -> None:
    """Raise ValueError unless dimensions exist, and are different."""
    for dim in dims:
        if not 0 <= dim < d:
            raise ValueError(f"dims must lie between 0 and {d - 1}, found {dim}")
    if len(set(dims)) < len(dims):
        raise ValueError(f"dims must be different, got {list(dims)}")


def empty_figure(width: float, height: float, **options: Any) -> "Figure":
    """Make a figure, in inches, that notebooks show where it is the value of a cell."""
    figure_type = import_for_plots("matplotlib.figure").Figure

    class Picture(figure_type):  # type: ignore[misc, valid-type]
        def _repr_png_(self) -> bytes:
            file = io.BytesIO()
            self.savefig(file, format="png")
            return file.getvalue()

    figure: Figure = Picture(figsize=(width, height), dpi=DPI, **options)
    return figure


def panels(n_rows: int, n_columns: int) -> "tuple[Figure, list[Axes]]":
    """Make a figure of equal panels, row by row."""
    figure = empty_figure(PANEL[0] * n_columns, PANEL[1] * n_rows, layout="constrained")
    return figure, list(np.ravel(figure.subplots(n_rows, n_columns, squeeze=False)))


def shown_bounds(bounds: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Give the bounds (d, 2) that a picture has: of the box, or of points (n, d) where it is infinite."""
    if not is_unbounded(bounds):
        return bounds
    lower, upper = points.min(axis=0), points.max(axis=0)
    return np.column_stack([lower, np.where(upper > lower, upper, lower + 1.0)])


def whole_numbers() -> Any:
    """Make a locator of ticks at whole numbers, as those of iterations and dimensions are."""
    return import_for_plots("matplotlib.ticker").MaxNLocator(integer=True)
