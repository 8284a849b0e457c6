"""The command line, as a user meets it: real files, and real processes where that matters."""

import json
import os
import signal
import subprocess
import sys
from argparse import ArgumentTypeError
from functools import partial

import h5py
import numpy as np
import pytest

import varflow as vf
from varflow.cli.command import main
from varflow.cli.values import whole, with_negative_values
from varflow.kernels.splines import CELLS
from varflow.training.benchmark import benchmark, step_parts

VARFLOW = [sys.executable, "-m", "varflow"]
QUICK = ["--d-hidden", "8", "--n-hidden", "1", "--n-bins", "4", "--epochs", "3", "--batch", "200",
         "--repetitions", "1"]  # fmt: skip


@pytest.fixture(autouse=True)
def elsewhere(tmp_path_factory, monkeypatch):
    """Processes start in a folder where `-m varflow` finds the varflow that is tested, not a source tree."""
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "points.csv"
    x = np.random.default_rng(0).random((2000, 3))
    fx = np.exp(-20 * ((x - 0.4) ** 2).sum(axis=1))
    vf.Dataset(x, np.ones(2000), fx).save(path)
    return path


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("flow") / "flow.npz"
    assert main(["train", str(data), "-o", str(path), *QUICK]) == 0
    return path


def error_of(capsys, *arguments):
    """The one line on stderr of a command that is refused."""
    try:
        status = main([str(argument) for argument in arguments])
    except SystemExit as exit:
        status = exit.code
    assert status == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert err.startswith("varflow: ")
    return err


def test_train_prints_progress_and_a_table_and_writes_a_flow(data, tmp_path, capsys):
    path = tmp_path / "flow.npz"
    assert main(["train", str(data), "-o", str(path), *QUICK]) == 0
    out = capsys.readouterr().out
    for words in ("2,000 points, d = 3", "epoch 3/3: held-out loss", "on 200 points", "before (f/p)",
                  "after (f/q)", "relative variance", "effective sample size", "unweighting efficiency",
                  "variance ratio", "seconds", f"wrote {path}"):  # fmt: skip
        assert words in out
    assert vf.Flow.load(path).d == 3


def test_training_is_reproducible_and_uses_its_options(data, tmp_path):
    flows = {}
    for name, options in {
        "one": ["--seed", "3", "--threads", "1"],
        "two": ["--seed", "3", "--threads", "2"],
        "other": ["--seed", "4"],
        "dkl": ["--seed", "3", "--loss", "dkl", "--masking", "checkerboard", "--dtype", "float64"],
    }.items():
        path = tmp_path / f"{name}.npz"
        assert main(["train", str(data), "-o", str(path), *QUICK, *options]) == 0
        flows[name] = vf.Flow.load(path)
    assert np.array_equal(flows["one"].params, flows["two"].params)
    assert not np.array_equal(flows["one"].params, flows["other"].params)
    assert flows["dkl"].architecture.as_dict() == {
        "d": 3, "cell": "pwquad", "masking": "checkerboard", "n_bins": 4, "d_hidden": 8, "n_hidden": 1,
        "repetitions": 1, "dtype": "float64",
    }  # fmt: skip


def test_train_in_another_box(tmp_path, capsys):
    x = np.random.default_rng(0).uniform([-1, 0], [1, 5], (1000, 2))
    path, flow = tmp_path / "points.csv", tmp_path / "flow.npz"
    vf.Dataset(x, np.full(1000, 0.1), 1 + x[:, 1], bounds=[(-1, 1), (0, 5)]).save(path)
    assert main(["train", str(path), "-o", str(flow), "--bounds", "-1,1,0,5", *QUICK]) == 0
    assert vf.Flow.load(flow).bounds.tolist() == [[-1, 1], [0, 5]]
    assert main(["train", str(path), "-o", str(flow), "--bounds=-1,5", *QUICK]) == 0
    assert vf.Flow.load(flow).bounds.tolist() == [[-1, 5], [-1, 5]]


