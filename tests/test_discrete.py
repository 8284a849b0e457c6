"""Discrete coordinates: probabilities, flows of them, sums over states, and what is refused."""

import itertools
import math
import pickle
from argparse import ArgumentTypeError, Namespace

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

import varflow as vf
from varflow.cli.integral import box
from varflow.cli.values import parse_discrete
from varflow.data.discrete import separated
from varflow.flow.categorical import MAX_TABLE, Network, Table, encoded, make_categorical, n_encoded
from varflow.training.discrete_steps import DiscreteSteps
from varflow.training.losses import LOSSES
from varflow.training.objective import Objective

SIZES = st.lists(st.integers(1, 5), min_size=1, max_size=4)
MODELS = st.sampled_from([Table, Network])
SEEDS = st.integers(0, 2**32 - 1)


def all_states(sizes):
    """All combinations of states, (K, D)."""
    return np.array(list(itertools.product(*map(range, sizes))), np.int64).reshape(-1, len(sizes))


def made(model, sizes, seed, scale=1.5):
    """Give a model with random parameters."""
    generator = np.random.default_rng(seed)
    one = model(sizes)
    params = one.initial_params([np.full(k, 1 / k) for k in sizes], generator)
    return one, params + scale * generator.standard_normal(params.shape)


# Probabilities


@given(MODELS, SIZES, SEEDS)
def test_probabilities_sum_to_one(model, sizes, seed):
    one, params = made(model, sizes, seed, scale=5)
    log_prob, _ = one.forward(params, all_states(sizes))
    assert abs(math.fsum(np.exp(log_prob)) - 1) < 1e-14 * len(log_prob)


@given(MODELS, SIZES, SEEDS)
def test_latent_points_lead_back_to_states_and_places(model, sizes, seed):
    one, params = made(model, sizes, seed)
    generator = np.random.default_rng(seed)
    z = generator.random((50, len(sizes)))
    s, r, log_prob = one.from_latent(params, z)
    assert ((s >= 0) & (s < sizes)).all()
    assert ((r >= 0) & (r <= 1)).all()
    again, same = one.to_latent(params, s, r)
    np.testing.assert_allclose(again, z, rtol=0, atol=1e-12)
    np.testing.assert_allclose(same, log_prob, rtol=0, atol=1e-12)
    np.testing.assert_allclose(one.forward(params, s)[0], log_prob, rtol=0, atol=1e-12)


@given(MODELS, SIZES, SEEDS)
def test_states_are_drawn_as_often_as_probabilities_say(model, sizes, seed):
    one, params = made(model, sizes, seed, scale=1)
    n, states = 4000, all_states(sizes)
    s, _, _ = one.from_latent(params, np.random.default_rng(seed).random((n, len(sizes))))
    strides = np.concatenate([np.cumprod(sizes[:0:-1])[::-1], [1]]).astype(int)
    found = np.bincount(s @ strides, minlength=len(states))
    expected = n * np.exp(one.forward(params, states)[0])
    assert (np.abs(found - expected) < 6 * np.sqrt(expected) + 6).all()


@given(MODELS, SIZES, SEEDS)
def test_gradients_agree_with_central_differences(model, sizes, seed):
    one, params = made(model, sizes, seed)
    generator = np.random.default_rng(seed)
    s = np.stack([generator.integers(k, size=7) for k in sizes], axis=1)
    dlog_prob, step = generator.standard_normal(7), 1e-6
    gradient = one.backward(params, s, one.forward(params, s)[1], dlog_prob)
    for k in generator.integers(len(params), size=10):
        shifted = [params.copy(), params.copy()]
        shifted[0][k] += step
        shifted[1][k] -= step
        up, down = (float(dlog_prob @ one.forward(each, s)[0]) for each in shifted)
        assert abs((up - down) / (2 * step) - gradient[k]) < 1e-6


