"""Integrals with channels: maps, weights, budgets, groups, what is dropped, and what is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import varflow as vf
from varflow.integration import channel_plan
from varflow.integration.channel_learning import Seen, WeightNetwork, learn, stratified_variance
from varflow.integration.channel_plan import phases_of, phases_told, shared_out
from varflow.integration.channel_weights import renormalised
from varflow.integration.steps import Estimate

SMALL = {"n_bins": 8, "d_hidden": 16}
MASS, WIDTH = 0.5, 1e-4  # of a resonance in the square of a mass, from 0 to 1


def resonance(mass, width, name=None, group=None):
    """Map that flattens a Breit-Wigner peak in the first coordinate."""
    low, high = (np.arctan((s - mass**2) / (mass * width)) for s in (0, 1))

    def forward(z):
        x = z.copy()
        x[:, 0] = mass**2 + mass * width * np.tan(low + (high - low) * z[:, 0])
        return x

    def log_prob(x):
        return np.log(mass * width / (high - low) / ((x[:, 0] - mass**2) ** 2 + (mass * width) ** 2))

    return vf.Channel(forward, log_prob, name=name, group=group)


def peaks(x):
    """Two resonances and a continuum."""
    s, c = x[:, 0], 2 * x[:, 1] - 1
    first = MASS * WIDTH / ((s - MASS**2) ** 2 + (MASS * WIDTH) ** 2)
    second = 0.8e-3 / ((s - 0.64) ** 2 + 0.8e-3**2)
    return first * (1 + c * c) + second * (1 - 0.5 * c) + 1 + s


def integral_of_peaks():
    first = np.subtract(*(np.arctan((s - MASS**2) / (MASS * WIDTH)) for s in (1, 0)))
    second = np.subtract(*(np.arctan((s - 0.64) / 0.8e-3) for s in (1, 0)))
    return first * 4 / 3 + second + 1.5


def gaussians(x):
    """Difference of two Gaussians in two dimensions, of the documentation of MadNIS; its integral is 0."""
    return sum(sign * np.exp(-((x - 0.5 - sign * 0.3) ** 2).sum(axis=1) / (2 * 0.2**2)) for sign in (-1, 1))


def identity(z):
    return z


def flat(x):
    return np.zeros(len(x))


@pytest.fixture
def untrained(monkeypatch):
    """Flows learn nothing, which takes seconds: maps, weights and budgets are all there is."""
    monkeypatch.setattr(channel_plan, "MIN_SURVEYED", 10**9)


@pytest.fixture
def drawn_only(monkeypatch):
    """Surveys draw their points, but do not train on them."""
    monkeypatch.setattr(channel_plan, "_survey", lambda n, d: [Estimate(max(n, 32), "survey")])


CHANNELS = [resonance(MASS, WIDTH, "narrow"), resonance(0.8, 1e-3, "wide"), "flow"]


class TestEstimate:
    def test_resonances_and_continuum(self):
        result = vf.integrate(peaks, 2, n_calls=6000, channels=CHANNELS, seed=1, flow_options=SMALL)
        assert abs(result.mean - integral_of_peaks()) < 4 * result.sdev < 1e-2 * result.mean
        assert result.n_calls <= 6000
        assert [one.name for one in result.channels] == ["narrow", "wide", "channel 3"]
        assert sum(one.n_calls for one in result.channels) == result.n_calls
        assert sum(one.weight for one in result.channels) == pytest.approx(1)
        assert sum(one.mean[0] for one in result.channels) == pytest.approx(result.mean, rel=1e-12)
        assert sum(one.sdev[0] ** 2 for one in result.channels) == pytest.approx(result.sdev**2)
        assert "narrow" in result.summary()
        assert "Channels" in result._repr_html_()

    @pytest.mark.parametrize("seed", range(3))
    def test_without_training_is_unbiased(self, seed, untrained):
        result = vf.integrate(peaks, 2, n_calls=1200, channels=CHANNELS, seed=seed)
        assert abs(result.mean - integral_of_peaks()) < 4 * result.sdev < 0.2 * result.mean

    def test_weights_that_are_given(self):
        """With the sign of f for a weight, nothing of the scatter is left but that of the flows."""

        def by_sign(x):
            return np.stack([gaussians(x) > 0, gaussians(x) <= 0], axis=1).astype(float)

        options = {"n_calls": 60_000, "seed": 1, "flow_options": SMALL}
        result = vf.integrate(gaussians, 2, channels=["flow", "flow"], channel_weights=by_sign, **options)
        assert abs(result.mean) < 4 * result.sdev < 4e-4
        alone = vf.integrate(gaussians, 2, **options)
        assert result.sdev < alone.sdev / 3

    def test_one_channel_is_a_map(self):
        result = vf.integrate(lambda x: x[:, 0] ** -0.5, [(0, 1)], n_calls=200, seed=1, channels=[
            vf.Channel(lambda z: z**2, lambda x: -np.log(2 * np.sqrt(x[:, 0])))
        ])  # fmt: skip
        assert result.mean == pytest.approx(2, rel=1e-12)

    def test_infinite_box_and_several_components(self, untrained):
        def f(x):
            peak = np.exp(-np.abs(x[:, 0]) - x[:, 1])
            return {"norm": peak, "moments": peak[:, None] * x**2}

        tails = vf.Channel(
            lambda z: np.stack([np.log(z[:, 0] / (1 - z[:, 0])), -np.log1p(-z[:, 1])], axis=1),
            lambda x: -np.abs(x[:, 0]) - 2 * np.log1p(np.exp(-np.abs(x[:, 0]))) - x[:, 1],
        )
        result = vf.integrate(
            f, [(-np.inf, np.inf), (0, np.inf)], n_calls=4000, channels=[tails, "flow"], seed=1,
            flow_options=SMALL,
        )  # fmt: skip
        assert abs(result.mean["norm"] - 2) < 4 * result.sdev["norm"]
        assert (np.abs(result.mean["moments"] - 4) < 4 * result.sdev["moments"]).all()
        assert result.channels[0].mean.shape == (3,)

    @pytest.mark.parametrize("shift", [-2000, 2000])
    def test_logarithms_far_from_1(self, shift, untrained):
        result = vf.integrate(
            lambda x: np.log(peaks(x)) + shift, 2, n_calls=1200, channels=CHANNELS, seed=1, log=True
        )
        exact = np.log(integral_of_peaks()) + shift
        assert abs(result.log_mean - exact) < 4 * result.log_sdev < 0.5
        assert sum(one.share for one in result.channels) == pytest.approx(1)

    def test_tolerance(self, untrained):
        options = {"channels": CHANNELS, "seed": 1, "n_calls": 100_000}
        result = vf.integrate(peaks, 2, rtol=1e-2, **options)
        assert result.sdev <= 1e-2 * result.mean
        assert not result.warnings
        assert abs(result.mean - integral_of_peaks()) < 4 * result.sdev
        assert result.n_calls < 50_000
        few = vf.integrate(peaks, 2, rtol=1e-6, **options | {"n_calls": 1200})
        assert "the tolerance was not reached" in few.warnings[-1]

    def test_same_seed_same_bits(self, untrained):
        first, second = (
            vf.integrate(peaks, 2, n_calls=1200, channels=CHANNELS, seed=seed).mean for seed in (3, 3)
        )
        assert first == second != vf.integrate(peaks, 2, n_calls=1200, channels=CHANNELS, seed=4).mean

    def test_workers(self, untrained):
        here, there = (
            vf.integrate(peaks, 2, n_calls=1200, channels=CHANNELS, seed=1, workers=workers).mean
            for workers in (1, map)
        )
        assert here == there


class TestGroups:
    CHANNELS = (
        vf.Channel(identity, flat, name="one", group="both"),
        vf.Channel(lambda z: 1 - z, flat, name="other", group="both"),
    )

    def test_what_a_symmetry_cancels_is_exact(self, untrained):
        result = vf.integrate(gaussians, 2, n_calls=2000, channels=self.CHANNELS, seed=1)
        assert (result.mean, result.sdev, result.warnings) == (0, 0, ())
        assert [one.name for one in result.channels] == ["one, other"]

    def test_share_one_flow(self, untrained):
        result = vf.integrate(
            lambda x: np.exp(-10 * x[:, 0]) + np.exp(-10 * (1 - x[:, 0])), 2, n_calls=2000, seed=1,
            channels=[*self.CHANNELS, "flow"],
        )  # fmt: skip
        assert abs(result.mean - 0.2 * (1 - np.exp(-10))) < 4 * result.sdev
        assert len(result.channels) == 2
        assert result.n_calls <= 2000

    def test_logarithms(self, untrained):
        result = vf.integrate(
            lambda x: -10 * x[:, 0], 1, n_calls=1000, channels=self.CHANNELS, seed=1, log=True
        )
        assert abs(result.log_mean - np.log(0.1)) < 4 * result.log_sdev


class TestDropping:
    def test_channel_that_brings_nothing(self, untrained):
        """A narrow peak where there is none: the others have its share, and the integral is whole."""
        channels = [resonance(0.7, 1e-9, "useless"), "flow"]

        def weights(x):
            return np.stack([x[:, 0] > 2, x[:, 0] <= 2], axis=1).astype(float)

        result = vf.integrate(
            lambda x: 3 * x[:, 0] ** 2, 2, n_calls=2000, channels=channels, channel_weights=weights, seed=1
        )
        assert abs(result.mean - 1) < 4 * result.sdev
        assert [one.is_dropped for one in result.channels] == [True, False]
        assert result.channels[0].n_calls < result.channels[1].n_calls / 10
        (warning,) = result.warnings
        assert warning.startswith("channel 'useless' brought 0.0% of the integral of |f| at")
        assert "dropped" in result.summary()

    def test_small_share_of_a_map_that_others_cover(self, untrained):
        """Weights by the balance heuristic are made to sum to 1 without it: nothing is lost."""

        def f(x):
            return np.where(x[:, 0] < 0.5, 1.0, 0.0)

        half = vf.Channel(
            lambda z: 0.5 + 0.5 * z,
            lambda x: np.where((x > 0.5).all(axis=1), np.log(4.0), -np.inf),
            name="half",
        )
        result = vf.integrate(f, 2, n_calls=2000, channels=[half, "flow"], seed=1)
        assert abs(result.mean - 0.5) < 4 * result.sdev
        assert result.channels[0].is_dropped

    def test_never_the_last_one(self, untrained):
        result = vf.integrate(lambda x: np.zeros(len(x)), 2, n_calls=1000, channels=CHANNELS, seed=1)
        assert [one.is_dropped for one in result.channels] == [True, True, False]
        assert np.isinf(result.sdev)
        assert result.mean == 0


class TestSampling:
    @pytest.fixture
    def result(self, untrained):
        return vf.integrate(peaks, 2, n_calls=2000, channels=CHANNELS, seed=1)

    def test_mean_of_weights(self, result):
        _, weights = result.sample(20_000, seed=2)
        error = weights.std() / np.sqrt(len(weights))
        assert abs(weights.mean() - integral_of_peaks()) < 4 * error < 0.1 * integral_of_peaks()

    def test_unweighted(self, result):
        x, ones = result.sample(500, unweight=True, seed=2)
        assert x.shape == (500, 2)
        assert (ones == 1).mean() > 0.98
        share = (np.abs(x[:, 0] - MASS**2) < 0.01).mean()
        assert abs(share - 0.55) < 0.15

    def test_extend(self, result):
        more = result.extend(4000)
        assert more.sdev < result.sdev
        assert more.n_calls <= result.n_calls + 4000
        assert len(more.channels) == 3

    def test_file(self, result, tmp_path):
        result.save(tmp_path / "r.npz")
        read = vf.Result.load(tmp_path / "r.npz")
        assert read.summary() == result.summary()
        assert read.warnings == result.warnings
        assert (read.mean, read.sdev) == (result.mean, result.sdev)
        for one, other in zip(read.channels, result.channels, strict=True):
            assert repr(one) == repr(other)
            assert np.array_equal(one.flow.params, other.flow.params)
            assert np.array_equal(one.mean, other.mean)
            assert np.array_equal(one.sdev, other.sdev)
        with pytest.raises(ValueError, match="holds their flows, but not their maps"):
            read.sample(10)
        with pytest.raises(ValueError, match="a result with channels has no single density"):
            vf.export(read, tmp_path / "source")

    def test_report_and_picture(self, result, tmp_path):
        vf.report(tmp_path / "report.html", result)
        assert "narrow" in (tmp_path / "report.html").read_text("utf-8")
        result.plot().savefig(tmp_path / "result.png")


class InterruptionError(Exception):
    pass


class TestCheckpoint:
    OPTIONS = {"channels": CHANNELS, "seed": 1, "flow_options": SMALL}  # noqa: RUF012

    @pytest.mark.parametrize("n_before", [10, 250, 400, 800])
    def test_goes_on_with_the_same_bits(self, tmp_path, n_before, untrained):
        left = [n_before]

        def f(x):
            left[0] -= len(x)
            if left[0] < 0:
                raise InterruptionError
            return peaks(x)

        path = tmp_path / "channels.ckpt"
        with pytest.raises(InterruptionError):
            vf.integrate(f, 2, n_calls=1000, checkpoint=path, checkpoint_seconds=0, **self.OPTIONS)
        left[0] = 10**9
        resumed = vf.integrate(f, 2, n_calls=1000, checkpoint=path, resume=True, **self.OPTIONS)
        whole = vf.integrate(peaks, 2, n_calls=1000, **self.OPTIONS, deterministic=True)
        assert (resumed.mean, resumed.sdev) == (whole.mean, whole.sdev)
        assert [repr(one) for one in resumed.channels] == [repr(one) for one in whole.channels]
        assert resumed.warnings == whole.warnings

    @pytest.mark.parametrize(
        "other", [{"channels": CHANNELS[:2]}, {"channels": [*CHANNELS[:2], resonance(0.3, 1e-3)]}, {}]
    )
    def test_of_other_channels_is_refused(self, tmp_path, other, untrained):
        path = tmp_path / "channels.ckpt"
        vf.integrate(peaks, 2, n_calls=1000, checkpoint=path, **self.OPTIONS)
        options = self.OPTIONS | other if other else {"seed": 1, "flow_options": SMALL}
        with pytest.raises(ValueError, match="channels"):
            vf.integrate(peaks, 2, n_calls=1000, checkpoint=path, resume=True, **options)


def shift_by_half(z):
    return z + 0.5


REFUSED = {
    "no channel": ([], ValueError, "channels must hold one channel at least"),
    "no list": ("flow", TypeError, "channels must be a list of channels"),
    "no channel at all": ([3], TypeError, r"channels\[0\] must be a Channel, \"flow\", a pair"),
    "same names": (
        [vf.Channel(identity, flat, name="a"), vf.Channel(identity, flat, name="a")],
        ValueError,
        r"channels\[0\] and channels\[1\] have the same name, 'a'",
    ),
    "density of another map": (
        [vf.Channel(lambda z: z**2, flat, name="square")],
        ValueError,
        "log_prob of 'square' disagrees with its map: at x = ",
    ),
    "density not normalised": (
        [(identity, lambda x: np.full(len(x), 0.01))],
        ValueError,
        "log_prob of 'channel 1' disagrees",
    ),
    "leaves the box": ([(shift_by_half, flat)], ValueError, "forward of 'channel 1' leaves the box"),
    "not finite": ([(lambda z: z * np.nan, flat)], ValueError, "leaves the box"),
    "shape of points": (
        [(lambda z: z[:, 0], flat)],
        ValueError,
        r"must return an array \(16, 2\), got \(16,\)",
    ),
    "shape of densities": (
        [(identity, np.zeros_like)],
        ValueError,
        r"must return an array \(16,\), got \(16, 2\)",
    ),
    "words": ([(identity, lambda x: np.full(len(x), "a"))], TypeError, "must return real numbers"),
    "density of 0": (
        [(identity, lambda x: np.full(len(x), -np.inf))],
        ValueError,
        "log_prob of 'channel 1' is -inf at a point of its own map",
    ),
}


class TestRefused:
    @pytest.mark.parametrize("case", REFUSED)
    def test_channels(self, case):
        channels, error, message = REFUSED[case]
        with pytest.raises(error, match=message):
            vf.integrate(peaks, 2, channels=channels)

    @pytest.mark.parametrize(
        ("weights", "error", "message"),
        [
            (lambda x: np.full((len(x), 2), 0.6), ValueError, "must sum to 1, found .*, of sum 1.2, at x"),
            (lambda x: np.tile([1.5, -0.5], (len(x), 1)), ValueError, "must be numbers from 0, found"),
            (lambda x: np.full((len(x), 2), np.nan), ValueError, "must be numbers from 0"),
            (lambda x: np.ones(len(x)), ValueError, r"must return an array \(16, 2\), a column for each"),
            (lambda x: np.full((len(x), 2), "a"), TypeError, "must return real numbers"),
            ("kleiss", ValueError, "channel_weights"),
            (3, TypeError, 'must be "balance", "learned" or a function'),
        ],
    )
    def test_weights(self, weights, error, message):
        with pytest.raises(error, match=message):
            vf.integrate(peaks, 2, channels=CHANNELS[:2], channel_weights=weights)

    def test_arguments_of_a_channel(self):
        with pytest.raises(TypeError, match="forward of a channel must be callable, got 3"):
            vf.Channel(3, flat)
        with pytest.raises(TypeError, match="group of a channel must be a string, got 3"):
            vf.Channel(identity, flat, group=3)

    def test_too_few_calls(self):
        with pytest.raises(ValueError, match="n_calls must be at least 600 with 3 channels, 200 for each"):
            vf.integrate(peaks, 2, n_calls=500, channels=CHANNELS)

    def test_a_limit_of_time(self):
        with pytest.raises(ValueError, match="seconds=5 cannot be kept with channels"):
            vf.integrate(peaks, 2, seconds=5, channels=CHANNELS)

    def test_weights_without_channels(self):
        with pytest.raises(ValueError, match="channel_weights needs channels"):
            vf.integrate(peaks, 2, n_calls=500, channel_weights=flat)

    def test_other_surveys(self):
        with pytest.raises(ValueError, match="channels need survey_strategy='replay', got 'flat'"):
            vf.Integrator(peaks, 2, channels=CHANNELS, survey_strategy="flat")

    def test_map_that_leaves_the_box_later(self, untrained):
        """Not at one of the points that are looked at first."""

        def forward(z):
            return np.where((z > 0.005) & (z < 0.995), z, 3.0)

        with pytest.raises(ValueError, match="forward of 'channel 1' leaves the box"):
            vf.integrate(peaks, 2, n_calls=10_000, channels=[(forward, flat)], seed=1)


class TestLearning:
    """Channel weights by a network that makes the stratified variance small."""

    @staticmethod
    def seen(f, n=4000, m=2, seed=1):
        """Uniform points of the square, with maps that are all alike."""
        u = np.random.default_rng(seed).random((n, 2))
        size = np.abs(f(u))
        log_prior, ratios = np.full((n, m), -np.log(m)), np.tile(size[:, None] / size.mean(), (1, m))
        return Seen(u, log_prior, f(u) / size.sum(), ratios)

    @given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.01, 0.7]))
    @settings(max_examples=10)
    def test_gradient(self, seed, unlearnt):
        """By hand, against central differences, along random directions."""
        generator = np.random.default_rng(seed)
        seen = self.seen(gaussians, n=200, m=3, seed=seed)
        seen = seen._replace(log_prior=renormalised(generator.standard_normal(seen.log_prior.shape)))
        network = WeightNetwork(2, 3)
        network.params = generator.standard_normal(len(network.params)) * 0.3

        def loss(params):
            network.params = params
            s, inputs = network.forward(seen.u)
            return *stratified_variance(seen, renormalised(seen.log_prior + s), unlearnt), inputs

        params, direction = network.params, generator.standard_normal(len(network.params))
        _, ds, inputs = loss(params)
        slope = network.backward(inputs, ds) @ direction
        above, below = (loss(params + step * direction)[0] for step in (1e-5, -1e-5))
        assert slope == pytest.approx((above - below) / 2e-5, rel=1e-4, abs=1e-6)

    def test_loss_is_that_of_its_formula(self):
        """With the densities of the maps, it is the square of the sum of the standard deviations."""
        seen = self.seen(gaussians)
        a = np.exp(renormalised(np.random.default_rng(1).standard_normal((4000, 2))))
        f = gaussians(seen.u) / np.abs(gaussians(seen.u)).mean()
        deviations = (a * f[:, None]).std(axis=0)
        loss, _ = stratified_variance(seen, np.log(a), 1.0)
        assert loss == pytest.approx(deviations.sum() ** 2, rel=1e-3)

    def test_signs_are_told_apart(self):
        seen, generator = self.seen(gaussians), np.random.default_rng(1)
        network = WeightNetwork(2, 2)
        assert learn(network, seen, generator)
        fresh = self.seen(gaussians, seed=2)
        s, _ = network.forward(fresh.u)
        loss, _ = stratified_variance(fresh, renormalised(fresh.log_prior + s), 0.0)
        assert loss < 0.01 * stratified_variance(fresh, fresh.log_prior, 0.0)[0]

    def test_clusters_of_an_f_of_one_sign(self):
        """Maps that are alike get a peak each."""

        def camel(x):
            return sum(np.exp(-((x - center) ** 2).sum(axis=1) / 0.005) for center in (0.25, 0.75))

        network = WeightNetwork(2, 2)
        assert learn(network, self.seen(camel), np.random.default_rng(1))
        s, _ = network.forward(np.array([[0.25, 0.25], [0.75, 0.75]]))
        weights = np.exp(renormalised(s))
        assert weights.max(axis=1) == pytest.approx(1, abs=0.01)
        assert weights[0] @ weights[1] < 0.02

    def test_balance_stays_where_nothing_is_better(self):
        """For f in proportion to the sum of the densities, the balance heuristic is best."""
        u = np.random.default_rng(1).random((4000, 2))
        densities = np.stack([2 * u[:, 0], 2 - 2 * u[:, 0]], axis=1)
        seen = Seen(u, np.log(densities / 2), np.full(4000, 1 / 4000), 1 / densities)
        network = WeightNetwork(2, 2)
        learn(network, seen, np.random.default_rng(1))
        s, _ = network.forward(u)
        assert stratified_variance(seen, renormalised(seen.log_prior + s), 0.01)[0] < 1e-3

    def test_as_they_come_and_through_a_checkpoint(self, tmp_path, drawn_only):
        """Learnt without being asked for, since both maps are alike; interrupted after that."""
        options = {"n_calls": 30_000, "channels": ["flow", "flow"], "seed": 1, "flow_options": SMALL}
        left = [15_000]

        def f(x):
            left[0] -= len(x)
            if left[0] < 0:
                raise InterruptionError
            return gaussians(x)

        path = tmp_path / "learned.ckpt"
        with pytest.raises(InterruptionError):
            vf.integrate(f, 2, checkpoint=path, **options)
        left[0] = 10**9
        resumed = vf.integrate(f, 2, checkpoint=path, resume=True, **options)
        whole = vf.integrate(gaussians, 2, **options)
        assert (resumed.mean, resumed.sdev) == (whole.mean, whole.sdev)
        assert abs(whole.mean) < 4 * whole.sdev < 4e-3
        assert [one.share for one in whole.channels] == pytest.approx([0.5, -0.5], abs=0.02) or [
            one.share for one in whole.channels
        ] == pytest.approx([-0.5, 0.5], abs=0.02)
        left[0] = 10**9
        again = vf.integrate(lambda x: 2 * f(x), 2, checkpoint=path, resume=True, **options)
        assert "f has not the value" in again.warnings[-1]


class TestParts:
    @given(
        st.integers(1000, 10**6),
        st.lists(st.floats(0, 1e6), min_size=1, max_size=8),
        st.floats(0.01, 0.5),
    )
    @settings(max_examples=50)
    def test_budgets(self, n, scales, floor):
        """All calls are shared out, and each part has its floor."""

        class OfOne:
            cost = 1

        budgets = shared_out(n, np.array(scales), [OfOne()] * len(scales), floor)
        assert n - len(scales) <= sum(budgets) <= max(n, 32 * len(scales))
        assert min(budgets) >= min(32, int(floor * n / len(scales)))
        assert np.argmax(scales) in np.flatnonzero(np.array(budgets) == max(budgets))

    @given(st.lists(st.floats(-700, 700) | st.just(-np.inf), min_size=1, max_size=5))
    def test_weights_sum_to_1(self, logs):
        total = np.exp(renormalised(np.array([logs]))).sum()
        assert total == pytest.approx(0 if max(logs) == -np.inf else 1)

    def test_phases_go_through_files(self):
        told = [["Spend", {"n_calls": 1000}], ["SpendTo", {"n_calls": 9, "rtol": 0.1, "atol": 0.0}]]
        assert phases_told(phases_of(told)) == told
