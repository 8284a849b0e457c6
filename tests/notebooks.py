"""The notebooks of the examples: how they are run, and what is kept of it.

Kept are the outputs, and what is needed to open them: no times, no versions, nothing of the machine.
"""

import base64
import io
import os
import shutil
from pathlib import Path
from typing import Any

from pages import ROOT

NOTEBOOKS = sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
COLORS = 128  # of a picture that is kept: a third of the bytes, and no eye sees the difference
TIMEOUT = 300  # seconds of a cell, on a machine that is busy
# In the kernel, which warns of itself when it is shut down, and in programs that a notebook starts.
STRICT = """
import os, warnings
os.environ["PYTHONWARNINGS"] = "error"
warnings.simplefilter("error")
warnings.filterwarnings("ignore", module="ipykernel")
"""


def executed(path: Path, folder: Path) -> dict[str, Any]:
    """Run a notebook in a copy of the examples, within a folder, with warnings as errors.

    Returns
    -------
    dict
        The notebook as it is kept, with the outputs that it had.

    Raises
    ------
    nbclient.exceptions.CellExecutionError
        If a cell raises an error, or warns.
    """
    import nbformat  # of the extra `notebooks`, as nbclient is
    from nbclient import NotebookClient

    examples = folder / "examples"
    shutil.copytree(ROOT / "examples", examples, dirs_exist_ok=True)
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(STRICT))
    place = {"metadata": {"path": str(examples / "notebooks")}}
    client = NotebookClient(
        notebook, timeout=TIMEOUT, resources=place, record_timing=False, coalesce_streams=True
    )
    client.execute(env={**os.environ, "IPYTHONDIR": str(folder / "ipython")})  # a history of its own
    del notebook.cells[0]
    return cleaned(notebook)


def cleaned(notebook: dict[str, Any]) -> dict[str, Any]:
    """Leave out of a notebook what differs from one run to the next."""
    notebook["metadata"] = METADATA
    n_run = 0
    for cell in notebook["cells"]:
        cell["metadata"] = {}
        if cell["cell_type"] == "code":
            n_run += 1
            cell["execution_count"] = n_run
            for output in cell["outputs"]:
                if "metadata" in output:
                    output["metadata"] = {}
                if "image/png" in output.get("data", {}):
                    output["data"]["image/png"] = smaller(output["data"]["image/png"])
                if "execution_count" in output:
                    output["execution_count"] = n_run
    return notebook


def smaller(picture: str) -> str:
    """Reduce a PNG picture, in base64, to few colours."""
    from PIL import Image  # which Matplotlib needs, too

    file = io.BytesIO()
    image = Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB")
    image.quantize(COLORS).save(file, "png", optimize=True)
    return base64.b64encode(file.getvalue()).decode() + "\n"


def code_cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    """Cells of code, in order."""
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def text_of(cell: dict[str, Any]) -> str:
    """Text that a cell of code has printed, or that stands for its value; "picture" for each picture."""
    parts = []
    for output in cell["outputs"]:
        data = output.get("data", {})
        text = "picture" if "image/png" in data else output.get("text", data.get("text/plain", ""))
        parts.append("".join(text))
    return "\n".join(parts)
