"""What the functions of the shared library do, called by ctypes: it works with the Python that there is."""

import ctypes
import os
import re
import tempfile
from contextlib import contextmanager, suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from libraries import (
    BAD_HANDLE,
    CALLBACK_FAILED,
    FILE_FAILED,
    NOT_FINITE,
    OK,
    PAIRS_OF_CALLS,
    REFUSED,
    Library,
    host_function,
    in_python,
    integrated,
    parameters,
    peak,
    points,
)

import varflow as vf
from varflow.libvarflow import entry, trainings
from varflow.libvarflow.options import parse
from varflow.training.objective import GradientBuffers

pytestmark = pytest.mark.programs


@pytest.fixture(scope="session")
def library(library_folder):
    return Library(library_folder)


@pytest.fixture
def flow(library):
    handle = library.handle("flow_new", 2, None, b"n_bins=4 d_hidden=8 n_hidden=1 dtype=float64 seed=1")
    yield handle
    library.status("free", handle)


def test_an_integral_has_the_bits_of_python_s(library):
    bounds = np.array([[-1.0, 1.0], [0.0, np.inf]])

    def f(x):
        return np.exp(-np.abs(x).sum(axis=1))

    status, result = integrated(library, f, 2, bounds=bounds)
    expected = vf.integrate(f, bounds, n_calls=100, seed=1)
    assert status == OK
    for name in ("mean", "sdev", "chi2", "dof", "n_calls"):
        assert getattr(result, name) == getattr(expected, name)
    np.testing.assert_equal(result.Q, expected.Q)
    text = ctypes.create_string_buffer(4096)
    library.warnings(result.handle, len(text), ctypes.addressof(text))
    assert text.value.decode().splitlines() == list(expected.warnings)
    assert result.n_warnings == len(expected.warnings)


def test_a_checkpoint_is_gone_on_from(library, tmp_path):
    options = f"{PAIRS_OF_CALLS} checkpoint='{tmp_path}/my file'"
    n_calls = []

    def f(x):
        n_calls.append(len(x))
        return peak(x)

    whole = integrated(library, f, 5, options)
    again = integrated(library, f, 5, f"{options} resume=true")
    assert n_calls == [100]
    assert [status for status, _ in (whole, again)] == [OK, OK]
    assert whole[1].mean == again[1].mean
    assert integrated(library, f, 5, options)[0] == FILE_FAILED
    assert "my file" in library.words()


def test_several_components(library):
    def f(x):
        return np.stack([peak(x), x[:, 0]], axis=1)

    status, result = integrated(library, f, 2, f"{PAIRS_OF_CALLS} m=2")
    expected = vf.integrate(f, 2, n_calls=100, seed=1)
    mean, covariance = np.empty(2), np.empty((2, 2))
    library.mean(result.handle, 2, mean, covariance)
    assert (status, mean.tolist()) == (OK, expected.mean.tolist())
    np.testing.assert_array_equal(covariance, expected.covariance)
    assert library.status("mean", result.handle, 3, np.empty(3), np.empty((3, 3))) == REFUSED
    assert "m must be 2" in library.words()


@pytest.mark.parametrize("shift", [0.0, -2000.0])
def test_an_integrand_given_by_its_logarithm(library, shift):
    """One that underflows everywhere has no mean that a double could hold, but its logarithm."""

    def log_f(x):
        with np.errstate(divide="ignore"):
            return np.log(x[:, 0] > 0.2) - x[:, 1] + shift

    status, result = integrated(library, log_f, 2, f"{PAIRS_OF_CALLS} log=true")
    expected = vf.integrate(log_f, 2, n_calls=100, seed=1, log=True)
    assert status == OK
    for name in ("mean", "sdev", "log_mean", "log_sdev"):
        np.testing.assert_equal(getattr(result, name), getattr(expected, name))
    assert np.isnan(result.mean) == (shift != 0)
    assert abs(result.log_mean - np.log(0.8 * (1 - np.exp(-1))) - shift) < 5 * result.log_sdev < 1


