"""Hypothesis strategies: architectures, flows with random parameters, points."""

import numpy as np
from hypothesis import strategies as st

from varflow import Architecture, Flow
from varflow.architecture import DTYPES
from varflow.kernels.splines import CELLS
from varflow.masks import MASKS

seeds = st.integers(0, 2**32 - 1)
dtypes = st.sampled_from(DTYPES)
dimensions = st.integers(1, 8)


@st.composite
def architectures(draw, d=dimensions, dtype=dtypes):
    """Small architectures over all cells and maskings; the tests' time goes into many of them."""
    return Architecture(
        d=draw(d),
        cell=draw(st.sampled_from(sorted(CELLS))),
        masking=draw(st.sampled_from(sorted(MASKS))),
        n_bins=draw(st.integers(1, 12)),
        d_hidden=draw(st.integers(1, 12)),
        n_hidden=draw(st.integers(1, 3)),
        repetitions=draw(st.integers(1, 2)),
        dtype=draw(dtype),
    )


@st.composite
def boxes(draw, d):
    """The unit cube, or a box whose bounds have no digits in common, at most two widths from zero."""
    if draw(st.booleans()):
        return np.tile([0.0, 1.0], (d, 1))
    rng = np.random.default_rng(draw(seeds))
    return np.column_stack([rng.uniform(-10, 1, d), rng.uniform(2, 100, d)])


def normal_params(architecture, spread, rng):
    """Normal parameters with which logits are some `spread` apart, whatever the sizes of the layers."""
    params = np.empty(architecture.n_params)
    for *hidden, last in architecture.layers:
        gains = [np.sqrt(2)] * len(hidden) + [spread]  # a ReLU takes half of the variance
        for gain, (n_in, n_out, weights, biases) in zip(gains, [*hidden, last], strict=True):
            scale = gain / np.sqrt(n_in + 1)
            params[weights : weights + n_in * n_out] = scale * rng.normal(size=n_in * n_out)
            params[biases : biases + n_out] = scale * rng.normal(size=n_out)
    return params


@st.composite
def flows(draw, d=dimensions, dtype=dtypes, spread=0.5):
    """Flows with normal parameters of moderate size: rounding is not amplified much on the way back."""
    architecture = draw(architectures(d, dtype))
    bounds = draw(boxes(architecture.d))
    flow = Flow(**architecture.as_dict(), bounds=bounds, seed=0, threads=draw(st.integers(1, 3)))
    flow.params = normal_params(architecture, spread, np.random.default_rng(draw(seeds)))
    return flow


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
    lower, upper = flow.bounds.T
    return np.clip(lower + (upper - lower) * points, lower, upper)
