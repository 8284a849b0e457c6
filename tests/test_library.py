"""The shared library: programs in C and Fortran build, run, and find of the process what they left.

Programs are in `tests/host_programs` and `examples`. What the functions of the library do is tested from
here, by ctypes: the library then works with the Python that there is already.
"""

import ctypes
import os
import re
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pages import ROOT

import varflow as vf
from varflow.errors import BuildError
from varflow.libvarflow import build as building
from varflow.libvarflow import entry, place
from varflow.libvarflow.options import parse
from varflow.training.objective import GradientBuffers

PROGRAMS, EXAMPLES = Path(__file__).parent / "host_programs", ROOT / "examples"
SOURCES = Path(building.__file__).parent
WARNINGS = ["-O1", "-Wall", "-Wextra", "-Werror"]
OK, END, REFUSED, BAD_HANDLE, CALLBACK_FAILED, NOT_FINITE, FILE_FAILED = range(7)
NOT_STARTED, NO_PYTHON = 8, 9
PAIRS_OF_CALLS = "n_calls=100 seed=1"

needs_gfortran = pytest.mark.skipif(shutil.which("gfortran") is None, reason="there is no gfortran")


def built(folder):
    """A folder with the library, whose sources compile without a warning."""
    lack = building.missing()
    if lack:
        pytest.skip(lack)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CFLAGS", " ".join(WARNINGS))
        building.build(folder)
    return folder


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return built(tmp_path_factory.mktemp("the library") / "lib")


def compiled(source, folder, to, *options):
    """A program of a host, linked with the library."""
    program = to / source.stem
    own, compiler = [], ["cc", "-std=gnu99", "-pedantic", f"-I{folder}"]
    if source.suffix == ".f90":
        own, compiler = [folder / "varflow.f90"], ["gfortran", "-std=f2008", f"-J{to}"]
    link = [f"-L{folder}", "-lvarflow", f"-Wl,-rpath,{folder}", "-lm", "-lpthread"]
    subprocess.run([*compiler, *WARNINGS, *options, "-o", program, *own, source, *link], check=True)
    return program


def run(program, *arguments, status=0, **environment):
    """What a program prints on stdout; nothing may stand on stderr."""
    process = subprocess.run(
        [program, *arguments], cwd=program.parent, capture_output=True, text=True, timeout=120,
        env=os.environ | {name: str(value) for name, value in environment.items()}, check=False,
    )  # fmt: skip
    assert (process.returncode, process.stderr) == (status, "")
    return process.stdout


# Programs


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("host_program.c", ["-std=c99"]),
        pytest.param("host_program.f90", ["-ffpe-trap=invalid,zero,overflow"], marks=needs_gfortran),
    ],
)
def test_examples_build_and_find_the_integral(folder, tmp_path, name, options):
    program = compiled(EXAMPLES / name, folder, tmp_path, *options)
    lines = run(program).splitlines()
    assert [line.split()[0] for line in lines if "+-" in line] == ["integral", "own", "flow"]
    assert lines[0].removeprefix("integral") == lines[1].removeprefix("own loop")
    for estimate, error in re.findall(r"(\d+\.\d+) \+- (\d+\.\d+)", "\n".join(lines)):
        assert abs(float(estimate) - 1) < 5 * float(error)
        assert 0 < float(error) < 0.05
    flow = vf.load_flow(tmp_path / "peak.npz")
    assert flow.bounds.tolist() == [[-1, 1], [0, 2]]
    assert flow.log_prob([[0.2, 0.7]]) > flow.log_prob([[-0.5, 1.5]]) + 2


