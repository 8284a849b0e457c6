"""Runs that go on from a checkpoint end with the same bits as runs that were never interrupted."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from scipy.special import erf

import varflow as vf
from varflow.runtime.archive import write_archive
from varflow.runtime.signals import SIGNALS, stop_by_signals

DATA = Path(__file__).parent / "data"
TINY = {"n_bins": 4, "d_hidden": 8, "n_hidden": 1, "threads": 2}


class Stop(Exception):  # noqa: N818 - it stands for a kill
    pass


def points(n=300, d=2):
    x = np.random.default_rng(0).random((n, d))
    return x, np.ones(n), 1 + x[:, 0] ** 2


def trainer(**config):
    flow = vf.Flow(2, "pwlinear", repetitions=1, seed=1, **TINY)
    optim = vf.Adam(lr=0.01, schedule="one_cycle", average=0.9, clip_norm=10.0)
    settings = {"n_epochs": 5, "minibatch_size": 50, "optim": optim, "holdout": 0.2, "seed": 4}
    return vf.BasicStatefulVarTrainer(flow, **{**settings, **config})


def root_loss(power):
    """Loss of one's own: the mean of (f/p)^power q^-power, with its derivative."""

    def value(fx, px, logqx):
        return np.mean((fx / px) ** power * np.exp(-power * logqx))

    def derivative(fx, px, logqx):
        return -power * (fx / px) ** power * np.exp(-power * logqx) / len(fx)

    return value, derivative


class TiltedPrior:
    """Latent density, product of 1 + tilt (z - 1/2) over the coordinates."""

    def __init__(self, tilt):
        self.tilt = tilt

    def log_prob(self, z):
        return np.log(1 + self.tilt * (z - 0.5)).sum(axis=1)

    def grad_log_prob(self, z):
        return self.tilt / (1 + self.tilt * (z - 0.5))

    def sample(self, n, generator):
        raise NotImplementedError


def stop_at(n):
    """Make a callback that ends a run after n steps."""
    calls = []

    def callback(record):
        calls.append(record.step)
        if len(calls) == n:
            raise Stop

    return callback


def state(trained):
    """All that a training leaves behind, as bytes."""
    adam = trained.get_config()["optim"].state().arrays("")
    arrays = [
        trained.flow.params,
        trained.good_state.params,
        *adam.values(),
        *trained.record.arrays().values(),
    ]
    return [array.tobytes() for array in arrays], sorted(adam), trained.record


def with_interruptions(run, stops):
    """Call run(callback) until it is not stopped any more. Returns what the last one made."""
    for n in stops:
        try:
            return run(stop_at(n))
        except Stop:
            pass
    return run(None)


