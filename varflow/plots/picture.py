"""Figures of Matplotlib without the state that pyplot keeps, and what all pictures have in common."""

import importlib
import io
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["AFTER", "BEFORE", "NEUTRAL", "empty_figure", "import_for_plots", "panels", "whole_numbers"]

# Colours of Okabe and Ito, which people who are colour-blind tell apart.
BEFORE, AFTER, NEUTRAL = "#0072B2", "#D55E00", "#555555"
DPI = 100  # of what notebooks show, and of PNG files
PANEL = 4.4, 3.4  # inches


def import_for_plots(name: str) -> Any:
    """Import a module that only pictures need.

    Raises
    ------
    ImportError
        If it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"this picture needs {name.partition('.')[0]}: pip install 'varflow[plot]'"
        ) from error


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


def whole_numbers() -> Any:
    """Make a locator of ticks at whole numbers, as those of iterations and dimensions are."""
    return import_for_plots("matplotlib.ticker").MaxNLocator(integer=True)