@needs_gfortran
def test_an_optimiser_of_the_host_s_lowers_the_loss(folder, tmp_path):
    options = ["-fcheck=all", "-ffpe-trap=invalid,zero,overflow"]
    lines = run(compiled(PROGRAMS / "optimiser.f90", folder, tmp_path, *options)).splitlines()
    version, before, after, estimates, words = lines
    assert version == vf.__version__
    assert 0.9 < float(after) < 1.2 < 3 < float(before)
    *means, first, second = map(float, estimates.split())
    assert abs(means[0] - 1 / 2) < 5 * first < 0.1
    assert abs(means[1] - 1 / 4) < 5 * second < 0.1
    assert words.startswith("2 option must be one of")
    assert words.endswith("got 'n_cals'; did you mean 'n_calls'?")


@pytest.mark.skipif(sys.platform != "linux", reason="its calls are Linux's")
def test_every_call_leaves_the_process_as_it_was(folder, tmp_path):
    program = compiled(PROGRAMS / "state.c", folder, tmp_path, "-fopenmp", "-frounding-math")
    expected = vf.integrate(lambda x: x[:, 0], 2, n_calls=100, seed=1)
    *words, estimate = run(program).split()
    assert words == ["printed", "before"]
    assert float.fromhex(estimate) == expected.mean  # whose rounding mode was another


def test_threads_of_the_host_integrate_at_once(folder, tmp_path):
    lines = run(compiled(PROGRAMS / "threads.c", folder, tmp_path)).splitlines()
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
def start(folder, tmp_path_factory):
    return compiled(PROGRAMS / "start.c", folder, tmp_path_factory.mktemp("start"))


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


def test_a_python_that_has_no_varflow_is_refused_in_words(folder, start, tmp_path):
    empty = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", empty], check=True)
    python = empty / "bin" / "python"
    status, words = run(start, VARFLOW_PYTHON=python, PYTHONPATH="").splitlines()[1].split(" ", 1)
    assert int(status) == NO_PYTHON
    assert words == f"varflow cannot be imported by {python}: No module named 'varflow'"


def test_a_python_that_is_gone_is_told_in_words(tmp_path, monkeypatch, folder):
    monkeypatch.setattr(place, "place", lambda: "3.11\n/gone/bin/python\n/gone/libpython.so\n/gone/lib\n")
    moved = built(tmp_path / "lib")
    status, words = run(compiled(PROGRAMS / "start.c", moved, tmp_path)).splitlines()[1].split(" ", 1)
    assert int(status) == NO_PYTHON
    assert words.startswith("Python is gone: there is no /gone/bin/python; set VARFLOW_PYTHON to another")


# Functions


class Library:
    """The library's functions without `vf_`, which take arrays where C takes addresses, and give statuses."""

    def __init__(self, folder):
        self.c = ctypes.CDLL(str(folder / "libvarflow.so"))
        self.c.vf_last_error.restype = ctypes.c_char_p
        for name, (_, arguments) in entry.FUNCTIONS.items():
            getattr(self.c, f"vf_{name}").argtypes = arguments
        assert self.c.vf_start_abi(entry.ABI_VERSION) == OK, self.words()

    def words(self):
        return self.c.vf_last_error().decode()

    def status(self, name, *arguments):
        given = [one.ctypes.data if isinstance(one, np.ndarray) else one for one in arguments]
        given = [ctypes.addressof(one) if isinstance(one, ctypes.Structure) else one for one in given]
        return getattr(self.c, f"vf_{name}")(*given)

    def __getattr__(self, name):
        def call(*arguments):
            assert self.status(name, *arguments) == OK, self.words()

        return call

    def handle(self, name, *arguments):
        """The handle that a function gives."""
        found = np.zeros(1, np.int64)
        getattr(self, name)(*arguments, found)
        return int(found[0])


@pytest.fixture(scope="session")
def library(folder):
    return Library(folder)


def peak(x):
    return np.exp(-0.5 * ((x - 0.4) ** 2).sum(axis=1) / 0.01)