def test_columns(data, trained, tmp_path, capsys):
    """By header and by hand they are the same points, in both commands."""
    lines = data.read_text().splitlines()[1:]
    moved = ["{3},{4},{0},{1},{2}".format(*line.split(",")) for line in lines]
    rows, named = tmp_path / "rows.csv", tmp_path / "named.csv"
    rows.write_text("\n".join(["mine,what,density,value,more", *moved]))
    named.write_text("\n".join(["p,f,x1,x2,x3", *moved]))
    by_hand = [str(rows), "--columns", "p, f, x1, x2, x3"]
    for name, arguments in {"named": [str(named)], "rows": by_hand, "data": [str(data)]}.items():
        assert main(["train", *arguments, "-o", str(tmp_path / f"{name}.npz"), *QUICK]) == 0
        assert main(["evaluate", str(trained), *arguments, "--json"]) == 0
    figures = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    params = [vf.Flow.load(tmp_path / f"{name}.npz").params for name in ("named", "rows", "data")]
    for k in (0, 1):
        assert np.array_equal(params[k], params[2])
        assert figures[k] | {"seconds": 0} == figures[2] | {"seconds": 0}


def test_a_group_is_no_other_file(trained, tmp_path, capsys):
    path = tmp_path / "points.h5"
    with h5py.File(path, "w") as file:
        file["run/x"] = np.random.default_rng(0).random((60, 3))
        file["run/p"] = file["run/f"] = np.ones(60)
    before = path.read_bytes()
    assert "cannot be two files" in error_of(capsys, "train", f"{path}:/run", "-o", path, *QUICK)
    assert path.read_bytes() == before
    assert main(["evaluate", str(trained), f"{path}:/run"]) == 0
    assert "on 60 points" in capsys.readouterr().out


