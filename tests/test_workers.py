"""Pools of the user: executors, pools of multiprocessing, clusters of Dask, MPI; the real ones."""

import json
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from importlib.util import find_spec
from multiprocessing.pool import ThreadPool
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_integrator import assert_same, make, peak

import varflow as vf
from varflow.cli.command import main
from varflow.integration.domain import Domain
from varflow.integration.integrand import Integrand
from varflow.integration.workers.sizes import LONGEST, MAX_BYTES, SHORTEST, Sizes

dask = pytest.importorskip("dask", reason="the extra dask is not installed")
distributed = pytest.importorskip("distributed", reason="the extra dask is not installed")

# Python 3.12 warns of a fork beside threads, which other tests may have left waiting.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")

N, D = 4000, 3
FORK = multiprocessing.get_context("fork")


@pytest.fixture(scope="module")
def u():
    return np.random.default_rng(1).random((N, D))


@pytest.fixture(scope="module")
def client():
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": ":0"}
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        distributed.LocalCluster(**options) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


@pytest.fixture(scope="module", params=["threads", "processes", "pool", "thread pool", "dask"])
def pool(request):
    """One of each kind, which all tests of a class use."""
    if request.param == "dask":
        yield request.getfixturevalue("client")
        return
    makes = {
        "threads": lambda: ThreadPoolExecutor(2),
        "processes": lambda: ProcessPoolExecutor(2, FORK),
        "pool": lambda: FORK.Pool(2),
        "thread pool": lambda: ThreadPool(2),
    }
    with makes[request.param]() as pool:
        yield pool


@pytest.fixture(scope="module")
def alone():
    """The result without workers."""
    return make().integrate()


def first(x):
    return x[:, 0]


def fails_at_first(point, x):
    if (x == point).all(axis=1).any():
        time.sleep(0.3)  # the other workers, which may still start, finish something
        raise KeyError("mine")
    return x[:, 0]


def takes_100_us(x):
    time.sleep(1e-4 * len(x))
    return x[:, 0]


class Sent:
    """An integrand that tells how often it was unpickled in its process."""

    n = 0

    def __call__(self, x):
        return np.stack([np.full(len(x), os.getpid()), np.full(len(x), Sent.n)], axis=1)

    def __setstate__(self, state):
        Sent.n += 1


class TestEach:
    def test_gives_the_same_bits(self, u, pool):
        domain = Domain([(0, np.inf), (-1, 1), (0, 1)])
        integrand, expected = Integrand(first, domain, workers=pool), Integrand(first, domain)(u)
        for n in (N, 1, 3, N):
            np.testing.assert_array_equal(integrand(u[:n]), expected[:n])
        assert integrand.n_calls == 2 * N + 4
        integrand.close()
        np.testing.assert_array_equal(integrand(u), expected)  # the pool of the user goes on

    def test_sends_f_once(self, u, pool):
        Sent.n = 0
        with Integrand(Sent(), Domain(D), workers=pool) as integrand:
            found = np.concatenate([integrand(u) for _ in range(4)])
        if isinstance(pool, ThreadPoolExecutor | ThreadPool):
            assert (found == [os.getpid(), 0]).all()
            return
        assert os.getpid() not in found[:, 0]
        for process in np.unique(found[:, 0]):
            assert len(np.unique(found[found[:, 0] == process, 1])) == 1

    def test_exceptions_of_f_come_back_and_values_of_others_are_kept(self, u, pool):
        integrand = Integrand(partial(fails_at_first, u[0]), Domain(D), workers=pool)
        evaluated = integrand.evaluate(u)
        assert str(evaluated.error) == "'mine'"
        np.testing.assert_array_equal(evaluated.error.x, u[: len(evaluated.error.x)])
        assert evaluated.rows[0] >= len(evaluated.error.x)
        assert len(evaluated.rows) >= 1
        np.testing.assert_array_equal(evaluated.values[:, 0], u[evaluated.rows, 0])
        assert integrand.n_calls == len(evaluated.rows)

    def test_an_integral(self, pool, alone):
        with make(workers=pool.map) as integrator:  # the method stands for the pool
            assert_same(integrator.integrate(), alone)


class Mortal:
    """An integrand that ends its process, the first time that it is called for a point near some other."""

    def __init__(self, folder, how=3):
        self.calls, self.dead, self.how = folder / "calls", folder / "dead", how
        self.calls.touch()  # the first points of all may be those that end the process

    def __call__(self, x):
        if (np.abs(x - 0.4).max(axis=1) < 0.1).any() and not self.dead.exists():
            self.dead.touch()
            time.sleep(0.1)  # others finish what they are at
            if self.how < 0:
                os.kill(os.getpid(), -self.how)
            os._exit(self.how)
        with open(self.calls, "a") as file:
            file.write(f"{len(x)}\n")
        return peak(x)

    def count(self):
        return sum(map(int, self.calls.read_text().split()))


