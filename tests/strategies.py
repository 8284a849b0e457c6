"""Hypothesis strategies of points, beside those of architectures and flows in `varflow.testing`."""

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from varflow import testing

seeds, dtypes = testing.SEEDS, testing.DTYPE_NAMES


def percent_of_examples(percent):
    """Settings of a test whose examples take long: so many of a hundred in the profile, but five at least."""
    return settings(max_examples=max(5, settings.default.max_examples * percent // 100))


@st.composite
def uniform_points(draw, d, n):
    """Points (n, d) of the unit cube; none of them is near a bin edge but by a chance of 1e-12."""
    return np.random.default_rng(draw(seeds)).random((n, d))


def edges(n_bins):
    """Bin edges, 0 and 1 among them, and the numbers next to them, all within [0, 1]."""
    exact = np.arange(n_bins + 1) / n_bins
    return np.unique(np.clip([np.nextafter(exact, -1), exact, np.nextafter(exact, 2)], 0, 1))


@st.composite
def edge_points(draw, d, n_bins, n):
    """Points (n, d) of the unit cube, each coordinate at a bin edge or next to one."""
    return np.random.default_rng(draw(seeds)).choice(edges(n_bins), size=(n, d))


def in_box(flow, points):
    """Points of the unit cube, moved to the flow's box."""
    return testing.in_box(points, flow.bounds)
