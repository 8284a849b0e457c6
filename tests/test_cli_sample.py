"""`varflow sample`: into files and pipes, and unweighted events."""

import io
import os
import subprocess
import sys

import numpy as np
import pytest

import varflow as vf
from varflow.cli.command import main
from varflow.integration import events as events_module

VARFLOW = [sys.executable, "-m", "varflow", "sample"]
SMALL = {"n_bins": 4, "d_hidden": 8, "n_hidden": 1, "repetitions": 1}
FUNCTIONS = """
import numpy as np


def f(x):
    return 2 * x[:, 0]


def log_f(x):
    return np.log(f(x)) - 1e4


def of_one(x):
    return 2 * x[0]


def signed(x):
    return (x[:, 0] - 0.3) * np.exp(-x[:, 0])


def divide(x):
    return 1 / 0  # the line that is named
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A flow, a result on an infinite box, functions, and points with f from the flow and from elsewhere."""
    folder = tmp_path_factory.mktemp("sample")
    flow = vf.Flow(2, "pwlinear", seed=1, **SMALL)
    flow.save(folder / "flow.npz")
    infinite = [(0, np.inf), (0, 1)]
    vf.integrate(lambda x: np.exp(-x[:, 0]), infinite, n_calls=200, seed=1).save(folder / "result.npz")
    (folder / "for_events.py").write_text(FUNCTIONS)
    x, log_q = flow.sample(3000, seed=5)
    vf.Dataset(x, logpx=log_q, fx=2 * x[:, 0]).save(folder / "own.csv")
    x = np.random.default_rng(1).random((3000, 2)) ** 0.5
    vf.Dataset(x, 4 * x.prod(axis=1), 2 * x[:, 0]).save(folder / "others.npz")
    x, log_q = vf.Result.load(folder / "result.npz").sample(3000, seed=5)
    vf.Dataset(x, np.exp(log_q), np.exp(-2 * x[:, 0]), bounds=(0, 1e6)).save(folder / "far.npz")
    return folder


@pytest.fixture(autouse=True)
def _in_folder(folder, monkeypatch):
    monkeypatch.chdir(folder)


def out_of(capsysbinary, *arguments):
    assert main(["sample", *arguments]) == 0
    return capsysbinary.readouterr()


def error_of(capsys, *arguments):
    assert main(["sample", *arguments]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


class TestStandardOutput:
    @pytest.mark.parametrize("name", ["csv", "npy"])
    @pytest.mark.parametrize("source", ["flow.npz", "result.npz"])
    def test_gets_what_a_file_gets(self, capsysbinary, tmp_path, source, name):
        path = tmp_path / f"points.{name}"
        out_of(capsysbinary, source, "-n", "1000", "--seed", "1", "-o", str(path))
        found = out_of(capsysbinary, source, "-n", "1000", "--seed", "1", "-o", "-", "--format", name)
        assert found.out == path.read_bytes()
        assert found.err == b""

    def test_is_text_unless_told_otherwise(self, capsysbinary):
        found = out_of(capsysbinary, "flow.npz", "-n", "10", "--seed", "1", "-o", "-").out
        x, logqx = vf.load_flow("flow.npz").sample(10, seed=1)
        table = np.loadtxt(io.BytesIO(found), delimiter=",", skiprows=1)
        np.testing.assert_array_equal(table, np.column_stack([x, np.exp(logqx)]))

    @pytest.mark.parametrize(
        ("name", "unweight"), [("csv", []), ("npy", ["--unweight", "for_events.py:f", "-q"])]
    )
    def test_may_be_closed_by_its_reader(self, name, unweight):
        command = [*VARFLOW, "flow.npz", "-n", "400000", "-o", "-", "--format", name, *unweight]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout.read(5)
            process.stdout.close()
            assert b"Broken" not in (told := process.stderr.read())
            assert b"Traceback" not in told
        assert process.returncode == 141  # as a shell says of head's victims

    @pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is full")
    def test_may_be_full(self):
        with open("/dev/full", "wb") as full:
            command = [*VARFLOW, "flow.npz", "-n", "100000", "-o", "-", "--format", "npy"]
            done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1] == "varflow: No space left on device"
        assert "Traceback" not in done.stderr

    def test_that_is_a_terminal_gets_no_npy(self, monkeypatch, capsys):
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
        said = error_of(capsys, "flow.npz", "-n", "10", "-o", "-", "--format", "npy")
        assert said == "varflow: standard output is a terminal, which cannot show npy: name a file for -o"

    def test_other_commands_may_be_cut_short_too(self):
        command = [sys.executable, "-m", "varflow", "evaluate", "flow.npz", "own.csv"]
        read, write = os.pipe()
        os.close(read)
        with open(write, "wb") as closed:
            done = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, text=True)
        assert (done.returncode, done.stderr) == (141, "")