def host_function(f, m=1):
    """An integrand as C has it, from one of arrays that returns values (n, m) or a status."""

    @ctypes.CFUNCTYPE(
        ctypes.c_int, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32, ctypes.c_void_p, ctypes.c_int32,
        ctypes.c_void_p,
    )  # fmt: skip
    def integrand(x, n, d, values, m, user):
        found = f(np.ctypeslib.as_array((ctypes.c_double * (n * d)).from_address(x)).reshape(n, d))
        if isinstance(found, int):
            return found
        np.ctypeslib.as_array((ctypes.c_double * (n * m)).from_address(values))[:] = np.ravel(found)
        return 0

    return integrand


def integrated(library, f, d, options=PAIRS_OF_CALLS, bounds=None):
    result = entry.integrals.Figures()
    function = host_function(f)
    address = ctypes.cast(function, ctypes.c_void_p).value
    return library.status("integrate", address, None, d, bounds, options.encode(), result), result


def points(n=300, d=2):
    x = np.random.default_rng(1).random((n, d))
    return x, np.ones(n), peak(x)


@pytest.fixture
def flow(library):
    handle = library.handle("flow_new", 2, None, b"n_bins=4 d_hidden=8 n_hidden=1 dtype=float64 seed=1")
    yield handle
    library.status("free", handle)


def parameters(library, flow):
    n = np.zeros(1, np.int64)
    library.n_parameters(flow, n)
    values = np.empty(n[0])
    library.get_parameters(flow, n[0], values)
    return values


def in_python(library, flow):
    """The same flow in Python, by way of a file."""
    return entry.handles.look_up(flow)


def test_an_integral_has_the_bits_of_python_s(library):
    bounds = np.array([[-1.0, 1.0], [0.0, np.inf]])

    def f(x):
        return np.exp(-np.abs(x).sum(axis=1))

    status, result = integrated(library, f, 2, bounds=bounds)
    expected = vf.integrate(f, bounds, n_calls=100, seed=1)
    assert status == OK
    for name in ("mean", "sdev", "chi2", "dof", "n_calls"):
        assert getattr(result, name) == getattr(expected, name)
    np.testing.assert_equal(result.Q, expected.Q)
    text = ctypes.create_string_buffer(4096)
    library.warnings(result.handle, len(text), ctypes.addressof(text))
    assert text.value.decode().splitlines() == list(expected.warnings)
    assert result.n_warnings == len(expected.warnings)


def test_a_checkpoint_is_gone_on_from(library, tmp_path):
    options = f"{PAIRS_OF_CALLS} checkpoint='{tmp_path}/my file'"
    n_calls = []

    def f(x):
        n_calls.append(len(x))
        return peak(x)

    whole = integrated(library, f, 5, options)
    again = integrated(library, f, 5, f"{options} resume=true")
    assert n_calls == [100]
    assert [status for status, _ in (whole, again)] == [OK, OK]
    assert whole[1].mean == again[1].mean
    assert integrated(library, f, 5, options)[0] == FILE_FAILED
    assert "my file" in library.words()


def test_several_components(library):
    def f(x):
        return np.stack([peak(x), x[:, 0]], axis=1)

    status, result = integrated(library, f, 2, f"{PAIRS_OF_CALLS} m=2")
    expected = vf.integrate(f, 2, n_calls=100, seed=1)
    mean, covariance = np.empty(2), np.empty((2, 2))
    library.mean(result.handle, 2, mean, covariance)
    assert (status, mean.tolist()) == (OK, expected.mean.tolist())
    np.testing.assert_array_equal(covariance, expected.covariance)
    assert library.status("mean", result.handle, 3, np.empty(3), np.empty((3, 3))) == REFUSED
    assert "m must be 2" in library.words()