@given(MODELS, SIZES, SEEDS)
def test_fits_follow_frequencies(model, sizes, seed):
    one = model(sizes)
    generator = np.random.default_rng(seed)
    params = one.initial_params([np.full(k, 1 / k) for k in sizes], generator)
    s = np.stack([generator.integers(k, size=500) for k in sizes], axis=1)
    weights = generator.random(500)
    log_prob, _ = one.forward(one.fitted_params(params, s, weights, 0.01), all_states(sizes))
    for j, k in enumerate(sizes):
        marginal = np.bincount(all_states(sizes)[:, j], np.exp(log_prob), k)
        shares = np.bincount(s[:, j], weights, k) / weights.sum()
        np.testing.assert_allclose(marginal, 0.99 * shares + 0.01 / k, atol=1e-3)


def test_few_states_have_a_table_and_many_a_network():
    assert isinstance(make_categorical([MAX_TABLE]), Table)
    assert isinstance(make_categorical([MAX_TABLE + 1]), Table)  # a network would be the same
    assert isinstance(make_categorical([2, MAX_TABLE // 2]), Table)
    assert isinstance(make_categorical([2, MAX_TABLE]), Network)


@given(SIZES)
def test_encodings_tell_states_apart(sizes):
    columns = encoded(all_states(sizes), sizes)
    assert columns.shape[1] == n_encoded(sizes)
    assert len(np.unique(columns, axis=0)) == math.prod(sizes)


# Flows


MIXED = [(0, 2), vf.Discrete(3), (-1, 1), vf.Discrete(1), vf.Discrete(2)]


def a_flow(seed, bounds=MIXED):
    flow = vf.DiscreteFlow(bounds, n_bins=4, d_hidden=8, n_hidden=1, seed=seed)
    flow.params += 0.4 * np.random.default_rng(seed).standard_normal(flow.n_params)
    return flow


@given(SEEDS)
def test_the_density_sums_and_integrates_to_one(seed):
    flow = a_flow(seed, [(0, 2), vf.Discrete(3), vf.Discrete(1), vf.Discrete(2)])
    n, total = 20_000, 0.0
    for s, t in itertools.product(range(3), range(2)):
        points = np.tile([0.0, s, 0.0, t], (n, 1))
        points[:, 0] = (np.arange(n) + 0.5) / n * 2
        total += np.exp(flow.log_prob(points)).mean() * 2
    assert abs(total - 1) < 1e-3


@given(SEEDS)
def test_points_have_the_density_that_they_are_drawn_with(seed):
    flow = a_flow(seed)
    x, logqx = flow.sample(300, seed=seed % 1000)
    np.testing.assert_allclose(flow.log_prob(x), logqx, atol=1e-5)
    assert (x[:, [1, 3, 4]] == np.floor(x[:, [1, 3, 4]])).all()
    assert (x[:, [1, 3, 4]] < [3, 1, 2]).all()
    cube = flow.on_box((0, 1))
    u, logqu = cube.sample(300, seed=seed % 1000)
    np.testing.assert_array_equal(np.floor(u[:, 1] * 3), x[:, 1])
    np.testing.assert_allclose(logqu, logqx + math.log(4 * 6), atol=1e-12)
    z, _ = cube.to_latent(u)
    np.testing.assert_allclose(cube.from_latent(z)[0][:, [0, 1, 2, 4]], u[:, [0, 1, 2, 4]], atol=1e-4)


@pytest.mark.parametrize("loss", ["variance", "dkl", "own"])
@pytest.mark.parametrize("control_variate", [True, False])
def test_steps_have_the_gradient_of_the_loss(loss, control_variate):
    options = {"n_bins": 4, "d_hidden": 8, "n_hidden": 1, "dtype": "float64"}
    flow = vf.DiscreteFlow([(0, 2), vf.Discrete(3), (-1, 1), *4 * [vf.Discrete(4)]], seed=1, **options)
    generator = np.random.default_rng(1)
    flow.params += 0.3 * generator.standard_normal(flow.n_params)
    x, logpx = flow.copy().sample(64, seed=1)
    data = vf.Dataset(
        x, logpx=logpx, fx=generator.random(64), bounds=flow.bounds, discrete={1: 3, 3: 4, 4: 4, 5: 4, 6: 4}
    )
    own = vf.Loss(*LOSSES["variance"][:2])
    objective = Objective(flow, data, own if loss == "own" else LOSSES[loss], control_variate=control_variate)
    rows = np.arange(64)
    value, gradient = DiscreteSteps(flow, 64)._gradient(objective, rows)
    assert abs(value - objective.value(rows)) < 1e-12 * abs(value)

    def expected():
        given_to_own = control_variate and loss != "own"
        return objective.value(rows) + given_to_own * np.exp(objective.log_q_over_p(rows)).mean()

    for k in generator.integers(flow.n_params, size=30):
        kept, step = flow.params[k], 1e-6
        flow.params[k] = kept + step
        up = expected()
        flow.params[k] = kept - step
        down = expected()
        flow.params[k] = kept
        assert abs((up - down) / (2 * step) - gradient[0, k]) < 1e-6


def test_flows_are_copied_pickled_and_kept(tmp_path):
    flow = a_flow(1)
    flow.save(tmp_path / "flow.npz")
    x, _ = flow.sample(20, seed=1)
    for same in (flow.copy(), pickle.loads(pickle.dumps(flow)), vf.load_flow(tmp_path / "flow.npz")):
        np.testing.assert_array_equal(same.log_prob(x), flow.log_prob(x))
        same.params[:] = 0
        assert not np.array_equal(
            same.log_prob(x), flow.log_prob(x)
        )  # parameters of its own, and all of them
        assert same.fingerprint() == flow.fingerprint()
    with pytest.raises(vf.FileFormatError):
        vf.Flow.load(tmp_path / "flow.npz")


# Integrals

OPTIONS = {"flow_options": {"n_bins": 8, "d_hidden": 16, "n_hidden": 1}, "seed": 1}


def spins(x):
    s = 2 * x - 1
    return np.exp(0.4 * (s * np.roll(s, 1, axis=1)).sum(axis=1) + 0.1 * s.sum(axis=1))


def sum_of_spins(n):
    """Transfer matrix of the chain above."""
    matrix = np.exp([[0.5, -0.4], [-0.4, 0.3]])
    return np.trace(np.linalg.matrix_power(matrix, n))


@pytest.mark.parametrize("n", [1, 2, 6, 12])
def test_sums_over_spins_are_those_of_the_transfer_matrix(n):
    result = vf.integrate(spins, [vf.Discrete(2)] * n, n_calls=4000, **OPTIONS)
    assert abs(result.mean - sum_of_spins(n)) < 5 * result.sdev + 1e-12 * result.mean
    assert result.sdev < 0.02 * result.mean
    assert result.warnings == ()


def test_many_spins_are_learnt_by_a_network():
    result = vf.integrate(spins, [vf.Discrete(2)] * 14, n_calls=33_000, **OPTIONS)
    assert abs(result.mean - sum_of_spins(14)) < 5 * result.sdev
    assert result.ess > 0.9


def resonance(x):
    """A peak whose place depends on states, two of which are rare."""
    centre = 0.2 + 0.15 * x[:, 1]
    return 10.0 ** -x[:, 1] * np.exp(-0.5 * ((x[:, 0] - centre) / 0.02) ** 2) * (1 + x[:, 2])


EXACT = 0.02 * math.sqrt(2 * math.pi) * 3 * sum(10.0**-k for k in range(4))


@pytest.mark.parametrize("n_calls", [3000, 40_000])
def test_states_beside_an_interval(n_calls):
    result = vf.integrate(resonance, [(0, 1), vf.Discrete(4), vf.Discrete(2)], n_calls=n_calls, **OPTIONS)
    assert abs(result.mean - EXACT) < 5 * result.sdev
    assert result.ess > (0.9 if n_calls > 10_000 else 0.2)
    x, weights = result.sample(2000, seed=1)
    assert abs(weights.mean() - EXACT) < 5 * weights.std() / math.sqrt(2000)
    assert set(np.unique(x[:, 1])) <= {0, 1, 2, 3}


def test_estimates_are_unbiased_and_errors_true():
    box = [vf.Discrete([0.2, 0.5, 0.3]), (0, 2)]

    def f(x):
        return (1 + x[:, 0]) * np.exp(-x[:, 1] * (1 + x[:, 0]))

    exact = sum(1 - math.exp(-2 * (1 + k)) for k in range(3))
    pulls = []
    for seed in range(10):
        result = vf.integrate(f, box, n_calls=200, flow_options=OPTIONS["flow_options"], seed=seed)
        pulls.append((result.mean - exact) / result.sdev)
    assert abs(np.mean(pulls)) < 4 / math.sqrt(10)
    assert 0.3 < np.std(pulls) < 1.8


@pytest.mark.parametrize("k", [1, 2])
def test_a_single_state_and_intervals_alone_give_the_same(k):
    def f(x):
        return np.exp(-x[:, 1])

    result = vf.integrate(f, [vf.Discrete(k), (0, 1)], n_calls=1000, **OPTIONS)
    assert abs(result.mean - k * (1 - math.exp(-1))) < 5 * result.sdev
    alone = vf.integrate(lambda x: np.full(len(x), 3.0), [vf.Discrete(k)], n_calls=200, **OPTIONS)
    assert abs(alone.mean - 3 * k) < 1e-9 * k


def test_to_a_tolerance_in_workers_with_components_and_logs():
    box = [vf.Discrete(3), (0, 1)]

    def f(x):
        return {"a": x[:, 0] + 1, "b": x[:, 1]}

    result = vf.integrate(f, box, rtol=1e-3, **OPTIONS)
    assert abs(result.mean["a"] - 6) < 0.02
    assert abs(result.mean["b"] - 1.5) < 0.01
    logs = vf.integrate(lambda x: -1000 - x[:, 0] - x[:, 1], box, n_calls=2000, log=True, **OPTIONS)
    exact = -1000 + math.log((1 - math.exp(-1)) * sum(math.exp(-k) for k in range(3)))
    assert abs(logs.log_mean - exact) < 5 * logs.log_sdev


def test_results_are_kept(tmp_path):
    box = [vf.Discrete(3), (0, 2)]
    result = vf.integrate(lambda x: (1 + x[:, 0]) * x[:, 1], box, n_calls=1000, **OPTIONS)
    result.save(tmp_path / "result.npz")
    again = vf.Result.load(tmp_path / "result.npz")
    x, log_q = again.sample(5000, seed=1)
    assert set(np.unique(x[:, 0])) == {0, 1, 2}
    weights = (1 + x[:, 0]) * x[:, 1] * np.exp(-log_q)
    assert abs(weights.mean() - 12) < 5 * weights.std() / math.sqrt(5000)
    events = vf.generate(again, lambda x: (1 + x[:, 0]) * x[:, 1], 500, seed=1)
    assert set(np.unique(events.x[:, 0])) <= {0, 1, 2}
    on_box = again.flow.on_box(again.bounds)
    points, logqx = on_box.sample(100, seed=1)
    np.testing.assert_allclose(on_box.log_prob(points), logqx, atol=1e-5)


def test_a_run_that_was_interrupted_ends_with_the_same_bits(tmp_path):
    f, box = (lambda x: (1 + x[:, 0]) * x[:, 1]), [vf.Discrete(3), (0, 2)]
    whole = vf.integrate(f, box, n_calls=3000, checkpoint=tmp_path / "a.ckpt", **OPTIONS)
    calls = []

    def failing(x):
        calls.append(len(x))
        if len(calls) == 4:
            raise RuntimeError("once")
        return f(x)

    options = {"n_calls": 3000, "checkpoint": tmp_path / "b.ckpt", **OPTIONS}
    with pytest.raises(RuntimeError, match="once"):
        vf.integrate(failing, box, **options)
    again = vf.integrate(failing, box, resume=True, **options)
    assert again.mean == whole.mean
    assert again.sdev == whole.sdev


def test_a_flow_of_an_integral_serves_another():
    f, box = (lambda x: (1 + x[:, 0]) * x[:, 1]), [vf.Discrete(3), (0, 2)]
    first = vf.integrate(f, box, n_calls=3000, **OPTIONS)
    with vf.Integrator(f, box, flow=first.flow, n_points=1000, seed=1) as integrator:
        integrator.refine()
        assert abs(integrator.result().mean - 12) < 5 * integrator.result().sdev
    with pytest.raises(ValueError, match="same numbers of states"):
        vf.Integrator(f, [(0, 3), (0, 2)], flow=first.flow)
    with pytest.raises(ValueError, match="same numbers of states"):
        vf.Integrator(f, [vf.Discrete(2), (0, 2)], flow=first.flow)


def test_a_state_without_weight_that_f_needs_is_found_and_told():
    def f(x):
        return 1.0 + x[:, 0]

    result = vf.integrate(f, [vf.Discrete([1, 1, 0])], n_calls=3000, **OPTIONS)
    assert abs(result.mean - 6) < 5 * result.sdev + 1e-9
    assert "state 2 of coordinate 0 was given the weight 0" in result.warnings[0]
    kept = vf.integrate(lambda x: f(x) * (x[:, 0] < 2), [vf.Discrete([1, 1, 0])], n_calls=3000, **OPTIONS)
    assert abs(kept.mean - 3) < 5 * kept.sdev + 1e-9
    assert kept.warnings == ()


# Domains, and what is refused


@given(st.lists(st.one_of(st.integers(1, 5), st.just((-1.0, 3.0))), min_size=1, max_size=4), SEEDS)
def test_boxes_take_states_to_intervals_and_back(sides, seed):
    bounds = [vf.Discrete(one) if isinstance(one, int) else one for one in sides]
    domain = vf.Domain(bounds)
    u = np.random.default_rng(seed).random((50, len(sides)))
    x, log_jacobian = domain.from_cube(u)
    for column, one in enumerate(bounds):
        if isinstance(one, vf.Discrete):
            np.testing.assert_array_equal(x[:, column], np.floor(u[:, column] * one.k))
    volume = math.prod(one.k if isinstance(one, vf.Discrete) else 4 for one in bounds)
    np.testing.assert_allclose(log_jacobian, math.log(volume), atol=1e-12)
    middle, same = domain.to_cube(x)
    np.testing.assert_allclose(same, log_jacobian, atol=1e-12)
    np.testing.assert_array_equal(
        domain.from_cube(middle)[0][:, list(domain.discrete)], x[:, list(domain.discrete)]
    )


@pytest.mark.parametrize(
    ("states", "error", "told"),
    [
        (0, ValueError, "number of states"),
        (-1, ValueError, "number of states"),
        (2.5, TypeError, "number of states"),
        (True, TypeError, "number of states"),
        ("ab", TypeError, "number of states"),
        ([], ValueError, "one for each state"),
        ([[1, 2]], ValueError, "one for each state"),
        ([1, -1], ValueError, "found -1.0 for state 1"),
        ([1, math.nan], ValueError, "found nan for state 1"),
        ([0, 0], ValueError, "all 0"),
        (["a", "b"], TypeError, "weights of Discrete"),
    ],
)
def test_states_are_refused(states, error, told):
    with pytest.raises(error, match=told):
        vf.Discrete(states)


@given(st.lists(st.floats(0, 1e308), min_size=1, max_size=6).filter(any))
def test_weights_become_probabilities(weights):
    one = vf.Discrete(weights)
    assert one.k == len(weights)
    assert abs(one.weights.sum() - 1) < 1e-15 * 10


def f_of_one(x):
    return x[:, 0]


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: vf.integrate(f_of_one, vf.Discrete(2)), "must be a sequence"),
        (lambda: vf.integrate(f_of_one, [vf.Discrete(2), (0, 1)], channels=["flow"]), "channels are maps"),
        (lambda: vf.integrate_family(f_of_one, [vf.Discrete(2)], [[1.0]]), "integrate_family is for boxes"),
        (lambda: vf.Run([vf.Discrete(2), (0, 1)]), "a Run is for boxes"),
        (lambda: vf.integrate(f_of_one, [vf.Discrete(2)], backend="cuda"), "on the CPU alone"),
        (lambda: vf.integrate(f_of_one, [vf.Discrete(2)], flow="realnvp"), "must have cells that map"),
        (lambda: vf.DiscreteFlow([(0, 1)]), "must have a Discrete among them"),
        (lambda: vf.DiscreteFlow([vf.Discrete(2), (0, math.inf)]), "must be finite"),
        (lambda: a_flow(1).on_box((0, 4)), "has 3 states"),
        (lambda: a_flow(1).log_prob([[1, 3, 0, 0, 0]]), "column 1"),
        (lambda: a_flow(1).log_prob([[1, 0.5, 0, 0, 0]]), "whole numbers from 0 to 2"),
        (lambda: vf.Domain([vf.Discrete(2)]).to_cube([[0.5]]), "whole numbers from 0 to 1"),
        (lambda: vf.export(a_flow(1), "f", language="c"), "discrete coordinates"),
    ],
)
def test_what_has_no_discrete_coordinates_says_so(call, told):
    with pytest.raises((TypeError, ValueError), match=told):
        call()


