"""Reports: one page that holds all it needs, says what is so, and shows names as they are."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import varflow as vf
from varflow import markup
from varflow.cli.command import main
from varflow.reporting.verdict import share_lost, verdict_of_flow, verdict_of_result
from varflow.training.log_weights import LogWeights

matplotlib.use("Agg")  # corner imports pyplot
QUICK = ["--d-hidden", "4", "--n-hidden", "1", "--n-bins", "4", "--epochs", "2"]
HOSTILE = "<img src=x onerror=alert(1)>"
MAX_BYTES = 2_000_000
INTEGRAND = "import numpy as np\ndef f(x):\n    return np.exp(-x.sum(axis=1))\n"
TAGS = {"table", "caption", "thead", "tbody", "tr", "th", "td", "ul", "li"}
VOID = {"meta", "img", "br"}


def points(n=300, d=2, seed=1, **values):
    x = np.random.default_rng(seed).random((n, d))
    return vf.Dataset(x, np.ones(n), **{"fx": np.exp(-10 * np.square(x - 0.4).sum(axis=1))} | values)


def flow_of(d=2):
    return vf.Flow(d, d_hidden=4, n_bins=4, seed=1, threads=1)


class Page(HTMLParser):
    """What a page holds; raises where an element is not closed."""

    def __init__(self, source):
        super().__init__()
        self.elements, self.texts, self.open = [], [], []
        self.feed(source)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        if self.open[-1:] != ["style"]:
            self.texts.append(text)

    def all(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]

    @property
    def text(self):
        return " ".join(self.texts)


def page_of(path):
    """The page, having seen what holds for every report."""
    source = path.read_text(encoding="utf-8")
    assert len(source.encode()) < MAX_BYTES
    page = Page(source)
    headings = [tag for tag, _ in page.elements if re.fullmatch(r"h\d", tag)]
    assert headings[:1] == ["h1"]
    assert set(headings[1:]) == {"h2"}
    assert page.all("html") == [{"lang": "en"}]
    assert page.all("script") == page.all("link") == page.all("iframe") == []
    assert all(one["src"].startswith("data:image/") and len(one["alt"]) > 40 for one in page.all("img"))
    assert all(one["scope"] in ("row", "col") for one in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table"))
    labels = [one["aria-label"] for _, one in page.elements if one.get("role") == "region"]
    assert len(set(labels)) == len(labels)
    assert not any(name.startswith("on") for _, attrs in page.elements for name in attrs)
    assert "://" not in re.sub(r'content="[^"]*"|base64,[^"]*', "", source)
    return page


def written(tmp_path, made, *arguments, **options):
    vf.report(tmp_path / "report.html", made, *arguments, **options)
    return page_of(tmp_path / "report.html")


class TestOfFlow:
    def test_shows_what_evaluate_finds(self, tmp_path):
        flow, data = flow_of(), points()
        page = written(tmp_path, flow, data)
        evaluation = vf.evaluate(flow, data)
        assert f"{evaluation.variance_before:.4g} ± {evaluation.variance_before_error:.2g}" in page.text
        (warning,) = evaluation.warnings
        assert warning[1:] in page.text
        assert "Heed the warnings below." in page.text
        assert len(page.all("img")) == 5
        assert f"parameters of the flow SHA-256 {flow.params_digest()}" in page.text
        assert f"points that it was measured on SHA-256 {data.digest()}" in page.text

    @pytest.mark.parametrize(
        ("d", "n", "values"),
        [
            (1, 2, {}),  # too few for a tail
            (2, 2, {}),  # and for a corner plot
            (2, 60, {"fx": np.ones(60)}),  # constant weights
        ],
    )
    def test_of_few_points_and_constant_weights(self, d, n, values, tmp_path):
        page = written(tmp_path, flow_of(d), points(n, d, **values))
        assert ("A corner plot of 2 dimensions needs more points" in page.text) == (n == d == 2)
        assert ("The weights f/q are the same at all points" in page.text) == bool(values)

    def test_names_and_settings_of_the_user(self, tmp_path):
        """Names are no formulas, and may have letters that the usual font lacks; pictures are on white."""
        names, mixture = [f"{HOSTILE}$_", "質量 $x^"], vf.Mixture([flow_of(), flow_of()], 0.1)
        with matplotlib.rc_context({"figure.facecolor": "black", "text.usetex": True}):
            page = written(tmp_path, mixture, points(), labels=names)
        assert all(name in page.texts for name in names)
        assert any(names[0] in one["alt"] for one in page.all("img"))
        assert "share of the uniform density 0.1" in page.text
        with pytest.raises(ValueError, match="labels must be one for each of 2 coordinates, got 1"):
            vf.report(tmp_path / "report.html", flow_of(), points(), labels=["a"])

    def test_of_many_dimensions_shows_those_that_differ(self, tmp_path):
        x = np.random.default_rng(1).random((400, 15))
        chosen = [1, 2, 4, 6, 7, 14]
        data = vf.Dataset(x, np.ones(400), np.exp(-3 * x[:, chosen].sum(axis=1)))
        page = written(tmp_path, flow_of(15), data)
        names = ", ".join(f"x{dim + 1}" for dim in chosen)
        assert any(f"in which f and q differ most: {names}." in one["alt"] for one in page.all("img"))

    @pytest.mark.parametrize(
        ("arguments", "match"),
        [
            ((flow_of(),), "data must be a Dataset for a flow to be measured on, got NoneType"),
            (("flow.npz", points()), "made must be a Flow, Mixture, Training or Result, got str"),
            ((flow_of(3), points()), "the flow has d = 3, the data have d = 2"),
            ((flow_of(), points(bounds=[0, 2])), "the flow has bounds"),
            ((flow_of(), points(1)), "at least 2 points, got 1"),
        ],
    )
    def test_what_does_not_belong_together(self, arguments, match, tmp_path):
        path = tmp_path / "report.html"
        path.write_text("before")
        with pytest.raises((TypeError, ValueError), match=match):
            vf.report(path, *arguments)
        assert os.listdir(tmp_path) == ["report.html"]
        assert path.read_text() == "before"


class TestOfTraining:
    def test_has_the_points_that_were_held_out(self, tmp_path):
        data = points(600)
        training = vf.train(data, seed=1, n_epochs=2, test=0.2)
        assert vf.evaluate(training.flow, training.held_out) == training.evaluation
        page = written(tmp_path, training)
        assert f"points that it was measured on SHA-256 {training.held_out.digest()}" in page.text
        assert len(page.all("img")) == 6
        with pytest.raises(TypeError, match="this is a Training: leave it out"):
            vf.report(tmp_path / "report.html", training, data)

    def test_of_several_flows(self, tmp_path):
        training = vf.train(points(600), seed=1, n_epochs=1, n_flows=2)
        assert training.held_out is None
        page = written(tmp_path, training)
        assert "there are none that the mixture has not learnt from" in page.text
        assert len(page.all("img")) == 2


class TestOfResult:
    @pytest.mark.parametrize(
        ("f", "options"),
        [
            (lambda x: np.exp(-x.sum(axis=1)), {}),
            (lambda x: -1e4 * np.square(x - 0.4).sum(axis=1) - 3000, {"log": True}),
            (lambda x: {HOSTILE: x, "b": x[:, 0] - 0.5}, {}),
            (lambda x: np.zeros(len(x)), {}),
        ],
    )
    def test_of_any_integrand(self, f, options, tmp_path):
        result = vf.integrate(f, 2, n_calls=200, seed=1, **options)
        page = written(tmp_path, result)
        assert f"{result.n_calls:,} calls" in page.text
        for warning in result.warnings:
            assert warning[1:] in page.text
        for name in result.components.names:
            assert name in page.texts or name == ""

    def test_of_many_components(self, tmp_path):
        result = vf.integrate(lambda x: x[:, :1] * np.arange(1, 1001), 1, n_calls=200, covariance=False)
        assert "960 more rows" in written(tmp_path, result).text

    def test_needs_no_points(self, tmp_path):
        result = vf.integrate(lambda x: x[:, 0], 1, n_calls=100)
        with pytest.raises(TypeError, match="this is a Result: leave it out"):
            vf.report(tmp_path / "report.html", result, points())


class TestVerdict:
    EVALUATION = replace(vf.evaluate(flow_of(), points()), variance_after=0.1, pareto_after=0.3)

    @pytest.mark.parametrize(
        ("changed", "lost", "verdict"),
        [
            (
                {"ratio": 31.4},
                0.0,
                "The flow uses 31 times fewer points than p for the same error; "
                "the weights have finite variance; nothing was lost at these 300 points.",
            ),
            (
                {"ratio": 1234},
                None,
                "uses 1,200 times fewer points than p for the same error; the weights have",
            ),
            ({"ratio": 0.5}, None, "uses 2 times as many points as p"),
            ({"ratio": 1.01}, None, "uses as many points as p"),
            ({"ratio": float("nan")}, None, "scatter beyond all numbers"),
            ({"ratio": 0.0}, None, "scatter beyond all numbers"),
            ({"ratio": 0.0, "variance_before": 0.0}, None, "so that p needs no flow"),
            ({"variance_after": 0.0}, None, "are the same at all points"),
            (
                {"pareto_after": 0.6},
                None,
                r"variance of the weights may be infinite (Pareto shape 0.60 > 0.5)",
            ),
            ({"pareto_after": 0.8}, None, r"(Pareto shape 0.80 > 0.7) that errors cannot be relied on"),
            ({"pareto_after": float("nan")}, None, "these points cannot tell"),
            ({}, 0.012, "1.2% of f was lost: it lies where q is more than 100 times too small."),
        ],
    )
    def test_of_a_flow(self, changed, lost, verdict):
        assert verdict in verdict_of_flow(replace(self.EVALUATION, **changed), lost)

    def test_a_lost_peak_is_seen(self):
        x = np.random.default_rng(1).random((2000, 1))
        is_lost = x[:, 0] < 0.05
        found = LogWeights.of(flow_of(1), vf.Dataset(x, np.ones(2000), np.where(is_lost, 1.0, 0.1)))
        assert share_lost(found) == 0
        found = found._replace(after=np.where(is_lost, np.log(101), 0.0))
        of_f = np.exp(found.before)
        assert share_lost(found) == pytest.approx(of_f[is_lost].sum() / of_f.sum())

    def test_of_a_result(self):
        result = vf.integrate(lambda x: x[:, 0], 1, n_calls=200, seed=1)
        assert verdict_of_result(result).startswith(f"The integral is {result}, known to ")
        assert verdict_of_result(result).endswith("no walkers have looked for what may have been lost.")
        result.lost = 0.02
        assert "may have 2.0% of it, which the error has" in verdict_of_result(result)


@given(st.text())
def test_whatever_is_shown_is_escaped(value):
    page = Page(markup.table(value, [value, "b"], [[value, value]]) + markup.bullets([value]))
    shown = "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in value)
    assert page.text.split() == " ".join([shown, shown, "b", shown, shown, shown]).split()
    assert {tag for tag, _ in page.elements} <= TAGS


SHOWN = {
    "Flow": lambda: flow_of(),
    "Mixture": lambda: vf.Mixture([flow_of(), flow_of()], 0.1),
    "Dataset": lambda: points(),
    "Evaluation": lambda: vf.evaluate(flow_of(), points()),
    "WorstPoints": lambda: vf.worst_points(flow_of(), points(), 3),
    "Result": lambda: vf.integrate(lambda x: x[:, 0], 1, n_calls=100),
    "Run": lambda: vf.Run(2, n_calls=100),
    "TrainingRecord": lambda: vf.TrainingRecord(warnings=[HOSTILE]),
    "Training": lambda: vf.train(points(), n_epochs=1),
}


class TestNotebooks:
    @pytest.mark.parametrize("kind", SHOWN)
    def test_show_tables(self, kind):
        shown = SHOWN[kind]()
        assert type(shown).__name__ == kind
        page = Page(shown._repr_html_())
        assert len(page.all("table")) == len(page.all("caption")) > 0
        assert page.all("img") == []

    def test_a_flow_has_its_layers(self):
        flow = vf.Flow(3, d_hidden=8, n_bins=4, bounds=[[0, 1], [0, 1], [-2, 5]])
        page = Page(flow._repr_html_())
        rows = len(page.all("tr"))
        assert rows == 6 + 1 + flow.architecture.n_cells + 1 + 3
        of_cells = page.texts[page.texts.index("conditioned on") + 2 : page.texts.index("Box")]
        assert sum(int(number) for number in of_cells[3::4]) == flow.n_params

    def test_a_dataset_has_its_zeros_and_ranges(self):
        data = points(200, fx=np.r_[np.ones(150), np.zeros(50)])
        page = Page(data._repr_html_())
        assert "points where f is zero 25.00% effective sample size of f/p 75.00% of the points" in page.text
        assert f"{data.x[:, 1].max():.6g}" in page.texts

    def test_no_matplotlib_is_needed(self):
        code = (
            "import sys\nsys.modules['matplotlib'] = None\nimport varflow as vf\n"
            "print(len(vf.Flow(2, d_hidden=4)._repr_html_()) > 0)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout == "True\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Points in files of hostile names, with a column of another, and a flow."""
    folder = tmp_path_factory.mktemp("files")
    points(400).save(folder / "points.csv")
    text = (folder / "points.csv").read_text().replace("x1,x2", f"{HOSTILE},x2")
    (folder / f"{HOSTILE}.csv").write_text(text)
    (folder / "integrand.py").write_text(INTEGRAND)
    flow_of().save(folder / "flow.npz")
    vf.integrate(lambda x: x[:, 0], 2, n_calls=100).save(folder / "result.npz")
    return folder