def test_a_flow_of_another_integral_is_gone_on_with(library):
    _, first = integrated(library, peak, 2)
    expected = vf.integrate(peak, 2, n_calls=100, seed=1)
    _, again = integrated(library, peak, 2, f"{PAIRS_OF_CALLS} flow={first.handle}")
    assert again.mean == vf.integrate(peak, 2, n_calls=100, seed=1, flow=expected.flow).mean
    assert integrated(library, peak, 2, f"{PAIRS_OF_CALLS} flow={again.handle + 1}")[0] == BAD_HANDLE
    assert integrated(library, peak, 2, f"{PAIRS_OF_CALLS} flow={first.handle} n_bins=4")[0] == REFUSED
    assert "flow_options are for a flow that is made here" in library.words()


def test_points_that_will_not_come_back_and_more_calls(library):
    run, x, n = library.handle("run_new", 2, None, b"n_calls=100 seed=1"), np.empty((30, 2)), np.array([30])
    twin = vf.Run(2, n_calls=100, seed=1)
    library.ask(run, n, x)
    np.testing.assert_array_equal(x, twin.ask(30))
    library.tell(run, 10, peak(x[:10]))
    twin.tell(x[:10], peak(x[:10]))
    assert library.status("run_forget", run, 21) == REFUSED
    assert library.words() == "n must be at most 20, as many points are out, got 21"
    library.run_forget(run, 5)
    twin.forget(x[10:15])
    library.tell(run, 15, peak(x[15:]))
    twin.tell(x[15:], peak(x[15:]))
    assert library.status("run_extend", run, 100) != OK
    assert "the run goes on: 25 of 100 values are told" in library.words()
    for _ in range(2):
        n[0] = 30
        while library.status("ask", run, n, x) == OK:
            library.tell(run, n[0], peak(x[: n[0]]))
            n[0] = 30
        while (more := twin.ask()) is not None:
            twin.tell(more, peak(more))
        result = entry.integrals.Figures()
        library.run_result(run, result)
        assert (result.mean, result.n_calls) == (twin.result().mean, twin.n_told)
        library.run_extend(run, 100)
        twin.extend(100)


def test_a_host_chooses_where_the_flow_is_trained(library):
    expected = vf.integrate(peak, 2, n_calls=100, seed=1)
    for place in ("step", "thread"):
        run = library.handle("run_new", 2, None, f"{PAIRS_OF_CALLS} train_in={place}".encode())
        x, n, n_steps = np.empty((100, 2)), np.array([100]), 0
        while library.status("ask", run, n, x) == OK:
            if n[0] == 0:
                library.run_step(run)
                n_steps += 1
            else:
                library.tell(run, n[0], peak(x[: n[0]]))
            n[0] = 100
        result = entry.integrals.Figures()
        library.run_result(run, result)
        assert result.mean == expected.mean
        assert (n_steps > 0) == (place == "step")


@pytest.mark.parametrize("room", [1, 37, 1000])
def test_a_loop_of_the_host_s_has_the_bits_of_integrate(library, tmp_path, room):
    """Whatever room for points there is; and half-way the run goes through a file."""
    run, x, n_told = library.handle("run_new", 3, None, PAIRS_OF_CALLS.encode()), np.empty((room, 3)), 0
    n, file = np.array([room]), str(tmp_path / "run").encode()
    while library.status("ask", run, n, x) == OK:
        library.tell(run, n[0], peak(x[: n[0]]))
        n_told, n[0] = n_told + n[0], room
        if n_told == 37:
            library.ask(run, n, x)  # which whoever reads the file does not have
            n[0] = room
            library.save(run, file)
            library.free(run)
            run = library.handle("load", file, None)
    result = entry.integrals.Figures()
    library.run_result(run, result)
    expected = vf.integrate(peak, 3, n_calls=100, seed=1)
    assert (n_told, result.mean, result.sdev) == (expected.n_calls, expected.mean, expected.sdev)
    assert n[0] == 0