@pytest.mark.parametrize("room", [1, 37, 1000])
def test_a_loop_of_the_host_s_has_the_bits_of_integrate(library, tmp_path, room):
    """Whatever room for points there is; and half-way the run goes through a file."""
    run, x, n_told = library.handle("run_new", 3, None, PAIRS_OF_CALLS.encode()), np.empty((room, 3)), 0
    n, file = np.array([room]), str(tmp_path / "run").encode()
    while library.status("ask", run, n, x) == OK:
        library.tell(run, n[0], peak(x[: n[0]]))
        n_told, n[0] = n_told + n[0], room
        if n_told == 37:
            library.ask(run, n, x)  # which whoever reads the file does not have
            n[0] = room
            library.save(run, file)
            library.free(run)
            run = library.handle("load", file, None)
    result = entry.integrals.Figures()
    library.run_result(run, result)
    expected = vf.integrate(peak, 3, n_calls=100, seed=1)
    assert (n_told, result.mean, result.sdev) == (expected.n_calls, expected.mean, expected.sdev)
    assert n[0] == 0


def test_a_run_takes_values_in_parts_and_no_more_than_points_are_out(library):
    run, x, n = library.handle("run_new", 2, None, b"n_calls=100"), np.empty((10, 2)), np.array([10])
    library.ask(run, n, x)
    values = peak(x)
    library.tell(run, 4, values)
    assert library.status("tell", run, 7, values) == REFUSED
    assert library.words() == "n must be at most 6, as many points are out, got 7"
    values[5] = np.nan
    assert library.status("tell", run, 6, values) == NOT_FINITE
    library.tell(run, 6, peak(x))  # nothing was taken of what was refused


def test_a_training_has_the_bits_of_python_s(library, flow):
    x, p, f = points()
    library.train(flow, len(x), x, p, f, b"n_epochs=3 seed=2 loss=dkl lr=0.01")
    twin = vf.Flow(2, n_bins=4, d_hidden=8, n_hidden=1, dtype="float64", seed=1)
    optim = vf.Adam(**vf.training.recipe.optimiser_for(len(x), twin.architecture).settings() | {"lr": 0.01})
    trainer = vf.BasicStatefulDKLTrainer(twin, n_epochs=3, seed=2, optim=optim)
    record = trainer.train_on_dataset(vf.Dataset(x, p, f))
    np.testing.assert_array_equal(parameters(library, flow), twin.params)
    text = ctypes.create_string_buffer(4096)
    library.warnings(flow, len(text), ctypes.addressof(text))
    assert text.value.decode().splitlines() == record.warnings
    sampled, log_q = np.empty((50, 2)), np.empty(50)
    library.sample(flow, 50, 3, sampled, log_q)
    for found, expected in zip((sampled, log_q), twin.sample(50, seed=3), strict=True):
        np.testing.assert_array_equal(found, expected)
    library.log_prob(flow, len(x), x, log := np.empty(len(x)))
    np.testing.assert_array_equal(log, twin.log_prob(x))
    library.sample(flow, 50, -1, sampled, log_q)
    assert not np.any(sampled == twin.sample(50, seed=3)[0])


@pytest.mark.parametrize("loss", ["variance", "dkl"])
def test_the_gradient_is_that_of_the_loss(library, flow, loss):
    x, p, f = points()
    rng = np.random.default_rng(2)
    begin = parameters(library, flow)
    begin += 0.1 * rng.standard_normal(len(begin))
    options, value, gradient = (
        f"loss={loss} control_variate=false".encode(),
        np.empty(1),
        np.empty(len(begin)),
    )

    def loss_at(shifted):
        library.set_parameters(flow, len(begin), shifted)
        library.gradient(flow, len(x), x, p, f, options, value, gradient)
        return value[0]

    direction = rng.standard_normal(len(begin))
    step = 1e-5 * direction
    difference = (loss_at(begin + step) - loss_at(begin - step)) / 2e-5
    at = loss_at(begin)
    assert gradient @ direction == pytest.approx(difference, rel=1e-6)
    twin = in_python(library, flow)
    trainer = vf.BasicTrainer(twin, loss=loss)
    assert at == pytest.approx(trainer.compute_loss(x, p, f), rel=1e-12)
    _, parts = trainer.objective(vf.Dataset(x, p, f)).gradient(
        np.arange(len(x)), GradientBuffers(twin, len(x))
    )
    library.gradient(flow, len(x), x, p, f, f"loss={loss}".encode(), value, gradient)
    np.testing.assert_allclose(gradient, parts.sum(axis=0), rtol=1e-12)