def test_bounds_without_states_are_left_as_they_are():
    for bounds in (3, [(0, 1), (2, 3)], np.array([[0, 1]])):
        assert separated(bounds) == (bounds, {}) if not isinstance(bounds, np.ndarray) else True
        assert separated(bounds)[1] == {}


# Datasets


def some_points(n, seed=1):
    """Uniform points of four states, two intervals and two states, with their f."""
    generator = np.random.default_rng(seed)
    states, others = generator.integers(4, size=n), generator.integers(2, size=n)
    x = np.column_stack([states, generator.random(n), 3 * generator.random(n), others])
    fx = resonance(x[:, [1, 0, 3]]) * x[:, 2]
    return vf.Dataset(
        x, px=np.full(n, 1 / 24), fx=fx, bounds=[(0, 1), (0, 1), (0, 3), (0, 1)], discrete={0: 4, 3: [1, 1]}
    )


def test_flows_are_trained_on_points_with_states(tmp_path):
    data = some_points(4000)
    training = vf.train(data, seed=1, n_epochs=20)
    assert training.evaluation.variance_after < 0.2 * training.evaluation.variance_before
    assert not training.records[0].warnings
    x, logqx = training.flow.sample(4000, seed=1)
    weights = resonance(x[:, [1, 0, 3]]) * x[:, 2] * np.exp(-logqx)
    assert abs(weights.mean() - 4.5 * EXACT) < 5 * weights.std() / math.sqrt(4000)
    training.flow.save(tmp_path / "flow.npz")
    np.testing.assert_array_equal(vf.load_flow(tmp_path / "flow.npz").log_prob(x), training.flow.log_prob(x))
    assert vf.evaluate(training.flow, data).variance_after < 1


