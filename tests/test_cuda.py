"""The GPU's kernels against the oracle, the CPU's kernels and themselves.

Without a GPU, they run in numba's simulator, in a process of its own where no function is compiled: so what
the CPU finds is brought along in a file. On a GPU, all of it runs in this process.
"""

import json
import os
import re
import subprocess
import sys
import threading
from importlib.util import find_spec
from pathlib import Path

import naive
import numpy as np
import pytest
from reference import ON_GPU, examples, failures

import varflow as vf
from varflow import Adam, Dataset, Flow
from varflow.flow.latent import SAMPLE_BLOCK, BlockRows, latent_key, random_rows
from varflow.runtime.backend import missing
from varflow.testing import normal_params
from varflow.training.losses import LOSSES
from varflow.training.objective import Objective

HERE = Path(__file__).parent
SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM") == "1"
CPU_FILE = "VARFLOW_TEST_CPU_RESULTS"  # variable with the path of the file

needs_package = pytest.mark.skipif(find_spec("numba_cuda") is None, reason="numba-cuda is not installed")
on_device = pytest.mark.skipif(
    find_spec("numba_cuda") is None or missing() is not None, reason="no GPU; see test_in_the_simulator"
)

# Each cell and each masking, one to four dimensions; a box; more rows than a tile has, and an odd number;
# conditions, which range from -2 to 3.
FLOWS = [
    {"d": 1, "cell": "pwlinear", "masking": "iflow"},
    {"d": 2, "cell": "rqs", "masking": "checkerboard"},
    {"d": 3, "cell": "pwquad", "masking": "maximal"},
    {"d": 4, "cell": "pwlinear", "masking": "iflow"},
    {"d": 2, "cell": "realnvp", "masking": "checkerboard"},
    {"d": 1, "cell": "pwquad", "masking": "iflow", "n_conditions": 2},
    {"d": 2, "cell": "rqs", "masking": "maximal", "n_conditions": 1},
    {"d": 2, "cell": "realnvp", "masking": "iflow", "n_conditions": 2},
]
N, MINIBATCH = 51, 33
TRAININGS = {
    "variance": {},
    "dkl": {"clip_norm": 0.1, "weight_decay": 0.01},
    "custom": {"average": 0.9, "schedule": "cosine"},
}

every_flow = pytest.mark.parametrize(
    "options", FLOWS, ids=lambda options: "-".join(map(str, options.values()))
)


@pytest.fixture(autouse=True, scope="module")
def sound_simulator():
    """Mend what numba's simulator has at fault, and let threads that wait for each other take turns quickly.

    By itself, it lets two threads that ask for the same shared array at the same time have one each.
    """
    if not SIMULATED:
        yield
        return
    from numba.cuda.simulator.kernelapi import FakeCUDAShared

    lock = threading.Lock()

    def array(self, shape, dtype, alignment=None):
        caller = sys._getframe(1)
        with lock:
            return self._allocations.setdefault((caller.f_code, caller.f_lineno), np.empty(shape, dtype))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FakeCUDAShared, "array", array)
        yield
    sys.setswitchinterval(interval)


def make_flow(d, cell, masking, backend="cuda", dtype="float64", **options):
    if cell == "realnvp":
        place = {"location": np.arange(d), "scale": 1.0 + np.arange(d)}
    else:
        place = {"bounds": [(-1.0 - k, 0.5 + 2 * k) for k in range(d)], "n_bins": 3}
    options = place | {"d_hidden": 5, "n_hidden": 2, "repetitions": 1, "seed": 1} | options
    if options.get("n_conditions", 0) > 0:
        options["condition_bounds"] = (-2, 3)
    flow = Flow(d, cell, masking, dtype=dtype, backend=backend, **options)
    flow.params = normal_params(flow.architecture, 1.0, np.random.default_rng(d))
    return flow


def make_points(flow, n=N):
    lower, upper = naive.box_of(flow).T
    u = np.random.default_rng(1).random((n, flow.d))
    return lower + (upper - lower) * (u if flow.latent == "uniform" else 4 * u - 2)


def make_conditions(flow, n=N):
    """Places in the unit interval, and conditions there; both are None where the flow has none."""
    if flow.n_conditions == 0:
        return None, None
    places = np.random.default_rng(3).random((n, flow.n_conditions))
    return places, 5 * places - 2


