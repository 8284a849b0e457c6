"""`varflow integrate`, as a user meets it: functions in files and modules, and their errors."""

import errno
import json
import math
import os
import pickle
import re
import signal
import subprocess
import sys

import numpy as np
import pytest

import varflow as vf
from varflow.cli.command import main
from varflow.cli.functions import function_error, load_function

VARFLOW = [sys.executable, "-m", "varflow", "integrate"]
CALLS = ["--calls", "40000"]
SIZES = {"n_bins": 8, "d_hidden": 16, "n_hidden": 1, "repetitions": 1}
QUICK = [*CALLS, *(f"--{name.replace('_', '-')}={size}" for name, size in SIZES.items())]
FUNCTIONS = """
import os
import sys
import time

import numpy as np
from helper import scale

calls = 0
three = 3


def f(x):
    return scale * np.exp(-10 * ((x - 0.4) ** 2).sum(axis=1))


def gauss(x):
    return np.exp(-(x**2).sum(axis=1))


def vector(x):
    return np.stack([x[:, 0], x.prod(axis=1)], axis=1)


def table(x):
    return {"one": x[:, 0], "two": vector(x)}


def point(x):
    assert x.ndim == 1
    return x[0]


def zero(x):
    return np.zeros(len(x))


def sometimes_nan(x):
    return np.where(x[:, 0] < 0.01, np.nan, x[:, 0])


def at_once(x):
    return {}["missing"]


def later(x):
    global calls
    calls += 1
    return divide(x) if calls > 3 else f(x)


def divide(x):
    return 1 / 0  # the line that is named


def in_numpy(x):
    return np.linalg.inv(np.zeros((2, 2)))


def at_length(x):
    raise ValueError("first line\\nsecond line " + 5000 * "x")


class OddError(Exception):
    def __init__(self, one, two):
        super().__init__(one)


def odd(x):
    raise OddError("odd", 2)


def dies(x):
    os._exit(3)


def slow(x):
    print("called", flush=True)
    time.sleep(0.05)
    return f(x)


class Family:
    def method(self, x):
        return f(x)


member = Family()
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with functions, that the test runs in; what is imported is forgotten after it."""
    (tmp_path / "functions.py").write_text(FUNCTIONS)
    (tmp_path / "helper.py").write_text("scale = 1.0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    known = {*sys.modules}
    yield tmp_path
    for name in {*sys.modules} - known:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", None)):
            del sys.modules[name]


def run(*arguments, **options):
    command = [*VARFLOW, *map(str, arguments)]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=100, **options
    )


def lines_of(capsys, *arguments):
    """The lines on stderr of a command that is refused."""
    try:
        status = main(["integrate", *map(str, arguments)])
    except SystemExit as exit:
        status = exit.code
    assert status == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert all(line.startswith("varflow: ") for line in lines)
    return lines


def error_of(capsys, *arguments):
    (line,) = lines_of(capsys, *arguments)
    return line