def test_mixtures_of_flows_with_states(tmp_path):
    training = vf.train(some_points(2000), seed=1, n_epochs=3, n_flows=2, defensive=0.1)
    x, logqx = training.flow.sample(500, seed=1)
    assert (x[:, [0, 3]] == np.floor(x[:, [0, 3]])).all()
    np.testing.assert_allclose(training.flow.log_prob(x), logqx, atol=1e-5)
    training.flow.save(tmp_path / "mixture.npz")
    np.testing.assert_array_equal(
        vf.load_flow(tmp_path / "mixture.npz").log_prob(x), training.flow.log_prob(x)
    )
    with pytest.raises(ValueError, match="same"):
        vf.Mixture([a_flow(1), vf.Flow(5, bounds=a_flow(1).bounds)])


def test_points_with_states_alone_are_learnt():
    generator = np.random.default_rng(1)
    x = generator.integers(2, size=(2000, 3)).astype(float)
    fx = (1 + x[:, 0]) * (3 - 2 * x[:, 1] * x[:, 2])
    training = vf.train(
        vf.Dataset(x, np.full(2000, 1 / 8), fx, discrete={0: 2, 1: 2, 2: 2}), seed=1, n_epochs=5
    )
    assert training.evaluation.variance_after < 1e-3
    log_prob = training.flow.log_prob(all_states([2, 2, 2]).astype(float))
    assert abs(np.exp(log_prob).sum() - 1) < 1e-14


