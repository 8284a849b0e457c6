"""Hostile numbers: training completes with finite parameters, or says why not and keeps what it had."""

import datetime
import math
import re

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import varflow as vf
from varflow import Adam, Dataset, Flow, InvalidLossError, TrainingInterruption
from varflow.flow.architecture import DTYPES
from varflow.kernels.splines import SPLINES
from varflow.training.losses import LOSSES

D = 2
EDGES = [-0.0, 0.0, 5e-324, 0.25, np.nextafter(0.5, 0), 0.5, np.nextafter(1, 0), 1.0]

seeds = st.integers(0, 2**32 - 1)
sizes = st.sampled_from([1, 2, 63, 64, 65, 200])
finite = st.floats(allow_nan=False, allow_infinity=False)
densities = st.floats(1e-300, 1e300)


@st.composite
def points(draw, n):
    """Points (n, d): inside, on the edges of bins and of the cube, or one of these many times."""
    rng = np.random.default_rng(draw(seeds))
    kinds = [lambda: rng.random((n, D)), lambda: rng.choice(EDGES, (n, D))]
    kinds.append(lambda: np.tile(rng.choice(EDGES, D), (n, 1)))
    return draw(st.sampled_from(kinds))()


def with_outlier(n, most, outlier, row):
    values = np.full(n, most)
    values[row % n] = outlier
    return values


def over_all_exponents(n, seed, lowest, highest):
    rng = np.random.default_rng(seed)
    return np.ldexp(rng.uniform(0.5, 1, n), rng.integers(lowest, highest, n)) * rng.choice([-1, 1], n)


def functions(n):
    """f, (n,): any finite numbers, one that outweighs the others, all equal, all but one zero."""
    return st.one_of(
        hnp.arrays(np.float64, n, elements=finite),
        st.builds(with_outlier, st.just(n), finite, finite, seeds),
        st.builds(with_outlier, st.just(n), st.just(0.0), finite, seeds),
        st.builds(over_all_exponents, st.just(n), seeds, st.just(-1100), st.just(1024)),
    )


def positive(n):
    """p, (n,), from 1e-300 to 1e300."""
    return st.one_of(
        hnp.arrays(np.float64, n, elements=densities),
        st.builds(with_outlier, st.just(n), densities, densities, seeds),
        st.just(np.ones(n)),
    )


@st.composite
def weighted_points(draw, n=sizes):
    """(x, px, fx) that may be told from their copies once they have been written to."""
    n = draw(n)
    return draw(points(n)), draw(positive(n)), draw(functions(n))


@st.composite
def small_flows(draw):
    cell, dtype = draw(st.sampled_from(sorted(SPLINES))), draw(st.sampled_from(DTYPES))
    return Flow(
        D, cell, n_bins=3, d_hidden=4, n_hidden=1, dtype=dtype, seed=1, threads=draw(st.integers(1, 2))
    )


losses = st.sampled_from([*LOSSES, (vf.weighted_variance_loss, LOSSES["variance"].derivative)])
configs = st.fixed_dictionaries(
    {"minibatch_size": st.sampled_from([None, 50]), "holdout": st.sampled_from([0.0, 0.3])}
)


def is_finite(*arrays):
    return all(array is None or np.isfinite(array).all() for array in arrays)


def assert_usable(flow, x):
    """A flow whose numbers are finite, and with which one can go on."""
    assert is_finite(flow.params, *flow.to_latent(x), *flow.sample(70, seed=1))


def state_of(flow, optim):
    return [flow.params.copy(), *optim.state()]


def assert_same(found, expected):
    """The same bits."""
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def outcome_of(call, *arguments):
    """What a call returns, or the error it raises."""
    try:
        return call(*arguments)
    except (ValueError, TrainingInterruption) as error:
        return error