def json_of(capsys, *arguments):
    assert main(["integrate", *map(str, arguments), *QUICK, "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return json.loads(captured.out, parse_constant=pytest.fail)


def place(folder, code):
    """Where a line of the functions is, as errors tell it."""
    (number,) = [number for number, line in enumerate(FUNCTIONS.splitlines(), 1) if line.strip() == code]
    return f"{folder / 'functions.py'}:{number}"


def exact(n):
    side = math.sqrt(math.pi / 10) / 2 * (math.erf(0.6 * math.sqrt(10)) + math.erf(0.4 * math.sqrt(10)))
    return side**n


def is_near(mean, sdev, expected):
    return abs(mean - expected) < 6 * sdev < 0.1 * abs(expected)


class TestOutput:
    def test_a_process_prints_a_table_and_the_result_and_writes_files(self, folder):
        process = run("functions:f", "--dim", 3, *QUICK, "-o", "result.npz", "--flow-out", "flow.npz")
        assert (process.returncode, process.stderr) == (0, "")
        *table, dof, shape, missed, result, seconds, wrote, wrote_flow = process.stdout.splitlines()
        assert dof.startswith("the error is that of Student's t with ")
        assert shape.startswith("Pareto shape of the weights: k = ")
        assert missed.startswith("a region that fills less than ")
        assert table[0].split()[:3] == ["itn", "stage", "integral"]
        assert table[-1].startswith("total")
        assert seconds.startswith("seconds ")
        assert (wrote, wrote_flow) == ("wrote result.npz", "wrote flow.npz")
        loaded = vf.Result.load("result.npz")
        assert result == f"result = {loaded}"
        assert is_near(loaded.mean, loaded.sdev, exact(3))
        assert np.array_equal(vf.Flow.load("flow.npz").params, loaded.flow.params)
        assert loaded.flow.architecture.cell == "pwquad"
        assert {path.name for path in folder.iterdir()} == {
            "functions.py", "helper.py", "result.npz", "flow.npz",
        }  # fmt: skip

    def test_a_process_with_workers_and_a_file_elsewhere(self, folder, tmp_path_factory, capsys):
        elsewhere = tmp_path_factory.mktemp("elsewhere")
        function = [f"{folder / 'functions.py'}:member.method", "--dim", 2]
        process = run(*function, *QUICK, "--json", "--workers", 2, cwd=elsewhere)
        figures = json.loads(process.stdout)
        assert process.stderr == ""
        assert is_near(figures["mean"], figures["sdev"], exact(2))
        assert figures["mean"] == json_of(capsys, *function)["mean"]
        assert list(elsewhere.iterdir()) == []

    def test_json_of_a_number(self, folder, capsys):
        figures = json_of(capsys, "functions.py:f", "--dim", 2)
        assert list(figures) == [
            "mean", "sdev", "error_dof", "chi2", "dof", "Q", "n_calls", "ess", "k", "resolution", "n_invalid",
            "notes", "warnings", "seconds",
        ]  # fmt: skip
        f = load_function("functions.py:f")
        result = vf.integrate(f, 2, n_calls=40_000, seed=0, flow_options=SIZES)
        for name in ("mean", "sdev", "error_dof", "chi2", "dof", "Q", "n_calls", "ess", "n_invalid"):
            assert figures[name] == getattr(result, name)
        assert figures["seconds"] > 0

    def test_in_a_given_time(self, folder, capsys):
        figures = json_of(capsys, "functions.py:f", "--dim", 2, "--seconds", 0.2)
        assert figures["n_calls"] >= 32
        assert "of 0.2 s" in figures["notes"][-1]

    @pytest.mark.parametrize("others", [("--deterministic",), ("--checkpoint", "run.ckpt")])
    def test_a_time_is_refused_with_what_promises_bits(self, folder, capsys, others):
        assert main(["integrate", "functions.py:f", "--dim", "2", "--seconds", "1", *others]) == 2
        assert "ends by the clock" in capsys.readouterr().err
        assert main(["start", "run.vf", "--dim", "2", "--seconds", "1"]) == 2
        assert "a run does not know when values come back" in capsys.readouterr().err

    def test_json_of_an_array_and_of_a_dict(self, folder, capsys):
        figures = json_of(capsys, "functions.py:vector", "--dim", 2)
        assert figures["mean"] == pytest.approx([0.5, 0.25], rel=0.02)
        figures = json_of(capsys, "functions.py:table", "--dim", 2)
        assert list(figures["mean"]) == list(figures["sdev"]) == ["one", "two"]
        assert figures["mean"]["two"] == pytest.approx([0.5, 0.25], rel=0.02)

    def test_json_has_null_for_nan(self, folder, capsys):
        figures = json_of(capsys, "functions.py:gauss", "--dim", 1, "--rtol", "0.1")
        assert figures["dof"] == 0  # one iteration reaches this
        assert figures["Q"] is None

    def test_warnings(self, folder, capsys):
        assert main(["integrate", "functions.py:zero", "--dim", "1", *QUICK]) == 0
        captured = capsys.readouterr()
        assert "result = 0 ± inf\n" in captured.out
        assert "warning" not in captured.out
        lines = captured.err.splitlines()
        assert all(line.startswith("varflow: warning: ") for line in lines)
        assert any("f was zero at all" in line for line in lines)
        assert any(
            "f was zero at all" in line
            for line in json_of(capsys, "functions.py:zero", "--dim", 1)["warnings"]
        )

    @pytest.mark.parametrize("lost", ["result", "flow"])
    def test_a_file_that_cannot_be_written_takes_nothing_else_along(self, folder, lost, monkeypatch, capsys):
        def full(self, path):
            raise OSError(errno.ENOSPC, "No space left on device", path)

        monkeypatch.setattr({"result": vf.Result, "flow": vf.Flow}[lost], "save", full)
        files = ["-o", "result.npz", "--flow-out", "flow.npz"]
        assert main(["integrate", "functions.py:f", "--dim", "2", *QUICK, *files]) == 2
        captured = capsys.readouterr()
        (other,) = {"result", "flow"} - {lost}
        assert "result = 0.2" in captured.out
        assert captured.out.endswith(f"wrote {other}.npz\n")
        assert f"wrote {lost}.npz" not in captured.out
        assert captured.err == f"varflow: {lost}.npz: No space left on device\n"
        assert (folder / f"{other}.npz").exists()

    def test_help_has_an_example(self, capsys):
        with pytest.raises(SystemExit) as exit:
            main(["integrate", "--help"])
        assert exit.value.code == 0
        out = capsys.readouterr().out
        assert "example: varflow integrate" in out
        assert "--bounds -inf,inf" in out
        assert "(default: 400000)" in out


class TestOptions:
    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            (["--dim", 2], (math.sqrt(math.pi) / 2 * math.erf(1)) ** 2),
            (["--dim", 2, "--bounds=-inf,inf"], math.pi),
            (["--bounds", "-inf,inf"], math.sqrt(math.pi)),
            (["--bounds", "0,inf,-inf,0"], math.pi / 4),
            (["--dim", 2, "--bounds=-inf,0,0,inf"], math.pi / 4),
        ],
    )
    def test_bounds(self, options, expected, folder, capsys):
        figures = json_of(capsys, "functions.py:gauss", *options)
        assert is_near(figures["mean"], figures["sdev"], expected)

    def test_a_function_of_one_point(self, folder, capsys):
        assert json_of(capsys, "functions.py:point", "--dim", 1, "--scalar")["mean"] == pytest.approx(
            0.5, rel=0.02
        )

    def test_values_that_are_not_finite(self, folder, capsys):
        figures = json_of(capsys, "functions.py:sometimes_nan", "--dim", 1, "--on-invalid", "zero")
        assert figures["n_invalid"] > 0
        line = lines_of(capsys, "functions.py:sometimes_nan", "--dim", 1, *QUICK)[0]
        assert line.startswith("varflow: f is nan at x = [0.00")

    def test_seed_cell_threads_and_tolerance(self, folder, capsys):
        function = ["functions.py:f", "--dim", "2"]
        one = json_of(capsys, *function, "--seed", 1, "--threads", 1)
        two = json_of(capsys, *function, "--seed", 1, "--threads", 2)
        assert one["mean"] == two["mean"]
        assert one["mean"] != json_of(capsys, *function, "--seed", 2)["mean"]
        figures = json_of(capsys, *function, "--rtol", "0.02")
        assert figures["n_calls"] < 40_000
        assert figures["sdev"] < 0.02 * figures["mean"]
        figures = json_of(capsys, *function, "--atol", "0.01")
        assert figures["sdev"] < 0.01
        assert main(["integrate", *function, *QUICK, "--cell", "pwlinear", "--flow-out", "flow"]) == 0
        assert vf.Flow.load("flow").architecture.cell == "pwlinear"


