"""The shared library: programs in C and Fortran build, run, and find of the process what they left.

Programs are in `tests/host_programs` and `examples`.
"""

import ctypes
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from libraries import CALLBACK_FAILED, NO_PYTHON, NOT_STARTED, OK, WARNINGS, built, compiled, run
from pages import ROOT

import varflow as vf
from varflow.errors import BuildError
from varflow.libvarflow import build as building
from varflow.libvarflow import entry, integrals, place, trainings

pytestmark = pytest.mark.programs

PROGRAMS, EXAMPLES = Path(__file__).parent / "host_programs", ROOT / "examples"
needs_gfortran = pytest.mark.skipif(shutil.which("gfortran") is None, reason="there is no gfortran")


# Programs


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("host_program.c", ["-std=c99"]),
        pytest.param("host_program.f90", ["-ffpe-trap=invalid,zero,overflow"], marks=needs_gfortran),
    ],
)
def test_examples_build_and_find_the_integral(library_folder, tmp_path, name, options):
    program = compiled(EXAMPLES / name, library_folder, tmp_path, *options)
    lines = run(program).splitlines()
    assert [line.split()[0] for line in lines if "+-" in line] == ["integral", "own", "flow"]
    fewer = next(line for line in lines if line.startswith("trained"))
    assert float(re.search(r"1/([\d.]+)", fewer)[1]) > 5
    assert lines[0].removeprefix("integral") == lines[1].removeprefix("own loop")
    for estimate, error in re.findall(r"(\d+\.\d+) \+- (\d+\.\d+)", "\n".join(lines)):
        assert abs(float(estimate) - 1) < 5 * float(error)
        assert 0 < float(error) < 0.05
    flow = vf.load_flow(tmp_path / "peak.npz")
    assert flow.bounds.tolist() == [[-1, 1], [0, 2]]
    assert flow.log_prob([[0.2, 0.7]]) > flow.log_prob([[-0.5, 1.5]]) + 2


@needs_gfortran
def test_an_optimiser_of_the_host_s_lowers_the_loss(library_folder, tmp_path):
    options = ["-fcheck=all", "-ffpe-trap=invalid,zero,overflow"]
    lines = run(compiled(PROGRAMS / "optimiser.f90", library_folder, tmp_path, *options)).splitlines()
    version, before, after, estimates, words, trained, own_loop = lines
    assert version == vf.__version__
    assert 0.9 < float(after) < 1.2 < 3 < float(before)
    *means, first, second = map(float, estimates.split())
    assert abs(means[0] - 1 / 2) < 5 * first < 0.1
    assert abs(means[1] - 1 / 4) < 5 * second < 0.1
    assert words.startswith("2 option must be one of")
    assert words.endswith("got 'n_cals'; did you mean 'n_calls'?")
    first, second, n = map(float, trained.split())
    assert 0 < second < first < n == 1000  # relative variances, before and after a training
    log_mean, log_sdev, n_calls = map(float, own_loop.split())
    assert abs(log_mean + 1000 - math.log(1 - math.exp(-1))) < 5 * log_sdev < 0.1
    assert n_calls == 186  # of 196, 10 were given up


@pytest.mark.skipif(sys.platform != "linux", reason="its calls are Linux's")
def test_every_call_leaves_the_process_as_it_was(library_folder, tmp_path):
    program = compiled(PROGRAMS / "state.c", library_folder, tmp_path, "-fopenmp", "-frounding-math")
    expected = vf.integrate(lambda x: x[:, 0], 2, n_calls=100, seed=1)
    *words, estimate = run(program).split()
    assert words == ["printed", "before"]
    assert float.fromhex(estimate) == expected.mean  # whose rounding mode was another


def test_threads_of_the_host_integrate_at_once(library_folder, tmp_path):
    lines = run(compiled(PROGRAMS / "threads.c", library_folder, tmp_path)).splitlines()
    for k, line in enumerate(lines):
        status, n_foreign_threads, mean, log_q, words = [*line.split(" ", 4), ""][:5]
        assert int(n_foreign_threads) == 0
        if k == 3:
            assert int(status) == CALLBACK_FAILED
            assert words.startswith("f returned status 43 for 100 points, the first at (")
            continue
        alone = vf.integrate(lambda x, k=k: x[:, 0] ** k, 2, n_calls=100, seed=1)
        assert (int(status), float(log_q)) == (OK, pytest.approx(0, abs=1e-12))
        assert float(mean) == pytest.approx(alone.mean, rel=1e-12)
    assert len(lines) == 5