class TestDeath:
    @pytest.mark.parametrize("kind", ["own", "pool"])
    def test_is_told_and_costs_only_what_was_at_work(self, tmp_path, kind, alone):
        f = Mortal(tmp_path)
        with FORK.Pool(2) as pool, make(f, workers=2 if kind == "own" else pool) as integrator:
            with pytest.raises(vf.WorkerDiedError, match="exit status 3 while it called f with x") as caught:
                integrator.integrate()
            n_before = f.count()
            result = integrator.integrate()
        assert_same(result, alone)
        assert (np.abs(caught.value.x - 0.4).max(axis=1) < 0.1).any()
        n_lost = f.count() - result.n_calls  # those that others had finished, but could not give back
        assert 0 <= n_lost <= (0 if kind == "pool" else n_before)

    def test_by_a_signal_in_an_executor(self, tmp_path, u):
        with ProcessPoolExecutor(2, FORK) as executor:
            integrand = Integrand(Mortal(tmp_path, -9), Domain(2), workers=executor)
            with pytest.raises(vf.WorkerDiedError, match="was killed by SIGKILL while it called f") as caught:
                integrand(u[:, :2])
            assert (np.abs(caught.value.x - 0.4).max(axis=1) < 0.1).any()
            with pytest.raises(vf.WorkerDiedError, match=r"has lost a worker before.*make a new one"):
                integrand(u[:, :2])

    def test_in_a_cluster_that_goes_on(self, tmp_path, client, alone):
        with make(Mortal(tmp_path), workers=client) as integrator:
            with pytest.raises(vf.WorkerDiedError, match="1 workers of the cluster ended") as caught:
                integrator.integrate()
            assert (np.abs(caught.value.x - 0.4).max(axis=1) < 0.1).any()
            assert_same(integrator.integrate(), alone)

    def test_leaves_no_file_behind(self, u, tmp_path, monkeypatch):
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        with ProcessPoolExecutor(1, FORK) as executor:
            integrand = Integrand(first, Domain(D), workers=executor)
            integrand(u)
            assert list(tmp_path.iterdir()) != []
            del integrand  # which nobody has closed
            assert list(tmp_path.iterdir()) == []


class Cloud(Executor):
    """An executor of somebody's own, whose workers are elsewhere: all goes through pickle."""

    def __init__(self):
        self.sent = []

    def submit(self, function, *arguments):
        message = pickle.dumps((function, arguments))
        self.sent.append(len(message))
        future = Future()
        function, arguments = pickle.loads(message)
        future.set_result(function(*arguments))
        return future


class Large:
    def __init__(self):
        self.table = np.zeros(100_000)

    def __call__(self, x):
        return self.table[0] + x[:, 0]


class TestOthers:
    def test_executor_of_somebodys_own(self, u):
        with Integrand(Large(), Domain(D), workers=Cloud()) as integrand:
            for _ in range(3):
                np.testing.assert_array_equal(integrand(u)[:, 0], u[:, 0])
            sent = integrand._pool._executor.sent
        assert sum(n > 800_000 for n in sent) == 1

    def test_map_that_pickles(self, u):
        sent = []

        def elsewhere(function, items):
            for item in items:
                sent.append(len(pickle.dumps((function, item))))
                yield pickle.loads(pickle.dumps(function))(item)

        with Integrand(Large(), Domain(D), workers=elsewhere) as integrand:
            for _ in range(3):
                np.testing.assert_array_equal(integrand(u)[:, 0], u[:, 0])
        n_first = sum(n > 800_000 for n in sent)
        assert max(np.flatnonzero(np.array(sent) > 800_000)) == n_first - 1  # with the first round alone

    @pytest.mark.parametrize(
        ("workers", "match"),
        [
            (ThreadPoolExecutor, r"must be an object, such as ThreadPoolExecutor\(...\), not the class"),
            (None, "workers must be an int, .*multiprocessing pool or a dask.distributed.Client, found None"),
            (lambda function, items: 3, "must return an iterable, as map does, found .* int"),
            (lambda function, items: [1 for _ in items], "must give results, .* found .* int"),
        ],
    )
    def test_refused(self, u, workers, match):
        with pytest.raises(TypeError, match=match):
            Integrand(first, Domain(D), workers=workers)(u)

    @pytest.mark.parametrize("make_pool", [lambda: ThreadPoolExecutor(1), lambda: FORK.Pool(1)])
    def test_closed(self, u, make_pool):
        with make_pool() as pool:
            pass
        with pytest.raises(ValueError, match=r"workers must be open, but this \w+ takes no tasks any more"):
            Integrand(first, Domain(D), workers=pool)(u)

    def test_client_without_workers(self, u):
        options = {"n_workers": 0, "dashboard_address": ":0", "processes": False}
        with (
            distributed.LocalCluster(**options) as cluster,
            distributed.Client(cluster) as client,
            pytest.raises(ValueError, match=r"client without workers.*client.wait_for_workers\(1\)"),
        ):
            Integrand(first, Domain(D), workers=client)(u)
        with pytest.raises(ValueError, match="must be a client that is connected, but this one is closed"):
            Integrand(first, Domain(D), workers=client)(u)