def make_data(flow):
    rng = np.random.default_rng(2)
    return make_points(flow), rng.uniform(0.5, 2, N), rng.uniform(0.1, 1, N)


def gradient_on_device(objective, rows):
    """The loss and its gradient, as a step finds them."""
    from varflow.training.device_steps import DeviceSteps

    steps = DeviceSteps(objective.flow, len(rows))
    params = objective.flow.params.copy()
    taken = steps.take(objective, [rows], Adam(lr=1e-12), [0.0])
    objective.flow.params = params
    assert taken.error is None
    return taken.steps[0].loss, steps._dparams.copy_to_host()


class ArrayOfGPU:
    """What CuPy's arrays look like from afar."""

    __cuda_array_interface__ = {}  # noqa: RUF012 - nobody changes it


class TestFallback:
    """What there is without a GPU."""

    def test_names(self):
        with pytest.raises(
            ValueError, match=r"^backend must be one of 'cpu', 'cuda', 'auto', got 'cude'; did you"
        ):
            Flow(2, backend="cude")
        with pytest.raises(ValueError, match=r"^precision must be one of"):
            Flow(2, precision="float16")
        with pytest.raises(ValueError, match=r"^precision 'float64' needs networks of dtype 'float64', got"):
            Flow(2, precision="float64")
        with pytest.raises(ValueError, match=r"^precision 'float32' is for backend 'cuda'"):
            Flow(2, precision="float32")
        assert Flow(2).precision == "mixed"
        assert Flow(2, dtype="float64").precision == "float64"

    @pytest.mark.skipif(missing() is None, reason="there is a GPU")
    def test_says_what_is_missing(self, tmp_path):
        with pytest.raises(vf.BackendError, match=r"^backend 'cuda': (the package numba-cuda|no GPU)"):
            Flow(2, backend="cuda")
        Flow(2).save(tmp_path / "flow.npz")
        with pytest.raises(vf.BackendError):
            Flow.load(tmp_path / "flow.npz", backend="cuda")
        with pytest.raises(vf.BackendError):
            vf.StatefulTrainer(2, backend="cuda")
        with pytest.raises(vf.BackendError):
            vf.Integrator(np.sum, 2, backend="cuda")
        with pytest.raises(vf.BackendError):
            vf.device_integrand(np.sum)
        with pytest.raises(vf.BackendError):
            Dataset(ArrayOfGPU(), np.ones(3), np.ones(3))

    @pytest.mark.skipif(missing() is None, reason="there is a GPU")
    def test_auto_takes_the_cpu_and_says_so_once(self):
        code = "import varflow as vf; print([vf.Flow(2, backend='auto').backend for _ in range(3)])"
        process = subprocess.run(
            [sys.executable, "-c", code], cwd=HERE.parent, capture_output=True, text=True, timeout=120
        )
        assert process.stdout == "['cpu', 'cpu', 'cpu']\n"
        assert process.stderr.startswith("backend 'auto' takes the CPU: ")
        assert process.stderr.count("\n") == 1

    def test_cpu_is_not_asked_for_a_gpu(self):
        code = "import sys, varflow as vf; vf.Flow(2); print('numba.cuda' in sys.modules)"
        process = subprocess.run(
            [sys.executable, "-c", code], cwd=HERE.parent, capture_output=True, text=True, timeout=120
        )
        assert process.stdout == "False\n"

    @pytest.mark.skipif(missing() is None, reason="there is a GPU")
    def test_command_line(self):
        command = [sys.executable, "-m", "varflow", "bench", "--d", "2", "--batch", "10", "--backend", "cuda"]
        process = subprocess.run(command, cwd=HERE.parent, capture_output=True, text=True, timeout=120)
        assert process.returncode == 2
        assert process.stderr.startswith("varflow: backend 'cuda': ")
        assert process.stderr.count("\n") == 1

    def test_arrays_of_a_gpu_need_its_backend(self):
        with pytest.raises(
            TypeError, match=r"^an array x on the GPU needs a flow with backend 'cuda', found 'cpu'"
        ):
            Flow(2).log_prob(ArrayOfGPU())
        with pytest.raises(TypeError, match=r"^sample_blocks_on_device needs a flow with backend 'cuda'"):
            Flow(2).sample_blocks_on_device(10)


