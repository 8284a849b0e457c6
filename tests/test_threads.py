"""Threads, processes and signals: the same bits, the caller's settings as they were, no step half taken."""

import gc
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import varflow as vf
from varflow import Adam, Flow
from varflow.flow.masks import MASKS
from varflow.integration.workers import processes
from varflow.kernels.splines import CELLS
from varflow.runtime import threads as parallel
from varflow.runtime.threads import SLICE

PACKAGE = Path(vf.__file__).parent
N, EPOCHS, MINIBATCH = 700, 3, 130
STEPS = EPOCHS * 6

needs_timer = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timer on this system")


@pytest.fixture
def no_garbage_collection():
    """What a signal handler raises is lost in a callback of the collector, and Hypothesis has one."""
    gc.disable()
    yield
    gc.enable()


def peak(x):
    return np.exp(-30 * ((x - 0.4) ** 2).sum(axis=1))


def points(d=2):
    rng = np.random.default_rng(1)
    x = rng.random((N, d))
    return x, rng.uniform(0.5, 2.0, N), peak(x)


def make_trainer(d=2, **flow_options):
    options = {"d_hidden": 8, "n_hidden": 1, "seed": 1, "threads": 2} | flow_options
    if options.get("cell") == "realnvp":
        options |= {"location": 0.5, "scale": 0.5}
    else:
        options |= {"n_bins": 4}
    config = {
        "n_epochs": EPOCHS,
        "minibatch_size": MINIBATCH,
        "optim": Adam(lr=1e-2),
        "holdout": 0,
        "p_normalized": True,
    }
    return vf.BasicStatefulVarTrainer(Flow(d, **options), **config)


def trained_bits(**flow_options):
    """Parameters, samples and log q after a training, as bytes."""
    trainer = make_trainer(**flow_options)
    x, px, fx = points(trainer.flow.d)
    trainer.train_on_batch(x, px, fx)
    flow = trainer.flow
    return [array.tobytes() for array in (flow.params, *flow.sample(N, seed=1), flow.log_prob(x))]


def integral_bits(n_calls, threads):
    options = {"n_bins": 8, "d_hidden": 16, "n_hidden": 1}
    result = vf.integrate(peak, 2, n_calls=n_calls, seed=1, threads=threads, flow_options=options)
    return [np.asarray(value).tobytes() for value in (result.mean, result.sdev, result.flow.params)]


def params_after_each_step(trainer):
    """Parameters by the number of steps that were taken, of a training that nobody interrupts."""
    params = [trainer.flow.params.copy()]

    def note(record):
        if trainer.get_config()["optim"].t == len(params):
            params.append(trainer.flow.params.copy())

    trainer.train_on_batch(*points(trainer.flow.d), callback=note)
    trainer.reset()
    return params


@pytest.mark.parametrize("masking", sorted(MASKS))
@pytest.mark.parametrize("cell", sorted(CELLS))
def test_same_bits_on_any_number_of_threads(cell, masking):
    options = {"d": 3, "cell": cell, "masking": masking}
    one, *others = (trained_bits(**options, threads=threads) for threads in (1, 2, 3, 4, 8))
    assert others == [one] * 4


@pytest.mark.parametrize("n_calls", [1000, 40_000])  # which are trained on in two ways
def test_integral_has_the_same_bits_on_any_number_of_threads(n_calls):
    one, *others = (integral_bits(n_calls, threads) for threads in (1, 2, 3, 4, 8))
    assert others == [one] * 4


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")  # Python 3.12 on, of forks
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_worker_processes_give_the_bits_of_their_parent(method):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip("no such processes on this system")
    expected = trained_bits()  # its threads are in use by then
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.starmap_async(trained_bits, [()] * 2).get(timeout=120) == [expected] * 2
    assert trained_bits() == expected