class TestTraining:
    @pytest.mark.parametrize("config", [{}, {"patience": 1}, {"minibatch_size": None}, {"holdout": 0.0}])
    @pytest.mark.parametrize("stops", [[1], [1, 1, 1, 1, 1], [7, 3, 9], [30]])
    def test_ends_with_the_same_bits(self, tmp_path, config, stops):
        whole = trainer(**config)
        whole.train_on_batch(*points())

        def run(callback):
            resumed = trainer(**config, checkpoint=tmp_path / "run.ckpt", resume=True, checkpoint_seconds=0)
            resumed.train_on_batch(*points(), callback=callback)
            return resumed

        assert state(with_interruptions(run, stops)) == state(whole)

    def test_with_returns_to_the_last_good_state(self, tmp_path):
        """The loss is not finite in the second epoch, once."""
        whole = trainer()
        break_a_step(whole, 7)
        whole.train_on_batch(*points())
        assert whole.record.n_reloads == 1

        def run(callback):
            resumed = trainer(checkpoint=tmp_path / "run.ckpt", resume=True, checkpoint_seconds=0)
            break_a_step(resumed, 7)
            resumed.train_on_batch(*points(), callback=callback)
            return resumed

        assert state(with_interruptions(run, [3, 5, 2])) == state(whole)

    def test_a_run_that_has_ended_is_not_repeated(self, tmp_path):
        def run():
            done = trainer(checkpoint=tmp_path / "run.ckpt", resume=True)
            calls = []
            done.train_on_batch(*points(), callback=calls.append)
            return done, len(calls)

        (first, n_first), (second, n_second) = run(), run()
        assert (n_first > 0, n_second) == (True, 0)
        assert state(first) == state(second)

    def test_numbers_of_numpy_are_settings_like_others(self, tmp_path):
        for number in (np.int64, int):
            optim = vf.Adam(lr=np.float32(0.25) if number is np.int64 else 0.25)
            settings = {"seed": number(4), "n_epochs": number(2), "patience": number(3), "optim": optim}
            trainer(checkpoint=tmp_path / "run.ckpt", resume=True, **settings).train_on_batch(*points())
            options = {"n_calls": 40_000, "seed": number(3), "flow_options": TINY}
            vf.integrate(peak, 2, checkpoint=tmp_path / "integral.ckpt", resume=True, **options)

    def test_a_file_without_resume_is_refused(self, tmp_path):
        path = tmp_path / "run.ckpt"
        trainer(checkpoint=path).train_on_batch(*points())
        contents = path.read_bytes()
        again = trainer(checkpoint=path)
        params = again.flow.params.copy()
        with pytest.raises(FileExistsError, match=r"run\.ckpt exists: give resume=True"):
            again.train_on_batch(*points())
        assert path.read_bytes() == contents
        np.testing.assert_array_equal(again.flow.params, params)

    @pytest.mark.parametrize(
        ("config", "match"),
        [
            ({"n_epochs": 6}, "n_epochs is 5 there, 6 here"),
            ({"minibatch_size": 40}, "minibatch is 50 there, 40 here"),
            ({"optim": vf.Adam(lr=0.02)}, "optim is .*0.01.* there, .*0.02.* here"),
            ({"seed": 5}, "seed is 4 there, 5 here"),
        ],
    )
    def test_a_checkpoint_of_another_run_is_refused(self, tmp_path, config, match):
        path = tmp_path / "run.ckpt"
        trainer(checkpoint=path).train_on_batch(*points())
        other = trainer(checkpoint=path, resume=True, **config)
        params = other.flow.params.copy()
        with pytest.raises(ValueError, match=rf"run\.ckpt is of another run: {match}"):
            other.train_on_batch(*points())
        np.testing.assert_array_equal(other.flow.params, params)

    def test_a_checkpoint_of_other_data_is_refused(self, tmp_path):
        path = tmp_path / "run.ckpt"
        trainer(checkpoint=path).train_on_batch(*points())
        x, px, fx = points()
        fx[7] += 1e-9
        with pytest.raises(ValueError, match="of another run: data differ"):
            trainer(checkpoint=path, resume=True).train_on_batch(x, px, fx)

    def test_a_second_training_is_refused(self, tmp_path):
        """It begins with other parameters than the first, whose result it is not to take for its own."""
        one = trainer(checkpoint=tmp_path / "run.ckpt", resume=True)
        one.train_on_batch(*points())
        before = one.flow.params.copy()
        with pytest.raises(ValueError, match="of another run: initial parameters differ"):
            one.train_on_batch(*points())
        np.testing.assert_array_equal(one.flow.params, before)

    @pytest.mark.parametrize("changed", ["loss", "prior"])
    def test_another_loss_or_prior_of_the_user_s_is_refused(self, tmp_path, changed):
        def run(power, tilt):
            flow = vf.Flow(2, seed=1, **TINY)
            settings = {"n_epochs": 2, "checkpoint": tmp_path / "run.ckpt", "resume": True}
            one = vf.BasicStatefulTrainer(flow, TiltedPrior(tilt), loss=root_loss(power), **settings)
            one.train_on_batch(*points())
            return flow.params.copy()

        np.testing.assert_array_equal(run(0.5, 1.0), run(0.5, 1.0))
        with pytest.raises(ValueError, match="of another run: definition of loss and latent_prior"):
            run(0.75 if changed == "loss" else 0.5, 0.5 if changed == "prior" else 1.0)

    def test_a_loss_that_cannot_be_known_again_is_refused(self, tmp_path):
        value, derivative = root_loss(0.5)
        with open(__file__) as file:
            loss = (lambda fx, px, logqx: value(fx, px, logqx) + 0 * file.tell(), derivative)
            one = vf.BasicStatefulTrainer(vf.Flow(2, **TINY), loss=loss, checkpoint=tmp_path / "run.ckpt")
            with pytest.raises(TypeError, match="cannot be known again by another run"):
                one.train_on_batch(*points())

    def test_a_damaged_checkpoint_is_refused_and_stays(self, tmp_path):
        path = tmp_path / "run.ckpt"
        trainer(checkpoint=path).train_on_batch(*points())
        damaged = bytearray(path.read_bytes())
        damaged[len(damaged) // 2] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(vf.FileFormatError, match=r"run\.ckpt is damaged"):
            trainer(checkpoint=path, resume=True).train_on_batch(*points())
        assert path.read_bytes() == damaged

    def test_a_place_that_takes_no_file_is_refused_at_once(self, tmp_path):
        steps = []
        with pytest.raises(FileNotFoundError, match="cannot write to the folder of"):
            trainer(checkpoint=tmp_path / "no" / "run.ckpt").train_on_batch(*points(), callback=steps.append)
        assert not steps

    def test_a_disk_that_is_full_for_a_while_does_not_end_the_run(self, tmp_path, monkeypatch, caplog):
        path, writes = tmp_path / "run.ckpt", []

        def write(*arguments):
            writes.append(arguments)
            if 3 <= len(writes) < 6:
                raise OSError("No space left on device")
            write_archive(*arguments)

        monkeypatch.setattr("varflow.runtime.checkpoint.write_archive", write)
        kept, whole = trainer(checkpoint=path, checkpoint_seconds=0), trainer()
        kept.train_on_batch(*points())
        whole.train_on_batch(*points())
        assert state(kept) == state(whole)
        assert caplog.text.count("the last one stays: No space left on device") == 3

    def test_a_disk_that_is_full_at_the_end_costs_no_result(self, tmp_path, monkeypatch, caplog):
        def write(*arguments):
            raise OSError("No space left on device")

        monkeypatch.setattr("varflow.runtime.checkpoint.write_archive", write)
        kept, whole = trainer(checkpoint=tmp_path / "run.ckpt"), trainer()
        kept.train_on_batch(*points())
        whole.train_on_batch(*points())
        assert state(kept) == state(whole)
        settings = {"n_calls": 40_000, "seed": 1, "flow_options": TINY}
        result = vf.integrate(peak, 2, checkpoint=tmp_path / "integral.ckpt", **settings)
        assert result.mean == pytest.approx(vf.integrate(peak, 2, **settings).mean, rel=1e-12)
        assert caplog.text.count("the last one stays: No space left on device") == 2

    def test_points_that_are_drawn_anew_have_no_checkpoint(self, tmp_path):
        one = trainer(checkpoint=tmp_path / "run.ckpt")
        with pytest.raises(ValueError, match="checkpoint is for given points"):
            one.train_on_target_batches_from_posterior(
                f=lambda x: x[:, 0], batch_size=10, n_epochs_per_batch=1, optim=vf.Adam(),
                target_posterior=one.sample_forward,
            )  # fmt: skip

    @pytest.mark.parametrize(
        ("config", "error"),
        [
            ({"checkpoint": 3}, TypeError),
            ({"resume": 1}, TypeError),
            ({"checkpoint_seconds": -1}, ValueError),
            ({"checkpoint_seconds": np.nan}, ValueError),
        ],
    )
    def test_settings_that_make_no_sense(self, config, error):
        with pytest.raises(error, match=next(iter(config))):
            trainer(**config)

    def test_a_checkpoint_of_version_1_is_refused(self, tmp_path):
        """Its gradients were plain: what went on from it would be neither that training nor a new one."""
        path = tmp_path / "run.ckpt"
        path.write_bytes((DATA / "training-1.ckpt").read_bytes())
        with pytest.raises(vf.FileFormatError, match="has version 1, but this varflow understands 4 only"):
            trainer(checkpoint=path, resume=True).train_on_batch(*points())


def break_a_step(one, number):
    """Let a step of a trainer fail, that of the given number, in the first half of the learning rates."""
    optim = one.get_config()["optim"]
    step = optim.step

    def broken(params, dparams, progress, scale, *rest):
        if optim.t == number and scale == 1:
            raise vf.InvalidLossError("made to fail")
        return step(params, dparams, progress, scale, *rest)

    optim.step = broken


def peak(x):
    return np.exp(-np.sum((x - 0.4) ** 2, axis=1) / 0.02)


WIDTH = np.sqrt(0.02)  # of the peak
PEAK_INTEGRAL = (WIDTH * np.sqrt(np.pi) / 2 * (erf(0.4 / WIDTH) + erf(0.6 / WIDTH))) ** 2


def narrow_peak(x):
    """For which a survey begins with an element-wise map."""
    return np.exp(-np.sum((x - 0.4) ** 2, axis=1) / 1e-4)


def two_peaks(x):
    return {"a": peak(x), "b": np.stack([peak(x), -x[:, 0]], axis=1)}


def stopping(f, n):
    """Integrand that stops a run at its n-th call."""
    calls = []

    def stopped(x):
        calls.append(len(x))
        if len(calls) == n:
            raise Stop
        return f(x)

    return stopped


def resumed(integrate, f, most):
    """Result of a run that is started again after each stop, at one of so many calls; and how often."""
    for n_stops, n in enumerate(np.random.default_rng(0).integers(1, most, size=1000)):
        try:
            return integrate(stopping(f, n)), n_stops
        except Stop:
            pass
    raise AssertionError("the run came to no end")


def figures(result):
    """All that a result holds but for the times, as bytes."""
    history = [
        (one.stage, one.n_calls, one.mean.tobytes(), one.covariance.tobytes(), one.ess, one.is_used)
        for one in result.history
    ]
    return repr(history), result.flow.params.tobytes(), result.covariance.tobytes(), result.warnings


class TestIntegration:
    @pytest.mark.parametrize(
        ("f", "options"),
        [
            (peak, {"rtol": 2e-3}),
            (two_peaks, {"use_survey": True, "latent_points": "random"}),
            (narrow_peak, {}),
            *(
                pytest.param(f, options, marks=pytest.mark.slow)
                for f in (peak, two_peaks, narrow_peak)
                for options in ({}, {"rtol": 2e-3}, {"use_survey": True, "latent_points": "random"})
            ),
        ],
    )
    def test_ends_with_the_same_bits(self, tmp_path, f, options):
        options = {**options, "n_calls": 45_000, "seed": 3, "flow_options": TINY}
        whole = vf.integrate(f, 2, deterministic=True, **options)
        kept = {"checkpoint": tmp_path / "run.ckpt", "resume": True, "checkpoint_seconds": 0}
        result, n_stops = resumed(lambda g: vf.integrate(g, 2, **options, **kept), f, 15)
        assert n_stops > 3
        assert figures(result) == figures(whole)

    @pytest.mark.parametrize(
        "strategy", ["flat", "forward", "forward_flat_init", "adaptive_dkl", "fixed_sample"]
    )
    def test_of_every_strategy(self, tmp_path, strategy):
        sample = points() if strategy == "fixed_sample" else None

        def integrate(f, **options):
            integrator = vf.Integrator(
                f, 2, survey_strategy=strategy, sample=sample, n_iter=3, n_points=20_000, seed=1,
                flow_options=TINY, trainer_options={"n_epochs": 1}, **options,
            )  # fmt: skip
            integrator.survey()
            integrator.refine()
            return integrator.extend(10_000)

        whole = integrate(peak)
        kept = {"checkpoint": tmp_path / "run.ckpt", "resume": True, "checkpoint_seconds": 0}
        for n in (2, 3, 4):
            with pytest.raises(Stop):
                integrate(stopping(peak, n), **kept)
        assert figures(integrate(peak, **kept)) == figures(whole)

    def test_of_a_refinement_alone(self, tmp_path):
        def refined(f, **options):
            integrator = vf.Integrator(f, 2, n_iter=2, n_points=20_480, seed=1, flow_options=TINY, **options)
            integrator.refine()
            return integrator.result()

        kept = {"checkpoint": tmp_path / "run.ckpt", "resume": True, "checkpoint_seconds": 0}
        for n in (2, 5, 3):
            with pytest.raises(Stop):
                refined(stopping(peak, n), **kept)
        assert figures(refined(peak, **kept)) == figures(refined(peak))

    def test_of_a_survey_that_regains_a_region(self, tmp_path):
        flow = vf.integrate(narrow_peak, 3, n_calls=40_000, seed=1, flow_options=TINY).flow

        def integrate(f, **options):
            integrator = vf.Integrator(f, 3, flow=flow, n_iter=2, n_points=21_000, seed=1, **options)
            integrator.refine()  # finds a region that the flow does not know
            integrator.survey()
            integrator.refine()
            return integrator.result()

        def wanted(x):
            return narrow_peak(x) + narrow_peak(x - 0.3)

        whole = integrate(wanted)
        assert "regain" in [one.stage for one in whole.history]
        kept = {"checkpoint": tmp_path / "run.ckpt", "resume": True, "checkpoint_seconds": 0}
        result, n_stops = resumed(lambda g: integrate(g, **kept), wanted, 60)
        assert n_stops > 3
        assert figures(result) == figures(whole)

    def test_a_run_that_has_ended_calls_nothing_again(self, tmp_path):
        options = {"n_calls": 40_000, "seed": 3, "flow_options": TINY}
        kept = {"checkpoint": tmp_path / "run.ckpt", "resume": True}
        first = vf.integrate(peak, 2, **options, **kept)
        calls = []
        second = vf.integrate(lambda x: calls.append(len(x)) or peak(x), 2, **options, **kept)
        assert calls == [1]  # is it the same integrand?
        assert figures(second) == figures(first)

    def test_another_integration_is_refused(self, tmp_path):
        kept = {"checkpoint": tmp_path / "run.ckpt", "resume": True, "seed": 3, "flow_options": TINY}
        vf.integrate(peak, 2, n_calls=40_000, **kept)
        with pytest.raises(ValueError, match=r"call 1 was for ByCalls\(n_calls=40000\), here .*=50000"):
            vf.integrate(peak, 2, n_calls=50_000, **kept)
        with pytest.raises(ValueError, match=r"run.ckpt is of another run: seed is 3 there, 4 here"):
            vf.integrate(peak, 2, n_calls=40_000, **{**kept, "seed": 4})
        with pytest.raises(ValueError, match="bounds is"):
            vf.integrate(peak, [(0, 1), (0, 2)], n_calls=40_000, **kept)

    @pytest.mark.parametrize(
        ("name", "other"),
        [
            ("trainer", {"trainer_options": {"n_epochs": 2}}),
            ("trainer", {"trainer_options": {"n_epochs": 1, "optim": vf.Adam(lr=0.5)}}),
            ("trainer", {"trainer_options": {"n_epochs": 1, "minibatch_size": 500}}),
            ("sample", {"sample": points(n=299)}),
            ("n_iter_survey", {"n_iter_survey": 1}),
            ("n_iter_refine", {"n_iter_refine": 1}),
            ("n_points_refine", {"n_points_refine": 1000}),
            ("vectorized", {"vectorized": False}),
            ("initial parameters", {"flow_options": {**TINY, "seed": 6}}),
        ],
    )
    def test_whatever_changes_its_bits_is_compared(self, tmp_path, name, other):
        options = {
            "survey_strategy": "fixed_sample", "sample": points(), "n_iter": 2, "n_points": 2000, "seed": 1,
            "trainer_options": {"n_epochs": 1}, "flow_options": {**TINY, "seed": 5},
            "checkpoint": tmp_path / "run.ckpt", "resume": True,
        }  # fmt: skip
        vf.Integrator(peak, 2, **options).integrate()
        free = {"threads": 1, "workers": map, "progress": False, "checkpoint_seconds": 1.0}
        vf.Integrator(peak, 2, **{**options, **free}).integrate()
        with pytest.raises(ValueError, match=rf"run.ckpt is of another run: {name} (is .* there|differ)"):
            vf.Integrator(peak, 2, **{**options, **other})

    def test_another_integrand_is_told_of(self, tmp_path):
        options = {"n_calls": 40_000, "seed": 3, "flow_options": TINY}
        kept = {"checkpoint": tmp_path / "run.ckpt", "resume": True, "checkpoint_seconds": 0}
        with pytest.raises(Stop):
            vf.integrate(stopping(peak, 10), 2, **options, **kept)
        result = vf.integrate(lambda x: 2 * peak(x), 2, **options, **kept)
        assert any("f has not the value that it had" in warning for warning in result.warnings)

    def test_a_checkpoint_of_an_earlier_version_is_refused(self, tmp_path):
        path = tmp_path / "run.ckpt"
        path.write_bytes((DATA / "integration-1.ckpt").read_bytes())
        with pytest.raises(
            vf.FileFormatError, match="has version 1, but this varflow understands 7 and 8 and 9 only"
        ):
            vf.integrate(peak, 2, n_calls=40_000, checkpoint=path, resume=True)


KILLED = """
import os, signal, sys, time
import numpy as np
import test_resume as t
import varflow as vf
from varflow.runtime.archive import write_archive

def train(path):
    trained = t.trainer(checkpoint=path, resume=True, checkpoint_seconds=0)
    trained.train_on_batch(*t.points())
    return t.state(trained)

def integrate(path):
    options = {"n_calls": 45_000, "seed": 3, "flow_options": t.TINY}
    return t.figures(vf.integrate(t.peak, 2, checkpoint=path, resume=True, checkpoint_seconds=0, **options))

run = {"train": train, "integrate": integrate}[sys.argv[1]]
n_kills, rng = int(sys.argv[2]), np.random.default_rng(int(sys.argv[3]))
whole = run("whole.ckpt")
begin = time.perf_counter()
assert run("timed.ckpt") == whole
latest = min(time.perf_counter() - begin, 0.2)  # moment of a kill
done = finished = 0
while done < n_kills or not finished:
    child = os.fork()
    if child == 0:
        same = run(f"{finished}.ckpt") == whole
        os._exit(0 if same else 3)
    if done < n_kills:
        time.sleep(latest * rng.random())
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        done += 1
    else:
        assert os.WEXITSTATUS(status) == 0, status
        finished += 1
assert run(f"{finished - 1}.ckpt") == whole
print(done, "kills,", finished, "runs that ended")
"""


@pytest.mark.programs
@pytest.mark.skipif(not hasattr(os, "fork"), reason="children are forked, to have compiled kernels")
@pytest.mark.parametrize("n_kills", [10, pytest.param(50, marks=pytest.mark.slow)])
@pytest.mark.parametrize("what", ["train", "integrate"])
def test_kills_at_random_moments_change_no_bit(tmp_path, what, n_kills):
    folders = Path(__file__).parent, Path(vf.__file__).parent.parent  # of this module, and of varflow
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders))}
    command = [sys.executable, "-W", "ignore", "-c", KILLED, what, str(n_kills), "1"]
    found = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=280
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.startswith(f"{n_kills} kills,")