class TestCommand:
    @pytest.fixture(autouse=True)
    def there(self, folder, monkeypatch):
        monkeypatch.chdir(folder)

    def refused(self, capsys, *arguments):
        before = sorted(os.listdir("."))
        assert main([*arguments]) == 2
        assert sorted(os.listdir(".")) == before
        (line,) = capsys.readouterr().err.splitlines()
        return line

    def test_shows_names_as_they_are(self, tmp_path):
        path = tmp_path / "report.html"
        assert main(["report", "flow.npz", f"{HOSTILE}.csv", "-o", str(path)]) == 0
        page = page_of(path)
        assert f"varflow: flow.npz on {HOSTILE}.csv" in page.texts
        assert page.texts.count(HOSTILE) == 1  # the title of a column of the worst points
        assert f"varflow report flow.npz '{HOSTILE}.csv' -o {path}" in page.texts
        assert {attrs.get("src", "data:")[:5] for _, attrs in page.elements} == {"data:"}

    def test_of_training(self, tmp_path, capsys):
        path = tmp_path / "report.html"
        arguments = ["train", "points.csv", "-o", str(tmp_path / "f.npz"), "--seed", "7", *QUICK]
        assert main([*arguments, "--report", str(path)]) == 0
        assert capsys.readouterr().out.endswith(f"wrote {path}\n")
        page = page_of(path)
        assert f"varflow {' '.join(arguments)} --report {path}" in page.texts
        assert "seed 7 seconds" in page.text
        assert re.search(r"points points.csv, [\d,]+ bytes, SHA-256 [0-9a-f]{64}", page.text)

    def test_of_an_integration_and_of_its_file(self, tmp_path):
        path, result = tmp_path / "report.html", tmp_path / "r.npz"
        arguments = ["integrate", "integrand.py:f", "--dim", "2", "--calls", "200"]
        assert main([*arguments, "-o", str(result), "--report", str(path)]) == 0
        page = page_of(path)
        assert "varflow: integral of integrand.py:f" in page.texts
        assert re.search(r"integrand integrand.py, \d+ bytes, SHA-256 [0-9a-f]{64} result", page.text)
        assert main(["report", str(result), "-o", str(path)]) == 0
        assert page_of(path).text.count(str(vf.Result.load(result))) > 1

    def test_of_a_run(self, tmp_path):
        path = tmp_path / "report.html"
        run = vf.Run(1, n_calls=100, seed=1)
        while (x := run.ask()) is not None:
            run.tell(x, x[:, 0])
        run.save(tmp_path / "run.vf")
        assert main(["result", str(tmp_path / "run.vf"), "--report", str(path)]) == 0
        assert "varflow: integral of run.vf" in page_of(path).texts

    def test_a_name_that_is_no_text(self, tmp_path):
        path = os.fsdecode(b"\xff\n.csv")
        Path(path).write_text(Path("points.csv").read_text())
        assert main(["report", "flow.npz", path, "-o", str(tmp_path / "report.html")]) == 0
        assert r"varflow: flow.npz on \udcff\n.csv" in page_of(tmp_path / "report.html").texts
        Path(path).unlink()

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["report", "flow.npz", "-o", "r.html"], "is measured on points: name their file, DATA"),
            (["report", "result.npz", "points.csv", "-o", "r.html"], "leave points.csv out"),
            (
                ["report", "flow.npz", "points.csv", "-o", "no/r.html"],
                "cannot write to the folder of no/r.html",
            ),
            (["report", "flow.npz", "points.csv", "-o", "points.csv"], "cannot be two files"),
            (["report", "flow.npz", "d3.csv", "-o", "r.html"], "d3.csv has d = 3, the flow has d = 2"),
            (["report", "flow.npz", "far.csv", "-o", "r.html"], "far.csv: x"),
            (["report", "flow.npz", "nan.csv", "-o", "r.html"], "nan.csv: fx"),
            (["report", "flow.npz", "one.csv", "-o", "r.html"], "at least 2 points, got 1"),
            (["train", "points.csv", "-o", "f.npz", "--report", "no/r.html"], "the folder of no/r.html"),
            (["train", "points.csv", "-o", "f.npz", "--report", "f.npz"], "cannot be two files"),
            (
                ["integrate", "integrand.py:f", "--dim", "2", "--report", "no/r.html"],
                "the folder of no/r.html",
            ),
        ],
    )
    def test_refusals(self, arguments, words, capsys, monkeypatch):
        for name, row in {
            "d3": "x1,x2,x3,p,f\n.1,.2,.3,1,1\n.2,.2,.2,1,1\n",
            "far": "x1,x2,p,f\n.1,.2,1,1\n.1,7,1,1\n",
            "nan": "x1,x2,p,f\n.1,.2,1,1\n.1,.3,1,nan\n",
            "one": "x1,x2,p,f\n.1,.2,1,1\n",
        }.items():
            Path(f"{name}.csv").write_text(row)
        for module in ("integrate", "train"):  # before anything is computed
            monkeypatch.setattr(f"varflow.cli.{module}.{module}", None)
        assert words in self.refused(capsys, *arguments)

    @pytest.mark.parametrize("missing", ["matplotlib", "corner"])
    def test_without_the_extra(self, missing, capsys, monkeypatch):
        for name in [name for name in sys.modules if name.partition(".")[0] == missing]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, missing, None)
        for arguments in (["report", "flow.npz", "points.csv", "-o", "r.html"],
                          ["train", "points.csv", "-o", "f.npz", "--report", "r.html"],
                          ["integrate", "integrand.py:f", "--dim", "2", "--report", "r.html"]):  # fmt: skip
            line = self.refused(capsys, *arguments)
            assert line == f"varflow: a report needs {missing}: pip install 'varflow[plot]'"

    def test_a_report_that_fails_costs_no_result(self, tmp_path, capsys, monkeypatch):
        def fail(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("varflow.reporting.report.atomic_path", fail)
        arguments = ["integrate", "integrand.py:f", "--dim", "2", "--calls", "200", "--json"]
        result = tmp_path / "r.npz"
        assert main([*arguments, "-o", str(result), "--report", str(tmp_path / "r.html")]) == 2
        told = capsys.readouterr()
        assert json.loads(told.out)["mean"] == vf.Result.load(result).mean
        assert told.err == "varflow: No space left on device\n"
