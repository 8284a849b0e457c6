"""The pages of the documentation: their code blocks, and what they show as the output of commands.

A block that follows a comment `<!-- output of: COMMAND -->` shows what that command prints. A block of C or
Fortran is a file, whose name its first line has in a comment: `/* ring.c: ... */`.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

from mpi_launchers import launchers

import varflow as vf
from varflow.libvarflow.build import missing

ROOT = Path(__file__).parent.parent
N_EVENTS = 1000  # so that tests take seconds
README = ROOT / "README.md"
PICTURE = ROOT / "examples" / "dalitz.png"  # of the README
PAGES = [README, *sorted((ROOT / "examples").rglob("*.md"))]
COMPILERS = ("cc", "gfortran")  # with warnings as errors, in tests
PROGRAMS = ("./", "mpiexec")  # that pages have built, or that start several processes
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
OUTPUT = re.compile(r"^(<!-- output of: (.+?) -->\n+```text\n)(.*?)(^```$)", re.MULTILINE | re.DOTALL)

ERRORS_APART = 3.0  # how many of the larger printed error two runs may differ by
FACTOR_OF_ERRORS = 2.0  # and how far their errors may
SHARE_APART = 0.25  # of the larger number, where no error is printed

_NUMBER = r"-?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?"
_VALUE = re.compile(rf"({_NUMBER}) ± ({_NUMBER})|({_NUMBER})\(([\d.]+)\)|({_NUMBER})")
_FREE_FIELDS = (-1, -4, -5)  # seconds, Q and chi2 of a line of an integration, counted from its end


def blocks(path: Path, kind: str) -> list[str]:
    """Code blocks of one kind."""
    return [text for found, text in BLOCK.findall(path.read_text(encoding="utf-8")) if found == kind]


def outputs(path: Path) -> dict[str, str]:
    """What the page shows as the output of each command."""
    return {command: shown for _, command, shown, _ in OUTPUT.findall(path.read_text(encoding="utf-8"))}


def commands(path: Path) -> list[str]:
    """Commands in shell blocks that tests run: those that install something are left out."""
    lines = (line for text in blocks(path, "bash") for line in text.splitlines())
    parts = (part.strip() for line in lines for part in line.split(" && "))
    return [part for part in parts if is_run(part)]


def is_run(command: str) -> bool:
    """Whether tests run a command of a shell block."""
    name = command.split(" ")[0]
    return name in ("varflow", *COMPILERS) or name.startswith(PROGRAMS)


def lacking(path: Path) -> str | None:
    """What this machine lacks for the commands of a page: a compiler, or what the shared library needs."""
    names = {command.split()[0] for command in commands(path)} & set(COMPILERS)
    without = [f"there is no {name}" for name in sorted(names) if shutil.which(name) is None]
    without += ["there is no MPI"] if "mpi4py" in path.read_text("utf-8") and not launchers() else []
    return next(iter(without), missing() if "varflow build-library" in path.read_text("utf-8") else None)


def write_sources(path: Path, folder: Path) -> None:
    """Write the blocks of C and Fortran to the files that they are."""
    for block in blocks(path, "c") + blocks(path, "fortran"):
        name = re.match(r"\W+(\w+\.\w+):", block)
        assert name is not None, "the first line of a block of C or Fortran names its file"
        (folder / name[1]).write_text(block, encoding="utf-8")


def prepare(folder: Path) -> None:
    """Put the files of the examples where a reader has them, and some of the dataset as events.csv."""
    (folder / "examples").mkdir()
    sources = "camel.py", "helicities.py", "matrix_element.f", "event_generator.c", "event_generator.f90"
    for name in ("dalitz.csv", *sources):
        shutil.copy(ROOT / "examples" / name, folder / "examples")
    lines = (ROOT / "examples" / "dalitz.csv").read_text().splitlines(keepends=True)
    (folder / "events.csv").write_text("".join(lines[: 1 + N_EVENTS]))


def printed_by(command: str, folder: Path) -> str:
    """What a command prints on stdout."""
    assert is_run(command), f"{command} is no command that runs here"
    name, *arguments = command.split()
    line = [sys.executable, "-W", "error", "-m", "varflow", *arguments]
    if name == "mpiexec":
        launcher, (_, n, _, *words) = launchers()[0], arguments
        done = launcher.run(int(n), sys.executable, "-W", "error", "-m", "varflow", *words, cwd=folder)
        assert done.returncode == 0, done.stderr
        return done.stdout
    if name != "varflow":
        strict = command.replace(" ", " -Wall -Wextra -Werror ", 1) if name in COMPILERS else command
        line = ["/bin/sh", "-c", strict]
    return subprocess.run(line, cwd=folder, check=True, stdout=subprocess.PIPE, text=True).stdout


def draw_picture(folder: Path, path: Path) -> None:
    """Draw the picture of the README, from the flow that its first command has left in a folder."""
    flow, data = vf.load_flow(folder / "flow.npz"), vf.Dataset.read(folder / "examples" / "dalitz.csv")
    vf.plots.overview(flow, data).savefig(path)


def differences(shown: str, printed: str) -> list[str]:
    """Lines of two outputs of one command that should not differ as they do.

    Words and whole numbers have to be the same. Estimates may differ by three of the larger of their printed
    errors, which may differ by a factor of two; other numbers by a quarter. Seconds may be any, and so may be
    chi2 and Q of an integration: processors round in different ways, and training amplifies it.
    """
    lines = shown.splitlines(), printed.splitlines()
    if len(lines[0]) != len(lines[1]):
        return [f"{len(lines[0])} lines are shown, {len(lines[1])} were printed"]
    is_table, found = False, []
    for pair in zip(*lines, strict=True):
        is_table |= pair[0].split()[:2] == ["itn", "stage"]
        if not _agree(*(_without_free(line, is_table) for line in pair)):
            found.append("\n".join(pair))
        is_table &= not pair[0].startswith("total")
    return found


def _without_free(line: str, is_table: bool) -> str:
    fields = line.split()
    free = _FREE_FIELDS if is_table else (-1,) if fields[:1] == ["seconds"] else ()
    for k in free:
        if re.fullmatch(_NUMBER, fields[k]):
            fields[k] = "-"
    return " ".join(fields)


def _agree(shown: str, printed: str) -> bool:
    if _VALUE.sub("#", shown) != _VALUE.sub("#", printed):
        return False
    return all(map(_is_close, _VALUE.findall(shown), _VALUE.findall(printed)))


def _is_close(shown: tuple[str, ...], printed: tuple[str, ...]) -> bool:
    if shown[4] and re.fullmatch(r"[\d,]+", shown[4]):
        return shown[4] == printed[4]
    (one, one_error), (other, other_error) = _value(shown), _value(printed)
    if one_error is None or other_error is None:
        return one_error is other_error and abs(one - other) <= SHARE_APART * max(abs(one), abs(other))
    least, most = sorted([one_error, other_error])
    return abs(one - other) <= ERRORS_APART * most and most <= FACTOR_OF_ERRORS * least


def _value(parts: tuple[str, ...]) -> tuple[float, float | None]:
    """Value and printed error of a number, `a ± b` or `a(b)`."""
    value, error, estimate, digits, plain = (part.replace(",", "") for part in parts)
    if value:
        return float(value), float(error)
    if estimate:
        scale = 1.0 if "." in digits else 10.0 ** -len(estimate.partition(".")[2])
        return float(estimate), float(digits) * scale
    return float(plain), None