class TestRefused:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ([], "arguments are required: FUNCTION"),
            (["functions:f"], "needs --dim N, or --bounds"),
            (["functions:f", "--dim", "0"], "number of dimensions, at least 1, found 0"),
            (["functions:f", "--dim", "two"], "--dim: needs a whole number, got 'two'"),
            (["functions:f", "--dim", "3", "--bounds", "0,1,0,1"], "one for each of 3 dimensions, got 2"),
            (["functions:f", "--bounds", "0,1,2"], "needs pairs LOWER,UPPER, got 3 numbers"),
            (["functions:f", "--bounds", "0;1"], "--bounds: needs numbers between commas, got '0;1'"),
            (["functions:f", "--bounds", "1,0"], "lower must be below upper"),
            (["functions:f", "--bounds", "0,nan"], "bounds must not be NaN"),
            (["functions:f", "--bounds", "-inf"], "--bounds: needs pairs LOWER,UPPER, got 1 numbers"),
            (["functions:f", "--dim", "2", "--calls", "10"], "n_calls must be at least"),
            (["functions:f", "--dim", "2", "--rtol", "-1"], "rtol must be at least 0 and finite"),
            (["functions:f", "--dim", "2", "--workers", "0"], "workers must be -1, or 1 and more, found 0"),
            (["functions:f", "--dim", "2", "--threads", "0"], "threads must be at least 1, got 0"),
            (["functions:f", "--dim", "2", "--cell", "pwquadr"], "did you mean 'pwquad'?"),
            (["functions:f", "--dim", "2", "--on-invalid", "zeros"], "did you mean 'zero'?"),
            (["functions:f", "--dim", "2", "-o", "no/folder/r"], "cannot write to the folder of no/folder/r"),
            (["functions:f", "--dim", "2", "-o", "r", "--flow-out", "./r"], "./r cannot be two files"),
            (["functions.py", "--dim", "2"], "must be module:function or path/to/file.py:function"),
            (["functions:", "--dim", "2"], "must be module:function or path/to/file.py:function"),
            (["missing:f", "--dim", "2"], "No module named 'missing'"),
            (["functions.sub:f", "--dim", "2"], "No module named 'functions.sub'"),
            (["missing.py:f", "--dim", "2"], "missing.py: No such file or directory"),
            (["../missing/folder:f", "--dim", "2"], "missing/folder: No such file or directory"),
            (["functions:gaus", "--dim", "2"], "there is no 'gaus' in functions; did you mean 'gauss'?"),
            (["functions.py:member.metod", "--dim", "2"], "a Family of functions.py; did you mean 'method'"),
            (["functions:three", "--dim", "2"], "functions:three is not callable, it is of type int"),
            (["functions:point", "--dim", "1"], "f raised AssertionError at "),
            (["functions:vector", "--dim", "1", "--scalar"], "IndexError: too many indices"),
        ],
    )  # fmt: skip
    def test_refused(self, arguments, message, folder, capsys):
        assert message in error_of(capsys, *arguments)
        assert {path.name for path in folder.iterdir()} == {"functions.py", "helper.py"}

    @pytest.mark.parametrize(
        ("code", "message"),
        [
            ("import json\n1 / 0\n", "raised ZeroDivisionError: division by zero at {}:2"),
            ("def f(x:\n", "raised SyntaxError: '(' was never closed (broken.py, line 1) at {}:1"),
            ("\nimport not_there\n", "raised ModuleNotFoundError: No module named 'not_there' at {}:2"),
            ("import sys\nsys.exit('no arguments')\n", "raised SystemExit: no arguments at {}:2"),
        ],
    )
    def test_a_module_that_cannot_be_imported(self, code, message, folder, capsys):
        path = folder / "broken.py"
        path.write_text(code)
        expected = message.format(path)
        assert error_of(capsys, "broken:f", "--dim", 1) == f"varflow: importing broken {expected}"
        assert error_of(capsys, "broken.py:f", "--dim", 1) == f"varflow: importing broken.py {expected}"
        assert "broken" not in sys.modules