class TestSizes:
    @given(st.integers(1, 5000), st.integers(1, 40), st.integers(1, 300), st.floats(1e-9, 1e4))
    def test_follow_the_time_of_f(self, n, d, n_workers, seconds):
        x = np.zeros((n, d))
        sizes = Sizes()
        for _ in range(2):
            tasks = [len(task) for task in sizes.split(x, n_workers)]
            assert sum(tasks) == n
            assert min(tasks) >= 1
            assert max(tasks) - min(tasks) <= 1
            assert len(tasks) >= min(n, n_workers) or seconds * max(tasks) < 2 * SHORTEST
            sizes.note(seconds * n, n)
        assert max(tasks) <= 1 + max(1, LONGEST / seconds)
        assert max(tasks) <= 1 + max(1, MAX_BYTES / (8 * d))

    def test_of_a_cluster_are_longer(self, client):
        u = np.random.default_rng(1).random((1000, D))
        with Integrand(takes_100_us, Domain(D), workers=client) as integrand:
            integrand(u)  # measures f
            with mock.patch.object(integrand._pool, "submit", wraps=integrand._pool.submit) as submit:
                integrand(u)
        assert submit.call_count <= 4  # 2 of 50 ms where the machine is not busy, not 8 of 12.5 ms

    def test_no_worker_waits_for_long(self):
        sizes, x = Sizes(), np.zeros((65_536, 4))
        for seconds, n_tasks in ((1e-7, 1), (1e-5, 16), (1e-2, 656), (10.0, 65_536)):
            sizes.note(seconds * 100, 100)
            assert len(sizes.split(x, 4)) == n_tasks


class TestCommand:
    def test_a_cluster(self, client, tmp_path, capsys):
        """The function is of a file that the workers could not import."""
        (tmp_path / "ridge.py").write_text("def ridge(x):\n    return x[:, 0] + x[:, 1]\n")
        arguments = ["integrate", f"{tmp_path}/ridge.py:ridge", "--dim", "2", "--calls", "100", "--json"]
        found = []
        for workers in ("1", client.scheduler.address):
            assert main([*arguments, "--workers", workers]) == 0
            found.append(json.loads(capsys.readouterr().out))
            found[-1].pop("seconds")
        assert found[0] == found[1]

    def test_no_cluster(self, monkeypatch, capsys):
        monkeypatch.setattr("varflow.cli.workers.PATIENCE", 0.5)
        arguments = ["integrate", "math:sin", "--dim", "2", "--calls", "100", "--workers"]
        assert main([*arguments, "tcp://127.0.0.1:1"]) == 2
        assert "--workers: no Dask scheduler answers at tcp://127.0.0.1:1" in capsys.readouterr().err
        with pytest.raises(SystemExit):
            main([*arguments, "many"])
        assert "needs a number, or tcp://HOST:PORT or the file NAME.json" in capsys.readouterr().err


MPI = """
import os
import numpy as np
import varflow as vf
from mpi4py.futures import MPIPoolExecutor

def peak(x):
    return np.exp(-30 * ((x - 0.4) ** 2).sum(axis=1))

def process(x):
    return np.full(len(x), os.getpid())

def fails_at_first(x):
    if (x == np.random.default_rng(1).random(3)).all(axis=1).any():
        raise KeyError("mine")
    return x[:, 0]

if __name__ == "__main__":
    flow_options = {"n_bins": 8, "d_hidden": 16, "n_hidden": 1, "repetitions": 1}
    options = {"n_iter": 2, "n_points": 16_384, "seed": 1, "flow_options": flow_options}
    u = np.random.default_rng(1).random((4000, 3))
    with MPIPoolExecutor() as pool:
        integrator = vf.Integrator(peak, 2, **options, workers=pool)
        print(integrator.integrate().mean.hex())
        found = vf.Integrand(process, vf.Domain(3), workers=pool)(u)
        assert len(np.unique(found)) == 2 and os.getpid() not in found
        error = vf.Integrand(fails_at_first, vf.Domain(3), workers=pool).evaluate(u).error
        assert isinstance(error, KeyError) and (error.x == u[: len(error.x)]).all()
    try:
        integrator.extend(1000)
    except ValueError as error:
        print(error)
"""


@pytest.mark.programs
@pytest.mark.skipif(find_spec("mpi4py") is None, reason="the extra mpi is not installed")
@pytest.mark.skipif(shutil.which("mpiexec") is None, reason="there is no mpiexec")
def test_mpi(tmp_path, alone):
    (tmp_path / "program.py").write_text(MPI)
    version = subprocess.run(["mpiexec", "--version"], capture_output=True, text=True, check=True).stdout
    is_open = "OpenRTE" in version or "Open MPI" in version
    options = ["--allow-run-as-root", "--oversubscribe"] if is_open else []
    process = subprocess.run(
        ["mpiexec", *options, "-n", "3", sys.executable, "-m", "mpi4py.futures", "program.py"],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    mean, error = process.stdout.splitlines()
    assert mean == alone.mean.hex()
    assert error.startswith("workers must be open, but this MPIPoolExecutor takes no tasks any more")
