"""What long work shows: bars on terminals, little in logs, results alone with -q, all decisions with -v."""

import json
import logging
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from terminals import VARFLOW, rendered, run

import varflow as vf
from varflow.cli.command import main
from varflow.cli.talk import progress_of
from varflow.runtime import progress as module
from varflow.runtime.progress import Bar, Lines, Progress, way_of_showing

SIZES = ["--d-hidden", "8", "--n-hidden", "1", "--n-bins", "4", "--repetitions", "1"]
TRAIN = ["train", "points.csv", "-o", "flow.npz", *SIZES, "--epochs", "20", "--batch", "200"]
INTEGRATE = ["integrate", "functions.py:f", "--dim", "2", "--calls", "40000", *SIZES]
FUNCTIONS = """
import sys
import time
import warnings

import numpy as np


def f(x):
    return np.exp(-10 * ((x - 0.4) ** 2).sum(axis=1))


def loud(x):
    time.sleep(0.02)
    print("a line of f, and", end=" ")
    print("its end")
    warnings.warn(f"f warns of {len(x)} points")
    print("an error of f", file=sys.stderr)
    return f(x)


def slow(x):
    time.sleep(0.1)
    return f(x)
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with points, a flow, and functions."""
    folder = tmp_path_factory.mktemp("terminal")
    (folder / "functions.py").write_text(FUNCTIONS)
    x = np.random.default_rng(0).random((2000, 3))
    vf.Dataset(x, np.ones(2000), np.exp(-20 * ((x - 0.4) ** 2).sum(axis=1))).save(folder / "points.csv")
    vf.Flow(3, n_bins=4, d_hidden=8, n_hidden=1, seed=1).save(folder / "made.npz")
    return folder


@pytest.fixture(autouse=True)
def folder(files, monkeypatch):
    monkeypatch.chdir(files)
    return files


@pytest.mark.programs
class TestTerminal:
    def test_training(self):
        shown = run([*TRAIN, "--epochs", "400"])
        assert shown.status == 0
        assert any("training" in bar and "/400 epochs, " in bar and " left" in bar for bar in shown.bars)
        assert any("left, held-out loss " in bar for bar in shown.bars)
        left = shown.screen
        assert not any("epoch" in line for line in left)
        assert "2,000 points, d = 3" in left[0]
        assert left[1].startswith("on 200 points")
        assert left[-1] == ""

    def test_integration_has_the_same_bits_and_a_running_estimate(self, folder):
        shown = run([*INTEGRATE, "-o", "shown.npz"])
        assert shown.status == 0
        assert any("survey" in bar and "/40.0k calls, " in bar and bar.endswith(" %") for bar in shown.bars)
        assert shown.screen[0].startswith("  itn  stage")
        assert main([*INTEGRATE, "-q", "-o", "quiet.npz"]) == 0
        one, other = (vf.Result.load(name) for name in ("shown.npz", "quiet.npz"))
        assert one.mean == other.mean
        assert np.array_equal(one.flow.params, other.flow.params)

    def test_training_between_few_calls(self):
        """It takes nearly all of the time there, and the calls stand still."""
        shown = run(["integrate", "functions.py:f", "--dim", "2", "--calls", "3000", *SIZES])
        shares = [int(bar.split("(")[1].split("%")[0]) for bar in shown.bars if bar.startswith("training (")]
        assert shown.status == 0
        assert len(set(shares)) > 10
        assert any(bar.startswith("training (") and "/3000 calls, " in bar for bar in shown.bars)

    def test_sampling_and_measuring(self):
        shown = run(["sample", "made.npz", "-n", 200_000, "-o", "sample.npz"])
        assert any(bar.startswith("sampling") and "/200k points, " in bar for bar in shown.bars)
        assert shown.screen == ["wrote 200,000 points to sample.npz", ""]
        assert any(bar.startswith("measuring") for bar in run(["evaluate", "made.npz", "points.csv"]).bars)

    def test_warmup_kernel_by_kernel(self):
        """All are in the cache here, and each is told, by its name."""
        shown = run(["warmup"])
        assert "compiling gradient (float64)" in shown.text
        assert len(shown.screen) <= 4
        assert shown.screen[0].startswith("all kernels are compiled")

    @pytest.mark.parametrize("columns", [24, 50])
    def test_narrow(self, columns):
        bars = run(INTEGRATE, columns=columns).bars
        assert bars
        assert max(map(len, bars)) <= columns - 3
        assert all("|" not in bar for bar in bars)
        wide = run(INTEGRATE, columns=columns, COLUMNS="120").bars
        assert max(map(len, wide)) > columns  # as whoever sets COLUMNS wants it

    def test_a_terminal_that_cannot_go_back_in_a_line_gets_no_bar(self):
        shown = run(INTEGRATE, TERM="dumb")
        assert shown.bars == []
        assert shown.screen[0].startswith("  itn  stage")

    def test_no_colour_whether_or_not_one_is_allowed(self):
        assert "\x1b" not in run(TRAIN, NO_COLOR="1", FORCE_COLOR="1").text

    @pytest.mark.parametrize("workers", [1, 2])
    def test_lines_of_f_and_warnings_are_whole(self, workers):
        arguments = ["integrate", "functions.py:loud", "--dim", "2", "--calls", "3000", *SIZES]
        arguments += ["--workers", workers]
        shown = run(arguments, columns=200, PYTHONWARNINGS="always")
        assert shown.bars
        lines = shown.screen
        assert lines.count("a line of f, and its end") == lines.count("an error of f") > 3
        assert sum(line.endswith(" points") and "UserWarning: f warns of " in line for line in lines) > 3
        known = ("a line of f", "an error of f", "  warnings.warn(")
        before = lines[: next(k for k, line in enumerate(lines) if line.startswith("  itn  stage"))]
        assert all(line.startswith(known) or "UserWarning" in line for line in before)

    @pytest.mark.parametrize("arguments", [[*TRAIN, "--epochs", "1000000"], ["integrate", "functions.py:slow",
                                           "--dim", "2", "--calls", "1000000", *SIZES]])  # fmt: skip
    def test_interrupt(self, arguments):
        shown = run(arguments, interrupt_at=" left")
        assert shown.status == 130
        assert "varflow: interrupted; no file was written" in shown.screen[-3:]
        assert shown.screen[-1] == ""
        assert shown.is_as_before

    def test_quiet(self):
        result, end = run([*INTEGRATE, "-q"]).screen
        assert (result[:12], end) == ("result = 0.2", "")
        assert run([*TRAIN, "--quiet"]).screen[0].startswith("on 200 points")

    def test_verbose(self):
        shown = run([*INTEGRATE, "-v"])
        assert any(" s: survey: 0.2" in line for line in shown.screen)
        assert shown.bars


