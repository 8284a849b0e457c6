"""Masks: every cell has work, every coordinate is transformed, and iflow tells all pairs apart."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from varflow.flow.masks import MASKS, make_masks

maskings = st.sampled_from(sorted(MASKS))


@given(maskings, st.integers(1, 40), st.integers(1, 4))
def test_laws(masking, d, repetitions):
    masks = make_masks(d, masking, repetitions)
    assert masks.dtype == bool
    assert masks.shape[1] == d
    assert masks.any(axis=0).all(), "a coordinate is never transformed"
    assert masks.any(axis=1).all(), "a cell transforms nothing"
    if d > 1:
        assert not masks.all(axis=1).any(), "a cell is conditioned on nothing"
    np.testing.assert_array_equal(masks, np.tile(make_masks(d, masking), (repetitions, 1)))


@given(st.integers(2, 40))
def test_number_of_cells(d):
    assert len(make_masks(d, "checkerboard")) == 2
    assert len(make_masks(d, "maximal")) == d
    assert len(make_masks(d, "iflow")) == 2 * int(np.ceil(np.log2(d)))


@given(st.integers(2, 40))
def test_iflow_conditions_each_coordinate_on_each_other(d):
    masks = make_masks(d, "iflow").astype(int)
    transforms_without = masks.T @ (1 - masks)  # (i, j): cells that transform i and are conditioned on j
    np.testing.assert_array_equal(transforms_without > 0, ~np.eye(d, dtype=bool))


@given(st.integers(2, 40))
def test_checkerboard_and_maximal_transform_each_coordinate_once(d):
    for masking in ("checkerboard", "maximal"):
        np.testing.assert_array_equal(make_masks(d, masking).sum(axis=0), np.ones(d))


def test_known_masks():
    np.testing.assert_array_equal(make_masks(4, "checkerboard"), [[0, 1, 0, 1], [1, 0, 1, 0]])
    np.testing.assert_array_equal(make_masks(2, "maximal"), [[1, 0], [0, 1]])
    expected = [[1, 1, 0, 0], [0, 0, 1, 1], [1, 0, 1, 0], [0, 1, 0, 1]]
    np.testing.assert_array_equal(make_masks(4, "iflow"), expected)


@pytest.mark.parametrize("masking", sorted(MASKS))
def test_one_dimension_is_one_cell(masking):
    np.testing.assert_array_equal(make_masks(1, masking), [[True]])


@pytest.mark.parametrize(
    ("found", "meant"),
    [("iflo", "iflow"), ("checkersboard", "checkerboard"), ("Maximal", "maximal"), ("I-flow", "iflow")],
)
def test_misspelt_name_is_answered_with_the_nearest(found, meant):
    message = (
        f"masking must be one of 'checkerboard', 'maximal', 'iflow', got '{found}'; did you mean '{meant}'?"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        make_masks(3, found)


@pytest.mark.parametrize("found", ["zzz", "", None, 3])
def test_strange_name_is_refused_without_a_guess(found):
    with pytest.raises(ValueError, match=rf"^masking must be one of .*, got {found!r}$"):
        make_masks(3, found)