def test_a_wrong_density_of_points_with_states_is_told():
    data = some_points(4000)
    wrong = vf.Dataset(data.x, 3 * data.px, data.fx, bounds=data.bounds, discrete=data.discrete)
    assert any("not normalised" in one for one in vf.train(wrong, seed=1, n_epochs=1).warnings)
    assert not any("not normalised" in one for one in vf.train(data, seed=1, n_epochs=1).warnings)


def test_files_of_points_are_told_which_columns_are_discrete(tmp_path):
    data = some_points(50)
    for name in ("points.npz", "points.csv"):
        data.save(tmp_path / name)
        again = vf.Dataset.read(tmp_path / name, data.bounds, discrete={0: 4, 3: 2})
        np.testing.assert_array_equal(again.x, data.x)
        assert again.discrete == data.discrete
    parts = data.split(0.2, 1)
    assert parts[0].discrete == parts[1].discrete == data.discrete
    assert vf.Dataset.concatenate(*parts).discrete == data.discrete


@pytest.mark.parametrize(
    ("discrete", "told"),
    [
        ({0: 2}, "whole numbers from 0 to 1 where it is discrete, in column 0, found 2.0 in row 1"),
        ({1: 2}, "found 0.5 in row 0"),
        ({2: 2}, "names column 2"),
        ({-1: 2}, "names column -1"),
        ({"x": 2}, "keys"),
        ({0: 0}, "number of states"),
        ([0], "must be a dict"),
    ],
)
def test_datasets_with_wrong_states_are_refused(discrete, told):
    with pytest.raises((TypeError, ValueError), match=told):
        vf.Dataset([[0, 0.5], [2, 0.5]], [1, 1], [1, 1], discrete=discrete)