class TestTraining:
    @given(weighted_points(), small_flows(), losses, configs)
    @example((np.full((1, D), 0.5), np.ones(1), np.full(1, 5e-324)), Flow(D, seed=1), "variance", {})
    @example((np.ones((9, D)), np.full(9, 1e20), np.ones(9)), Flow(D, seed=1), "variance", {})
    def test_stateful_completes_or_keeps_the_last_good_state(self, arrays, flow, loss, config):
        optim, before, copies = Adam(lr=1e-2), flow.params.copy(), [array.copy() for array in arrays]
        trainer = vf.BasicStatefulTrainer(flow, loss=loss, n_epochs=3, optim=optim, **config)
        outcome = outcome_of(trainer.train_on_batch, *arrays)
        if isinstance(outcome, TrainingInterruption):
            assert_same(state_of(flow, optim), [trainer.good_state.params, *trainer.good_state.optim_state])
        elif isinstance(outcome, ValueError):
            assert re.search("fx is zero everywhere|training needs at least 50 points", str(outcome))
            assert_same([flow.params], [before])
        else:
            assert outcome.epoch == 3
            assert is_finite(outcome.epoch_losses, outcome.best_loss)
        assert_usable(flow, arrays[0])
        assert is_finite(*optim.state())
        assert_same(arrays, copies)

    @given(weighted_points(), small_flows(), losses)
    @example((np.ones((9, D)), np.full(9, 1e20), np.ones(9)), Flow(D, seed=1), "variance")
    def test_step_is_taken_or_changes_nothing(self, arrays, flow, loss):
        optim = Adam(lr=1e-2)
        trainer = vf.BasicTrainer(flow, loss=loss)
        for _ in range(3):
            before = state_of(flow, optim)
            outcome = outcome_of(trainer.train_step_on_target_minibatch, *arrays, optim)
            if isinstance(outcome, float):
                assert math.isfinite(outcome)
                assert optim.t == before[-1] + 1
            else:
                assert isinstance(outcome, InvalidLossError) or "fx is zero everywhere" in str(outcome)
                assert_same(state_of(flow, optim), before)
        assert_usable(flow, arrays[0])
        assert is_finite(*optim.state())

    @given(st.data(), small_flows(), st.sampled_from(list(LOSSES)), st.integers(-400, 400))
    def test_powers_of_two_in_f_change_no_bit_nor_the_refusal(self, data, flow, loss, exponent):
        n = data.draw(sizes)
        x, px = data.draw(points(n)), data.draw(positive(n))
        fx = over_all_exponents(n, data.draw(seeds), -600, 600)
        found = []
        for values in (fx, np.ldexp(fx, exponent)):
            trained = flow.copy()
            trainer = vf.BasicStatefulTrainer(trained, loss=loss, n_epochs=2, minibatch_size=50)
            outcome = outcome_of(trainer.train_on_batch, x, px, values)
            found.append((trained.params.tobytes(), getattr(outcome, "losses", str(outcome))))
        assert found[0] == found[1]


CONVERSIONS = {
    "list": np.ndarray.tolist,
    "tuple": lambda a: tuple(map(tuple, a.tolist())) if a.ndim > 1 else tuple(a.tolist()),
    "float16": lambda a: a.astype(np.float16),
    "float32": lambda a: a.astype(np.float32),
    "long double": lambda a: a.astype(np.longdouble),
    "int8": lambda a: a.astype(np.int8),
    "uint64": lambda a: a.astype(np.uint64),
    "big-endian": lambda a: a.astype(">f8"),
    "fortran": np.asfortranarray,
    "strided": lambda a: np.repeat(a, 3, axis=0)[1::3],
    "backwards": lambda a: a[::-1].copy()[::-1],
    "unaligned": lambda a: np.frombuffer(b"x" + a.tobytes(), np.float64, offset=1).reshape(a.shape),
    "broadcast": lambda a: np.broadcast_to(a, (2, *a.shape))[1],
    "matrix": lambda a: a.view(np.recarray) if a.ndim == 1 else a.view(np.matrix),
}


