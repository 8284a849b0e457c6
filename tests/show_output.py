"""Run the commands whose output the documentation shows, and write what they print, and the picture, into it.

usage: python tests/show_output.py
"""

import re
import tempfile
from pathlib import Path

from pages import OUTPUT, PAGES, PICTURE, README, ROOT, commands, draw_picture, prepare, printed_by


def renewed(path: Path, folder: Path) -> str:
    """Text of a page with the outputs that its commands, run in turn, have in a folder."""
    printed = {command: printed_by(command, folder) for command in commands(path)}

    def block(match: re.Match[str]) -> str:
        begin, command, _, end = match.groups()
        return f"{begin}{printed[command]}{end}"

    return OUTPUT.sub(block, path.read_text(encoding="utf-8"))


def main() -> None:
    """Renew all pages, and the picture of the README."""
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        if OUTPUT.search(text):
            with tempfile.TemporaryDirectory() as folder:
                prepare(Path(folder))
                path.write_text(renewed(path, Path(folder)), encoding="utf-8")
            print(f"written: {path.relative_to(ROOT)}")
    with tempfile.TemporaryDirectory() as folder:  # later commands write other flows under its name
        prepare(Path(folder))
        printed_by(commands(README)[0], Path(folder))
        draw_picture(Path(folder), PICTURE)


if __name__ == "__main__":
    main()
