"""Integrands that are given by their logarithms."""

import json
import math
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import percent_of_examples

import varflow as vf
from varflow.cli.command import main

INF = math.inf
WIDTH = 0.01
CENTRE = np.array([0.3, 0.55, 0.7, 0.4])
SMALL = {"n_bins": 8, "d_hidden": 16, "n_hidden": 1}
UNDERFLOWS = -5000.0  # exp of it is 0 in float64


def log_gaussian(x):
    """Log of a narrow Gaussian, which underflows at nearly all points of the unit cube."""
    return UNDERFLOWS - 0.5 * np.sum(((x - CENTRE[: x.shape[1]]) / WIDTH) ** 2, axis=1)


def log_integral(d):
    return UNDERFLOWS + d * math.log(WIDTH * math.sqrt(2 * math.pi))


def log_wave(x):
    return np.log(1.5 + np.sin(5 * x.sum(axis=1)))


def refined(f, offset=0.0, log=True, **options):
    """The result of a uniform flow."""
    integrator = vf.Integrator(
        lambda x: f(x) + offset, 2, n_iter=2, n_points=1000, seed=1, log=log, progress=False, **options
    )
    integrator.refine()
    return integrator.result()


def integrated(f, bounds, **options):
    options = {"seed": 1, "log": True, "flow_options": SMALL, **options}
    return vf.integrate(f, bounds, **options)


@pytest.fixture(scope="module")
def narrow():
    return integrated(log_gaussian, 4, n_calls=60_000)


class TestEstimate:
    def test_is_that_of_the_integrand_itself(self):
        found, expected = refined(log_wave), refined(lambda x: np.exp(log_wave(x)), log=False)
        np.testing.assert_allclose([found.mean, found.sdev], [expected.mean, expected.sdev], rtol=1e-10)
        assert found.log_mean == pytest.approx(math.log(expected.mean), abs=1e-12)
        assert found.log_sdev == pytest.approx(expected.sdev / expected.mean, rel=1e-10)
        assert found.chi2 == pytest.approx(expected.chi2, rel=1e-6)

    @percent_of_examples(15)
    @given(st.floats(-1e9, 1e9))
    def test_moves_with_a_constant(self, offset):
        found, expected = refined(log_wave, offset), refined(log_wave)
        rounding = 1e-12 + 1e-15 * abs(offset)
        assert found.log_mean - offset == pytest.approx(expected.log_mean, abs=10 * rounding)
        assert found.log_sdev == pytest.approx(expected.log_sdev, rel=1e-3 * min(1.0, 1e10 * rounding))

    def test_of_a_peak_that_underflows_everywhere(self, narrow):
        assert abs(narrow.log_mean - log_integral(4)) < 4 * narrow.log_sdev < 0.04
        assert not narrow.warnings
        assert math.isnan(narrow.mean)
        assert math.isnan(narrow.sdev)

    def test_with_few_calls(self):
        found = integrated(log_gaussian, 4, n_calls=6000)
        assert abs(found.log_mean - log_integral(4)) < 4 * found.log_sdev < 0.04

    def test_of_a_mass_that_was_not_found(self):
        needle = integrated(lambda x: -1e9 * np.sum((x - 0.4) ** 2, axis=1), 12, n_calls=1000)
        exact = 6 * math.log(math.pi / 1e9)
        assert needle.log_mean < exact - 100
        assert needle.log_sdev > 0.5
        assert needle.warnings

    def test_of_zero(self):
        found = refined(lambda x: np.full(len(x), -INF))
        assert (found.mean, found.sdev, found.log_mean, found.log_sdev) == (0.0, INF, -INF, INF)
        assert "f was zero at all" in found.warnings[0]

    def test_where_half_of_the_box_is_zero(self):
        found = refined(lambda x: np.where(x[:, 0] < 0.5, 0.0, -INF))
        assert abs(found.log_mean - math.log(0.5)) < 5 * found.log_sdev

    def test_on_infinite_axes(self):
        found = integrated(lambda x: -800 - 0.5 * np.sum(x**2, axis=1), [(-INF, INF)] * 2, n_calls=20_000)
        assert abs(found.log_mean - (math.log(2 * math.pi) - 800)) < 5 * found.log_sdev < 0.05

    def test_tolerance_is_relative_to_the_mean(self):
        found = integrated(log_wave, 2, n_calls=100_000, rtol=1e-3)
        assert found.log_sdev < 1e-3
        assert found.n_calls < 100_000

    def test_of_an_integrand_that_is_not_given_by_its_logarithm(self):
        found = refined(lambda x: x[:, 0] - 2, log=False)
        assert math.isnan(found.log_mean)
        assert found.log_sdev == pytest.approx(-found.sdev / found.mean)


class TestShown:
    def test_as_a_power_of_e(self, narrow):
        assert str(narrow).startswith("exp(-5014.7")
        assert all("exp(-5" in line for line in narrow.summary().splitlines() if "refine" in line)

    def test_in_a_table(self):
        pandas = pytest.importorskip("pandas")
        frame = refined(log_wave).to_frame()
        assert isinstance(frame, pandas.DataFrame)
        assert {"log_mean", "log_sdev", "accumulated_log_mean", "accumulated_log_sdev"} <= set(frame)

    def test_from_a_file(self, narrow, tmp_path):
        narrow.save(tmp_path / "r.npz")
        found = vf.Result.load(tmp_path / "r.npz")
        assert str(found) == str(narrow)
        assert found.summary() == narrow.summary()
        assert (found.log_mean, found.log_sdev) == (narrow.log_mean, narrow.log_sdev)


