"""Figures of Matplotlib as parts of a page."""

import base64
import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from varflow.markup import text
from varflow.plots.picture import import_for_plots
from varflow.reporting.page import scrollable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["check_drawable", "escaped_labels", "of_one_style", "picture"]

MAX_SVG, MAX_PANELS = 120_000, 6  # bytes, and panels, beyond which a picture becomes a PNG
DPI = 110
LARGE, LARGER = 6.0, 11.0  # inches of width, from which a picture does not fit onto a narrow screen


def check_drawable() -> None:
    """Raise ImportError unless there is what pictures need."""
    for name in ("matplotlib.figure", "corner"):
        import_for_plots(name, "a report")


@contextmanager
def of_one_style() -> Iterator[None]:
    """Draw on white and without TeX, whatever the user's settings of Matplotlib are."""
    with import_for_plots("matplotlib.style").context("default"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # of a name in a script without a font
        yield


def escaped_labels(names: Sequence[str]) -> list[str]:
    """Keep Matplotlib from taking names of coordinates for formulas."""
    return [name.replace("$", r"\$") for name in names]


def picture(figure: "Figure", caption: str, alt: str) -> str:
    """Embed a figure: as SVG where that is small and has few panels, else as PNG.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
        The figure.
    caption : str
        What it is, and how it is read.
    alt : str
        What it shows, for those who do not see it.

    Returns
    -------
    str
        HTML.
    """
    width, height = figure.get_size_inches()
    data, kind = _encoded(figure)
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    size_class = "small" if width < LARGE else "large" if width < LARGER else "larger"
    size = f'width="{round(100 * width)}" height="{round(100 * height)}"'
    image = f'<img class="{size_class}" src="{source}" alt="{text(alt)}" {size}>'
    return f"<figure>{scrollable(caption, image)}<figcaption>{text(caption)}</figcaption></figure>"


def _encoded(figure: "Figure") -> tuple[bytes, str]:
    """Choose between SVG and PNG; also give the name of the kind."""
    if len(figure.axes) <= MAX_PANELS:
        data = _written(figure, "svg")
        if len(data) <= MAX_SVG:
            return data, "svg+xml"
    return _written(figure, "png"), "png"


def _written(figure: "Figure", kind: str) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format=kind, dpi=DPI, metadata={"Date": None} if kind == "svg" else None)
    return file.getvalue()
