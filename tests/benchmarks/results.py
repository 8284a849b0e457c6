"""Lines of JSON that benchmarks leave in the folder `results`, a file for each benchmark.

Each line holds the figures of one case, and when, where, by which versions and by which command they were
measured. Of several lines of one case, the last one counts. `tables.py` turns them into Markdown.
"""

import datetime
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

Line = dict[str, Any]

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).resolve().parent / "results"
PACKAGES = "numpy", "numba", "scipy", "varflow"


def record(
    benchmark: str,
    case: str,
    figures: Mapping[str, Any],
    *,
    peers: Mapping[str, str] | None = None,
    machine: Mapping[str, Any] | None = None,
) -> None:
    """Append a line to the results of a benchmark.

    Parameters
    ----------
    benchmark : str
        Name of the file, without extension.
    case : str
        What was measured.
    figures : mapping
        The figures, in what JSON can hold.
    peers : mapping, optional
        Versions of the packages that varflow was compared with, see `peer_versions`.
    machine : mapping, optional
        What the figures depend on besides processor and cores, such as the GPU.
    """
    line = {
        "benchmark": benchmark,
        "case": case,
        "figures": dict(figures),
        "date": datetime.date.today().isoformat(),
        "machine": {"cpu": cpu_model(), "cores": n_cores(), **(machine or {})},
        "versions": {**versions(PACKAGES), **(peers or {})},
        "command": command(sys.argv),
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{benchmark}.jsonl"
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(line, ensure_ascii=False) + "\n")
    print(f"recorded in {path.relative_to(ROOT)}: {case}", file=sys.stderr, flush=True)


def latest(benchmark: str) -> dict[str, Line]:
    """Read the last line of each case, in the order in which the cases appear first."""
    path = RESULTS / f"{benchmark}.jsonl"
    lines = map(json.loads, path.read_text(encoding="utf-8").splitlines()) if path.exists() else ()
    return {line["case"]: line for line in lines}


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Versions of Python and of the packages that are installed here."""
    found = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def run_code(python: str, code: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Run code in a process of its own, with options as JSON; its last line of output is the result."""
    command = [python, "-W", "ignore", "-c", code, json.dumps(options)]
    process = subprocess.run(command, capture_output=True, text=True)
    if process.returncode != 0:
        raise SystemExit(f"{python} failed:\n{process.stderr}")
    found: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return found


def peer_versions(python: str, packages: Sequence[str]) -> dict[str, str]:
    """Versions of packages in the environment of another interpreter."""
    code = "import json, sys; from importlib.metadata import version; " + (
        "print(json.dumps({name: version(name) for name in sys.argv[1:]}))"
    )
    out = subprocess.run([python, "-c", code, *packages], check=True, capture_output=True, text=True).stdout
    found: dict[str, str] = json.loads(out)
    return found


def cpu_model() -> str:
    """Name of the processor, as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, "") or platform.processor() or platform.machine()


def n_cores() -> int:
    """Cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # systems other than Linux
        return os.cpu_count() or 1


def command(arguments: Sequence[str]) -> str:
    """Command of a process, without the folders of the machine it ran on."""
    script, *options = arguments
    path = Path(script).resolve()
    words = [str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name]
    for previous, word in zip([script, *options], options, strict=False):
        option, equals, _ = word.partition("=")
        if previous.endswith("-python"):
            words.append("PYTHON")
        elif option.endswith("-python") and equals:
            words.append(f"{option}=PYTHON")
        else:
            words.append(word)
    return shlex.join(["python", *words])
