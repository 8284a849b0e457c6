"""The code blocks of the README and of the guides run, and print what the pages show."""

import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from compilers import shared_library
from matplotlib.image import imread
from pages import (
    OUTPUT,
    PAGES,
    PICTURE,
    README,
    ROOT,
    blocks,
    commands,
    differences,
    draw_picture,
    is_run,
    lacking,
    outputs,
    prepare,
    printed_by,
    write_sources,
)

import varflow as vf

MAX_LINES = 250  # of the README

all_pages = pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())


@pytest.fixture
def folder(tmp_path, request):
    prepare(tmp_path)
    if "page" in request.fixturenames and "libme.so" in request.getfixturevalue("page").read_text("utf-8"):
        shared_library(tmp_path / "examples" / "matrix_element.f", tmp_path / "libme.so")
    return tmp_path


@all_pages
def test_every_block_is_of_a_kind_that_is_run_here(page):
    text = page.read_text(encoding="utf-8")
    opened = re.findall(r"^ *```.*$", text, re.MULTILINE)
    kinds = [line.removeprefix("```") for line in opened[::2]]
    assert set(opened[1::2]) <= {"```"}
    assert set(kinds) <= {"bash", "python", "text", "c", "fortran"}
    assert kinds.count("text") == len(OUTPUT.findall(text)), "blocks of text show the output of commands"
    for line in "".join(blocks(page, "bash")).splitlines():
        assert all(
            is_run(part) or part.startswith(("python -m pip install ", "pytest", "pdoc "))
            for part in line.split(" && ")
        )


@pytest.mark.programs
@all_pages
def test_python_blocks_run_in_turn(page, folder):
    if "mpi4py" in page.read_text("utf-8"):
        pytest.importorskip("mpi4py.MPI", reason="there is no MPI", exc_type=ImportError)
    program = "\n".join(blocks(page, "python"))
    if program:
        command = [sys.executable, "-W", "error", "-c", program]
        subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL)


@pytest.mark.programs
@all_pages
def test_commands_run_in_turn_and_print_what_is_shown(page, folder):
    shown = outputs(page)
    assert shown.keys() <= set(commands(page))
    if lacking(page):
        pytest.skip(lacking(page))
    write_sources(page, folder)
    for command in commands(page):
        printed = printed_by(command, folder)
        if command in shown:
            assert differences(shown[command], printed) == []


@pytest.mark.programs
def test_the_picture_is_what_the_first_command_leads_to(folder):
    """Another processor or Matplotlib changes a few bins and letters; a flow without training, much more."""
    printed_by(commands(README)[0], folder)
    draw_picture(folder, folder / "trained.png")
    vf.Flow(5).save(folder / "flow.npz")
    draw_picture(folder, folder / "uniform.png")
    shown, trained, uniform = map(imread, (PICTURE, folder / "trained.png", folder / "uniform.png"))
    assert shown.shape == trained.shape
    assert np.abs(shown - trained).mean() < 0.01 < 0.05 < np.abs(shown - uniform).mean()


@all_pages
def test_links_to_files_lead_somewhere(page):
    prose = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", prose):
        assert target.startswith("https://") or (page.parent / target).exists(), target


@all_pages
def test_files_that_are_named_exist(page):
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"`((?:tests|varflow|examples)/[\w./]+)[^`]*`", text):
        assert (ROOT / name).exists(), name


def test_the_readme_is_short_and_has_the_two_commands():
    lines = README.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= MAX_LINES
    assert (
        sum(line.startswith("python -m pip install") for line in lines) == 2
    )  # continuous integration runs them


def test_the_index_has_every_guide():
    index = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    for path in sorted((ROOT / "examples" / "guides").glob("*.md")):
        assert f"(guides/{path.name})" in index


def test_the_installed_command_is_the_module(folder):
    script = Path(sysconfig.get_path("scripts")) / "varflow"
    found = subprocess.run([script, "--version"], check=True, capture_output=True, text=True).stdout
    assert found == printed_by("varflow --version", folder)


TABLE = """\
on 2,000 points     before       after
variance ratio            5.05 ± 0.68
seconds                           2.9
  itn  stage   integral    accumulated  chi2/dof     Q  calls    ess  seconds
    1  refine  0.9643(12)  0.9643(12)          -     -  6,656  98.4%     0.02
    2  refine  0.9664(12)  0.96535(84)      1.46  0.23  6,656  98.3%     0.01
total                      0.96535(84)      1.46  0.23  6,656  98.4%     1.28
"""


@pytest.mark.parametrize(
    ("old", "new", "n_lines"),
    [
        ("5.05 ± 0.68", "5.56 ± 0.75", 0),  # another processor
        ("5.05 ± 0.68", "8.00 ± 0.75", 1),
        ("5.05 ± 0.68", "5.05 ± 0.08", 1),
        ("5.05 ± 0.68", "5.05", 1),
        ("0.9664(12)", "0.9640(12)", 0),
        ("0.9664(12)", "0.9264(12)", 1),
        ("2,000 points", "2,001 points", 1),
        ("98.3%", "97.1%", 0),
        ("98.3%", "58.3%", 1),
        ("                2.9", "               31.4", 0),
        ("1.46  0.23", "0.02  0.91", 0),
        ("variance ratio", "variances' ratio", 1),
        ("    2  refine", "    2  survey", 1),
    ],
)
def test_what_may_differ(old, new, n_lines):
    assert old in TABLE
    assert len(differences(TABLE, TABLE.replace(old, new, 1))) == n_lines


def test_a_missing_line_is_seen():
    assert differences(TABLE, TABLE.partition("\n")[2])
