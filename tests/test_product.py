"""Products of matrices and transposition, beside NumPy's."""

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from varflow.kernels import product as products
from varflow.kernels.compile import kernel

sizes = st.one_of(st.integers(1, 10), st.integers(1, 150))
DTYPES = ["float32", "float64"]
dtypes = st.sampled_from(DTYPES)
seeds = st.integers(0, 2**32)

transpose = kernel(products.transpose.py_func)


def compiled_for(function, *kinds):
    """Compile a function for matrices of any strides and what else there is, rather than once per layout."""
    return numba.njit([f"void({kind})".replace("T", dtype) for kind in kinds for dtype in DTYPES])(
        function.py_func
    )


@pytest.fixture(scope="module")
def product():
    return compiled_for(products.product, "T[:,:], T[:,:], T[:,:], T[:,:]", "T[:,:], T[:], T[:,:], T[:,:]")


@pytest.fixture(scope="module")
def gated_product():
    return compiled_for(products.gated_product, "T[:,:], T[:], T[:,:], T[:,:], T[:,:], T")


def guarded(shape, dtype):
    """NaN of that shape, within a larger array of NaN."""
    around = np.full((shape[0] + 2, shape[1] + 70), np.nan, dtype)
    return around, around[1:-1, 1 : shape[1] + 1]


@given(sizes, sizes, sizes, dtypes, seeds, st.booleans(), st.sampled_from(["matrix", "row", "itself"]))
def test_product(product, n, k, m, dtype, seed, is_transposed, start_kind):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(n, k)).astype(dtype), rng.normal(size=(k, m)).astype(dtype)
    start = rng.normal(size=m if start_kind == "row" else (n, m)).astype(dtype)
    around, c = guarded((n, m), dtype)
    if start_kind == "itself":
        c[:] = start
    product(c, c if start_kind == "itself" else start, np.ascontiguousarray(a.T).T if is_transposed else a, b)
    terms = np.abs(a) @ np.abs(b) + np.abs(start)
    assert (np.abs(c - (start + a @ b)) <= (k + 2) * np.finfo(dtype).eps * terms).all()
    assert np.isnan(around).sum() == around.size - c.size  # nothing else was written


@pytest.fixture(scope="module")
def both_products():
    kinds = ["T[:,:], T[:,:], T[:,:], T[:,:], T[:,:], T"]
    return [compiled_for(one, *kinds) for one in (products.blocked_product, products.plain_product)]


@given(sizes, sizes, sizes, dtypes, seeds, st.sampled_from([1.0, 0.01]))
def test_plain_loops_agree_with_blocks(both_products, n, k, m, dtype, seed, closed):
    rng = np.random.default_rng(seed)
    a, b, start, gate = (rng.normal(size=shape).astype(dtype) for shape in ((n, k), (k, m), (n, m), (n, m)))
    blocked, plain = np.empty((2, n, m), dtype)
    for product, c in zip(both_products, (blocked, plain), strict=True):
        product(c, start, a, b, gate, np.dtype(dtype).type(closed))
    terms = np.abs(a) @ np.abs(b) + np.abs(start)
    assert (np.abs(blocked - plain) <= (k + 2) * np.finfo(dtype).eps * terms).all()


@given(sizes, sizes, sizes, dtypes, seeds, st.booleans())
def test_gated_product(product, gated_product, n, k, m, dtype, seed, gates_itself):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(n, k)).astype(dtype), rng.normal(size=(k, m)).astype(dtype)
    gate = rng.normal(size=(n, m)).astype(dtype)
    plain, closed = np.empty((n, m), dtype), np.dtype(dtype).type(0.01)
    product(plain, np.zeros(m, dtype), a, b)
    around, c = guarded((n, m), dtype)
    gated_product(c, np.zeros(m, dtype), a, b, c if gates_itself else gate, closed)
    is_open = (plain if gates_itself else gate) > 0
    np.testing.assert_array_equal(c, np.where(is_open, plain, closed * plain))
    assert np.isnan(around).sum() == around.size - c.size


@given(sizes, dtypes, seeds, st.integers(0, 149))
def test_bits_of_a_row_do_not_depend_on_where_it_stands(product, n, dtype, seed, r):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(n, 20)).astype(dtype), rng.normal(size=(20, 37)).astype(dtype)
    a[r % n] = a[0]
    c = np.empty((n, 37), dtype)
    product(c, np.zeros(37, dtype), a, b)
    assert c[r % n].tobytes() == c[0].tobytes()


@given(sizes, sizes, dtypes, seeds)
def test_transpose(n, m, dtype, seed):
    matrix = np.random.default_rng(seed).normal(size=(n, m)).astype(dtype)
    around, out = guarded((m, n), dtype)
    transpose(out, matrix)
    np.testing.assert_array_equal(out, matrix.T)
    assert np.isnan(around).sum() == around.size - out.size


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_shows(product, value):
    a, b = np.ones((64, 64), np.float32), np.ones((64, 64), np.float32)
    a[3, 5] = value
    c = np.zeros_like(a)
    product(c, c, a, b)
    assert not np.isfinite(c[3]).any()
    assert (np.delete(c, 3, axis=0) == 64).all()