@pytest.fixture(scope="session")
def start(library_folder, tmp_path_factory):
    return compiled(PROGRAMS / "start.c", library_folder, tmp_path_factory.mktemp("start"))


def test_python_is_found_where_the_library_was_built(start, tmp_path):
    lines = run(start, PYTHONPATH="", PYTHONHOME=tmp_path, PATH="").splitlines()
    before, started, works, forked = (line.split(" ", 1) for line in lines)
    assert int(before[0]) == NOT_STARTED
    assert int(started[0]) == OK
    assert works == [str(OK), vf.__version__]
    assert int(forked[0]) == NOT_STARTED
    assert "was forked" in forked[1]


def test_another_python_can_be_named(start):
    for name in (sys.executable, Path(sys.executable).name):  # on the PATH
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        lines = run(start, VARFLOW_PYTHON=name, PYTHONPATH=ROOT, PATH=path).splitlines()
        assert lines[1].startswith(f"{OK} ")


@pytest.mark.parametrize(
    ("prints", "words"),
    [
        (None, "cannot be run as Python"),
        ("", "cannot be run as Python"),
        ("2.7\n/bin/sh\nlib\n/", "is Python 2.7, and this library was built for "),
        ("{version}\n/bin/none\nlib\n/", "Python is gone: there is no /bin/none; let VARFLOW_PYTHON"),
        ("{version}\n/bin/sh\nlib\n/none", "Python is gone: there is no /none"),
        ("{version}\n/bin/sh\n\n/", "/bin/sh has no shared library of Python"),
        ("{version}\n/bin/sh\n/none.so\n/", "Python's library cannot be loaded: /none.so"),
        ("{version}\n/bin/sh\nlibm.so.6\n/", "Python's library lacks a function"),
    ],
)
def test_a_python_that_will_not_do_is_refused_in_words(start, tmp_path, prints, words):
    named = tmp_path / "python"
    if prints is not None:
        text = prints.format(version="{}.{}".format(*sys.version_info))
        named.write_text(f"#!/bin/sh\ncat <<end\n{text}\nend\n" if text else "#!/bin/sh\n")
        named.chmod(0o755)
    status, found = run(start, VARFLOW_PYTHON=named).splitlines()[1].split(" ", 1)
    assert (int(status), words in found) == (NO_PYTHON, True), found


def test_a_python_that_has_no_varflow_is_refused_in_words(start, tmp_path):
    empty = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", empty], check=True)
    python = empty / "bin" / "python"
    status, words = run(start, VARFLOW_PYTHON=python, PYTHONPATH="").splitlines()[1].split(" ", 1)
    assert int(status) == NO_PYTHON
    assert words == f"varflow cannot be imported by {python}: No module named 'varflow'"


def test_a_python_that_is_gone_is_told_in_words(tmp_path, monkeypatch):
    monkeypatch.setattr(place, "place", lambda: "3.11\n/gone/bin/python\n/gone/libpython.so\n/gone/lib\n")
    moved = built(tmp_path / "lib")
    status, words = run(compiled(PROGRAMS / "start.c", moved, tmp_path)).splitlines()[1].split(" ", 1)
    assert int(status) == NO_PYTHON
    assert words.startswith("Python is gone: there is no /gone/bin/python; set VARFLOW_PYTHON to another")


# What belongs together


HEADER, MODULE = ((building.SOURCES / name).read_text() for name in ("varflow.h", "varflow.f90"))


def fields_in_c(name):
    """Names and kinds of the fields of a structure in the header."""
    body = re.search(rf"typedef struct {{([^}}]*)}} {name};", HEADER)[1]
    lines = re.findall(r"^\s*(\w+) (\w.*);", re.sub(r"/\*.*?\*/", "", body, flags=re.DOTALL), re.MULTILINE)
    kinds = {"double": ctypes.c_double, "int64_t": ctypes.c_int64, "vf_handle": ctypes.c_int64}
    return [(field, kinds[kind]) for kind, names in lines for field in names.split(", ")]