@pytest.mark.programs
def test_a_log_has_no_bar(folder):
    """Nor carriage returns, and stdout alone the lines of epochs."""
    for arguments in (TRAIN, INTEGRATE):
        done = subprocess.run([*VARFLOW, *arguments], capture_output=True, text=True, check=True)
        assert done.stderr == ""
        assert "\r" not in done.stdout
        assert ("epoch 20/20: held-out loss" in done.stdout) == (arguments is TRAIN)


KERNELS_TOLD = """
import json
from varflow.runtime.progress import Progress
from varflow.training.warmup import warmup

told = []

class Recorded(Progress):
    def update(self, n, doing="", figure=""):
        told.append((n, self.total, doing))

if __name__ == "__main__":
    warmup(Recorded)
    print(json.dumps(told))
"""


@pytest.mark.programs
def test_every_kernel_is_told_of(tmp_path):
    """In a process of its own: modules of tests make kernels too, which warmup would count."""
    script = tmp_path / "told.py"
    script.write_text(KERNELS_TOLD)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)
    assert [n for n, _, _ in told] == list(range(1, told[0][1] + 1))
    assert {"compiling gradient (float32)", "compiling gradient (float64)"} <= {name for _, _, name in told}


def test_lines_are_rare(monkeypatch, capsys):
    seconds = iter(np.arange(0, 1000, 1.0))
    monkeypatch.setattr(module.time, "monotonic", lambda: next(seconds))
    with Lines(200, "call", "survey") as shown:
        for n in range(1, 201):
            shown.update(n, figure="1.00(1)")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "varflow: survey: 30 of 200 calls, 176 s left, 1.00(1)"
    assert len(lines) == 6
    with Lines(10, "file", "reading") as shown:
        for n in range(11):
            shown.update(n)
    assert capsys.readouterr().err == ""  # it took seconds


def test_who_sees_a_bar(monkeypatch):
    assert [way_of_showing(one) for one in (True, False, None, Lines)] == [Bar, Progress, Progress, Lines]
    with pytest.raises(TypeError, match="progress must be True, False or None, got 1"):
        way_of_showing(1)
    monkeypatch.setattr("varflow.cli.talk.is_terminal", lambda: True)

    class Options:
        quiet, comm = False, vf.runtime.communicator.ALONE

    assert progress_of(Options) is Bar
    monkeypatch.setattr("varflow.cli.talk.is_speaking", lambda options: False)  # another rank than the first
    assert progress_of(Options) is Progress


def test_a_screen_is_what_a_terminal_shows():
    assert rendered("abc\rx\r\n123456", 4) == ["xbc", "1234", "56"]