@on_device
class TestMaps:
    @every_flow
    def test_are_those_of_the_oracle(self, options):
        flow = make_flow(**options)
        x, (places, conditions) = make_points(flow), make_conditions(flow)
        expected = naive.forward(flow.architecture, flow.params, naive.box_of(flow), x, places)
        z, logqx = flow.to_latent(x, conditions)
        np.testing.assert_allclose(z, expected.z, rtol=0, atol=1e-12)
        np.testing.assert_allclose(logqx, expected.log_q, rtol=0, atol=1e-11)
        back, logqx_back = flow.from_latent(z, conditions)
        np.testing.assert_allclose(back, x, rtol=0, atol=1e-11)
        np.testing.assert_allclose(logqx_back, logqx, rtol=0, atol=1e-10)

    @pytest.mark.parametrize("precision", ["mixed", "float32"])
    def test_in_less_than_double_precision(self, precision):
        flow = make_flow(2, "pwquad", "iflow", dtype="float32", precision=precision)
        x = make_points(flow)
        expected = naive.forward(flow.architecture, flow.params.astype(float), flow.bounds, x)
        z, logqx = flow.to_latent(x)
        np.testing.assert_allclose(z, expected.z, rtol=0, atol=1e-5)
        np.testing.assert_allclose(logqx, expected.log_q, rtol=0, atol=1e-4)
        back, _ = flow.from_latent(z)
        np.testing.assert_allclose(back, x, rtol=0, atol=1e-11 if precision == "mixed" else 1e-5)

    def test_of_edges_of_the_box(self):
        flow = make_flow(2, "pwlinear", "iflow")
        z, _ = flow.to_latent(flow.bounds.T)
        np.testing.assert_allclose(z, [[0, 0], [1, 1]], rtol=0, atol=1e-15)
        x, _ = flow.from_latent(np.array([[0.0, 0.0], [1.0, 1.0]]))
        np.testing.assert_array_equal(x, flow.bounds.T)

    @pytest.mark.parametrize("precision", ["mixed", "float32"])
    def test_of_edges_of_the_bins(self, precision):
        """At an edge and next to it, x is in one bin: the slope is that of the left or of the right one."""
        real, n_bins = np.float32 if precision == "float32" else np.float64, 7
        sizes = {"n_bins": n_bins, "repetitions": 1}
        flow = Flow(1, "pwlinear", **sizes, seed=1, backend="cuda", precision=precision)
        contents = np.random.default_rng(1).uniform(0.5, 2, n_bins)
        flow.params = np.append(np.zeros(flow.n_params - n_bins), np.log(contents))
        edges = (np.arange(1, n_bins) / n_bins).astype(real)
        x = np.concatenate([np.nextafter(edges, real(0)), edges, np.nextafter(edges, real(1))]).astype(float)
        z, logqx = flow.to_latent(x[:, None])
        slopes = contents * n_bins / contents.sum()
        error = np.abs(np.exp(logqx)[:, None] / np.tile([slopes[:-1], slopes[1:]], 3).T - 1).min(axis=1)
        assert (error < 1e-5).all()
        assert (np.diff(z[np.argsort(x, kind="stable"), 0]) >= -2 * np.finfo(real).eps).all()

    def test_leave_arrays_on_the_device(self):
        from varflow.runtime.device import to_device

        flow = make_flow(2, "pwlinear", "iflow")
        x = make_points(flow)
        z, logqx = flow.to_latent(to_device(x))
        expected_z, expected_logqx = flow.to_latent(x)
        np.testing.assert_array_equal(z.copy_to_host(), expected_z)
        np.testing.assert_allclose(logqx.copy_to_host(), expected_logqx, rtol=0, atol=1e-14)
        back, _ = flow.from_latent(z)
        np.testing.assert_allclose(back.copy_to_host(), x, rtol=0, atol=1e-12)

    def test_with_conditions_leave_arrays_on_the_device(self):
        from varflow.runtime.device import to_device

        flow = make_flow(2, "pwlinear", "iflow", n_conditions=2)
        x, (_, conditions) = make_points(flow), make_conditions(flow)
        expected_z, expected_logqx = flow.to_latent(x, conditions)
        for given in (conditions, to_device(conditions)):
            z, logqx = flow.to_latent(to_device(x), given)
            np.testing.assert_array_equal(z.copy_to_host(), expected_z)
            np.testing.assert_allclose(logqx.copy_to_host(), expected_logqx, rtol=0, atol=1e-14)
        with pytest.raises(TypeError, match=r"^conditions are missing: the flow has n_conditions = 2$"):
            flow.log_prob(to_device(x))

    def test_refuse_what_is_outside_by_its_row(self):
        from varflow.runtime.device import to_device

        flow = make_flow(2, "pwlinear", "iflow")
        for wrong in (np.nan, 99.0, -np.inf):
            x = make_points(flow)
            x[5, 1] = x[7, 0] = wrong
            with pytest.raises(ValueError, match=r"^x must be finite and lie within .* in row 5$"):
                flow.log_prob(to_device(x))
        with pytest.raises(
            ValueError, match=r"^z must be finite and lie within the unit cube, found .* in row 0$"
        ):
            flow.from_latent(to_device(np.full((1, 2), 1.5)))
        with pytest.raises(ValueError, match=r"^x must have shape \(n, 2\), found \(4, 3\)$"):
            flow.log_prob(to_device(np.zeros((4, 3))))
        with pytest.raises(TypeError, match=r"^x must hold floating-point numbers, found dtype int64$"):
            flow.log_prob(to_device(np.zeros((4, 2), np.int64)))


