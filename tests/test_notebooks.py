"""The notebooks run as they are, print what they show, and keep nothing of the machine that ran them."""

import json
import re
import shutil

import pytest
from notebooks import METADATA, NOTEBOOKS, code_cells, executed, text_of
from pages import ROOT, differences

MAX_BYTES = 200_000
PATHS = re.compile(r"(?<![\w.])/(?:home|root|tmp|usr|opt|var|work|mnt|Users)/|site-packages|[A-Z]:\\")

each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def text_in(notebook):
    """All that a reader sees but pictures."""
    sources = ["".join(cell["source"]) for cell in notebook["cells"]]
    return "\n".join(sources + [text_of(cell) for cell in code_cells(notebook)])


def test_there_are_notebooks():
    assert len(NOTEBOOKS) == 6


@each
def test_nothing_is_kept_but_what_readers_need(path):
    notebook = read(path)
    assert path.stat().st_size < MAX_BYTES
    assert (notebook["nbformat"], notebook["metadata"]) == (4, METADATA)
    assert not PATHS.search(text_in(notebook))
    assert all(cell["metadata"] == {} for cell in notebook["cells"])


@each
def test_every_cell_was_run_in_turn_without_a_complaint(path):
    cells = code_cells(read(path))
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert any("image/png" in output.get("data", {}) for output in outputs) == (path.stem != "6_testing")
    assert all(output["output_type"] != "error" for output in outputs)
    assert all(output.get("name", "stdout") == "stdout" for output in outputs)


@each
def test_links_to_files_lead_somewhere(path):
    for cell in read(path)["cells"]:
        if cell["cell_type"] == "markdown":
            for target in re.findall(r"\]\(([^)#]+)[^)]*\)", "".join(cell["source"])):
                assert target.startswith("https://") or (path.parent / target).exists(), target


@each
def test_the_index_has_it(path):
    assert f"(notebooks/{path.name})" in (ROOT / "examples" / "README.md").read_text(encoding="utf-8")


@pytest.mark.programs
@each
def test_it_prints_what_it_shows(path, tmp_path):
    pytest.importorskip("nbclient", reason="the extra `notebooks` is not installed")
    kept = read(path)
    if "import vegas" in text_in(kept):
        pytest.importorskip("vegas", reason="the extra `notebooks` is not installed")
    if '"cc"' in text_in(kept) and shutil.which("cc") is None:
        pytest.skip("there is no cc")
    again = executed(path, tmp_path)
    for shown, printed in zip(code_cells(kept), code_cells(again), strict=True):
        assert differences(text_of(shown), text_of(printed)) == [], "".join(shown["source"])