def test_a_run_takes_values_in_parts_and_no_more_than_points_are_out(library):
    run, x, n = library.handle("run_new", 2, None, b"n_calls=100"), np.empty((10, 2)), np.array([10])
    library.ask(run, n, x)
    values = peak(x)
    library.tell(run, 4, values)
    assert library.status("tell", run, 7, values) == REFUSED
    assert library.words() == "n must be at most 6, as many points are out, got 7"
    values[5] = np.nan
    assert library.status("tell", run, 6, values) == NOT_FINITE
    library.tell(run, 6, peak(x))  # nothing was taken of what was refused


def test_a_training_has_the_bits_of_python_s(library, flow):
    x, p, f = points()
    library.train(flow, len(x), x, p, f, b"n_epochs=3 seed=2 loss=dkl lr=0.01")
    twin = vf.Flow(2, n_bins=4, d_hidden=8, n_hidden=1, dtype="float64", seed=1)
    optim = vf.Adam(**vf.training.recipe.optimiser_for(len(x), twin.architecture).settings() | {"lr": 0.01})
    trainer = vf.BasicStatefulDKLTrainer(twin, n_epochs=3, seed=2, optim=optim)
    record = trainer.train_on_dataset(vf.Dataset(x, p, f))
    np.testing.assert_array_equal(parameters(library, flow), twin.params)
    text = ctypes.create_string_buffer(4096)
    library.warnings(flow, len(text), ctypes.addressof(text))
    assert text.value.decode().splitlines() == record.warnings
    sampled, log_q = np.empty((50, 2)), np.empty(50)
    library.sample(flow, 50, 3, sampled, log_q)
    for found, expected in zip((sampled, log_q), twin.sample(50, seed=3), strict=True):
        np.testing.assert_array_equal(found, expected)
    library.log_prob(flow, len(x), x, log := np.empty(len(x)))
    np.testing.assert_array_equal(log, twin.log_prob(x))
    library.sample(flow, 50, -1, sampled, log_q)
    assert not np.any(sampled == twin.sample(50, seed=3)[0])


def figures_of(evaluation):
    """The figures of an evaluation, in the library or in Python."""
    return {name: getattr(evaluation, name) for name, _ in trainings.Figures._fields_}


SMALL = {"n_bins": 4, "d_hidden": 8, "n_hidden": 1}
SMALL_TEXT = "n_bins=4 d_hidden=8 n_hidden=1"


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("n_epochs=2", {"n_epochs": 2}),
        ("n_epochs=2 n_flows=2 defensive=0.1", {"n_epochs": 2, "n_flows": 2, "defensive": 0.1}),
        (
            "n_epochs=2 cell=rqs loss=dkl test=0.3 seed=4",
            {"n_epochs": 2, "cell": "rqs", "loss": "dkl", "test": 0.3, "seed": 4},
        ),
        ("n_epochs=2 lr=0.01 betas=0.8,0.9", {"n_epochs": 2, "optim": {"lr": 0.01, "betas": (0.8, 0.9)}}),
    ],
)
def test_new_flows_are_those_of_python_s_train(library, text, options):
    x, p, f = points()
    bounds = np.array([[-1.0, 1.0], [0.0, 2.0]])
    x, p = bounds[:, 0] + 2 * x, p / 4
    evaluation, handle = trainings.Figures(), np.zeros(1, np.int64)
    library.train_new(2, bounds, len(x), x, p, f, f"{SMALL_TEXT} {text}".encode(), evaluation, handle)
    if "optim" in options:
        architecture = vf.Flow(2, **SMALL).architecture
        options = options | {"optim": trainings.optimiser_for(len(x), architecture, **options["optim"])}
    expected = vf.train(vf.Dataset(x, p, f, bounds=bounds), flow_options=SMALL, **options)
    np.testing.assert_equal(figures_of(evaluation), figures_of(expected.evaluation))
    log_q, found = np.empty(len(x)), in_python(library, int(handle[0]))
    library.log_prob(handle[0], len(x), x, log_q)
    assert type(found) is type(expected.flow)
    np.testing.assert_array_equal(log_q, expected.flow.log_prob(x))
    text = ctypes.create_string_buffer(4096)
    library.warnings(handle[0], len(text), ctypes.addressof(text))
    assert text.value.decode().splitlines() == expected.warnings


