"""Mixtures of flows: their density, what is drawn from them, and their files."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import varflow as vf
from varflow.testing import normal_params

BOUNDS = [[-1.0, 1.0], [3.0, 3.5]]


def make_flow(seed, bounds=BOUNDS, d=2):
    flow = vf.Flow(d, n_bins=4, d_hidden=8, n_hidden=1, seed=seed, bounds=bounds)
    flow.params = normal_params(flow.architecture, 0.7, np.random.default_rng(seed))
    return flow


def make_mixture(n_flows=3, defensive=0.1):
    return vf.Mixture([make_flow(k) for k in range(n_flows)], defensive)


@given(n_flows=st.integers(1, 4), defensive=st.sampled_from([0.0, 0.01, 0.5]), seed=st.integers(0, 99))
def test_density_is_the_mean_of_the_flows_and_a_share_of_the_uniform_one(n_flows, defensive, seed):
    mixture = make_mixture(n_flows, defensive)
    x = make_flow(0).sample(200, seed)[0]
    mean = np.mean([np.exp(flow.log_prob(x)) for flow in mixture.flows], axis=0)
    expected = (1 - defensive) * mean + defensive / (2 * 0.5)
    np.testing.assert_allclose(np.exp(mixture.log_prob(x)), expected, rtol=1e-12)


def test_integral_of_the_density_is_one():
    mixture = make_mixture()
    u = stats.qmc.Sobol(2, rng=1).random(1 << 16)
    x = mixture.bounds[:, 0] + u * np.diff(mixture.bounds, axis=1)[:, 0]
    assert np.exp(mixture.log_prob(x)).mean() * 1.0 == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize("defensive", [0.0, 0.3])
def test_points_have_the_density_that_comes_with_them(defensive):
    mixture = make_mixture(defensive=defensive)
    x, logqx = mixture.sample(100_000, seed=5)
    np.testing.assert_array_equal(logqx, mixture.log_prob(x))
    # In cells of a grid, the numbers of points are those that the density gives.
    edges = [np.linspace(*bound, 9) for bound in mixture.bounds]
    found = np.histogram2d(*x.T, bins=edges)[0]
    centres = [(edge[:-1, None] + np.arange(40) / 40 * np.diff(edge)[:, None] + np.diff(edge)[:, None] / 80)
               for edge in edges]  # fmt: skip
    fine = np.stack(np.meshgrid(*(one.ravel() for one in centres), indexing="ij"), axis=-1).reshape(-1, 2)
    density = np.exp(mixture.log_prob(fine)).reshape(8, 40, 8, 40).mean(axis=(1, 3)) / 64
    chi_squared = np.sum((found - 1e5 * density) ** 2 / (1e5 * density))
    assert stats.chi2.sf(chi_squared, 63) > 1e-4


def test_a_larger_sample_begins_with_the_same_points():
    mixture = make_mixture()
    few, many = mixture.sample(1000, seed=3)[0], mixture.sample(70_000, seed=3)[0]
    np.testing.assert_array_equal(few, many[:1000])
    blocks = [x for x, _ in mixture.sample_blocks(70_000, seed=3)]
    np.testing.assert_array_equal(np.concatenate(blocks), many)
    assert not np.array_equal(mixture.sample(10)[0], mixture.sample(10)[0])


def test_defensive_share_bounds_the_weights():
    flow = make_flow(1)
    flow.params = 30 * flow.params  # so that the density is far below one in places
    x = np.random.default_rng(1).random((1000, 2)) * [2, 0.5] + [-1, 3]
    assert np.exp(flow.log_prob(x)).min() < 1e-3
    assert np.exp(vf.Mixture([flow], 0.01).log_prob(x)).min() >= 0.01 / 1.0 * (1 - 1e-12)


def test_files_bring_back_the_same_bits(tmp_path):
    mixture = make_mixture()
    mixture.save(tmp_path / "mixture.npz")
    x = mixture.sample(100, seed=1)[0]
    for load in (vf.Mixture.load, vf.load_flow):
        loaded = load(tmp_path / "mixture.npz")
        assert isinstance(loaded, vf.Mixture)
        np.testing.assert_array_equal(loaded.log_prob(x), mixture.log_prob(x))
        np.testing.assert_array_equal(loaded.sample(100, seed=1)[0], x)
    make_flow(1).save(tmp_path / "flow.npz")
    assert isinstance(vf.load_flow(tmp_path / "flow.npz"), vf.Flow)
    copied = mixture.copy()
    copied.flows[0].params[:] = 0
    np.testing.assert_array_equal(mixture.log_prob(x), vf.load_flow(tmp_path / "mixture.npz").log_prob(x))


def test_files_of_another_kind_are_refused(tmp_path):
    make_flow(1).save(tmp_path / "flow.npz")
    make_mixture().save(tmp_path / "mixture.npz")
    (tmp_path / "text.npz").write_text("no flow")
    with pytest.raises(vf.FileFormatError, match="format must be 'varflow mixture', found 'varflow flow'"):
        vf.Mixture.load(tmp_path / "flow.npz")
    with pytest.raises(vf.FileFormatError, match="format must be 'varflow flow', found 'varflow mixture'"):
        vf.Flow.load(tmp_path / "mixture.npz")
    with pytest.raises(vf.FileFormatError, match=r"text\.npz"):
        vf.load_flow(tmp_path / "text.npz")
    with pytest.raises(FileNotFoundError):
        vf.load_flow(tmp_path / "nothing.npz")
    whole = (tmp_path / "mixture.npz").read_bytes()
    (tmp_path / "mixture.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(vf.FileFormatError):
        vf.load_flow(tmp_path / "mixture.npz")


def test_what_is_no_mixture_is_refused():
    flow = make_flow(1)
    with pytest.raises(ValueError, match="one flow or more"):
        vf.Mixture([])
    with pytest.raises(TypeError, match=r"flows\[1\] must be a Flow, got str"):
        vf.Mixture([flow, "flow"])
    with pytest.raises(ValueError, match=r"the same bounds, found .* and, in flows\[1\]"):
        vf.Mixture([flow, make_flow(1, bounds=[[0, 1], [3, 3.5]])])
    with pytest.raises(ValueError, match="same bounds"):
        vf.Mixture([flow, make_flow(1, bounds=None, d=3)])
    for share in (-0.1, 1.0, np.nan):
        with pytest.raises(ValueError, match=r"defensive must be in \[0, 1\)"):
            vf.Mixture([flow], share)
    flow.params[0] = np.nan
    with pytest.raises(ValueError, match="params must be finite"):
        vf.Mixture([flow]).save("nowhere.npz")


def test_it_is_measured_and_concatenated_as_a_flow_is():
    mixture = make_mixture()
    x, logqx = mixture.sample(2000, seed=4)
    data = vf.Dataset(x, logpx=logqx, logfx=logqx, bounds=BOUNDS)
    assert vf.evaluate(mixture, data).variance_after < 1e-20
    both = vf.Dataset.concatenate(data, data, densities=[mixture, mixture])
    np.testing.assert_allclose(both.logpx, np.tile(logqx, 2), rtol=0, atol=1e-12)
    with pytest.raises(TypeError, match="flow must be a Flow, got Mixture"):
        vf.BasicVarTrainer(mixture)


def test_weights(tmp_path):
    """They weigh densities and points, and go through files; a file of version 1 has none."""
    flows = [make_flow(k) for k in range(2)]
    mixture = vf.Mixture(flows, 0.2, weights=[1, 3])
    assert mixture.shares() == pytest.approx([0.2, 0.6, 0.2])
    x = mixture.sample(1000, seed=1)[0]
    parts = [share * np.exp(flow.log_prob(x)) for share, flow in zip((0.2, 0.6), flows, strict=True)]
    expected = sum(parts) + 0.2 / np.exp(mixture.log_volume)
    assert np.exp(mixture.log_prob(x)) == pytest.approx(expected)
    mixture.save(tmp_path / "m.npz")
    read = vf.Mixture.load(tmp_path / "m.npz")
    assert np.array_equal(read.weights, mixture.weights)
    assert read.params_digest() == mixture.params_digest() != vf.Mixture(flows, 0.2).params_digest()
    assert np.array_equal(mixture.copy().weights, mixture.weights)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1], "one for each of 2 flows"),
        ([1, 0], "above 0"),
        ([1, np.nan], "above 0"),
        ([1, np.inf], "above 0"),
    ],
)
def test_weights_that_are_refused(weights, message):
    with pytest.raises(ValueError, match=message):
        vf.Mixture([make_flow(0), make_flow(1)], weights=weights)
