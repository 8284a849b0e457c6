"""The pages hold the figures that the benchmarks have left, and benchmarks leave what the pages need."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import varflow as vf

ROOT = Path(__file__).parent.parent
BENCHMARKS = ROOT / "tests" / "benchmarks"
FIELDS = {"benchmark", "case", "figures", "date", "machine", "versions", "command"}


@pytest.fixture(autouse=True)
def _modules_of_benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    import results

    monkeypatch.setattr(results, "ROOT", tmp_path)
    monkeypatch.setattr(results, "RESULTS", tmp_path / "results")
    return tmp_path


def test_pages_hold_the_recorded_figures():
    command = [sys.executable, BENCHMARKS / "tables.py", "--check"]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 0, f"{process.stdout}: run python tests/benchmarks/tables.py"


@pytest.mark.parametrize("path", sorted((BENCHMARKS / "results").glob("*.jsonl")), ids=lambda path: path.stem)
def test_each_line_says_when_where_and_how_it_was_measured(path):
    for line in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
        assert line.keys() - {"source"} == FIELDS
        assert line["benchmark"] == path.stem
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", line["date"])
        is_copied = "source" in line
        assert (line["machine"] == "not recorded") == is_copied
        assert (line["versions"] == "not recorded") == is_copied


def test_the_picture_of_errors_holds_the_recorded_figures(tmp_path):
    """And the committed one is it, but for letters that another Matplotlib sets elsewhere."""
    import error_by_calls as benchmark
    from matplotlib.image import imread

    figure = benchmark.picture()
    recorded = [line["figures"] for line in benchmark.latest("error_by_calls").values()]
    for name, axes in zip(benchmark.CASES, figure.axes, strict=True):
        for who, line in zip(benchmark.SHOWN, axes.lines, strict=True):
            shown = dict(zip(*line.get_data(), strict=True))
            assert shown == {one["n_calls"]: one[who] for one in recorded if one["integrand"] == name}
    figure.savefig(tmp_path / "drawn.png")
    committed, drawn = imread(benchmark.PICTURE), imread(tmp_path / "drawn.png")
    assert committed.shape == drawn.shape
    assert np.abs(committed - drawn).mean() < 0.01


def test_a_figure_that_was_changed_by_hand_is_seen():
    import tables

    path = BENCHMARKS / "README.md"
    text = path.read_text(encoding="utf-8")
    assert tables.rewritten(text) == text
    shown = re.search(r"^\| gauss4 \| (0\.0\d+)", text, re.MULTILINE)[1]
    assert tables.rewritten(text.replace(f"| {shown} |", "| 0.001 |", 1)) == text


def test_settings_that_are_varied_are_there(monkeypatch):
    """Patching a name that has moved would measure nothing."""
    import integrate

    for constants in integrate.SETTINGS.values():
        for name, value in constants.items():
            monkeypatch.setattr(f"varflow.{name}", value)


def test_the_last_line_of_a_case_counts(folder, monkeypatch):
    import results

    monkeypatch.setattr(sys, "argv", ["integrate.py", "pulls"])
    for value in (1.0, 2.0):
        results.record("pulls", "camel4", {"mean": value})
    results.record("pulls", "box", {"mean": 3.0})
    found = results.latest("pulls")
    assert {case: line["figures"]["mean"] for case, line in found.items()} == {"camel4": 2.0, "box": 3.0}
    line = found["box"]
    assert line.keys() == FIELDS
    assert line["versions"]["varflow"]
    assert line["machine"]["cores"] >= 1


def test_commands_are_recorded_without_folders_of_the_machine():
    import results

    script = str(BENCHMARKS / "gpu.py")
    for given in (["--torch-python", "/home/me/bin/python"], ["--torch-python=/home/me/bin/python"]):
        found = results.command([script, *given, "two words"])
        assert found.startswith("python tests/benchmarks/gpu.py --torch-python")
        assert found.endswith("PYTHON 'two words'")
        assert "home" not in found


@pytest.mark.parametrize("case", ["two peaks", "ridge", "correlated Gaussian", "resonances", "rings", "shell",
                                  "corner", "narrow peak"])  # fmt: skip
def test_cheap_integrands_have_the_integral_that_is_given(case):
    from integrands import CHEAP

    assert len(CHEAP) == 8
    f, d, exact = CHEAP[case].f, CHEAP[case].d, CHEAP[case].exact
    result = vf.integrate(f, d, n_calls=100_000, seed=1, flow_options={"n_bins": 8, "d_hidden": 16})
    assert f(np.full((2, d), 0.5)).shape == (2,)
    assert abs(result.mean - exact) < 5 * result.sdev
    assert result.sdev < 0.01 * exact


def test_varflow_pays_from_the_cost_of_a_call_that_makes_seconds_equal():
    import tables

    vegas, varflow = {"calls": 1_000_000, "seconds": 1.0}, {"calls": 200_000, "seconds": 5.0}
    assert tables.pays_from(vegas, varflow) == "from 5.0 µs a call"
    assert tables.pays_from(varflow, vegas) == "below 5.0 µs a call"
    assert tables.pays_from({**vegas, "seconds": 6.0}, varflow) == "whatever f costs"
    assert tables.pays_from({**vegas, "calls": 1}, varflow) == "never"


def test_each_setting_of_a_training_on_fixed_points_can_be_changed():
    import fixed_points

    for change, values in fixed_points.SETTINGS.items():
        options = fixed_points.changed(2000, 3, values)
        flow_options = options.pop("flow_options")
        vf.Flow(3, options.pop("cell", "pwquad"), **flow_options)
        assert set(values) <= {*options, *flow_options, "epochs", "rows", "cell", "lr", "weight_decay",
                               "average", "warm_up"}, change  # fmt: skip
    one = fixed_points.trained("box, d=3", 200, 1, n_epochs=2)
    assert one["variance"] > 0
    assert one["error"] > 0
