"""The code blocks of the README run, as a newcomer would run them."""

import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    shutil.copy(ROOT / "examples" / "dalitz.csv", tmp_path / "events.csv")
    (tmp_path / "examples").mkdir()
    shutil.copy(ROOT / "examples" / "camel.py", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def blocks(kind):
    return [text for found, text in BLOCKS if found == kind]


def test_every_block_is_of_a_kind_that_is_run_here():
    assert {kind for kind, _ in BLOCKS} == {"bash", "python", "text"}


def test_python_blocks_run_in_turn(folder):
    program = "\n".join(blocks("python"))
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, stdout=subprocess.DEVNULL)


def test_shell_commands_run_in_turn(folder):
    commands = [line for text in blocks("bash") for line in text.splitlines()]
    installing = [line for line in commands if "pip install" in line]
    assert len(installing) == 2  # these two, continuous integration runs
    varflow = Path(sysconfig.get_path("scripts")) / "varflow"
    for line in commands:
        if line not in installing:
            name, *arguments = line.split()
            assert name == "varflow"
            subprocess.run([varflow, *arguments], check=True, stdout=subprocess.DEVNULL)


def test_the_table_is_what_the_first_command_prints(folder):
    """Numbers aside: another processor rounds in another way."""
    (shown,) = blocks("text")
    command = [sys.executable, "-m", "varflow", "train", ROOT / "examples" / "dalitz.csv", "-o", "flow.npz"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    words = re.compile(r"[a-z]{2,}")
    assert words.findall(shown) == words.findall(printed.replace(f"{ROOT}/", ""))
    ratio = re.compile(r"variance ratio +([\d.]+)")
    assert float(ratio.search(printed)[1]) == pytest.approx(float(ratio.search(shown)[1]), rel=0.3)
