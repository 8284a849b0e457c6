"""Run the notebooks of the examples, and write their outputs into them (needs the extra `notebooks`).

usage: python tests/show_notebooks.py [NOTEBOOK.ipynb ...]      (all, if none are named)
"""

import sys
import tempfile
from pathlib import Path

import nbformat
from notebooks import NOTEBOOKS, executed


def main(paths: list[Path]) -> None:
    """Renew some notebooks."""
    for path in paths:
        with tempfile.TemporaryDirectory() as folder:
            notebook = executed(path, Path(folder))
        nbformat.validate(notebook)
        nbformat.write(notebook, path)
        print(f"written: {path.name}")


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]] or NOTEBOOKS)