def test_files_are_python_s(library, flow, tmp_path):
    path = tmp_path / "file with blanks.npz"
    library.save(flow, str(path).encode())
    np.testing.assert_array_equal(vf.Flow.load(path).params, parameters(library, flow))
    d = np.zeros(1, np.int32)
    for kind, made in (
        ("mixture", vf.Mixture([vf.Flow(3, seed=1)], 0.1)),
        ("result", vf.integrate(lambda x: x[:, 0], 3, n_calls=100, seed=1)),
        ("run", vf.Run(3, n_calls=100)),
    ):
        made.save(path)
        loaded = library.handle("load", str(path).encode(), b"threads=1" if kind != "result" else None)
        library.dimension(loaded, d)
        assert d[0] == 3
        library.save(loaded, str(tmp_path / kind).encode())
        if kind != "run":
            x, log_q = np.empty((20, 3)), np.empty(20)
            library.sample(loaded, 20, 1, x, log_q)
            made = vf.Result.load(path) if kind == "result" else made
            np.testing.assert_array_equal(x, made.sample(20, seed=1)[0])
        library.free(loaded)


# What bad input gets


def test_f_that_fails_is_told_with_its_points(library):
    status, _ = integrated(library, lambda x: 7, 2)
    assert status == CALLBACK_FAILED
    assert re.fullmatch(
        r"f returned status 7 for 100 points, the first at \(0\.\d+, 0\.\d+\)", library.words()
    )
    status, _ = integrated(library, lambda x: np.where(x[:, 0] > 0.5, np.nan, 1.0), 2)
    assert status == NOT_FINITE
    assert "nan" in library.words()
    assert re.search(r"x = \[0\.\d+, 0\.\d+\]|\[0\.\d+ +0\.\d+\]|\(0\.\d+, 0\.\d+\)", library.words())


def test_values_that_f_does_not_set_are_refused(library):
    function = ctypes.CFUNCTYPE(ctypes.c_int, *[ctypes.c_void_p] * 6)(lambda *_: 0)
    address = ctypes.cast(function, ctypes.c_void_p).value
    result = entry.integrals.Figures()
    assert library.status("integrate", address, None, 2, None, b"n_calls=100", result) == NOT_FINITE


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("n_cals=1000", "option must be one of"),
        ("n_cals=1000", "did you mean 'n_calls'?"),
        ("n_calls", "options must be name=value between blanks, got 'n_calls'"),
        ("n_calls=1000 n_calls=2000", "option n_calls is given twice"),
        ("n_calls=many", "n_calls must be an integer, got 'many'"),
        ("n_calls=10", "n_calls"),
        ("seed='1", "cannot be read"),
        ("m=0", "m must be at least 1, got 0"),
        ("flow=pwquadr", "pwquad"),
        ("\udcff=1", "option must be one of"),
    ],
)
def test_wrong_options_are_refused(library, options, words):
    function = host_function(peak)
    address = ctypes.cast(function, ctypes.c_void_p).value
    result, text = entry.integrals.Figures(mean=5.0), options.encode(errors="surrogateescape")
    assert library.status("integrate", address, None, 2, None, text, result) == REFUSED
    assert words in library.words()
    assert (result.mean, result.handle) == (5.0, 0)