def test_an_evaluation_is_python_s_however_points_are_given(library, flow):
    x, p, f = points()
    f[:5] = 0
    expected = vf.evaluate(in_python(library, flow), vf.Dataset(x, p, f))
    with np.errstate(divide="ignore"):
        log_f = np.log(f)
    for values, options in (((p, f), None), ((np.log(p), log_f), b"logpx=true logfx=true")):
        evaluation = trainings.Figures()
        library.evaluate(flow, len(x), x, *values, options, evaluation)
        for name, value in figures_of(expected).items():
            np.testing.assert_allclose(getattr(evaluation, name), value, rtol=1e-9)
    text = ctypes.create_string_buffer(4096)
    library.warnings(flow, len(text), ctypes.addressof(text))
    assert text.value.decode().splitlines() == expected.warnings != []


def test_a_training_takes_logarithms(library, flow):
    x, p, f = points()
    begin = parameters(library, flow)
    library.train(flow, len(x), x, p, f, b"n_epochs=3 lr=0.05 warm_up=0")
    trained = parameters(library, flow)
    library.set_parameters(flow, len(begin), begin)
    library.train(
        flow, len(x), x, np.log(p), np.log(f), b"n_epochs=3 lr=0.05 warm_up=0 logpx=true logfx=true"
    )
    np.testing.assert_allclose(parameters(library, flow), trained, atol=1e-6)
    assert np.max(np.abs(trained - begin)) > 0.01


@pytest.mark.parametrize("loss", ["variance", "dkl"])
def test_the_gradient_is_that_of_the_loss(library, flow, loss):
    x, p, f = points()
    rng = np.random.default_rng(2)
    begin = parameters(library, flow)
    begin += 0.1 * rng.standard_normal(len(begin))
    options, value, gradient = (
        f"loss={loss} control_variate=false".encode(),
        np.empty(1),
        np.empty(len(begin)),
    )

    def loss_at(shifted):
        library.set_parameters(flow, len(begin), shifted)
        library.gradient(flow, len(x), x, p, f, options, value, gradient)
        return value[0]

    direction = rng.standard_normal(len(begin))
    step = 1e-5 * direction
    difference = (loss_at(begin + step) - loss_at(begin - step)) / 2e-5
    at = loss_at(begin)
    assert gradient @ direction == pytest.approx(difference, rel=1e-6)
    twin = in_python(library, flow)
    trainer = vf.BasicTrainer(twin, loss=loss)
    assert at == pytest.approx(trainer.compute_loss(x, p, f), rel=1e-12)
    _, parts = trainer.objective(vf.Dataset(x, p, f)).gradient(
        np.arange(len(x)), GradientBuffers(twin, len(x))
    )
    library.gradient(flow, len(x), x, p, f, f"loss={loss}".encode(), value, gradient)
    np.testing.assert_allclose(gradient, parts.sum(axis=0), rtol=1e-12)


def test_files_are_python_s(library, flow, tmp_path):
    path = tmp_path / "file with blanks.npz"
    library.save(flow, str(path).encode())
    np.testing.assert_array_equal(vf.Flow.load(path).params, parameters(library, flow))
    d = np.zeros(1, np.int32)
    for kind, made in (
        ("mixture", vf.Mixture([vf.Flow(3, seed=1)], 0.1)),
        ("result", vf.integrate(lambda x: x[:, 0], 3, n_calls=100, seed=1)),
        ("run", vf.Run(3, n_calls=100)),
    ):
        made.save(path)
        loaded = library.handle("load", str(path).encode(), b"threads=1" if kind != "result" else None)
        library.dimension(loaded, d)
        assert d[0] == 3
        library.save(loaded, str(tmp_path / kind).encode())
        if kind != "run":
            x, log_q = np.empty((20, 3)), np.empty(20)
            library.sample(loaded, 20, 1, x, log_q)
            made = vf.Result.load(path) if kind == "result" else made
            np.testing.assert_array_equal(x, made.sample(20, seed=1)[0])
        library.free(loaded)


