"""Reports in a real browser, headless Chromium, on screens and on paper, with axe-core's eyes too."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import varflow as vf
from varflow.cli.command import main

pytestmark = pytest.mark.programs

SCRIPT = Path(__file__).parent / "browser" / "look.cjs"
BROWSERS = "chromium", "chromium-browser", "google-chrome"
WIDTHS = "400", "1400"  # pixels: a telephone, and a desk
START = '<!DOCTYPE html><html lang="en"><meta charset="utf-8"><title>NAME</title>'
HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def browser():
    """Path of Chromium."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None or shutil.which("npm") is None:
        pytest.skip("needs Chromium, and npm for axe-core")
    return found


@pytest.fixture(scope="module")
def modules(browser, tmp_path_factory):
    """The folder of axe-core, and of what drives the browser."""
    folder = tmp_path_factory.mktemp("npm")
    command = [
        "npm",
        "install",
        "--no-audit",
        "--no-fund",
        "--prefix",
        folder,
        "axe-core@4",
        "playwright-core@1",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if done.returncode != 0:
        pytest.skip(f"npm could not install axe-core: {done.stderr.strip()[:200]}")
    return folder / "node_modules"


@pytest.fixture
def opened(browser, modules, tmp_path):
    """Open a page, and give what was found."""

    def open_page(path):
        command = ["node", SCRIPT, browser, path, tmp_path, *WIDTHS]
        environment = {**os.environ, "NODE_PATH": str(modules)}
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return open_page


@pytest.fixture
def look(opened, tmp_path):
    """Open a page, see what holds for all, and give what was found."""

    def looked_at(path):
        found = opened(path)
        for width in WIDTHS:
            at_width = found["widths"][width]
            assert at_width["violations"] == [], f"at a width of {width}"
            assert at_width["overflow"] <= 0, f"has to be scrolled to the side at a width of {width}"
            assert {"color-contrast", "document-title", "html-has-lang"} <= {*at_width["passes"]}
        assert found["requests"] == found["dialogs"] == found["errors"] == []
        assert found["broken_images"] == 0
        assert (tmp_path / "printed.pdf").read_bytes().startswith(b"%PDF")
        return found

    return looked_at


def test_what_is_wrong_is_seen(opened, tmp_path):
    wrong = f'<p style="color: #ddd">pale</p><div style="width: 600px">{HOSTILE}</div>'
    wrong += '<script src="no.js"></script>'
    (tmp_path / "wrong.html").write_text(START.replace("NAME", "") + wrong)
    found = opened(tmp_path / "wrong.html")
    violations = " ".join(found["widths"]["400"]["violations"])
    assert all(name in violations for name in ("color-contrast", "document-title", "image-alt"))
    assert found["widths"]["400"]["overflow"] > 0 >= found["widths"]["1400"]["overflow"]
    assert len(found["requests"]) == 4  # two files at two widths
    assert found["dialogs"] == ["1", "1"]
    assert found["broken_images"] == 1


def points(n=300, d=2):
    x = np.random.default_rng(1).random((n, d))
    return vf.Dataset(x, np.ones(n), np.exp(-10 * np.square(x - 0.4).sum(axis=1)))


def test_of_a_flow_and_of_files_with_hostile_names(look, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    points().save("points.csv")
    text = Path("points.csv").read_text().replace("x1,x2", f"{HOSTILE},x2")
    Path(f"{HOSTILE}.csv").write_text(text)
    vf.Flow(2, d_hidden=4, n_bins=4, seed=1).save("flow.npz")
    assert main(["report", "flow.npz", f"{HOSTILE}.csv", "-o", "report.html"]) == 0
    found = look(Path("report.html"))
    assert found["title"] == f"varflow: flow.npz on {HOSTILE}.csv"
    assert found["title"] in found["text"]
    assert f"row\tweight\tof variance\tq\t{HOSTILE}\tx2" in found["text"]
    assert "keep sampling from p" in found["text"]  # a warning, and what to do


def test_of_a_training(look, tmp_path):
    vf.report(tmp_path / "report.html", vf.train(points(600, d=7), seed=1, n_epochs=1, n_flows=2, test=0.2))
    assert "Loss, learning rate and gradient of flow 2" in look(tmp_path / "report.html")["text"]


def test_of_an_integration(look, tmp_path):
    result = vf.integrate(lambda x: {HOSTILE: x, "b": x[:, 0]}, 2, n_calls=200, seed=1)
    vf.report(tmp_path / "report.html", result)
    found = look(tmp_path / "report.html")
    assert f"{HOSTILE} 1\t" in found["text"]
    assert "The 3 integrals are known to" in found["text"]


def test_of_a_notebook(look, tmp_path):
    flow, data = vf.Flow(3, d_hidden=4, n_bins=4, seed=1), points(d=3)
    shown = [flow, vf.Mixture([flow, flow], 0.1), data, vf.evaluate(flow, data), vf.worst_points(flow, data)]
    shown += [vf.integrate(lambda x: x[:, 0], 1, n_calls=100), vf.Run(2, n_calls=100), vf.TrainingRecord()]
    body = "".join(f'<div tabindex="0" style="overflow: auto">{one._repr_html_()}</div>' for one in shown)
    main_part = f"<main><h1>A notebook</h1>{body}</main>"
    (tmp_path / "notebook.html").write_text(f"{START.replace('NAME', 'A notebook')}{main_part}</html>")
    assert "Cells, from target space to latent space" in look(tmp_path / "notebook.html")["text"]