def test_evaluate(trained, data, capsys):
    assert main(["evaluate", str(trained), str(data)]) == 0
    assert "on 2,000 points" in capsys.readouterr().out
    assert main(["evaluate", str(trained), str(data), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    expected = vf.evaluate(vf.Flow.load(trained), vf.Dataset.read(data))
    assert figures["variance_after"] == expected.variance_after
    assert figures["ratio"] > 1
    assert figures["seconds"] > 0


@pytest.fixture
def unmeasurable(tmp_path):
    """Points of which those that are held out for the table are all zeros of f."""
    n = 200
    x, fx = np.random.default_rng(0).random((n, 1)), np.ones(n)
    fx[np.random.default_rng(0).permutation(n)[: n // 10]] = 0.0
    vf.Dataset(x, np.ones(n), fx).save(tmp_path / "zeros.csv")
    vf.Dataset(x[:10], np.ones(10), np.ones(10)).save(tmp_path / "few.csv")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("few.csv", "training needs at least 50 points"),
        ("zeros.csv", "f is zero at all 20 points of the eval"),
    ],
)
def test_what_could_not_be_trained_on_or_measured_is_refused_first(unmeasurable, name, reason, capsys):
    path = unmeasurable / "flow.npz"
    assert reason in error_of(capsys, "train", unmeasurable / name, "-o", path, *QUICK, "--batch", "5")
    assert not path.exists()


def test_an_interrupt_tells_what_was_written(data, tmp_path, monkeypatch, capsys):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("varflow.training.evaluation.Evaluation.__str__", interrupted)
    path = tmp_path / "flow.npz"
    assert main(["train", str(data), "-o", str(path), *QUICK]) == 130
    assert capsys.readouterr().err == f"varflow: interrupted, after these were written: {path}\n"
    assert path.exists()


def test_json_has_null_for_what_is_not_finite(trained, tmp_path, monkeypatch, capsys):
    x = np.random.default_rng(0).random((2000, 3))
    vf.Dataset(x, np.ones(2000), np.eye(1, 2000)[0]).save(tmp_path / "one.csv")
    assert main(["evaluate", str(trained), str(tmp_path / "one.csv"), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert figures["efficiency_before"] is None
    monkeypatch.setattr(
        "varflow.cli.bench.benchmark", lambda *_, **__: {"step_s": 0.5, "roofline_share": np.inf}
    )
    assert main(["bench", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert (figures["step_s"], figures["roofline_share"]) == (0.5, None)


@pytest.mark.parametrize("extension", ["npz", "csv"])
def test_sample(trained, tmp_path, extension):
    path = tmp_path / f"points.{extension}"
    assert main(["sample", str(trained), "-n", "1000", "-o", str(path), "--seed", "5"]) == 0
    x, logqx = vf.Flow.load(trained).sample(1000, seed=5)
    if extension == "npz":
        with np.load(path) as file:
            table = np.column_stack([file["x"], file["q"]])
    else:
        assert path.read_text().startswith("x1,x2,x3,q\n")
        table = np.loadtxt(path, delimiter=",", skiprows=1)
    assert np.array_equal(table, np.column_stack([x, np.exp(logqx)]))


@pytest.mark.slow
@pytest.mark.parametrize("n", [10**6, 10**8])
def test_a_large_sample_needs_no_more_memory(trained, tmp_path, n):
    peak = peak_memory(["sample", trained, "-n", n, "-o", tmp_path / "points.npz", "--seed", 1])
    assert peak < 400e6


def test_a_larger_sample_needs_no_more_memory(trained, tmp_path):
    small, large = (
        peak_memory(["sample", trained, "-n", n, "-o", tmp_path / "points.npz", "--seed", 1])
        for n in (200_000, 1_500_000)
    )
    assert large - small < 20e6  # the points themselves take 40 MB more


def peak_memory(arguments):
    """Peak resident memory of a process, in bytes."""
    # Linux's ru_maxrss begins with the peak of the process that started this one.
    code = """
import resource, sys
from pathlib import Path
from varflow.cli import main
status = main(sys.argv[1:])
if sys.platform == "linux":
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
else:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print("peak", peak)
sys.exit(status)
"""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return int(out.split("peak ")[1])


def test_bench_has_the_keys_of_the_comparison(monkeypatch, capsys):
    monkeypatch.setattr("varflow.cli.bench.benchmark", partial(benchmark, seconds=0.1))
    arguments = ["--d", "4", "--batch", "1000", "--d-hidden", "64", "--n-hidden", "3", "--n-bins", "10",
                 "--cell", "pwlinear", "--repetitions", "1", "--masking", "checkerboard",
                 "--threads", "1"]  # fmt: skip
    assert main(["bench", *arguments, "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["n_params"] == 19_624
    assert figures["threads"] == 1
    assert figures["batch"] == 1000
    assert figures["sample_s"] > 0
    assert figures["gflop_s"] == pytest.approx(6e-9 * 19_624 * 1000 / figures["step_s"])
    assert figures["roofline_share"] == pytest.approx(figures["gflop_s"] / figures["roofline_gflop_s"])
    assert main(["bench", *arguments]) == 0
    assert "GFLOP/s" in capsys.readouterr().out


@pytest.mark.parametrize("cell", sorted(CELLS))
def test_bench_tells_the_parts_of_a_step(cell, monkeypatch, capsys):
    monkeypatch.setattr("varflow.cli.bench.step_parts", partial(step_parts, seconds=0.01))
    arguments = ["bench", "--parts", "--d", "4", "--batch", "300", "--cell", cell, "--threads", "1"]
    assert main([*arguments, "--json"]) == 0
    seconds = json.loads(capsys.readouterr().out)["parts_s"]
    step = seconds.pop("step")
    assert sum(seconds.values()) == pytest.approx(step)
    assert seconds["products"] > seconds["log-determinant"] > 0
    assert main(arguments) == 0
    assert "log-determinant" in capsys.readouterr().out


@pytest.mark.slow  # it compiles what a training needs
def test_warmup_for_trainings_compiles_all_that_they_need(data, tmp_path):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    command = [*VARFLOW, "warmup", "--for", "train"]
    first = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert first.stdout.startswith("the kernels of varflow train are compiled")
    command = [*VARFLOW, "train", data, "-o", tmp_path / "flow.npz", *QUICK]
    then = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert then.stderr == ""  # nothing was compiled any more


@pytest.mark.slow  # it compiles everything
def test_warmup_compiles_everything_and_says_where_it_is_kept(data, tmp_path):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    first = subprocess.run([*VARFLOW, "warmup"], env=environment, capture_output=True, text=True, check=True)
    assert "varflow: compiling kernels" in first.stderr
    assert str(tmp_path / "cache") in first.stdout
    command = [*VARFLOW, "train", data, "-o", tmp_path / "flow.npz", *QUICK]
    for options in (["--dtype", "float32"], ["--dtype", "float64", "--loss", "dkl", "--threads", "2"]):
        then = subprocess.run(
            [*command, *options], env=environment, capture_output=True, text=True, check=True
        )
        assert then.stderr == ""  # nothing was compiled any more


@pytest.mark.parametrize("command", ["train", "evaluate", "sample", "bench", "warmup"])
def test_help_has_an_example(command, capsys):
    with pytest.raises(SystemExit) as exit:
        main([command, "--help"])
    assert exit.value.code == 0
    assert f"example: varflow {command}" in capsys.readouterr().out


@pytest.mark.parametrize(("text", "expected"), [("12", 12), ("1e6", 10**6), ("1_000", 1000), ("-3", -3)])
def test_whole_numbers_as_people_write_them(text, expected):
    assert whole(text) == expected


@pytest.mark.parametrize("text", ["1.5", "nan", "inf", "", "1e-3", "many"])
def test_what_is_no_whole_number(text):
    with pytest.raises(ArgumentTypeError, match="needs a whole number, got"):
        whole(text)


def test_values_may_begin_with_a_minus_sign():
    given = ["-n", "-1", "--json", "-q", "--bounds", "-inf,0,-.5,1", "--atol", "-1e-3", "-o", "-x"]
    joined = ["-n", "-1", "--json", "-q", "--bounds=-inf,0,-.5,1", "--atol=-1e-3", "-o", "-x"]
    assert with_negative_values(given) == joined


class TestErrors:
    """Each is one line on stderr that names what is wrong, and exit status 2."""

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ([], "arguments are required: COMMAND"),
            (["trian"], "got 'trian'; did you mean 'train'?; see varflow --help"),
            (["train", "DATA"], "arguments are required: -o"),
            (["train", "DATA", "-o", "F", "--loss", "varience"], "did you mean 'variance'?"),
            (["train", "DATA", "-o", "F", "--cell", "pwlin"], "did you mean 'pwlinear'?"),
            (["train", "DATA", "-o", "F", "--masking", "iflo"], "did you mean 'iflow'?"),
            (["train", "DATA", "-o", "F", "--epochs", "many"], "--epochs: needs a whole number, got 'many'"),
            (["train", "DATA", "-o", "F", "--epochs", "0"], "n_epochs must be at least 1, got 0"),
            (["train", "DATA", "-o", "F", "--batch", "0"], "minibatch size must be at least 1 row, found 0"),
            (["train", "DATA", "-o", "F", "--n-bins", "0"], "n_bins must be at least 1, got 0"),
            (["train", "DATA", "-o", "F", "--lr", "-1"], "lr must be positive and finite, got -1.0"),
            (["train", "DATA", "-o", "F", "--threads", "0"], "threads must be at least 1, got 0"),
            (["train", "DATA", "-o", "F", "--holdout", "1"], "--holdout: must lie between 0 and 1"),
            (
                ["train", "DATA", "-o", "F", "--holdout", "abc"],
                "--holdout: must lie between 0 and 1, got 'abc'",
            ),
            (
                ["train", "DATA", "-o", "F", "--bounds", "a,b"],
                "--bounds: needs numbers between commas, got 'a,b'",
            ),
            (["train", "DATA", "-o", "F", "--lr", "fast"], "--lr: needs a number, got 'fast'"),
            (["train", "DATA", "-o", "F", "--bounds", "0,1,2"], "needs pairs LOWER,UPPER, got 3 numbers"),
            (["train", "DATA", "-o", "F", "--bounds", "0,0.5"], "x must lie within bounds"),
            (
                ["train", "DATA", "-o", "F", "--columns", "x,p,f"],
                "line 2: columns must name all 5 columns, got 3",
            ),
            (["evaluate", "FLOW", "DATA", "--columns", "x,p"], "columns must name one of f, fx, logf, logfx"),
            (["train", "missing.csv", "-o", "F"], "missing.csv: No such file or directory"),
            (["train", "DATA", "-o", "no/such/folder/F"], "cannot write to the folder of no/such/folder/F"),
            (["evaluate", "DATA", "DATA"], "is not an npz file"),
            (["evaluate", "missing.npz", "DATA"], "missing.npz: No such file or directory"),
            (["sample", "FLOW", "-n", "0", "-o", "F.npz"], "n must be at least 1, got 0"),
            (["sample", "FLOW", "-n", "5", "-o", "F.txt"], "the extension of"),
            (["bench", "--d", "0"], "d must be at least 1, got 0"),
        ],
    )
    def test_refused(self, arguments, message, data, trained, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        names = {"DATA": data, "FLOW": trained}
        assert message in error_of(capsys, *[names.get(argument, argument) for argument in arguments])
        assert list(tmp_path.iterdir()) == []

    def test_data_of_another_dimension(self, trained, tmp_path, capsys):
        path = tmp_path / "points.csv"
        path.write_text("0.1,1,2\n0.2,1,3\n")
        assert "points.csv has d = 1, the flow has d = 3" in error_of(capsys, "evaluate", trained, path)

    def test_an_existing_file_survives(self, data, tmp_path, capsys):
        path = tmp_path / "flow.npz"
        path.write_text("precious")
        error_of(capsys, "train", data, "-o", path, "--epochs", "0")
        assert path.read_text() == "precious"
        assert [file.name for file in tmp_path.iterdir()] == ["flow.npz"]

    def test_no_traceback_from_the_process(self, data, tmp_path):
        command = [*VARFLOW, "train", data, "-o", tmp_path / "flow.npz", "--epochs", "-1"]
        process = subprocess.run(command, capture_output=True, text=True, check=False)
        assert process.returncode == 2
        assert process.stderr == "varflow: n_epochs must be at least 1, got -1\n"

    def test_interrupt_leaves_no_file(self, data, tmp_path):
        command = [*VARFLOW, "train", data, "-o", tmp_path / "flow.npz", *QUICK, "--epochs", "1000000"]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert "points" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 130
        assert err.splitlines()[-1] == "varflow: interrupted; no file was written"
        assert list(tmp_path.iterdir()) == []


def test_several_flows_are_written_as_a_mixture(data, tmp_path, capsys):
    path, points = tmp_path / "mixture.npz", tmp_path / "points.csv"
    assert main(["train", str(data), "-o", str(path), *QUICK, "--flows", "3", "--defensive", "0.02"]) == 0
    out = capsys.readouterr().out
    assert "epoch 9/9" in out
    assert "on 2,000 points" in out  # each is judged by the flow that has not seen it
    mixture = vf.load_flow(path)
    assert (len(mixture.flows), mixture.defensive) == (3, 0.02)
    assert main(["evaluate", str(path), str(data)]) == 0
    assert main(["sample", str(path), "-n", "100", "-o", str(points), "--seed", "1"]) == 0
    np.testing.assert_allclose(
        np.loadtxt(points, delimiter=",", skiprows=1)[:, :3], mixture.sample(100, 1)[0]
    )


def test_points_are_not_overwritten(data, tmp_path, capsys):
    copy = tmp_path / "points.csv"
    copy.write_bytes(data.read_bytes())
    assert "cannot be two files" in error_of(capsys, "train", copy, "-o", copy)
    assert "cannot be two files" in error_of(
        capsys, "train", copy, "-o", tmp_path / "f", "--checkpoint", copy
    )
    assert copy.read_bytes() == data.read_bytes()


def test_flows_of_which_one_ends_early(data, tmp_path, capsys):
    path = tmp_path / "mixture.npz"
    options = ["--epochs", "40", "--patience", "1", "--lr", "1", "--flows", "2", "--batch", "900"]
    assert main(["train", str(data), "-o", str(path), *QUICK, *options]) == 0
    out = capsys.readouterr().out
    assert "epoch 80/80" not in out
    assert "on 2,000 points" in out


def test_learning_curve(data, tmp_path, capsys):
    path = tmp_path / "flow.npz"
    assert main(["train", str(data), "-o", str(path), *QUICK, "--learning-curve"]) == 0
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines() if "±" in line][:4] == ["225", "450", "900", "1,800"]
    assert "relative variance ~ n^(-" in out
    assert vf.Flow.load(path).d == 3
    error = error_of(capsys, "train", data, "-o", path, "--learning-curve", "--checkpoint", tmp_path / "c")
    assert "--learning-curve has no checkpoint" in error


def test_what_is_doubtful_is_told(data, tmp_path, capsys):
    points = vf.Dataset.read(data)
    twice = tmp_path / "twice.csv"
    vf.Dataset.concatenate(points, points).save(twice)
    assert main(["train", str(twice), "-o", str(tmp_path / "flow.npz"), *QUICK]) == 0
    captured = capsys.readouterr()
    assert captured.err.startswith("varflow: 1")
    assert "points are copies of others" in captured.err