# What bad input gets


def test_f_that_fails_is_told_with_its_points(library):
    status, _ = integrated(library, lambda x: 7, 2)
    assert status == CALLBACK_FAILED
    assert re.fullmatch(
        r"f returned status 7 for 100 points, the first at \(0\.\d+, 0\.\d+\)", library.words()
    )
    status, _ = integrated(library, lambda x: np.where(x[:, 0] > 0.5, np.nan, 1.0), 2)
    assert status == NOT_FINITE
    assert "nan" in library.words()
    assert re.search(r"x = \[0\.\d+, 0\.\d+\]|\[0\.\d+ +0\.\d+\]|\(0\.\d+, 0\.\d+\)", library.words())


def test_values_that_f_does_not_set_are_refused(library):
    function = ctypes.CFUNCTYPE(ctypes.c_int, *[ctypes.c_void_p] * 6)(lambda *_: 0)
    address = ctypes.cast(function, ctypes.c_void_p).value
    result = entry.integrals.Figures()
    assert library.status("integrate", address, None, 2, None, b"n_calls=100", result) == NOT_FINITE


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("n_cals=1000", "option must be one of"),
        ("n_cals=1000", "did you mean 'n_calls'?"),
        ("n_calls", "options must be name=value between blanks, got 'n_calls'"),
        ("n_calls=1000 n_calls=2000", "option n_calls is given twice"),
        ("n_calls=many", "n_calls must be an integer, got 'many'"),
        ("n_calls=10", "n_calls"),
        ("seed='1", "cannot be read"),
        ("m=0", "m must be at least 1, got 0"),
        ("flow=pwquadr", "pwquad"),
        ("workers=2", "workers is an option of Python's alone: f cannot be sent to other processes"),
        ("callback=f", "callback is an option of Python's alone: integrate in a loop of your own"),
        ("train_in=step", "option must be one of"),
        ("\udcff=1", "option must be one of"),
    ],
)
def test_wrong_options_are_refused(library, options, words):
    function = host_function(peak)
    address = ctypes.cast(function, ctypes.c_void_p).value
    result, text = entry.integrals.Figures(mean=5.0), options.encode(errors="surrogateescape")
    assert library.status("integrate", address, None, 2, None, text, result) == REFUSED
    assert words in library.words()
    assert (result.mean, result.handle) == (5.0, 0)