FILLED = np.ones(400)
WRONG = [
    ("integrate", (None, None, 2, None, None, FILLED), "f must not be a null pointer"),
    ("integrate", (1, None, 2, None, None, None), "result must not be a null pointer"),
    ("integrate", (1, None, 0, None, None, FILLED), "d must be at least 1, got 0"),
    ("integrate", (1, None, -3, None, None, FILLED), "d must be at least 1, got -3"),
    ("integrate", (1, None, 2, FILLED, None, FILLED), "lower must be below upper"),
    ("run_new", (2, None, None, None), "run must not be a null pointer"),
    ("flow_new", (-1, None, None, FILLED.view(np.int64)), "d must be at least 1, got -1"),
    ("flow_new", (2, None, b"n_bin=4", FILLED.view(np.int64)), "did you mean 'n_bins'?"),
    ("flow_new", (2, None, b"d_hidden=-4", FILLED.view(np.int64)), "d_hidden"),
    ("train", ("flow", 100, None, FILLED, FILLED, None), "x must not be a null pointer"),
    ("train", ("flow", -100, FILLED, FILLED, FILLED, None), "n must be at least 1, got -100"),
    ("train", ("flow", 2**62, FILLED, FILLED, FILLED, None), "x cannot have shape"),
    ("train", ("flow", 100, FILLED, -FILLED, FILLED, None), "px must be"),
    ("train", ("flow", 100, FILLED * np.nan, FILLED, FILLED, None), "x must be finite"),
    ("train", ("flow", 100, FILLED, FILLED, FILLED, b"lr=-1"), "lr"),
    ("gradient", ("flow", 100, FILLED, FILLED, FILLED, b"loss=l2", FILLED, FILLED), "loss"),
    (
        "gradient",
        ("flow", 100, FILLED, FILLED, FILLED, None, None, FILLED),
        "loss must not be a null pointer",
    ),
    ("sample", ("flow", 0, 1, FILLED, FILLED), "n must be at least 1, got 0"),
    ("sample", ("flow", 10, 1, FILLED, None), "log_q must not be a null pointer"),
    ("log_prob", ("flow", 10, 2 * FILLED, FILLED), "x must lie within bounds"),
    ("set_parameters", ("flow", 3, FILLED), "n must be"),
    ("get_parameters", ("flow", -3, FILLED), "n must be"),
    ("n_parameters", ("flow", None), "n must not be a null pointer"),
    ("dimension", ("flow", None), "d must not be a null pointer"),
    ("warnings", ("flow", 0, FILLED), "size must be at least 1 for this text, got 0"),
    ("save", ("flow", None), "path must be the name of a file, got a null pointer"),
    ("save", ("flow", b""), "path must be the name of a file"),
    ("load", (None, None, FILLED), "path must be the name of a file"),
]


@pytest.mark.parametrize(("name", "arguments", "words"), WRONG)
def test_wrong_arguments_are_refused(library, flow, name, arguments, words):
    before = FILLED.copy()
    given = [flow if isinstance(one, str) else one for one in arguments]
    assert library.status(name, *given) == REFUSED
    assert words in library.words()
    np.testing.assert_array_equal(FILLED, before)


@pytest.mark.parametrize(
    "name", [name for name, (_, kinds) in entry.FUNCTIONS.items() if kinds[0] is entry.HANDLE]
)
def test_a_handle_that_was_freed_is_a_status(library, name):
    kinds = entry.FUNCTIONS[name][1][1:]
    rest = [FILLED if kind in (entry.ADDRESS,) else 1 if kind is not entry.TEXT else b"" for kind in kinds]
    freed = library.handle("flow_new", 2, None, None)
    library.free(freed)
    for handle, words in (
        (freed, "was freed"),
        (0, "is no handle"),
        (-5, "is no handle"),
        (2**60, "is no handle"),
    ):
        assert library.status(name, handle, *rest) == BAD_HANDLE
        assert words in library.words()


BUFFER = np.ones(100_000)  # more than anything below writes
NUMBERS = st.sampled_from([-(2**31), -1, 0, 1, 2, 3])
CHOICES = {
    entry.INTEGER: NUMBERS,
    entry.LONG: NUMBERS,
    entry.ADDRESS: st.sampled_from([None, BUFFER, BUFFER]),
    entry.TEXT: st.sampled_from([None, b"", b"seed=1", b"n_epochs=1", b"loss=dkl", b"seed", b"\xff"]),
}