def fields_in_fortran(name):
    """The same of a type in the module."""
    body = re.search(rf"type, bind\(c\), public :: {name}\n(.*?)end type", MODULE, re.DOTALL)[1]
    lines = re.findall(r"(\w+\(\w+\)) :: (.*)", body)
    kinds = {"real(c_double)": ctypes.c_double, "integer(c_int64_t)": ctypes.c_int64}
    return [(field, kinds[kind]) for kind, names in lines for field in names.split(", ")]


@pytest.mark.parametrize(
    ("name", "figures"), [("vf_result", integrals.Figures), ("vf_evaluation", trainings.Figures)]
)
def test_structures_are_the_same_everywhere(name, figures):
    in_python = list(figures._fields_)
    assert fields_in_c(name) == in_python
    assert fields_in_fortran(name) == [(field.lower(), kind) for field, kind in in_python]


def test_header_module_and_python_agree():
    header, module = HEADER, MODULE
    version = rf"VF_ABI_VERSION (=\s*)?{entry.ABI_VERSION}\b"
    assert re.search(version, header)
    assert re.search(version, module, re.IGNORECASE)
    statuses = dict(re.findall(r"VF_(\w+) = (\d+)", header))
    in_module = dict(re.findall(r"vf_(\w+) = (\d+)", module))
    in_module.pop("abi_version")
    assert {name.lower(): number for name, number in statuses.items()} == in_module
    assert {str(status) for _, status in entry.STATUS_OF} < set(statuses.values())
    names = set(re.findall(r"^(?:int|const char \*)\s*\*?(vf_\w+)\(", header, re.MULTILINE))
    assert names == {f"vf_{name}" for name in (*entry.FUNCTIONS, "start_abi", "version", "last_error")}
    public = {name for line in re.findall(r"public :: (.*)", module) for name in line.split(", ")}
    assert (names - {"vf_start_abi"}) | {"vf_start"} <= public


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler")
def test_the_header_is_cpp_too():
    code = '#include "varflow.h"\nint main() { return vf_start(); }\n'
    command = [
        "g++",
        "-x",
        "c++",
        "-std=c++11",
        "-pedantic",
        *WARNINGS,
        f"-I{building.SOURCES}",
        "-fsyntax-only",
        "-",
    ]
    subprocess.run(command, input=code, text=True, check=True)


# Building


def test_the_command_names_what_it_wrote(tmp_path):
    if building.missing():
        pytest.skip(building.missing())
    target = tmp_path / "a folder" / "lib"
    command = [sys.executable, "-m", "varflow", "build-library", "-o", target]
    found = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    names = ("libvarflow.so", "varflow.h", "varflow.f90")
    assert found.stdout.splitlines() == [f"wrote {target / name}" for name in names]
    assert sorted(path.name for path in target.iterdir()) == sorted(names)


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("CC", "no-such-compiler -m64", "there is no C compiler no-such-compiler: install gcc"),
        ("CFLAGS", "-no-such-flag", "could not compile libvarflow.c"),
    ],
)
def test_a_compiler_that_fails_leaves_nothing(tmp_path, variable, value, words):
    command = [sys.executable, "-m", "varflow", "build-library", "-o", tmp_path]
    environment = {**os.environ, variable: value}
    process = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == 2
    assert words in process.stderr
    assert process.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_python_without_a_shared_library_is_told_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(place, "shared_library", lambda: "")
    monkeypatch.setenv("CC", sys.executable)  # which is there
    monkeypatch.setattr(building.sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(BuildError, match=r"there is no Python\.h in .*install python3-dev"):
        building.build(tmp_path / "lib")
    (tmp_path / "Python.h").touch()
    with pytest.raises(BuildError, match=r"no shared library of its own.*--enable-shared"):
        building.build(tmp_path / "lib")
    assert not (tmp_path / "lib").exists()


def test_a_full_disk_leaves_the_library_that_there_was(tmp_path):
    resource = pytest.importorskip("resource", reason="the size of files cannot be limited on this system")
    before = {}
    for name in ("libvarflow.so", "varflow.h", "varflow.f90"):
        before[name] = b"as it was"
        (tmp_path / name).write_bytes(before[name])
    command = [sys.executable, "-m", "varflow", "build-library", "-o", tmp_path]
    process = subprocess.run(
        command,
        cwd=ROOT,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)),
        check=False,
    )
    assert process.returncode == 2
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