class TestFlow:
    def test_that_was_written_is_taken_up(self, folder, capsys):
        command = ["integrate", "functions.py:f", "--dim", "2", *CALLS]
        assert main([*command, "--flow-out", "flow.npz", "--n-bins", "5", "--repetitions", "3"]) == 0
        flow = vf.Flow.load("flow.npz")
        assert (flow.architecture.n_bins, flow.architecture.repetitions) == (5, 3)
        assert main([*command, "--flow-in", "flow.npz", "--flow-out", "again.npz"]) == 0
        assert vf.Flow.load("again.npz").architecture == flow.architecture
        assert "result = 0.2" in capsys.readouterr().out

    @pytest.mark.parametrize("option", [["--n-bins", "5"], ["--cell", "rqs"], ["--masking", "maximal"]])
    def test_that_is_read_has_its_own_architecture(self, folder, option, capsys):
        vf.Flow(2, seed=1).save("flow.npz")
        command = ["integrate", "functions.py:f", "--dim", "2", *CALLS, "--flow-in", "flow.npz"]
        assert main([*command, *option]) == 2
        assert f"{option[0]}: for a flow that is made here" in capsys.readouterr().err

    def test_of_another_dimension_is_refused(self, folder, capsys):
        vf.Flow(3, seed=1).save("flow.npz")
        assert main(["integrate", "functions.py:f", "--dim", "2", "--flow-in", "flow.npz"]) == 2
        assert "d is 2, but the flow has d = 3" in capsys.readouterr().err


