"""The sources that an exported flow consists of, in which its name, its tables and a few parts are put."""

import re
from collections.abc import Mapping
from importlib.resources import files

from varflow._version import __version__

__all__ = ["filled", "template"]


def template(name: str) -> str:
    """Read a source of this folder."""
    return files(__name__).joinpath(name).read_text(encoding="ascii")


def filled(text: str, name: str, parts: Mapping[str, object]) -> str:
    """Put parts in the places of a template.

    Parameters
    ----------
    text : str
        The template. ``@PART@`` stands for a part, which may itself have places, and NAME for the name.
    name : str
        The name of the flow.
    parts : mapping
        The parts by their names in capitals.

    Returns
    -------
    str
        The source.
    """
    parts = {**parts, "VERSION": __version__}
    while places := set(re.findall(r"@([A-Z_]+)@", text)):
        for place in places:
            text = text.replace(f"@{place}@", str(parts[place]).rstrip("\n"))
    text = re.sub(r"\bNAME(?=\b|_)", name, text)
    return re.sub(r"\n{3,}", "\n\n", text)