@contextmanager
def in_another_folder():
    """Work in a temporary folder: text may be the name of a file."""
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(before)


@given(st.data())
def test_any_arguments_are_taken_or_refused_with_words(library, data):
    flow = library.handle("flow_new", 2, None, b"n_bins=4 d_hidden=8 n_hidden=1")
    name = data.draw(st.sampled_from([name for name in entry.FUNCTIONS if name not in ("integrate", "free")]))
    arguments = [data.draw(CHOICES[kind]) for kind in entry.FUNCTIONS[name][1]]
    if entry.FUNCTIONS[name][1][0] is entry.HANDLE:
        arguments[0] = data.draw(st.sampled_from([flow, -1, 0]))
    BUFFER[:] = 1.0
    with in_another_folder():
        status = library.status(name, *arguments)
    assert status in (OK, REFUSED, BAD_HANDLE, FILE_FAILED)
    assert status == OK or library.words()
    library.free(flow)


def test_a_handle_of_another_kind_is_a_status(library, flow):
    run = library.handle("run_new", 2, None, None)
    assert library.status("log_prob", run, 1, FILLED, FILLED) == BAD_HANDLE
    assert library.words() == f"handle {run} must be that of a flow or a mixture, found a run"
    assert library.status("tell", flow, 1, FILLED) == BAD_HANDLE


def test_files_that_cannot_be_used_are_told_by_name(library, flow, tmp_path):
    handle = np.zeros(1, np.int64)
    (tmp_path / "damaged.npz").write_bytes(b"PK no more")
    (tmp_path / "folder").mkdir()
    for name in ("none.npz", "damaged.npz", "folder"):
        assert library.status("load", str(tmp_path / name).encode(), None, handle) == FILE_FAILED
        assert name in library.words()
    for name in ("folder", "none/flow.npz"):
        assert library.status("save", flow, str(tmp_path / name).encode()) == FILE_FAILED
        assert name in library.words()
    assert handle[0] == 0


def test_a_header_of_another_version_is_refused(library):
    assert library.c.vf_start_abi(entry.ABI_VERSION + 1) == 10
    assert library.words().startswith(f"varflow.h has ABI {entry.ABI_VERSION + 1}, libvarflow.so has")


def test_a_library_of_another_version_is_refused():
    table = entry.Python(abi_version=entry.ABI_VERSION + 1)
    with pytest.raises(RuntimeError, match=r"has ABI \d+, the varflow in .* run varflow build-library again"):
        entry.connect(ctypes.addressof(table), True)
    assert not table.integrate


class TestOptions:
    @given(
        st.dictionaries(
            st.sampled_from(["a", "b", "c"]),
            st.integers() | st.floats(allow_nan=False) | st.booleans() | st.none() | st.just("a b=c"),
        ),
        st.sampled_from(["=", " = ", "=  "]),
    )
    def test_are_what_was_written(self, options, equals):
        text = "  ".join(f"{name}{equals}'{value}'" for name, value in options.items())
        assert parse(text.replace(" = c", "=c").encode(), ["a", "b", "c"]) == options

    @given(st.binary(max_size=30))
    def test_of_any_bytes_are_read_or_refused(self, text):
        found = {}
        with suppress(ValueError):
            found = parse(text, ["a", "b"])
        assert set(found) <= {"a", "b"}


# What belongs together


def test_header_module_and_python_agree(folder):
    header, module = (folder / "varflow.h").read_text(), (folder / "varflow.f90").read_text()
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
def test_the_header_is_cpp_too(folder):
    code = '#include "varflow.h"\nint main() { return vf_start(); }\n'
    command = ["g++", "-x", "c++", "-std=c++11", "-pedantic", *WARNINGS, f"-I{folder}", "-fsyntax-only", "-"]
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


def test_a_full_disk_leaves_the_library_that_there_was(folder, tmp_path):
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