def whole_numbers(n, seed):
    """(x, px, fx) that every dtype holds: x in the corners of the cube."""
    rng = np.random.default_rng(seed)
    x, px, fx = rng.integers(0, 2, (n, D)), rng.integers(1, 9, n), rng.integers(0, 100, n)
    fx[0] = 1
    return [array.astype(np.float64) for array in (x, px, fx)]


class TestLayout:
    @given(
        seeds, sizes, small_flows(), st.lists(st.sampled_from(sorted(CONVERSIONS)), min_size=3, max_size=3)
    )
    def test_how_numbers_are_stored_changes_no_bit(self, seed, n, flow, names):
        plain = whole_numbers(n, seed)
        stored = [CONVERSIONS[name](array) for name, array in zip(names, plain, strict=True)]
        for array in stored:
            if isinstance(array, np.ndarray):
                array.flags.writeable = False
        found = []
        for x, px, fx in (plain, stored):
            trained = flow.copy()
            vf.BasicVarTrainer(trained).train_on_target_batch(x, px, fx, n_epochs=2, minibatch_size=50)
            bits = [trained.params.tobytes()]
            bits += [array.tobytes() for array in (*trained.to_latent(x), *trained.from_latent(x))]
            bits.append(trained.log_prob(x).tobytes())
            if n > 1:
                bits.append(repr(vf.evaluate(trained, Dataset(x, px, fx))))
            found.append(bits)
        assert found[0] == found[1]

    @given(st.data(), sizes, small_flows())
    def test_points_on_edges_go_there_and_back_within_the_box(self, data, n, flow):
        x = data.draw(points(n))
        for transform in (flow.to_latent, flow.from_latent):
            copy = x.copy()
            image, log_q = transform(x)
            assert is_finite(image, log_q)
            assert ((image >= 0) & (image <= 1)).all()
            assert_same([x], [copy])


ENTRIES = {
    "Dataset": lambda x, px, fx: Dataset(x, px, fx),
    "log_prob": lambda x, px, fx: Flow(D, seed=1).log_prob(x),
    "to_latent": lambda x, px, fx: Flow(D, seed=1).to_latent(x),
    "from_latent": lambda z, px, fx: Flow(D, seed=1).from_latent(z),
    "compute_loss": lambda x, px, fx: vf.BasicVarTrainer(Flow(D, seed=1)).compute_loss(x, px, fx),
    "train_on_batch": lambda x, px, fx: vf.BasicStatefulVarTrainer(Flow(D, seed=1)).train_on_batch(x, px, fx),
}

MASKED = np.ma.array([0.1, 0.2], mask=[False, True])
BAD_POINTS = {
    "masked": np.ma.array([[0.1, 0.2]] * 3, mask=[[False, True]] * 3),
    "list of masked rows": [MASKED] * 3,
    "tuple of masked rows": (MASKED,) * 3,
    "complex": np.full((3, D), 0.5 + 0j),
    "object": np.full((3, D), 0.5).astype(object),
    "fractions of huge integers": [[10**400, 1]] * 3,
    "text": [["0.1", "0.2"]] * 3,
    "bytes": np.full((3, D), b"0.5"),
    "times": np.zeros((3, D), "m8[s]"),
    "dates": [[datetime.date(2020, 1, 1)] * D] * 3,
    "none": [[None, 0.5]] * 3,
    "a generator": (row for row in [[0.1, 0.2]]),
    "records": np.zeros(3, [("a", float), ("b", float)]),
    "one dimension": [0.1, 0.2, 0.3],
    "three dimensions": np.zeros((3, D, 1)),
    "no rows": np.zeros((0, D)),
    "no columns": np.zeros((3, 0)),
    "a number": 0.5,
    "nan": [[0.1, math.nan]] * 3,
    "inf": [[0.1, -math.inf]] * 3,
    "too large a long double": np.full((3, D), np.finfo(np.longdouble).max),
    "just outside": [[0.1, np.nextafter(1, 2)]] * 3,
    "just below": [[0.1, -5e-324]] * 3,
}
BAD_VALUES = {
    name: value
    for name, value in BAD_POINTS.items()
    if name not in ("one dimension", "tuple of masked rows", "just outside", "just below")
} | {"masked": np.ma.masked_equal([1.0, 2.0, 3.0], 2.0), "too few": np.ones(2), "one": 1.0}