@on_device
def test_flow_beyond_the_range_of_indices_is_refused():
    from varflow.kernels.cuda import make_workspace

    sizes = {"n_bins": 1 << 17, "d_hidden": 1, "n_hidden": 1, "repetitions": 1}
    architecture = Flow(2, "pwlinear", **sizes, seed=1).architecture
    with pytest.raises(ValueError, match=r"are 4299161600, and may be 4294967296 at most; take smaller"):
        make_workspace(architecture.sizes, (1 << 15) + 32, True, np.float64)


@on_device
class TestSamples:
    def test_have_the_latent_points_of_the_cpu(self):
        flow = make_flow(3, "pwlinear", "iflow")
        expected = random_rows(latent_key(4), BlockRows(0, 3, 10), 3)
        (drawn,) = flow.device.latent_blocks(range(3, 10), latent_key(4), SAMPLE_BLOCK)
        np.testing.assert_array_equal(drawn.copy_to_host(), expected)

    def test_are_normal_quantiles_of_those_without_bounds(self):
        flow = make_flow(3, "realnvp", "iflow")
        expected = flow.latent_of(random_rows(latent_key(4), BlockRows(0, 3, 403), 3))
        (drawn,) = flow.device.latent_blocks(range(3, 403), latent_key(4), SAMPLE_BLOCK)
        np.testing.assert_allclose(drawn.copy_to_host(), expected, rtol=1e-14, atol=1e-15)

    def test_have_blocks_of_their_own(self):
        """Each has a counter of its own, as on the CPU."""
        flow = make_flow(1, "pwlinear", "iflow")
        key = latent_key(4)
        blocks = [block.copy_to_host() for block in flow.device.latent_blocks(range(10), key, 4)]
        for k, block in enumerate(blocks):
            generator = np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, k]))
            np.testing.assert_array_equal(block, generator.random((min(4, 10 - 4 * k), 1)))

    def test_are_images_of_those(self):
        flow = make_flow(2, "pwquad", "iflow")
        x, logqx = flow.sample(N, seed=3)
        expected_x, expected_logqx = flow.from_latent(random_rows(latent_key(3), BlockRows(0, 0, N), 2))
        np.testing.assert_array_equal(x, expected_x)
        np.testing.assert_allclose(logqx, expected_logqx, rtol=0, atol=1e-13)
        ((x_there, logqx_there),) = flow.sample_blocks_on_device(N, seed=3)
        np.testing.assert_array_equal(x_there.copy_to_host(), x)
        np.testing.assert_array_equal(logqx_there.copy_to_host(), logqx)

    def test_with_conditions_are_images_of_those(self):
        flow = make_flow(2, "pwquad", "iflow", n_conditions=1)
        _, conditions = make_conditions(flow)
        x, logqx = flow.sample(N, seed=3, conditions=conditions)
        z = random_rows(latent_key(3), BlockRows(0, 0, N), 2)
        expected_x, expected_logqx = flow.from_latent(z, conditions)
        np.testing.assert_array_equal(x, expected_x)
        np.testing.assert_allclose(logqx, expected_logqx, rtol=0, atol=1e-13)
        ((x_there, _),) = flow.sample_blocks_on_device(N, seed=3, conditions=conditions)
        np.testing.assert_array_equal(x_there.copy_to_host(), x)


