"""HTML of tables and lists, for notebooks and reports; whatever is shown in them is escaped."""

import html
from collections.abc import Iterable, Mapping, Sequence

__all__ = ["bullets", "number", "pairs", "paragraph", "table", "text"]

MAX_ROWS = 40  # of a table


def text(value: object) -> str:
    """Escape what is to be shown as it is.

    Characters that cannot be seen, such as those that reverse the direction of a line, are written as Python
    writes them; so are bytes of a file name that are no UTF-8.

    Parameters
    ----------
    value : object
        Anything; its ``str`` is shown.

    Returns
    -------
    str
        HTML.
    """
    shown = (one if one.isprintable() else one.encode("unicode_escape").decode() for one in str(value))
    return html.escape("".join(shown))


def number(value: float) -> str:
    """Format a number with six digits at most."""
    return f"{value + 0.0:.6g}"  # not -0


def paragraph(value: object) -> str:
    """Make a paragraph of a text."""
    return f"<p>{text(value)}</p>"


def bullets(values: Iterable[object]) -> str:
    """Make a list of texts; nothing of none."""
    lines = "".join(f"<li>{text(value)}</li>" for value in values)
    return f"<ul>{lines}</ul>" if lines else ""


def pairs(caption: str, values: Mapping[str, object]) -> str:
    """Make a table of names and values."""
    rows = "".join(_row(row) for row in values.items())
    return f'<table class="pairs"><caption>{text(caption)}</caption><tbody>{rows}</tbody></table>'


def table(caption: str, titles: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Make a table whose columns have titles, and whose rows have a name as their first cell.

    Of more than 40 rows, those in the middle are left out, which is said.

    Parameters
    ----------
    caption : str
        What the table shows.
    titles : sequence of str
        A title for each column.
    rows : iterable of sequence
        The cells of each row.

    Returns
    -------
    str
        HTML.
    """
    lines = [_row(row) for row in rows]
    if len(lines) > MAX_ROWS:
        half, n_left_out = MAX_ROWS // 2, len(lines) - MAX_ROWS
        left_out = _row([f"{n_left_out:,} more rows", *["…"] * (len(titles) - 1)])
        lines = [*lines[:half], left_out, *lines[-half:]]
    head = "".join(f'<th scope="col">{text(title)}</th>' for title in titles)
    return (
        f"<table><caption>{text(caption)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table>"
    )


def _row(cells: Sequence[object]) -> str:
    first, *others = map(text, cells)
    return f'<tr><th scope="row">{first}</th>' + "".join(f"<td>{cell}</td>" for cell in others) + "</tr>"