class TestPoints:
    def test_have_logarithms_for_weights(self, narrow):
        x, log_weights = narrow.sample(2000, seed=3)
        assert x.shape == (2000, 4)
        largest = log_weights.max()
        mean = largest + math.log(np.mean(np.exp(log_weights - largest)))
        assert mean == pytest.approx(log_integral(4), abs=0.1)

    def test_are_distributed_as_the_integrand_once_unweighted(self, narrow):
        x, weights = narrow.sample(4000, unweight=True, seed=3)
        assert np.count_nonzero(weights != 1) < 40
        np.testing.assert_allclose(x.mean(axis=0), CENTRE, atol=5 * WIDTH / math.sqrt(4000))
        np.testing.assert_allclose(x.std(axis=0), WIDTH, rtol=0.1)


class TestRun:
    def test_ends_with_the_bits_of_integrate(self, tmp_path):
        run = vf.Run(2, n_calls=3000, seed=1, log=True, flow_options=SMALL)
        while (points := run.ask()) is not None:
            run.tell(points, log_gaussian(points))
            run.save(tmp_path / "run.vf")
            run = vf.Run.load(tmp_path / "run.vf")
        expected = integrated(log_gaussian, 2, n_calls=3000)
        assert run.result().log_mean == expected.log_mean
        assert run.result().log_sdev == expected.log_sdev

    @pytest.mark.parametrize("n_lost", [1, 20])
    def test_points_that_are_lost_tell_no_unit(self, n_lost):
        found = {}
        for offset in (0.0, UNDERFLOWS):
            run = vf.Run(2, n_calls=100, seed=1, log=True)
            while (points := run.ask(20)) is not None:
                if run.n_told == 40:
                    run.forget(points[:n_lost])
                    points = points[n_lost:]
                run.tell(points, log_wave(points) + offset)
            found[offset] = run.result()
        assert found[UNDERFLOWS].log_mean == pytest.approx(found[0.0].log_mean + UNDERFLOWS, abs=1e-9)
        assert found[UNDERFLOWS].log_sdev == pytest.approx(found[0.0].log_sdev, rel=1e-6)

    def test_goes_on_from_a_checkpoint(self, tmp_path):
        expected = integrated(log_gaussian, 2, n_calls=3000)

        def fails_later(x):
            if integrator.integrand.n_calls > 1500:
                raise KeyboardInterrupt
            return log_gaussian(x)

        options = {"seed": 1, "log": True, "flow_options": SMALL, "checkpoint": tmp_path / "c.ckpt"}
        integrator = vf.Integrator(fails_later, 2, **options)
        with pytest.raises(KeyboardInterrupt):
            integrator.integrate_to(3000)
        found = vf.integrate(log_gaussian, 2, n_calls=3000, resume=True, **options)
        assert (found.log_mean, found.log_sdev) == (expected.log_mean, expected.log_sdev)
        assert not any("f has not the value" in warning for warning in found.warnings)
        with pytest.raises(ValueError, match="log"):
            vf.integrate(np.exp, 2, n_calls=3000, resume=True, **options | {"log": False})


class TestRefused:
    @pytest.mark.parametrize("bad", [math.nan, INF, 1e13])
    def test_logarithms_that_are_not_finite(self, bad):
        with pytest.raises(
            vf.InvalidIntegrandError, match=r"^log f is (nan|inf|1e\+13|10000000000000.0) at x"
        ):
            refined(lambda x: np.where(x[:, 0] < 0.9, 0.0, bad))

    def test_unless_they_are_to_be_zero(self):
        found = refined(lambda x: np.where(x[:, 0] < 0.5, 0.0, math.nan), on_invalid="zero")
        assert found.log_mean == pytest.approx(math.log(0.5), abs=0.1)
        assert found.n_invalid > 0

    @pytest.mark.parametrize("values", [lambda x: x, lambda x: {"a": x[:, 0]}])
    def test_several_components(self, values):
        with pytest.raises(ValueError, match="with log=True, f must return one logarithm a point"):
            vf.integrate(values, 2, n_calls=1000, log=True)

    def test_conversion_to_gvar_where_it_does_not_fit(self, narrow):
        pytest.importorskip("gvar")
        with pytest.raises(OverflowError, match="log_mean"):
            narrow.to_gvar()


def test_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "likelihood.py").write_text(
        "import numpy as np\ndef log_f(x): return -1e4 - 0.5 * np.sum((x - 0.4) ** 2, axis=1) / 0.01\n"
    )
    command = ["integrate", "likelihood.py:log_f", "--dim", "2", "--log"]
    command += ["--calls", "2000", "--n-bins", "8", "--d-hidden", "16", "--n-hidden", "1", "-o", "r.npz"]
    assert main(command) == 0
    assert "result = exp(-1000" in capsys.readouterr().out
    assert main([*command, "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    exact = -1e4 + math.log(2 * math.pi * 0.01)
    assert abs(figures["log_mean"] - exact) < 0.01
    assert figures["mean"] is None
    assert vf.Result.load(tmp_path / "r.npz").log_mean == figures["log_mean"]