FILLED = np.ones(400)
WRONG = [
    ("integrate", (None, None, 2, None, None, FILLED), "f must not be a null pointer"),
    ("integrate", (1, None, 2, None, None, None), "result must not be a null pointer"),
    ("integrate", (1, None, 0, None, None, FILLED), "d must be at least 1, got 0"),
    ("integrate", (1, None, -3, None, None, FILLED), "d must be at least 1, got -3"),
    ("integrate", (1, None, 2, FILLED, None, FILLED), "lower must be below upper"),
    ("run_new", (2, None, None, None), "run must not be a null pointer"),
    ("flow_new", (-1, None, None, FILLED.view(np.int64)), "d must be at least 1, got -1"),
    ("flow_new", (2, None, b"n_bin=4", FILLED.view(np.int64)), "did you mean 'n_bins'?"),
    ("flow_new", (2, None, b"d_hidden=-4", FILLED.view(np.int64)), "d_hidden"),
    ("train", ("flow", 100, None, FILLED, FILLED, None), "x must not be a null pointer"),
    ("train", ("flow", -100, FILLED, FILLED, FILLED, None), "n must be at least 1, got -100"),
    ("train", ("flow", 2**62, FILLED, FILLED, FILLED, None), "x cannot have shape"),
    ("train", ("flow", 100, FILLED, -FILLED, FILLED, None), "px must be"),
    ("train", ("flow", 100, FILLED * np.nan, FILLED, FILLED, None), "x must be finite"),
    ("train", ("flow", 100, FILLED, FILLED, FILLED, b"lr=-1"), "lr"),
    ("train", ("flow", 100, FILLED, FILLED, FILLED, b"logpx=1"), "logpx must be True or False, got 1"),
    ("train", ("flow", 100, FILLED, FILLED, FILLED, b"betas=a,b"), "betas must be"),
    (
        "train_new",
        (2, None, 100, FILLED, FILLED, FILLED, None, None, FILLED),
        "evaluation must not be a null",
    ),
    ("train_new", (2, None, 100, FILLED, FILLED, FILLED, None, FILLED, None), "flow must not be a null"),
    ("train_new", (2, None, 10, FILLED, FILLED, FILLED, None, FILLED, FILLED), "at least 50"),
    ("train_new", (2, None, 100, FILLED, FILLED, FILLED, b"n_flow=2", FILLED, FILLED), "'n_flows'?"),
    (
        "train_new",
        (2, None, 100, FILLED, FILLED, FILLED, b"defensive=1", FILLED, FILLED),
        "defensive must be",
    ),
    (
        "train_new",
        (0, None, 100, FILLED, FILLED, FILLED, None, FILLED, FILLED),
        "d must be at least 1, got 0",
    ),
    ("evaluate", ("flow", 100, FILLED, FILLED, FILLED, None, None), "evaluation must not be a null pointer"),
    ("evaluate", ("flow", 1, FILLED, FILLED, FILLED, None, FILLED), "at least 2 points"),
    ("gradient", ("flow", 100, FILLED, FILLED, FILLED, b"loss=l2", FILLED, FILLED), "loss"),
    (
        "gradient",
        ("flow", 100, FILLED, FILLED, FILLED, None, None, FILLED),
        "loss must not be a null pointer",
    ),
    ("sample", ("flow", 0, 1, FILLED, FILLED), "n must be at least 1, got 0"),
    ("sample", ("flow", 10, 1, FILLED, None), "log_q must not be a null pointer"),
    ("log_prob", ("flow", 10, 2 * FILLED, FILLED), "x must lie within bounds"),
    ("set_parameters", ("flow", 3, FILLED), "n must be"),
    ("get_parameters", ("flow", -3, FILLED), "n must be"),
    ("n_parameters", ("flow", None), "n must not be a null pointer"),
    ("dimension", ("flow", None), "d must not be a null pointer"),
    ("warnings", ("flow", 0, FILLED), "size must be at least 1 for this text, got 0"),
    ("save", ("flow", None), "path must be the name of a file, got a null pointer"),
    ("save", ("flow", b""), "path must be the name of a file"),
    ("load", (None, None, FILLED), "path must be the name of a file"),
]


@pytest.mark.parametrize(("name", "arguments", "words"), WRONG)
def test_wrong_arguments_are_refused(library, flow, name, arguments, words):
    before = FILLED.copy()
    given = [flow if isinstance(one, str) else one for one in arguments]
    assert library.status(name, *given) == REFUSED
    assert words in library.words()
    np.testing.assert_array_equal(FILLED, before)


@pytest.mark.parametrize(
    "name", [name for name, (_, kinds) in entry.FUNCTIONS.items() if kinds[0] is entry.HANDLE]
)
def test_a_handle_that_was_freed_is_a_status(library, name):
    kinds = entry.FUNCTIONS[name][1][1:]
    rest = [FILLED if kind in (entry.ADDRESS,) else 1 if kind is not entry.TEXT else b"" for kind in kinds]
    freed = library.handle("flow_new", 2, None, None)
    library.free(freed)
    for handle, words in (
        (freed, "was freed"),
        (0, "is no handle"),
        (-5, "is no handle"),
        (2**60, "is no handle"),
    ):
        assert library.status(name, handle, *rest) == BAD_HANDLE
        assert words in library.words()