@on_device
class TestGradients:
    @every_flow
    @pytest.mark.parametrize("loss", sorted(LOSSES))
    def test_are_those_of_the_oracle(self, options, loss):
        if SIMULATED and (options["d"] == 4) == (loss == "dkl"):
            pytest.skip("each half is enough where it takes seconds")
        flow = make_flow(**options)
        (x, px, fx), (places, conditions) = make_data(flow), make_conditions(flow)
        data, rows = Dataset(x, px, fx, bounds=flow.bounds, conditions=conditions), np.arange(N)[::-1].copy()
        objective = Objective(flow, data, LOSSES[loss])
        fx_scaled = np.exp(data.log_weight(1) + data.logpx)[rows]
        given = None if places is None else places[rows]

        def value(z, log_q):
            return naive.LOSSES[loss](fx_scaled, data.px[rows], log_q)

        of_flow = flow.architecture, flow.params, naive.box_of(flow)
        expected = naive.gradient(value, *of_flow, x[rows], given)
        found_loss, found = gradient_on_device(objective, rows)
        log_q = naive.forward(*of_flow, x[rows], given).log_q
        np.testing.assert_allclose(found_loss, value(None, log_q), rtol=1e-12)
        for block in naive.blocks(flow.architecture):
            error = np.linalg.norm(found[block] - expected[block])
            assert error <= 1e-10 * np.linalg.norm(expected[block]) + 1e-14

    def test_with_a_control_variate(self):
        flow = make_flow(2, "pwquad", "iflow")
        x, px, fx = make_data(flow)
        data, rows = Dataset(x, px, fx, bounds=flow.bounds), np.arange(N)[::-1].copy()
        weights, log_p = Objective(flow, data, LOSSES["variance"]).weights, data.logpx + flow.log_volume
        objective = Objective.with_control_variate(flow, data.x, weights, log_p, LOSSES["variance"])
        fx_scaled = np.exp(data.log_weight(1) + data.logpx)[rows]

        def variance(z, log_q):
            return naive.variance_loss(fx_scaled, data.px[rows], log_q)

        value = naive.with_control_variate(variance, data.px[rows])
        expected = naive.gradient(value, flow.architecture, flow.params, naive.box_of(flow), x[rows])
        _, found = gradient_on_device(objective, rows)
        assert np.linalg.norm(found - expected) <= 1e-10 * np.linalg.norm(expected)

    def test_of_a_network_wider_than_a_tile(self, monkeypatch):
        """Products in several tiles each way, a minibatch in several chunks, a gradient of several parts."""
        from varflow.training import device_steps as gpu

        monkeypatch.setattr(gpu, "CHUNK_ROWS", 16)
        monkeypatch.setattr(gpu, "MIN_ROWS_A_PART", 8)
        flow = make_flow(2, "pwlinear", "iflow", d_hidden=19, n_bins=9)
        if not SIMULATED:
            flow = make_flow(2, "pwlinear", "iflow", d_hidden=131, n_bins=40)
        x, px, fx = make_data(flow)
        data, rows = Dataset(x, px, fx, bounds=flow.bounds), np.arange(N)
        objective = Objective(flow, data, LOSSES["variance"])
        fx_scaled = np.exp(data.log_weight(1) + data.logpx)

        def value(z, log_q):
            return naive.variance_loss(fx_scaled, data.px, log_q)

        directions = np.random.default_rng(1).normal(size=(3, flow.n_params))
        expected = naive.derivatives(value, flow.architecture, flow.params, naive.box_of(flow), x, directions)
        if not SIMULATED:  # tiles of 32 rows do not fit into chunks of 16
            monkeypatch.undo()
        _, found = gradient_on_device(objective, rows)
        np.testing.assert_allclose(directions @ found, expected, rtol=1e-10)

    def test_have_the_same_bits_each_time(self):
        flow = make_flow(2, "rqs", "iflow", dtype="float32")
        objective = Objective(flow, Dataset(*make_data(flow), bounds=flow.bounds), LOSSES["variance"])
        first, second = (gradient_on_device(objective, np.arange(N)) for _ in range(2))
        assert first[0] == second[0]
        np.testing.assert_array_equal(first[1], second[1])