@pytest.fixture(scope="module")
def events(tmp_path_factory):
    path = tmp_path_factory.mktemp("events") / "events.csv"
    x, px, fx = points(n=4000)
    np.savetxt(path, np.column_stack([x, px, fx]), delimiter=",")
    return path


SIZES = ["--n-bins", "4", "--d-hidden", "8", "--n-hidden", "1"]  # of flows that commands make


def command(*arguments):
    return [sys.executable, "-m", "varflow", *map(str, arguments)]


def stopped(run, number, folder):
    """Send a signal to a command once its checkpoint is new. Returns its status and what it says."""
    checkpoint = folder / "run.ckpt"
    before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
    process = subprocess.Popen(run, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not (checkpoint.exists() and checkpoint.stat().st_mtime_ns > before):
        time.sleep(0.01)
    process.send_signal(number)
    _, errors = process.communicate()
    return process.returncode, errors


IN_A_BLOCK = """
import time
import test_resume as t
import varflow as vf
with vf.stop_by_signals():
    {kept}
    print("ready", flush=True)
    {busy}
    time.sleep(60)
"""


KEPT = "t.trainer(checkpoint='run.ckpt', resume=True).train_on_batch(*t.points())"
BUSY = "t.trainer(n_epochs=10**6).train_on_batch(*t.points())"


def python(code, folder):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    return subprocess.Popen(
        [sys.executable, "-c", code], cwd=folder, env=environment, stdout=subprocess.PIPE, text=True
    )


@pytest.mark.programs
class TestPreemption:
    def test_a_training_stops_and_goes_on(self, tmp_path, events):
        small = ("--n-bins", 4, "--d-hidden", 8, "--batch", 100, "--epochs", 150)
        kept = ("--checkpoint", "run.ckpt", "--checkpoint-seconds", 0.1)
        run = command("train", events, "-o", "flow.npz", *small, *kept)
        for name in SIGNALS:
            status, errors = stopped(run, getattr(signal, name), tmp_path)
            assert status == 75, errors
            assert "run.ckpt has the state to go on from: start the same command again" in errors
            assert not (tmp_path / "flow.npz").exists()
        assert subprocess.run(run, cwd=tmp_path, capture_output=True).returncode == 0
        whole = command("train", events, "-o", "whole.npz", *small)
        assert subprocess.run(whole, cwd=tmp_path, capture_output=True).returncode == 0
        assert (tmp_path / "flow.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()

    def test_an_integration_stops_and_goes_on(self, tmp_path):
        (tmp_path / "f.py").write_text(
            "import time\ndef f(x):\n    time.sleep(0.01)\n    return x[:, 0] * x[:, 1]\n"
        )
        run = command("integrate", "f.py:f", "--dim", 2, "--calls", 40_000, "--json", *SIZES)
        kept = [*run, "--checkpoint", "run.ckpt", "--checkpoint-seconds", "0.1"]
        status, errors = stopped(kept, signal.SIGTERM, tmp_path)
        assert status == 75, errors
        assert "stopped by a signal; run.ckpt has the state to go on from" in errors
        ended, whole = (
            json.loads(subprocess.run(one, cwd=tmp_path, capture_output=True, check=True).stdout)
            for one in (kept, run)
        )
        assert {**ended, "seconds": 0} == {**whole, "seconds": 0}

    def test_a_file_takes_one_thing(self, tmp_path, events):
        run = command("train", events, "-o", "flow.npz", "--checkpoint", "./flow.npz")
        found = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True)
        assert (found.returncode, found.stdout) == (2, "")
        assert "./flow.npz cannot be two files of one command: name another for each" in found.stderr

    def test_without_a_checkpoint_signals_do_what_they_always_do(self, tmp_path, events):
        run = command("train", events, "-o", "flow.npz", "--epochs", 100_000, "--batch", 100)
        process = subprocess.Popen(
            run, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert "points" in process.stdout.readline()
        process.terminate()
        assert process.wait() == -signal.SIGTERM
        process.stdout.close()

    def test_in_python_it_is_asked_for(self, tmp_path):
        one = trainer(checkpoint=tmp_path / "run.ckpt", n_epochs=1000)
        with stop_by_signals(), pytest.raises(vf.Preempted, match=r"run\.ckpt has the state"):
            one.train_on_batch(
                *points(), callback=lambda record: record.step == 3 and signal.raise_signal(signal.SIGTERM)
            )
        assert one.record.step == 4
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL

    def test_signals_are_for_the_main_thread(self):
        def stop():
            with pytest.raises(RuntimeError, match="in the main thread only"), stop_by_signals():
                pass

        with ThreadPoolExecutor(1) as pool:
            pool.submit(stop).result()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL

    def test_a_handler_of_the_host_is_not_replaced(self, tmp_path):
        def own(number, frame):
            vf.request_stop()

        signal.signal(signal.SIGTERM, own)
        try:
            with (
                pytest.raises(RuntimeError, match=r"SIGTERM has a handler already, .*own.*request_stop"),
                stop_by_signals(),
            ):
                pass
            assert signal.getsignal(signal.SIGTERM) is own
            assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    @pytest.mark.parametrize(
        ("name", "kept", "busy"),
        [
            ("SIGTERM", "", ""),
            ("SIGTERM", KEPT, BUSY),
            ("SIGUSR1", "", BUSY),
            ("SIGUSR1", KEPT, ""),
        ],
    )
    def test_where_no_run_keeps_a_checkpoint_signals_end_the_process(self, tmp_path, name, kept, busy):
        """Before and after a run that keeps one, and in one that does not."""
        number = getattr(signal, name)
        process = python(IN_A_BLOCK.format(kept=kept, busy=busy), tmp_path)
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        try:
            assert process.wait(timeout=60) == -number
        finally:
            process.kill()
            process.stdout.close()

    def test_a_stop_that_is_asked_for_at_the_end_of_a_run_is_not_forgotten(self, tmp_path):
        path, n_epochs = tmp_path / "run.ckpt", 3
        one = trainer(checkpoint=path, n_epochs=n_epochs, minibatch_size=1.0, holdout=0.0)
        last = 2 * n_epochs  # calls: after the step of an epoch, and at its end

        def callback(record, calls=[]):  # noqa: B006 - it counts
            calls.append(record.step)
            if len(calls) == last:
                signal.raise_signal(signal.SIGTERM)

        with stop_by_signals(), pytest.raises(vf.Preempted, match=r"run\.ckpt has the state"):
            one.train_on_batch(*points(), callback=callback)
        assert one.record.epoch == n_epochs

    @pytest.mark.parametrize("what", ["train", "integrate"])
    def test_signals_that_are_ignored_stay_so(self, tmp_path, events, what):
        (tmp_path / "f.py").write_text("def f(x):\n    return x[:, 0]\n")
        run = {
            "train": command("train", events, "-o", "flow.npz", "--epochs", 2),
            "integrate": command("integrate", "f.py:f", "--dim", 2, "--calls", 40_000),
        }[what]
        run += [*SIZES, "--checkpoint", "run.ckpt"]
        found = subprocess.run(["sh", "-c", 'trap "" TERM; exec "$@"', "sh", *run], cwd=tmp_path,
                               capture_output=True, text=True)  # fmt: skip
        assert (found.returncode, found.stderr) == (0, "")

    def test_an_ignored_signal_is_left_alone(self):
        before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
        try:
            with stop_by_signals():
                assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
                assert signal.getsignal(signal.SIGUSR1) is not signal.SIG_DFL
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
        finally:
            signal.signal(signal.SIGTERM, before)

    def test_a_host_can_ask_by_itself(self, tmp_path):
        one = trainer(checkpoint=tmp_path / "run.ckpt", n_epochs=1000)
        with stop_by_signals(), pytest.raises(vf.Preempted):  # whose end forgets that a stop was asked for
            one.train_on_batch(*points(), callback=lambda record: record.step == 5 and vf.request_stop())
        assert one.record.step == 6
