"""Runs by files: any program asks for points and tells values, several at once, and some are killed."""

import gzip
import json
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle

import numpy as np
import pytest
from filelock import FileLock
from test_integrator import peak
from test_resume import figures

import varflow as vf
from varflow.cli.command import main

SMALL = {"n_bins": 8, "d_hidden": 16, "n_hidden": 1, "repetitions": 1}
START = ["start", "run", "--dim", "2", "--calls", "40000", "--seed", "1", "--n-bins", "8", "--d-hidden", "16"]
START += ["--n-hidden", "1", "--repetitions", "1"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with a run that has just begun."""
    monkeypatch.chdir(tmp_path)
    assert main(START) == 0
    return tmp_path


def evaluate(points, values, columns="index,f", f=peak, rows=slice(None)):
    """What a program does: read points, write values."""
    table = np.loadtxt(points, delimiter=",", skiprows=1, ndmin=2)[rows]
    x = table[:, 1:]
    parts = {"index": table[:, 0].astype(int), "x1": x[:, 0], "x2": x[:, 1], "f": f(x)}
    with open(values, "w") as file:
        file.write(columns + "\n")
        for row in zip(*(parts[name].tolist() for name in columns.split(",")), strict=True):
            file.write(",".join(map(repr, row)) + "\n")


def go_through(*forms):
    """Drive the run to its end, with the columns of files of values in turn."""
    forms = cycle(forms or ["index,f"])
    while (status := main(["ask", "run", "-o", "points.csv"])) == 0:
        evaluate("points.csv", "values.csv", next(forms))
        assert main(["tell", "run", "values.csv"]) == 0
    return status


class TestLoop:
    def test_ends_with_the_bits_of_integrate(self, folder, capsys):
        assert go_through("index,f", "x1,x2,f", "f,x2,index,x1") == 1
        assert "the run has ended: varflow result run" in capsys.readouterr().err
        assert main(["status", "run"]) == 0
        out = capsys.readouterr().out
        assert "done" in out
        assert "40,000" in out
        assert "0.104" in out
        assert main(["result", "run", "-o", "result.npz", "--flow-out", "flow.npz"]) == 0
        whole = vf.integrate(peak, 2, n_calls=40_000, seed=1, flow_options=SMALL)
        assert figures(vf.Result.load("result.npz")) == figures(whole)
        assert f"result = {whole}" in capsys.readouterr().out
        np.testing.assert_array_equal(vf.Flow.load("flow.npz").params, whole.flow.params)

    def test_status_at_the_start(self, folder, capsys):
        capsys.readouterr()
        assert main(["status", "run", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found == {"stage": "survey", "told": 0, "calls": 40000, "out": 0, "iterations": 0,
                         "mean": None, "sdev": None}  # fmt: skip
        assert main(["result", "run"]) == 2
        assert "no estimate yet: 0 of 40,000 values are told, 0 are out" in capsys.readouterr().err

    def test_parts_that_several_files_hold(self, folder, capsys):
        assert main(["ask", "run", "-n", "10", "-o", "points.csv"]) == 0
        evaluate("points.csv", "a.csv", rows=slice(0, 4))
        evaluate("points.csv", "b.csv", rows=slice(4, 7))
        capsys.readouterr()
        assert main(["tell", "run", "b.csv", "a.csv"]) == 0
        assert capsys.readouterr().out == "7 values taken, 7 of 40,000 told, 3 out\n"
        assert main(["ask", "run", "--again"]) == 0
        assert [line.split(",")[0] for line in capsys.readouterr().out.split()] == ["index", "7", "8", "9"]
        assert main(["forget", "run", "points.csv"]) == 2
        assert "points[0] is number 0, which was told already" in capsys.readouterr().err
        assert main(["forget", "run"]) == 0
        assert capsys.readouterr().out == "3 points forgotten, 7 of 40,000 told, 0 out\n"

    def test_nothing_to_give_yet(self, folder, capsys):
        assert main(["ask", "run", "-o", "points.csv"]) == 0
        assert main(["ask", "run", "-o", "more.csv"]) == 75
        assert "points of this round are out: tell their values first" in capsys.readouterr().err
        assert not os.path.exists("more.csv")

    def test_pipes(self, folder):
        script = (
            "import sys\n"
            "for line in sys.stdin:\n"
            "    index, *x = line.split(',')\n"
            "    print('index f' if index == 'index' else f'{index} {float(x[0]):.17g}'.replace('e', 'D'))\n"
        )
        command = [sys.executable, "-m", "varflow"]
        asked = subprocess.run([*command, "ask", "run", "-n", "20"], capture_output=True, check=True)
        told = subprocess.run(
            [sys.executable, "-c", script], input=asked.stdout, capture_output=True, check=True
        )
        found = subprocess.run(
            [*command, "tell", "run", "-"], input=told.stdout, capture_output=True, text=False
        )
        assert found.returncode == 0, found.stderr
        assert found.stdout.startswith(b"20 values taken")


class TestMistakes:
    @pytest.mark.parametrize(
        ("text", "match"),
        [
            ("index,f\n0,1\n99,1\n", r"values.csv: points\[1\] is number 99, which was never asked for"),
            ("index,f\n0,1\n0,1\n", r"values.csv: points\[0\] and points\[1\] are the same point"),
            ("index,f\n0,1\n1,nan\n", r"values.csv: values\[1\] is nan at x = "),
            ("index,f\n0,1\n1\n", "values.csv, line 3: needs 2 columns, found 1"),
            ("index,f\n0,1\n1,*****\n", r"values.csv, line 3: '\*\*\*\*\*' is not a number"),
            ("index,f\n0.5,1\n", "values.csv: index must be an integer, found 0.5 in row 1"),
            ("index,x1\n0,1\n", "needs columns index,f or x1,x2,f, found index,x1"),
            ("x1,f\n0,1\n", "needs columns index,f or x1,x2,f, found x1,f"),
            ("index,f,f\n0,1,2\n", "needs columns index,f or x1,x2,f, found index,f,f"),
            ("1\n2\n", "or a header that names others; found 1"),
            ("0.1,0.2,1\n", r"values.csv: points\[0\] = \[0.1, 0.2\] was never asked for"),
            ("", "values.csv holds no values"),
            ("index,f\n", "values.csv holds no values"),
        ],
    )
    def test_values(self, folder, capsys, text, match):
        assert main(["ask", "run", "-n", "10", "-o", "points.csv"]) == 0
        before = (folder / "run").read_bytes()
        (folder / "values.csv").write_text(text)
        capsys.readouterr()
        assert main(["tell", "run", "values.csv"]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1
        assert re.search(match, lines[0]), lines
        assert (folder / "run").read_bytes() == before

    def test_files_as_they_come(self, folder, capsys):
        """What is read from files of points is read from files of values."""
        assert main(["ask", "run", "-n", "4", "-o", "points.csv"]) == 0
        (folder / "values.csv").write_text('index,f\n0,1\n1,"2.5-104"\n')
        assert main(["tell", "run", "values.csv"]) == 2
        (folder / "values.csv").write_text("index,f\n0,1\n", encoding="utf-16")
        assert main(["tell", "run", "values.csv"]) == 2
        assert "values.csv is UTF-16 text: save it as UTF-8" in capsys.readouterr().err
        (folder / "values.gz").write_bytes(gzip.compress(b"index,f\n0,1.5D-3\n"))
        assert main(["tell", "run", "values.gz"]) == 0
        (folder / "values.csv").write_text("index,f\n1,2.5-104\n")
        assert main(["tell", "run", "values.csv"]) == 2
        assert "leaves out the E of an exponent of three digits; use ES25.16E3" in capsys.readouterr().err

    def test_the_same_file_twice(self, folder, capsys):
        assert main(["ask", "run", "-n", "10", "-o", "points.csv"]) == 0
        for columns in ("index,f", "x1,x2,f"):
            evaluate("points.csv", f"{columns}.csv", columns)
        assert main(["tell", "run", "index,f.csv"]) == 0
        for name in ("index,f.csv", "x1,x2,f.csv"):
            assert main(["tell", "run", name]) == 2
            assert "was told already; nothing was taken" in capsys.readouterr().err

    def test_run_files(self, folder, capsys):
        assert main(START) == 2
        assert "run exists: name another file for the run, or remove it" in capsys.readouterr().err
        for command in (["ask", "none"], ["tell", "none", "x"], ["status", "none"], ["result", "none"]):
            assert main(command) == 2
            assert "none: No such file" in capsys.readouterr().err
        whole = (folder / "run").read_bytes()
        (folder / "run").write_bytes(whole[:-200])
        assert main(["ask", "run"]) == 2
        assert "varflow: run is" in capsys.readouterr().err
        assert main(["start", "new", "--dim", "2", "--calls", "5"]) == 2
        assert "n_calls must be at least" in capsys.readouterr().err
        assert not (folder / "new").exists()

    def test_a_file_that_is_locked(self, folder, capsys):
        with FileLock("run.lock"):
            assert main(["ask", "run", "--wait", "0.1"]) == 2
        assert "run is locked: another command has worked with it for 0.1 seconds" in capsys.readouterr().err

    def test_a_flow_of_an_infinite_box(self, folder, capsys):
        assert main(["start", "wide", "--bounds=-inf,inf", "--calls", "40000"]) == 0
        assert main(["result", "wide", "--flow-out", "flow.npz"]) == 2
        assert "--flow-out: a flow has finite bounds, and the integral has not" in capsys.readouterr().err


VARFLOW = [sys.executable, "-m", "varflow"]


@pytest.mark.programs
class TestAtOnce:
    def test_many_ask_and_tell(self, folder):
        """Workers with files of their own, at the same time: each point goes to one of them."""

        def work(k):
            points, values = f"points{k}.csv", f"values{k}.csv"
            subprocess.run([*VARFLOW, "ask", "run", "-n", "40", "-o", points], check=True)
            evaluate(points, values)
            subprocess.run([*VARFLOW, "tell", "run", values], check=True, stdout=subprocess.DEVNULL)
            return np.loadtxt(points, delimiter=",", skiprows=1)[:, 0]

        with ThreadPoolExecutor(3) as pool:
            numbers = np.concatenate(list(pool.map(work, range(3))))
        np.testing.assert_array_equal(np.sort(numbers), np.arange(120))
        assert vf.Run.load("run").n_told == 120

    def test_two_tell_the_same(self, folder):
        assert main(["ask", "run", "-n", "40", "-o", "points.csv"]) == 0
        evaluate("points.csv", "values.csv")
        both = [
            subprocess.Popen(
                [*VARFLOW, "tell", "run", "values.csv"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
            for _ in range(2)
        ]
        outcomes = sorted((process.communicate(), process.returncode)[1] for process in both)
        assert outcomes == [0, 2]
        assert vf.Run.load("run").n_told == 40

    @pytest.mark.parametrize("n_kills", [4, pytest.param(12, marks=pytest.mark.slow)])
    def test_a_kill_at_any_moment_leaves_a_run_that_goes_on(self, folder, n_kills):
        main(["ask", "run", "-n", "4096", "-o", "points.csv"])
        evaluate("points.csv", "values.csv")
        begin = time.perf_counter()
        subprocess.run([*VARFLOW, "status", "run"], check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - begin
        told = False
        for k in range(n_kills):
            process = subprocess.Popen([*VARFLOW, "tell", "run", "values.csv"], stdout=subprocess.DEVNULL,
                                       stderr=subprocess.DEVNULL)  # fmt: skip
            time.sleep(seconds * (0.5 + k / n_kills))
            process.send_signal(signal.SIGKILL)
            process.wait()
            n_told = vf.Run.load("run").n_told
            assert n_told in ((4096,) if told else (0, 4096))
            told = n_told == 4096
        if not told:
            assert main(["tell", "run", "values.csv"]) == 0
        assert go_through() == 1
        whole = vf.integrate(peak, 2, n_calls=40_000, seed=1, flow_options=SMALL)
        assert figures(vf.Run.load("run").result()) == figures(whole)