def train(backend, loss):
    """Train some epochs. Returns what the training leaves, by name; one of the trainings has conditions."""
    n_conditions = 1 if loss == "custom" else 0
    flow = make_flow(2, "pwlinear", "iflow", backend=backend, n_conditions=n_conditions)
    optim = Adam(lr=1e-2, **TRAININGS[loss])
    custom = (
        lambda fx, px, logqx: float(np.mean(-fx / px * logqx)),
        lambda fx, px, logqx: -fx / px / len(fx),
    )
    trainer = vf.BasicStatefulTrainer(
        flow, loss=custom if loss == "custom" else loss, n_epochs=2, minibatch_size=MINIBATCH, optim=optim,
        holdout=0.2,
    )  # fmt: skip
    record = trainer.train_on_batch(*make_data(flow), conditions=make_conditions(flow)[1])
    found = {"params": flow.params, "losses": np.array(record.losses), "m": optim.m, "v": optim.v}
    found |= {"rates": np.array(record.learning_rates), "lengths": np.array(record.gradient_lengths)}
    return found | ({} if optim.averaged is None else {"averaged": optim.averaged})


def cpu_results():
    """What trainings leave on the CPU; it cannot run where the simulator does."""
    if SIMULATED:
        with np.load(os.environ[CPU_FILE]) as file:
            return dict(file)
    return {f"{loss} {name}": part for loss in TRAININGS for name, part in train("cpu", loss).items()}


@on_device
class TestTraining:
    @pytest.mark.parametrize("loss", TRAININGS)
    def test_is_that_of_the_cpu(self, loss):
        expected = cpu_results()
        for name, found in train("cuda", loss).items():
            part = expected[f"{loss} {name}"]
            np.testing.assert_allclose(found, part, rtol=0, atol=1e-12 * abs(part).max(), err_msg=name)

    @pytest.mark.filterwarnings("ignore:.*invalid value encountered:RuntimeWarning")
    def test_stops_before_a_step_that_is_not_finite(self):
        flow = make_flow(2, "pwlinear", "iflow")
        data = Dataset(*make_data(flow), bounds=flow.bounds)
        objective = Objective(flow, data, LOSSES["variance"])
        objective.weights = objective.weights.copy()
        objective.weights[20] = np.inf
        trainer, optim = vf.BasicVarTrainer(flow), Adam(lr=1e-2)
        taken = trainer._steps_for(MINIBATCH).take(
            objective, [np.arange(5), np.arange(15, N), np.arange(5, 10)], optim, [0.0] * 3
        )
        assert taken.error == "the loss is inf"
        assert len(taken.steps) == optim.t == 1
        once, optim_once = make_flow(2, "pwlinear", "iflow"), Adam(lr=1e-2)
        vf.BasicVarTrainer(once)._steps_for(MINIBATCH).take(objective, [np.arange(5)], optim_once, [0.0])
        np.testing.assert_array_equal(flow.params, once.params)
        np.testing.assert_array_equal(optim.m, optim_once.m)

    def test_uses_points_where_they_are(self):
        from varflow.runtime.device import to_device

        flow = make_flow(2, "pwlinear", "iflow")
        x, px, fx = map(to_device, make_data(flow))
        data = Dataset(x, px, fx, bounds=flow.bounds)
        assert data.device_x is x
        trainer = vf.BasicVarTrainer(flow)
        loss = trainer.train_step_on_target_minibatch(x, px, fx, Adam())
        assert loss == pytest.approx(
            trainer.compute_loss(*make_data(make_flow(2, "pwlinear", "iflow"))), rel=0.2
        )

    def test_by_a_trainer_that_makes_its_flow(self):
        trainer = vf.StatefulTrainer(
            2, flow_options={"n_bins": 2, "d_hidden": 3, "n_hidden": 1}, backend="auto"
        )
        assert trainer.flow.backend == "cuda"
        assert trainer.flow.copy().backend == "cuda"
        with pytest.raises(TypeError, match=r"^backend is for a flow that is made here"):
            vf.StatefulTrainer(2, flow=trainer.flow, backend="cuda")