# Prints what is not as it was found.
SETTINGS = """
import locale, os, random, signal, sys, warnings
import numpy as np, numba, scipy.special, scipy.stats
from tqdm import tqdm
try:
    from threadpoolctl import threadpool_info
except ImportError:
    def threadpool_info():
        return []

np.seterr(divide="raise", over="call", under="raise", invalid="raise")
np.seterrcall(print)
np.random.seed(5)
random.seed(5)
signal.signal(signal.SIGTERM, lambda *_: None)
warnings.filterwarnings("error")
os.environ["OMP_NUM_THREADS"] = "2"


def threading_layer():
    try:
        return numba.threading_layer()
    except ValueError:  # not chosen so far
        return None


def settings():
    signals = {name: signal.getsignal(name) for name in signal.valid_signals()}
    return {
        "geterr": np.geterr(), "geterrcall": np.geterrcall(), "np.random": repr(np.random.get_state()),
        "random": random.getstate(), "warnings": list(warnings.filters), "signals": signals,
        "locale": locale.setlocale(locale.LC_ALL), "environment": dict(os.environ),
        "numba threads": numba.get_num_threads(), "layer": threading_layer(), "folder": os.getcwd(),
        "pools": threadpool_info(), "switch": sys.getswitchinterval(), "recursion": sys.getrecursionlimit(),
        "cores": os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None,
        "printing": np.get_printoptions(), "hooks": (sys.excepthook, sys.displayhook),
    }


before = settings()


def compare(moment):
    for name, value in settings().items():
        if value != before[name]:
            print(moment, "changes", name, before[name], value)


import varflow as vf

compare("import")
x, px = np.random.default_rng(1).random((300, 2)), np.ones(300)
fx = np.exp(-30 * ((x - 0.4) ** 2).sum(axis=1))
for loss in ("variance", "dkl"):
    flow = vf.Flow(2, n_bins=4, d_hidden=8, n_hidden=1, seed=1)
    vf.BasicStatefulTrainer(flow, loss=loss, n_epochs=2, minibatch_size=100).train_on_batch(x, px, fx)
compare("training")
flow.log_prob(flow.sample(300, seed=1)[0])
compare("sampling")
vf.evaluate(flow, vf.Dataset(x, px, fx))
compare("evaluation")
vf.integrate(lambda x: x[:, 0], 2, n_calls=40_000, seed=1, flow_options={"n_bins": 4, "d_hidden": 8})
compare("integration")
"""


def test_settings_of_the_caller_are_left_as_they_were():
    process = subprocess.run(
        [sys.executable, "-c", SETTINGS], cwd=PACKAGE.parent, capture_output=True, text=True, timeout=300
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout == ""


class TestInterrupts:
    @pytest.mark.parametrize("cell", sorted(CELLS))
    def test_by_the_callback_leave_the_parameters_of_that_step(self, cell):
        trainer = make_trainer(cell=cell)
        expected = params_after_each_step(trainer)
        assert len(expected) == STEPS + 1
        for step in range(1, STEPS + 1):

            def press_ctrl_c(record, step=step):
                if record.step == step:
                    raise KeyboardInterrupt

            with pytest.raises(KeyboardInterrupt):
                trainer.train_on_batch(*points(), callback=press_ctrl_c)
            assert trainer.get_config()["optim"].t == step
            np.testing.assert_array_equal(trainer.flow.params, expected[step])
            trainer.reset()

    @needs_timer
    @pytest.mark.usefixtures("no_garbage_collection")
    @pytest.mark.parametrize("options", [{}, {"d": 4, "d_hidden": 256, "n_hidden": 2}], ids=["small", "wide"])
    def test_by_a_signal_at_any_moment_leave_the_parameters_of_a_whole_step(self, options):
        """Of wide networks, threads share out the parameters, too."""
        trainer = make_trainer(**options)
        expected = params_after_each_step(trainer)
        begin = time.perf_counter()
        params_after_each_step(trainer)  # loads no kernels any more
        duration = time.perf_counter() - begin
        assert not options or trainer.flow.n_params > 2 * SLICE
        optim, arrays, found = trainer.get_config()["optim"], points(trainer.flow.d), set()
        previous = signal.signal(signal.SIGALRM, signal.default_int_handler)
        try:
            for moment in np.random.default_rng(1).uniform(0, duration, 40):
                with pytest.raises(KeyboardInterrupt):  # noqa: PT012 - the signal may come before training
                    signal.setitimer(signal.ITIMER_REAL, 1e-5 + moment)
                    while True:
                        trainer.train_on_batch(*arrays)
                        trainer.reset()
                if optim.t < STEPS:  # behind the last step, it is the best parameters that are put into place
                    np.testing.assert_array_equal(trainer.flow.params, expected[optim.t])
                found.add(optim.t)
                trainer.reset()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, previous)
        assert len(found) > 5
        assert len(params_after_each_step(trainer)) == STEPS + 1

    def test_that_take_what_comes_out_of_a_queue_along_do_not_make_anybody_wait(self, monkeypatch):
        """Ctrl-C comes once the queue has given the worker's word away, before anybody has looked at it."""

        class Queue(parallel.queue.SimpleQueue):
            def get(self):
                super().get()
                raise KeyboardInterrupt

        errors = []

        def call():
            try:
                parallel.run(lambda k: time.sleep(0.05 * k), 3)
            except KeyboardInterrupt as error:
                errors.append(error)

        parallel.run(lambda k: None, 3)  # the workers are there, with a queue of the other kind
        monkeypatch.setattr(parallel.queue, "SimpleQueue", Queue)
        caller = threading.Thread(target=call, daemon=True)
        caller.start()
        caller.join(timeout=20)
        assert len(errors) == 1

    def test_while_work_is_handed_out_wait_for_what_has_begun(self, monkeypatch):
        done = []

        jobs = parallel._workers.jobs

        class Queue:
            get = jobs.get

            def put(self, item):
                jobs.put(item)
                raise KeyboardInterrupt

        def task(k):
            time.sleep(0.05)
            done.append(k)

        parallel.run(lambda k: None, 3)
        monkeypatch.setattr(parallel._workers, "jobs", Queue())
        with pytest.raises(KeyboardInterrupt):
            parallel.run(task, 3)
        assert done == [1]

    @needs_timer
    @pytest.mark.usefixtures("no_garbage_collection")
    def test_by_any_exception_of_a_signal_handler_wait_for_the_workers(self):
        done, is_handed_out = [], threading.Event()

        def task(k):
            if k == 0:  # the caller's own share, once the others have theirs
                is_handed_out.set()
                return
            if k == 1:
                is_handed_out.wait()
                os.kill(os.getpid(), signal.SIGALRM)
            time.sleep(0.2)
            done.append(k)

        def end(signum, frame):
            raise SystemExit

        previous = signal.signal(signal.SIGALRM, end)
        try:
            with pytest.raises(SystemExit):
                parallel.run(task, 3)
        finally:
            signal.signal(signal.SIGALRM, previous)
        assert sorted(done) == [1, 2]