@pytest.mark.parametrize("arguments", [["train", "--help"], ["integrate", "--help"], ["sample", "--help"]])
def test_help_tells_what_is_left(arguments, capsys):
    with pytest.raises(SystemExit):
        main(arguments)
    out = " ".join(capsys.readouterr().out.split())
    assert "-q, --quiet print nothing but " in out
    assert "-v, --verbose tell of each stage" in out


def test_quiet_leaves_results_warnings_and_errors(folder, capsys):
    assert main(["sample", "made.npz", "-n", "100", "-o", "few.csv", "-q"]) == 0
    assert capsys.readouterr() == ("", "")
    for silent in (["export", "made.npz", "-o", "source"], ["start", "run.vf", "--dim", "2"],
                   ["ask", "run.vf", "-o", "asked.csv"], ["forget", "run.vf"]):  # fmt: skip
        assert main(silent if silent[0] == "ask" else [*silent, "-q"]) == 0
        assert capsys.readouterr() == ("", "")
    assert main(["evaluate", "made.npz", "points.csv", "-q"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("on 2,000 points")
    assert "seconds" not in out
    assert main(["sample", "missing.npz", "-n", "100", "-o", "few.csv", "-q"]) == 2
    assert "missing.npz: No such file" in capsys.readouterr().err
    twice = vf.Dataset.concatenate(vf.Dataset.read("points.csv"), vf.Dataset.read("points.csv"))
    twice.save("twice.csv")
    assert main(["train", "twice.csv", *TRAIN[2:], "-q"]) == 0
    assert "points are copies of others" in capsys.readouterr().err


def test_verbose_leaves_the_log_as_it_was(folder, capsys):
    logger = logging.getLogger("varflow")
    before = logger.level, list(logger.handlers)
    assert main([*TRAIN, "-v"]) == 0
    assert (logger.level, logger.handlers) == before
    err = capsys.readouterr().err
    assert " s: read points.csv, 2000 points with d = 3\n" in err
    assert " s: wrote flow.npz, a varflow flow\n" in err
    assert "20 epochs of 9 steps" in err
    assert "the best epoch was 20 of 20" in err
    with pytest.raises(SystemExit):
        main([*TRAIN, "-v", "-q"])


def test_blocks_do_not_change_what_is_measured(folder, capsys):
    """More points than one block has."""
    n = 70_000
    x = np.random.default_rng(1).random((n, 3))
    vf.Dataset(x, np.ones(n), 1 + x[:, 0]).save("many.npz")
    assert main(["evaluate", "made.npz", "many.npz", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    expected = vf.evaluate(vf.load_flow("made.npz"), vf.Dataset.read("many.npz"))
    assert found["variance_after"] == expected.variance_after
    assert found["pareto_after"] == expected.pareto_after


def test_collect_reads_with_a_bar(folder, capsys):
    result = vf.integrate(lambda x: x[:, 0], 2, n_calls=200, seed=1)
    names = [f"result{k}.npz" for k in range(3)]
    for name in names:
        result.save(name)
    assert main(["collect", *names, "-o", "table.csv", "-q"]) == 0
    assert capsys.readouterr() == ("", "")
    assert len((folder / "table.csv").read_text().splitlines()) == 4
    os.remove("table.csv")


def test_values_of_workers_are_told_as_they_come():
    told = []

    class Recorded(Progress):
        def update(self, n, doing="", figure=""):
            told.append(n)

    def f(x):
        return x[..., 0]

    with ThreadPoolExecutor(2) as pool:
        for options in ({"workers": pool}, {"vectorized": False}, {"workers": map}):
            told.clear()
            vf.integrate(f, 2, n_calls=200, seed=1, progress=Recorded, **options)
            assert told == sorted(told)
            assert told[-1] == 200
            assert len(set(told)) > 3


def test_a_run_that_goes_on_has_the_length_of_the_whole(tmp_path):
    shown = []

    class Recorded(Progress):
        def __init__(self, total, unit, doing):
            super().__init__(total, unit, doing)
            shown.append([total])

        def update(self, n, doing="", figure=""):
            shown[-1].append(n)

    def f(x):
        return x[:, 0]

    def failing(x):
        if len(shown[-1]) > 3:
            raise KeyError
        return f(x)

    settings = {"seed": 1, "checkpoint": tmp_path / "run.ckpt", "resume": True, "progress": Recorded}
    with pytest.raises(KeyError):
        vf.Integrator(failing, 2, **settings, checkpoint_seconds=0).integrate_to(1000)
    integrator = vf.Integrator(f, 2, **settings)
    integrator.integrate_to(1000)
    integrator.extend(320)
    first, second, third = shown
    assert first[0] == second[0] == 1000
    assert first[-1] < second[1] <= second[-1] <= 1000
    assert third == [second[-1] + 320, second[-1] + 320]
