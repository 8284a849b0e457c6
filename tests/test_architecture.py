"""Architectures: parameters tile the flat array, their number is known, wrong arguments are refused."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from varflow import Architecture
from varflow.kernels.splines import CELLS
from varflow.testing import architectures

NUMBERS = ("d", "n_bins", "d_hidden", "n_hidden", "repetitions")


@given(architectures(d=st.integers(1, 20)))
def test_number_of_params_follows_the_formula(architecture):
    width, total = architecture.d_hidden, 0
    for mask in architecture.masks:
        n_transformed, n_inputs = int(mask.sum()), int((~mask).sum())
        n_out = n_transformed * CELLS[architecture.cell].n_logits(architecture.n_bins)
        if n_inputs == 0:
            total += n_out
        else:
            hidden = (n_inputs + 1) * width + (architecture.n_hidden - 1) * (width + 1) * width
            total += hidden + (width + 1) * n_out
    assert architecture.n_params == total


@pytest.mark.parametrize(
    ("d", "masking", "d_hidden", "n_hidden", "n_params"),
    [
        (4, "checkerboard", 64, 3, 19_624),
        (8, "iflow", 64, 3, 67_440),
        (8, "checkerboard", 256, 9, 1_075_792),
    ],
)
def test_known_numbers_of_params(d, masking, d_hidden, n_hidden, n_params):
    architecture = Architecture(d, "pwlinear", masking, 10, d_hidden, n_hidden)
    assert architecture.n_params == n_params


@given(architectures(d=st.integers(1, 20)))
def test_layers_tile_the_params(architecture):
    layers = architecture.layers
    assert layers.shape == (architecture.n_cells, architecture.n_hidden + 1, 4)
    for cell, mask in zip(layers, architecture.masks, strict=True):
        assert cell[0, 0] == (~mask).sum()
        assert cell[-1, 1] == mask.sum() * architecture.n_logits
        np.testing.assert_array_equal(cell[1:, 0], cell[:-1, 1])
    used = np.zeros(architecture.n_params, int)
    for n_in, n_out, weights, biases in layers.reshape(-1, 4):
        used[weights : weights + n_in * n_out] += 1
        used[biases : biases + n_out] += 1
    assert (used == 1).all()


@given(architectures(), st.integers(0, 2**32))
def test_initial_params(architecture, seed):
    params = architecture.initial_params(np.random.default_rng(seed))
    assert params.shape == (architecture.n_params,)
    assert params.dtype == architecture.dtype
    for cell in architecture.layers:
        for n_in, n_out, weights, biases in cell[:-1]:
            weights, biases = params[weights : weights + n_in * n_out], params[biases : biases + n_out]
            assert weights.all()
            assert biases.all()
            scale = np.sqrt(n_in) / (1 + 1e-6)
            assert (scale * np.abs(weights) <= np.sqrt(3)).all()
            assert (scale * np.abs(biases) <= 1).all()
        n_in, n_out, weights, biases = cell[-1]
        assert not params[weights : weights + n_in * n_out].any()
        assert not params[biases : biases + n_out].any()


def test_initial_hidden_params_are_uniform():
    architecture = Architecture(2, masking="checkerboard", d_hidden=200, n_hidden=2)
    params = architecture.initial_params(np.random.default_rng(1))
    n_in, n_out, weights, biases = architecture.layers[0, 1]
    scaled = np.append(
        params[weights : weights + n_in * n_out] / np.sqrt(3), params[biases : biases + n_out]
    ) * np.sqrt(n_in)
    # Standard errors of mean and variance of 40 200 uniform numbers in [-1, 1]: 0.0029 and 0.0015.
    assert abs(scaled.mean()) < 5 * 0.0029
    assert abs(scaled.var() - 1 / 3) < 5 * 0.0015


@given(architectures())
def test_as_dict_makes_the_same_again(architecture):
    again = Architecture(**architecture.as_dict())
    assert again == architecture
    assert hash(again) == hash(architecture)
    np.testing.assert_array_equal(again.layers, architecture.layers)


@pytest.mark.parametrize("dtype", [np.float32, np.dtype("float32"), "float32"])
def test_dtype_may_be_a_numpy_type(dtype):
    assert Architecture(2, dtype=dtype).dtype == "float32"


def test_numpy_integers_become_plain():
    assert Architecture(np.int64(3), n_bins=np.uint8(4)) == Architecture(3, n_bins=4)
    assert type(Architecture(np.int64(3)).as_dict()["d"]) is int


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [0, -1])
def test_numbers_must_be_positive(name, value):
    with pytest.raises(ValueError, match=rf"^{name} must be at least 1, got {value}$"):
        Architecture(**{"d": 2, name: value})


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [True, 2.0, "2", None, np.float64(2), np.bool_(True), [2]])
def test_numbers_must_be_integers(name, value):
    with pytest.raises(TypeError, match=rf"^{name} must be an integer, got {re.escape(repr(value))}$"):
        Architecture(**{"d": 2, name: value})


@pytest.mark.parametrize(
    ("name", "value", "meant"),
    [
        ("cell", "pwlinaer", "pwlinear"),
        ("masking", "maximum", "maximal"),
        ("dtype", "float46", "float64"),
        ("dtype", np.float16, "float64"),
    ],
)
def test_unknown_names_are_answered_with_the_nearest(name, value, meant):
    with pytest.raises(ValueError, match=rf"^{name} must be one of .*; did you mean '{meant}'\?$"):
        Architecture(2, **{name: value})
