"""Run the commands whose output the documentation shows, and write what they print into its pages.

usage: python tests/show_output.py
"""

import re
import tempfile
from pathlib import Path

from pages import OUTPUT, PAGES, ROOT, prepare, printed_by


def renewed(text: str, folder: Path) -> str:
    """Text of a page with the outputs that commands have in a folder."""

    def block(match: re.Match[str]) -> str:
        begin, command, _, end = match.groups()
        return f"{begin}{printed_by(command, folder)}{end}"

    return OUTPUT.sub(block, text)


def main() -> None:
    """Renew all pages."""
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        if OUTPUT.search(text):
            with tempfile.TemporaryDirectory() as folder:
                prepare(Path(folder))
                path.write_text(renewed(text, Path(folder)), encoding="utf-8")
            print(f"written: {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