class TestEvents:
    @pytest.mark.parametrize("how", [["f"], ["log_f", "--log"], ["of_one", "--scalar"]])
    def test_of_a_function(self, capsys, tmp_path, how):
        path = tmp_path / "events.npz"
        arguments = ["flow.npz", "-n", "2000", "--seed", "3", "-o", str(path)]
        name, *options = how
        assert main(["sample", *arguments, "--unweight", f"for_events.py:{name}", *options]) == 0

        def f(x):
            return np.log(2 * x[:, 0]) - 1e4 if name == "log_f" else 2 * x[:, 0]

        events = vf.generate(vf.load_flow("flow.npz"), f, 2000, seed=3, log=name == "log_f")
        with np.load(path) as file:
            np.testing.assert_array_equal(file["x"], events.x)
            np.testing.assert_array_equal(file["w"], events.w)
        assert capsys.readouterr().out == f"{events}\nwrote 2,000 events to {path}\n"

    @pytest.mark.parametrize("max_weight", ["quantile", "overweight", "bootstrap"])
    def test_of_a_result(self, capsys, tmp_path, max_weight):
        path = tmp_path / "events.npy"
        arguments = ["-n", "1000", "--seed", "3", "--max-weight", max_weight, "--epsilon", "0.01"]
        assert (
            main(["sample", "result.npz", *arguments, "-o", str(path), "--unweight", "for_events.py:signed"])
            == 0
        )
        source = vf.Result.load("result.npz")
        how = {"max_weight": max_weight, "epsilon": 0.01, "seed": 3}
        events = vf.generate(source, lambda x: (x[:, 0] - 0.3) * np.exp(-x[:, 0]), 1000, **how)
        np.testing.assert_array_equal(np.load(path), np.column_stack([events.x, events.w]))
        assert "negative events" in capsys.readouterr().out

    def test_go_into_a_pipe_with_the_table_beside_them(self, capsysbinary):
        arguments = ["flow.npz", "-n", "500", "--seed", "3", "-o", "-", "--unweight", "for_events.py:f"]
        found = out_of(capsysbinary, *arguments)
        assert found.out.startswith(b"x1,x2,w\n")
        assert found.out.count(b"\n") == 501
        assert b"unweighting efficiency" in found.err
        assert b"wrote" not in found.err

    def test_by_workers(self, tmp_path):
        one, two = tmp_path / "one.npy", tmp_path / "two.npy"
        arguments = ["flow.npz", "-n", "500", "--seed", "3", "--unweight", "for_events.py:f"]
        assert main(["sample", *arguments, "-o", str(one)]) == 0
        assert main(["sample", *arguments, "-o", str(two), "--workers", "2"]) == 0
        assert one.read_bytes() == two.read_bytes()

    def test_among_points_of_the_flow(self, capsys, tmp_path):
        path = tmp_path / "events.npz"
        assert main(["sample", "flow.npz", "-o", str(path), "--unweight", "own.csv", "--seed", "1"]) == 0
        said = capsys.readouterr().out
        flow = vf.load_flow("flow.npz")
        events = vf.unweight(vf.Dataset.read("own.csv", flow.bounds), seed=1)
        with np.load(path) as file:
            np.testing.assert_array_equal(file["x"], events.x)
        assert said == f"{events}\nwrote {len(events.x):,} events to {path}\n"

    def test_among_points_of_another_density(self, capsys, tmp_path):
        path = tmp_path / "events.csv"
        arguments = ["--unweight", "others.npz", "-n", "100", "--seed", "1"]
        assert main(["sample", "flow.npz", "-o", str(path), *arguments]) == 0
        assert "p of others.npz is not the density of flow.npz: events are chosen by f/p; of points of the " \
            "flow, " in capsys.readouterr().out  # fmt: skip
        assert path.read_text().count("\n") == 101

    def test_among_points_of_an_infinite_box(self, tmp_path):
        path = tmp_path / "events.npy"
        assert main(["sample", "result.npz", "-o", str(path), "--unweight", "far.npz", "--seed", "1"]) == 0
        assert np.load(path)[:, 0].mean() == pytest.approx(0.5, abs=0.1)

    def test_take_no_more_memory_if_there_are_more(self, monkeypatch, tmp_path):
        most = []
        monkeypatch.setattr(events_module, "MOST", 1000)
        monkeypatch.setattr("varflow.data.samples.SampleWriter.write", lambda self, x, w: most.append(len(x)))
        path = tmp_path / "events.npy"
        arguments = ["flow.npz", "-n", "5000", "-o", str(path), "--unweight", "for_events.py:f"]
        assert main(["sample", *arguments]) == 2  # as they were not written
        assert sum(most) == 5000
        assert max(most) < 1000


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["-o", "a.csv"], "-n N must be given: the number of points"),
        (["-o", "a.csv", "--unweight", "for_events.py:f"], "-n N must be given"),
        (["-n", "9", "-o", "a.txt"], "must be one of '.npz', '.csv', '.npy', got '.txt'"),
        (["-n", "9", "-o", "a.csv", "--format", "npy"], "--format is for -o -, and the extension of a.csv"),
        (["-n", "9", "-o", "-", "--format", "npz"], "must be one of 'csv', 'npy', got 'npz'"),
        (["-n", "9", "-o", "a.csv", "--epsilon", "0.1"], "--epsilon is for --unweight"),
        (["-n", "9", "-o", "a.csv", "--max-weight", "bootstrap"], "--max-weight is for --unweight"),
        (["-n", "9", "-o", "a.csv", "--log"], "--log is for --unweight"),
        (["-n", "9", "-o", "a.csv", "--unweight", "x.root"], "--unweight must be module:function or"),
        (["-n", "9", "-o", "a.csv", "--unweight", "for_events.py:g"], "there is no 'g' in for_events.py"),
        (["-n", "9", "-o", "a.csv", "--unweight", "for_events.py:f", "--kind", "cuba"], "shared library"),
        (["-n", "9", "-o", "a.csv", "--unweight", "for_events.py:divide"], "at {folder}/for_events.py:22"),
        (["-n", "9", "-o", "a.csv", "--unweight", "for_events.py:f", "--epsilon", "2"], "epsilon must be at"),
        (["-n", "9", "-o", "a.csv", "--unweight", "missing.csv"], "missing.csv: No such file"),
        (
            ["-n", "9", "-o", "a.csv", "--unweight", "own.csv", "--log"],
            "--log is for a function, and own.csv",
        ),
        (["-n", "9", "-o", "own.csv", "--unweight", "own.csv"], "own.csv cannot be two files of one command"),
        (["-n", "9", "-o", "flow.npz"], "flow.npz cannot be two files of one command"),
        (["-n", "2999", "-o", "a.csv", "--unweight", "own.csv"], "were accepted, fewer than n = 2999"),
    ],
)
def test_refused(folder, capsys, arguments, reason):
    before = sorted(os.listdir("."))
    command = [*VARFLOW[3:], "flow.npz", *arguments]
    try:
        status = main(command)
    except SystemExit as ended:  # of the parser
        status = ended.code
    assert status == 2
    assert reason.format(folder=folder) in capsys.readouterr().err
    assert sorted(os.listdir(".")) == before
