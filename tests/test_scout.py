"""Walkers climb to the peaks wherever they are, and points are drawn around them with a known density."""

import math

import numpy as np
import pytest
from scipy import stats

from varflow.integration.scout import (
    MAX_STEP,
    MAX_STEPS,
    N_WALKERS,
    STEP_OF_WIDTH,
    Walkers,
    chosen,
    draw_around,
    log_density_around,
    moved,
    propose,
    walkers_at,
)


def generator(seed=1):
    return np.random.Generator(np.random.Philox(seed))


def log_peaks(u, centres, width):
    """Log of a sum of Gaussians of a standard deviation."""
    log_parts = [-0.5 * ((u - centre) ** 2).sum(axis=1) / width**2 for centre in centres]
    return np.logaddexp.reduce(log_parts)


def of_width(u, width):
    """Walkers at points u (n, d) in peaks of those widths."""
    return Walkers(u, np.zeros(len(u)), np.log(STEP_OF_WIDTH * width / math.sqrt(u.shape[1])))


def wander(log_f, d, n_steps, rng):
    """Walkers from uniform points, after so many steps."""
    start = rng.random((N_WALKERS, d))
    walkers = walkers_at(start, log_f(start))
    for step in range(n_steps):
        u = propose(walkers, rng)
        walkers = moved(walkers, u, log_f(u), step, rng)
    return walkers


def make_walkers(d, n=3, width=(0.05, 0.6), seed=1):
    rng = np.random.default_rng(seed)
    return of_width(rng.random((n, d)), rng.uniform(*width, n))


@pytest.mark.parametrize(("d", "width"), [(2, 0.01), (4, 0.02), (8, 0.02), (16, 0.07)])
def test_walkers_end_in_all_peaks_and_know_their_width(d, width):
    centres = np.array([np.full(d, 0.3), np.full(d, 0.7)])
    walkers = wander(lambda u: log_peaks(u, centres, width), d, MAX_STEPS, generator())
    assert len(walkers.u) == N_WALKERS
    np.testing.assert_array_equal(walkers.log_f, log_peaks(walkers.u, centres, width))
    distances = [np.linalg.norm(walkers.u - centre, axis=1) / (width * math.sqrt(d)) for centre in centres]
    near = np.array(distances) < 3
    assert (near.sum(axis=1) >= 5).all()
    assert near.any(axis=0).mean() > 0.6
    assert 0.5 < np.median(walkers.width[near.any(axis=0)]) / width < 2


def test_steps_stay_short_and_points_irregular_where_all_are_accepted():
    """Where f is flat or zero, steps once grew until folding left multiples of 1/32."""
    walkers, rng = walkers_at(np.full((50, 3), 0.5), np.full(50, -np.inf)), generator()
    seen = []
    for step in range(MAX_STEPS):
        u = propose(walkers, rng)
        walkers = moved(walkers, u, np.full(50, -np.inf), step, rng)
        seen.append(u)
    u = np.concatenate(seen)
    assert (walkers.log_step <= math.log(MAX_STEP)).all()
    assert ((u > 0) & (u < 1)).all()
    assert (u * 2**20 % 1 != 0).all()
    assert len(np.unique(u)) == u.size


def test_walkers_stay_in_the_cube_where_f_is_zero():
    walkers = wander(lambda u: np.full(len(u), -np.inf), 3, 20, generator())
    assert ((walkers.u >= 0) & (walkers.u <= 1)).all()
    assert (walkers.log_f == -np.inf).all()
    assert (walkers.width == 1).all()


def test_starts_are_drawn_in_proportion_to_weights_without_replacement():
    weights, rng = np.array([1e-3, 1.0, 2.0, 5.0]), generator()
    drawn = np.array([chosen(np.log(weights) - 700, 2, rng) for _ in range(20_000)])
    assert (drawn[:, 0] != drawn[:, 1]).all()
    shares = weights / weights.sum()
    np.testing.assert_allclose(np.bincount(drawn[:, 0], minlength=4) / len(drawn), shares, atol=0.015)
    after_last = np.bincount(drawn[drawn[:, 0] == 3, 1], minlength=4)
    np.testing.assert_allclose(after_last[:3] / after_last.sum(), shares[:3] / shares[:3].sum(), atol=0.02)


@pytest.mark.parametrize("d", [1, 2, 5])
def test_density_around_walkers_is_that_of_truncated_gaussians(d):
    walkers = make_walkers(d)
    u = draw_around(walkers, 200, generator())
    density = np.zeros(len(u))
    for centre, width in zip(walkers.u, walkers.width, strict=True):
        law = stats.truncnorm(-centre / width, (1 - centre) / width, loc=centre, scale=width)
        density += law.pdf(u).prod(axis=1) / len(walkers.u)
    np.testing.assert_allclose(np.exp(log_density_around(walkers, u)), density, rtol=1e-10)


@pytest.mark.parametrize("d", [1, 2, 3])
def test_points_around_walkers_have_that_density(d):
    walkers = make_walkers(d, width=(0.3, 0.6))
    u = draw_around(walkers, 20_000, generator())
    assert ((u >= 0) & (u <= 1)).all()
    for values, exact in ((np.ones(len(u)), 1), (u[:, 0], 1 / 2), (u[:, -1] ** 2, 1 / 3)):
        weighted = values / np.exp(log_density_around(walkers, u))
        assert abs(weighted.mean() - exact) < 5 * weighted.std() / math.sqrt(len(u))


def test_walkers_at_faces_and_of_tiny_widths():
    walkers = of_width(np.array([[0.0, 1.0], [0.5, 0.5]]), np.array([1e-9, 1e-7]))
    u = draw_around(walkers, 1000, generator())
    assert ((u >= 0) & (u <= 1)).all()
    assert np.isfinite(log_density_around(walkers, u)).all()