def test_trainings_that_know_no_states_say_so():
    data = some_points(100)
    with pytest.raises(ValueError, match="discrete columns with numbers of states"):
        vf.BasicStatefulVarTrainer(vf.Flow(4, bounds=data.bounds)).train_on_dataset(data)
    with pytest.raises(ValueError, match="do not go together"):
        vf.train(
            vf.Dataset([[0.0]] * 99, np.ones(99), np.ones(99), conditions=np.ones((99, 1)), discrete={0: 1})
        )
    with pytest.raises(ValueError, match="on the CPU alone"):
        vf.train(data, backend="cuda")


# The command line


def test_the_command_line_names_discrete_coordinates():
    assert parse_discrete("0:4,3:2") == {0: 4, 3: 2}
    options = Namespace(dim=3, bounds=[-1.0, 1.0], discrete={1: 4})
    assert box(options) == [[-1.0, 1.0], vf.Discrete(4), [-1.0, 1.0]]
    assert box(Namespace(dim=2, bounds=None, discrete=None)) == 2


@pytest.mark.parametrize("text", ["0", "0:", "x:2", "0:2,0:3", ""])
def test_wrong_names_of_discrete_coordinates_are_refused(text):
    with pytest.raises(ArgumentTypeError):
        parse_discrete(text)
