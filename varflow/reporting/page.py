"""A page of HTML that needs no other file, no network and no script, and that can be printed."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from varflow.markup import bullets, paragraph, text

__all__ = ["Section", "page", "scrollable"]

STYLE = """
:root { color-scheme: light; }
body { font: 1rem/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; margin: 0; }
header, main { max-width: 64rem; margin: 0 auto; padding: 0 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 1.5rem 0 0.75rem; }
h2 { font-size: 1.25rem; margin: 2.25rem 0 0.5rem; border-bottom: 1px solid #999; }
.verdict { font-size: 1.15rem; border-left: 0.3rem solid #0072b2; padding: 0.4rem 0 0.4rem 0.9rem; }
.warnings li { border-left: 0.3rem solid #b34700; padding-left: 0.7rem; margin: 0.5rem 0; list-style: none; }
.warnings ul { padding: 0; }
.wide { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
caption { text-align: left; font-weight: bold; padding: 0.3rem 0; }
th, td { padding: 0.2rem 0.7rem; border-bottom: 1px solid #ccc; text-align: right; vertical-align: top; }
th { font-weight: normal; }
thead th { font-weight: bold; border-bottom: 1px solid #555; }
th:first-child, .pairs td { text-align: left; }
.pairs td { overflow-wrap: anywhere; }
figure { margin: 1.25rem 0; }
figure img { display: block; max-width: 100%; height: auto; }
figcaption { margin-top: 0.4rem; }
pre { background: #f3f3f3; padding: 0.7rem; white-space: pre-wrap; overflow-wrap: anywhere; }
@media (max-width: 45rem) {
  figure img.large { max-width: none; width: 42rem; }
  figure img.larger { max-width: none; width: 60rem; }
}
@media print {
  @page { margin: 15mm; }
  body { font-size: 10pt; }
  header, main { max-width: none; padding: 0; }
  .wide { overflow: visible; }
  figure img, figure img.large, figure img.larger { max-width: 100%; width: auto; max-height: 230mm; }
  figure, tr, li, pre { break-inside: avoid; }
  h1, h2, caption { break-after: avoid; }
}
"""
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"  # no network, no script
HEAD = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{title}</title>
<style>{style}</style>
</head>
"""


class Section(NamedTuple):
    """A heading, and the HTML below it."""

    heading: str
    content: str


def page(title: str, verdict: str, warnings: Sequence[str], sections: Iterable[Section]) -> str:
    """Make the page.

    Parameters
    ----------
    title : str
        Title and first heading, a text.
    verdict : str
        What the page says, in a sentence.
    warnings : sequence of str
        What speaks against it, and what to do.
    sections : iterable of Section
        What follows.

    Returns
    -------
    str
        HTML.
    """
    head = HEAD.format(title=text(title), policy=POLICY, style=STYLE)
    told = f"{verdict} Heed the warnings below." if warnings else verdict
    sections = [_warnings_section(warnings), *sections]
    parts = [f"<h2>{text(one.heading)}</h2>\n{one.content}" for one in sections]
    main = "\n".join([f'<p class="verdict">{text(told)}</p>', *parts])
    return (
        f"{head}<body>\n<header><h1>{text(title)}</h1></header>\n<main>\n{main}\n</main>\n</body>\n</html>\n"
    )


def _warnings_section(warnings: Sequence[str]) -> Section:
    """List warnings, or say that there are none."""
    told = [warning[:1].upper() + warning[1:] for warning in warnings]
    content = f'<div class="warnings">{bullets(told)}</div>' if told else paragraph("There are none.")
    return Section("Warnings", content)


def scrollable(label: str, content: str) -> str:
    """Let what may be wider than a narrow screen be scrolled by itself, by the keyboard too."""
    return f'<div class="wide" role="region" aria-label="{text(label)}" tabindex="0">{content}</div>'
