"""One table of the results of many integrations."""

import csv
import json

import numpy as np
import pytest

import varflow as vf
from varflow.cli.command import main

SMALL = {"n_bins": 8, "d_hidden": 8, "n_hidden": 1, "repetitions": 1}


@pytest.fixture(scope="module")
def results():
    """A number, a dict and a logarithm."""
    functions = {
        "number": (lambda x: x[:, 0], {}),
        "dict": (lambda x: {"total": x[:, 0], "parts": x[:, :2]}, {}),
        "log": (lambda x: -1e4 - x[:, 0], {"log": True}),
    }
    return {
        name: vf.integrate(f, 2, n_calls=200, seed=1, flow_options=SMALL, **options)
        for name, (f, options) in functions.items()
    }


@pytest.fixture
def folder(tmp_path, results, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, result in results.items():
        result.save(f"{name}.npz")
    return tmp_path


FILES = ["number.npz", "dict.npz", "log.npz"]


def test_csv_has_all_digits(folder, results, capsys):
    results["number"].warnings = ("one, with a comma", "another")
    results["number"].save("number.npz")
    assert main(["collect", *FILES, "-o", "table.csv"]) == 0
    assert capsys.readouterr().out == "wrote table.csv: 5 rows\n"
    with open("table.csv", newline="") as file:
        number, total, one, two, log = csv.DictReader(file)
    result = results["number"]
    assert number["name"] == "number"
    assert (float(number["mean"]), float(number["sdev"])) == (result.mean, result.sdev)
    assert float(number["chi2/dof"]) == result.chi2 / result.dof if result.dof else number["chi2/dof"] == ""
    assert (float(number["ess"]), int(number["calls"])) == (result.ess, result.n_calls)
    assert number["warnings"] == "one, with a comma; another"
    assert [row["component"] for row in (total, one, two)] == ["total", "parts 0", "parts 1"]
    assert float(two["sdev"]) == results["dict"].sdev["parts"][1]
    assert (log["mean"], log["sdev"]) == ("", "")
    assert float(log["log_mean"]) == results["log"].log_mean


def test_text(folder, results, capsys):
    results["number"].warnings = ("this is doubtful",)
    results["number"].save("number.npz")
    assert main(["collect", *FILES]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["name", "integral", "chi2/dof", "ess", "calls", "warnings"]
    assert lines[1].split()[:2] == ["number", str(results["number"]).splitlines()[0]]
    assert lines[1].endswith("1")
    assert lines[3].startswith("dict parts 0 ")
    assert f"exp({results['log'].log_mean:.0f}"[:8] in lines[5]
    assert "number: warning: this is doubtful" in lines


def test_json(folder, results, capsys):
    assert main(["collect", "log.npz", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["results"]
    assert row["mean"] == results["log"].log_mean
    assert row["log"] is True


def test_what_cannot_be_read_is_told_and_the_others_are_there(folder, capsys):
    (folder / "damaged.npz").write_bytes(b"nothing")
    vf.Flow(2, seed=1).save("flow.npz")
    assert main(["collect", "missing.npz", "number.npz", "damaged.npz", "flow.npz", "-o", "table.csv"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("varflow: 3 of 4 results are not in the table: missing.npz: No such file")
    assert "damaged.npz" in err
    assert "flow.npz" in err
    assert len((folder / "table.csv").read_text().splitlines()) == 2


def test_a_result_is_not_overwritten(folder, capsys):
    before = np.fromfile("number.npz", np.uint8)
    assert main(["collect", *FILES, "-o", "number.npz"]) == 2
    assert "cannot be two files" in capsys.readouterr().err
    np.testing.assert_array_equal(np.fromfile("number.npz", np.uint8), before)