class TestErrorsOfTheFunction:
    def test_at_once(self, folder, capsys):
        where = place(folder, 'return {}["missing"]')
        line = error_of(capsys, "functions.py:at_once", "--dim", 2)
        assert line == f"varflow: f raised KeyError: 'missing' at {where}"

    def test_later_in_a_process_the_estimate_is_told_and_files_survive(self, folder):
        (folder / "result.npz").write_text("precious")
        process = run("functions:later", "--dim", 2, *QUICK, "-o", "result.npz", "--flow-out", "flow.npz")
        error, estimate = process.stderr.splitlines()
        where = place(folder, "return 1 / 0  # the line that is named")
        assert process.returncode == 2
        assert process.stdout == ""
        assert error == f"varflow: f raised ZeroDivisionError: division by zero at {where}"
        assert estimate.startswith("varflow: after 4,096 calls the estimate was 0.2")
        assert (folder / "result.npz").read_text() == "precious"
        assert {path.name for path in folder.iterdir()} == {"functions.py", "helper.py", "result.npz"}

    def test_where_is_in_the_file_of_the_user(self, folder, capsys):
        where = place(folder, "return np.linalg.inv(np.zeros((2, 2)))")
        line = error_of(capsys, "functions.py:in_numpy", "--dim", 2)
        assert line == f"varflow: f raised LinAlgError: Singular matrix at {where}"

    def test_a_function_of_a_package_is_told_without_a_file(self, folder, capsys):
        line = error_of(capsys, "operator:itemgetter.__call__", "--dim", 2)
        assert line.startswith("varflow: f raised TypeError: ")
        assert " at " not in line

    def test_a_long_message_is_cut(self, folder, capsys):
        line = error_of(capsys, "functions.py:at_length", "--dim", 2)
        assert line.startswith("varflow: f raised ValueError: first line second line xxx")
        assert "xxx ... xxx" in line
        assert len(line) < 1000

    @pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
    def test_in_worker_processes(self, folder, capsys):
        line = error_of(capsys, "functions.py:at_once", "--dim", 2, "--workers", 2)
        where = place(folder, 'return {}["missing"]')
        assert line == f"varflow: f raised KeyError: 'missing' at {where}"

    @pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
    def test_one_that_cannot_leave_a_worker(self, folder, capsys):
        line = error_of(capsys, "functions.py:odd", "--dim", 2, "--workers", 2)
        assert "OddError: odd" in line
        assert line.endswith(place(folder, 'raise OddError("odd", 2)'))

    def test_a_runtime_error_of_something_else_is_not_told_as_one_of_a_worker(self):
        assert function_error(RuntimeError("signals can be handled in the main thread only")) is None

    def test_a_worker_that_dies_in_a_run_with_a_checkpoint(self, folder):
        """Workers do not stop at SIGTERM there, and have to be ended otherwise."""
        process = run("functions.py:dies", "--dim", 2, "--workers", 2, "--checkpoint", "run.ckpt")
        assert process.returncode == 2
        assert "a worker process ended with exit status 3 while it called f" in process.stderr

    def test_a_worker_that_dies(self, folder):
        process = run("functions.py:dies", "--dim", 2, "--workers", 2)
        (line,) = process.stderr.splitlines()
        assert process.returncode == 2
        assert re.fullmatch(
            r"varflow: a worker process ended with exit status 3 while it called f with x of shape "
            r"\(\d+, 2\), first point \[0\.\d+, 0\.\d+\]",
            line,
        )

    def test_interrupt_tells_the_estimate_and_leaves_files(self, folder):
        (folder / "result.npz").write_text("precious")
        command = [*VARFLOW, "functions.py:slow", "--dim", "2", "--calls", "10000000", "-o", "result.npz"]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(3):  # the first call is an iteration of its own
            assert process.stdout.readline() == "called\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 130
        interrupted, estimate = err.splitlines()[-2:]
        assert interrupted == "varflow: interrupted; no file was written"
        assert estimate.startswith("varflow: after 4,096 calls the estimate was 0.2")
        assert (folder / "result.npz").read_text() == "precious"
        assert len([*folder.glob("*.npz"), *folder.glob(".varflow*")]) == 1


class TestLoading:
    def test_a_module_of_the_same_name_stays(self, folder):
        (folder / "json.py").write_text("def f(x):\n    return 1\n")
        f = load_function("json.py:f")
        assert sys.modules["json"] is json
        assert sys.modules[f.__module__].f is f
        assert f.__module__ == "json_"

    @pytest.mark.parametrize("name", ["two-words.py", "3d.py", "a.b.py", "no_extension"])
    def test_any_name_of_a_file_can_be_pickled(self, name, folder):
        (folder / name).write_text("def f(x):\n    return 5\n")
        f = load_function(f"./{name}:f")
        assert pickle.loads(pickle.dumps(f)) is f

    def test_ctrl_c_in_a_file_is_ctrl_c(self, folder):
        (folder / "interrupted.py").write_text("raise KeyboardInterrupt\n")
        with pytest.raises(KeyboardInterrupt):
            load_function("interrupted.py:f")
        assert "interrupted" not in sys.modules

    def test_a_file_runs_once_and_not_as_main(self, folder, capsys):
        (folder / "prints.py").write_text("print(__name__)\nf = abs\n")
        assert load_function("prints.py:f") is abs
        assert capsys.readouterr().out == "prints\n"