class TestRefusals:
    @pytest.mark.parametrize("kind", BAD_POINTS)
    @pytest.mark.parametrize("entry", ENTRIES)
    def test_points_are_refused_by_name(self, entry, kind):
        name = "z" if entry == "from_latent" else "x"
        with pytest.raises((TypeError, ValueError), match=rf"^{name} "):
            ENTRIES[entry](BAD_POINTS[kind], np.ones(3), np.ones(3))

    @pytest.mark.parametrize("kind", BAD_VALUES)
    @pytest.mark.parametrize("name", ["px", "fx", "logpx", "logfx"])
    def test_values_are_refused_by_name(self, name, kind):
        values = {"px": np.ones(3), "fx": np.ones(3)}
        del values[name.removeprefix("log")]
        with pytest.raises((TypeError, ValueError), match=rf"^{name} "):
            Dataset(np.zeros((3, D)), **values | {name: BAD_VALUES[kind]})

    @pytest.mark.parametrize("width", [5e-324, 1e-310, math.nextafter(np.finfo(float).tiny, 0)])
    def test_boxes_of_denormal_width_are_refused(self, width):
        with pytest.raises(ValueError, match=r"^bounds must have lower < upper"):
            Flow(1, bounds=[0, width])

    @pytest.mark.parametrize("width", [np.finfo(float).tiny, 1e-300, 1e300, np.finfo(float).max])
    def test_boxes_of_other_widths_are_mapped_whole(self, width):
        flow = Flow(1, bounds=[0, width], seed=1)
        z, log_q = flow.to_latent([[0], [width / 4], [width]])
        np.testing.assert_allclose(z[:, 0], [0, 0.25, 1], rtol=1e-15)
        np.testing.assert_allclose(log_q, -math.log(width), rtol=1e-15)


def test_losses_of_ones_own_take_densities_beyond_the_range_of_numbers():
    """p and f of a Dataset of logs are then infinite, as its attributes are."""
    data = Dataset(np.full((60, D), 0.5), logpx=np.full(60, 800.0), logfx=np.zeros(60))
    seen = []
    loss = (lambda fx, px, logqx: seen.append(px) or 1.0, lambda fx, px, logqx: np.zeros(len(fx)))
    vf.BasicStatefulTrainer(Flow(D, seed=1), loss=loss, n_epochs=1).train_on_dataset(data)
    assert np.isinf(np.concatenate(seen)).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_numpy_settings_of_the_caller_do_not_matter(loss):
    x, px = np.random.default_rng(1).random((100, D)), np.ones(100)
    fx = with_outlier(100, 5e-324, 1e300, 7)
    found = []
    for setting in ("ignore", "raise"):
        flow = Flow(D, seed=1)
        with np.errstate(all=setting):
            vf.BasicStatefulTrainer(flow, loss=loss, n_epochs=2).train_on_batch(x, px, fx)
            found.append([flow.params.tobytes(), repr(vf.evaluate(flow, Dataset(x, px, fx)))])
    assert found[0] == found[1]


@given(weighted_points(), small_flows())
@example((np.full((2000, D), 0.5), np.ones(2000), with_outlier(2000, 0.0, 1.0, 7)), Flow(D, seed=1))
@example((np.full((2, D), 0.5), np.full(2, 1e-300), np.ones(2)), Flow(D, seed=1))
def test_evaluation_of_any_numbers_is_a_table(arrays, flow):
    x, px, fx = arrays
    if len(x) > 1 and fx.any():
        assert "effective sample size" in str(vf.evaluate(flow, Dataset(x, px, fx)))