@on_device
class TestIntegrands:
    def test_that_take_arrays_of_the_device(self):
        seen = []

        def f(x):
            seen.append(x)
            return x

        x = np.random.default_rng(1).random((7, 2))
        np.testing.assert_array_equal(vf.device_integrand(f)(x), x)
        assert hasattr(seen[0], "copy_to_host")

    def test_that_are_functions_of_the_device(self):
        from numba import cuda

        @cuda.jit(device=True)
        def f(x):
            return x[0] * x[1]

        x = np.random.default_rng(1).random((7, 2))
        np.testing.assert_array_equal(vf.device_integrand(f)(x), x[:, 0] * x[:, 1])

    @pytest.mark.skipif(SIMULATED, reason="would take hours")
    def test_in_an_integral_with_a_flow_on_the_device(self):
        from numba import cuda

        @cuda.jit(device=True)
        def f(x):
            return x[0] * x[1]

        result = vf.integrate(f, 2, n_calls=50_000, seed=1, backend="cuda")
        assert abs(result.mean - 0.25) < 5 * result.sdev < 0.01


@on_device
@pytest.mark.parametrize("name", ON_GPU)
def test_examples_of_docstrings(name):
    assert failures(examples()[name]) == ""


@needs_package
@pytest.mark.programs
@pytest.mark.skipif(SIMULATED, reason="runs the simulator")
def test_in_the_simulator(tmp_path):
    """All tests above that are marked on_device, one thread of Python for each of the GPU's."""
    np.savez(tmp_path / "cpu.npz", **cpu_results())
    environment = os.environ | {
        "NUMBA_ENABLE_CUDASIM": "1", "NUMBA_DISABLE_JIT": "1", CPU_FILE: str(tmp_path / "cpu.npz"),
    }  # fmt: skip
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", __file__]
    process = subprocess.run(command, cwd=HERE.parent, env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stdout[-5000:]
    assert " passed" in process.stdout


# All that cuda.py marks as kernels, and those with matrix products.
KERNELS = set(
    re.findall(r"^@kernel\ndef (\w+)", (HERE.parent / "varflow/kernels/cuda.py").read_text(), re.MULTILINE)
)
PRODUCTS = {"transform", "gradient", "weight_gradients"}


def told_of_ptx(precision):
    """Lines of ptx.py for a precision, by the compiler's target."""
    command = [sys.executable, str(HERE / "ptx.py"), "--capabilities", "8.0,9.0", "--precision", precision]
    process = subprocess.run(command, cwd=HERE.parent, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    lines = [json.loads(line) for line in process.stdout.splitlines()]
    return {target: [line for line in lines if line["target"] == target] for target in ("sm_80", "sm_90")}


def check_ptx(lines):
    assert len(lines) == len(KERNELS)
    assert {line["kernel"] for line in lines} == KERNELS
    for line in lines:
        assert not line["has_stack"], line
        assert not line["has_calls"], line
        assert not line["spill_bytes"], line
        assert line["reads_vectors"] == (line["kernel"] in PRODUCTS and line["precision"] != "float64"), line


@needs_package
@pytest.mark.programs
@pytest.mark.skipif(SIMULATED, reason="compiles for a real GPU")
@pytest.mark.parametrize(
    "precision", ["mixed", *(pytest.param(one, marks=pytest.mark.slow) for one in ("float32", "float64"))]
)
def test_every_kernel_compiles_to_ptx(precision):
    pytest.importorskip("cuda.bindings.nvvm", reason="NVIDIA's compiler is not installed")
    for lines in told_of_ptx(precision).values():
        check_ptx(lines)


@needs_package
@pytest.mark.programs
@pytest.mark.skipif(SIMULATED, reason="compiles for a real GPU")
@pytest.mark.parametrize("precision", ["mixed", "float32", "float64"])
def test_no_bin_is_found_by_a_difference_that_may_be_rounded_with_a_product(precision):
    """The assembler may fuse mul and sub into fma; next to an edge, x would then be in no bin, or in two."""
    pytest.importorskip("cuda.bindings.nvvm", reason="NVIDIA's compiler is not installed")
    code = f"import ptx; print(ptx.compile_pwlinear({precision!r}))"
    process = subprocess.run([sys.executable, "-c", code], cwd=HERE, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    differences = re.findall(r"\b(?:add|sub|fma)[.\w]*\.f(?:32|64)\s+(%\w+),", process.stdout)
    comparisons = re.findall(r"\bsetp\.[.\w]*f(?:32|64)\s+%p\d+, (%\w+), ([%\w]+);", process.stdout)
    assert differences
    assert len(comparisons) >= 4  # left and right edge, forth and back
    assert set(differences).isdisjoint(sum(comparisons, ()))