BUFFER = np.ones(100_000)  # more than anything below writes
NUMBERS = st.sampled_from([-(2**31), -1, 0, 1, 2, 3])
CHOICES = {
    entry.INTEGER: NUMBERS,
    entry.LONG: NUMBERS,
    entry.ADDRESS: st.sampled_from([None, BUFFER, BUFFER]),
    entry.TEXT: st.sampled_from([None, b"", b"seed=1", b"n_epochs=1", b"loss=dkl", b"seed", b"\xff"]),
}


@contextmanager
def in_another_folder():
    """Work in a temporary folder: text may be the name of a file."""
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(before)


@given(st.data())
def test_any_arguments_are_taken_or_refused_with_words(library, data):
    flow = library.handle("flow_new", 2, None, b"n_bins=4 d_hidden=8 n_hidden=1")
    name = data.draw(st.sampled_from([name for name in entry.FUNCTIONS if name not in ("integrate", "free")]))
    arguments = [data.draw(CHOICES[kind]) for kind in entry.FUNCTIONS[name][1]]
    if entry.FUNCTIONS[name][1][0] is entry.HANDLE:
        arguments[0] = data.draw(st.sampled_from([flow, -1, 0]))
    BUFFER[:] = 1.0
    with in_another_folder():
        status = library.status(name, *arguments)
    assert status in (OK, REFUSED, BAD_HANDLE, FILE_FAILED)
    assert status == OK or library.words()
    library.free(flow)


def test_a_handle_of_another_kind_is_a_status(library, flow):
    run = library.handle("run_new", 2, None, None)
    assert library.status("log_prob", run, 1, FILLED, FILLED) == BAD_HANDLE
    assert library.words() == f"handle {run} must be that of a flow or a mixture, found a run"
    assert library.status("tell", flow, 1, FILLED) == BAD_HANDLE


def test_files_that_cannot_be_used_are_told_by_name(library, flow, tmp_path):
    handle = np.zeros(1, np.int64)
    (tmp_path / "damaged.npz").write_bytes(b"PK no more")
    (tmp_path / "folder").mkdir()
    for name in ("none.npz", "damaged.npz", "folder"):
        assert library.status("load", str(tmp_path / name).encode(), None, handle) == FILE_FAILED
        assert name in library.words()
    for name in ("folder", "none/flow.npz"):
        assert library.status("save", flow, str(tmp_path / name).encode()) == FILE_FAILED
        assert name in library.words()
    assert handle[0] == 0


def test_a_header_of_another_version_is_refused(library):
    assert library.c.vf_start_abi(entry.ABI_VERSION + 1) == 10
    assert library.words().startswith(f"varflow.h has ABI {entry.ABI_VERSION + 1}, libvarflow.so has")


def test_a_library_of_another_version_is_refused():
    table = entry.Python(abi_version=entry.ABI_VERSION + 1)
    with pytest.raises(RuntimeError, match=r"has ABI \d+, the varflow in .* run varflow build-library again"):
        entry.connect(ctypes.addressof(table), True)
    assert not table.integrate


class TestOptions:
    @given(
        st.dictionaries(
            st.sampled_from(["a", "b", "c"]),
            st.integers() | st.floats(allow_nan=False) | st.booleans() | st.none() | st.just("a b=c"),
        ),
        st.sampled_from(["=", " = ", "=  "]),
    )
    def test_are_what_was_written(self, options, equals):
        text = "  ".join(f"{name}{equals}'{value}'" for name, value in options.items())
        assert parse(text.replace(" = c", "=c").encode(), ["a", "b", "c"]) == options

    @given(st.binary(max_size=30))
    def test_of_any_bytes_are_read_or_refused(self, text):
        found = {}
        with suppress(ValueError):
            found = parse(text, ["a", "b"])
        assert set(found) <= {"a", "b"}