# Trains on and on; at each Ctrl-C, says after how many steps it came, and whether the parameters are theirs.
TRAIN = f"""
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # shells let jobs in the background ignore it
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_threads import make_trainer, params_after_each_step, points

trainer = make_trainer()
optim = trainer.get_config()["optim"]
expected = params_after_each_step(trainer)
print("ready", flush=True)
for line in sys.stdin:
    try:
        print("training", flush=True)
        while True:
            trainer.train_on_batch(*points())
            trainer.reset()
    except KeyboardInterrupt:
        is_whole = optim.t == len(expected) - 1 or (trainer.flow.params == expected[optim.t]).all()
        print(optim.t, is_whole, flush=True)
    trainer.reset()
trainer.train_on_batch(*points())
print(optim.t, (trainer.flow.params == trainer.good_state.params).all())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT for one process on this system")
def test_ctrl_c_in_a_process_leaves_the_parameters_of_a_whole_step():
    command = [sys.executable, "-W", "error", "-c", TRAIN]
    with subprocess.Popen(
        command, cwd=PACKAGE.parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as process:
        assert process.stdout.readline() == "ready\n"
        found = set()
        for _ in range(30):
            process.stdin.write("\n")
            assert process.stdout.readline() == "training\n"
            time.sleep(random.uniform(0, 0.1))
            process.send_signal(signal.SIGINT)
            steps, is_whole = process.stdout.readline().split()
            assert is_whole == "True"
            found.add(int(steps))
        assert len(found) > 5
        process.stdin.close()
        assert process.stdout.read() == f"{STEPS} True\n"
        assert process.wait() == 0


def test_no_idle_thread_is_there_when_workers_are_forked(monkeypatch):
    """A child would have the locks that such threads hold, and none of the threads."""
    seen = []

    class Pool(processes.ProcessPoolExecutor):
        def submit(self, *arguments, **options):
            seen.append(varflow_threads())
            return super().submit(*arguments, **options)

    def varflow_threads():
        return [thread for thread in set(threading.enumerate()) - before if thread.name == "varflow"]

    monkeypatch.setattr(parallel, "_workers", parallel._Workers())  # without what other tests have left
    before = set(threading.enumerate())
    monkeypatch.setattr(processes, "ProcessPoolExecutor", Pool)
    flow = vf.Flow(2, seed=1, threads=3)
    flow.sample(100_000, seed=1)
    assert varflow_threads()
    with vf.Integrand(first_coordinate, vf.Domain(2), workers=2) as integrand:
        integrand.open()
        values = integrand(np.random.default_rng(1).random((100, 2)))
    assert values.shape == (100, 1)
    assert seen[0] == []
    flow.sample(100_000, seed=1)  # threads are started again


def first_coordinate(x):
    return x[:, 0]
