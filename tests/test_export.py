"""Exported flows: compiled by real compilers, they are the flows of Python."""

import platform
import re
import resource
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from exported import COMPILERS, Program
from hypothesis import HealthCheck, given, settings
from strategies import edges

import varflow as vf
from varflow import testing
from varflow.exporting.templates import template

pytestmark = pytest.mark.programs

LANGUAGES = [
    pytest.param(
        language,
        marks=pytest.mark.skipif(shutil.which(compiler) is None, reason=f"{compiler} is not installed"),
    )
    for language, compiler in COMPILERS.items()
]
FAST = ("-O3", "-march=native")
TOLERANCES = {"float32": 1e-5, "float64": 1e-12}  # in log q, and of points in units of their box
BAD_ARGUMENT, OUTSIDE, NO_FILE, WRONG_SIZE, WRONG_SUM, WRONG_SAMPLE = range(1, 7)
BOX = [[-1.0, 2.0], [0.5, 5.0], [3.0, 3.25]]


def random_flow(d=3, cell="rqs", seed=1, scale=0.5, **options):
    flow = vf.Flow(d, cell, **{"n_bins": 5, "d_hidden": 9, "n_hidden": 2, "seed": 0, **options})
    flow.params = testing.normal_params(flow.architecture, scale, np.random.default_rng(seed))
    return flow


def check_equal(program, flow, n, seed=5):
    """All that the program computes for n points is what Python does."""
    dtype = "float32" if all(one.params.dtype == np.float32 for one in flows_of(flow)) else "float64"
    tolerance, side = TOLERANCES[dtype], flows_of(flow)[0].layout.width
    if dtype == "float64" and program.has_roundings_of_python:
        check_same(program, flow, n, seed, tolerance)
    assert program.verify() == 0
    x, log_q = program.sample(n, seed)
    expected, expected_log_q = flow.sample(n, seed=seed)
    check_points(flow, ("to_latent", "from_latent"), x / side, expected / side, expected, tolerance)
    check_log_q(flow, expected, log_q, expected_log_q, tolerance)
    check_log_q(flow, expected, program.log_prob(expected), flow.log_prob(expected), tolerance)
    if isinstance(flow, vf.Mixture):
        return
    z, log_q = program.to_latent(expected)
    expected_z, expected_log_q = flow.to_latent(expected)
    check_points(flow, ("from_latent", "to_latent"), z, expected_z, expected_z, tolerance)
    check_log_q(flow, expected, log_q, expected_log_q, tolerance)
    x, log_q = program.from_latent(expected_z)
    back, expected_log_q = flow.from_latent(expected_z)
    check_points(flow, ("to_latent", "from_latent"), x / side, back / side, expected, tolerance)
    check_log_q(flow, expected, log_q, expected_log_q, tolerance)
    back = program.from_latent(z)[0]
    check_points(flow, ("to_latent", "from_latent"), back / side, expected / side, expected, 1e-9)


def check_same(program, flow, n, seed, tolerance):
    """Where the program rounds as Python does, nothing is amplified."""
    expected = flow.sample(n, seed=seed)
    pairs = [(program.sample(n, seed), expected)]
    if not isinstance(flow, vf.Mixture):
        z = flow.to_latent(expected[0])
        pairs += [(program.to_latent(expected[0]), z), (program.from_latent(z[0]), flow.from_latent(z[0]))]
    for (points, log_q), (expected_points, expected_log_q) in pairs:
        np.testing.assert_allclose(points, expected_points, rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(log_q, expected_log_q, rtol=0, atol=tolerance)


ROUNDING = 1e-15  # a few last bits of numbers near one


def check_points(flow, transforms, found, expected, points, tolerance):
    """Points, in units of their box, are near, but for those where rounding moves Python's by more."""
    differences = np.abs(found - expected)
    assert np.median(differences) < tolerance
    is_far = ~(differences <= tolerance).all(axis=1)
    if is_far.any():
        slack, _ = testing.amplified_rounding(flow, *transforms, points[is_far], ROUNDING)
        assert np.all(differences[is_far] <= slack)


def check_log_q(flow, x, found, expected, tolerance):
    """Log q is near, but for points where rounding of one last bit changes that of Python by more."""
    differences = np.abs(found - expected)
    assert np.median(differences) < tolerance
    is_far = ~(differences <= tolerance)
    if is_far.any():
        arguments = flow, "to_latent", "from_latent", x[is_far], ROUNDING
        assert np.all(differences[is_far] <= testing.amplified_rounding(*arguments)[1])


def flows_of(flow):
    return flow.flows if isinstance(flow, vf.Mixture) else [flow]


def trained_flow(cell, dtype, n, d, sizes, **settings):
    """A flow that has learned a peak off the diagonal."""
    x = np.random.default_rng(1).random((n, d))
    f = np.exp(-30 * ((x - np.linspace(0.3, 0.8, d)) ** 2).sum(axis=1) - 40 * (x[:, 0] - x[:, -1]) ** 2)
    flow = vf.Flow(d, cell, dtype=dtype, seed=0, **sizes)
    vf.BasicStatefulVarTrainer(flow, seed=0, **settings).train_on_batch(x, np.ones(n), f)
    return flow


@pytest.fixture(scope="module")
def trained():
    return trained_flow("pwquad", "float32", 2000, 3, {"d_hidden": 16, "n_hidden": 2}, n_epochs=5)


class TestEqualToPython:
    @pytest.mark.parametrize("language", LANGUAGES)
    @settings(max_examples=2, deadline=None, suppress_health_check=list(HealthCheck))
    @given(flow=testing.flows())
    def test_random_flows(self, tmp_path_factory, language, flow):
        check_equal(Program(flow, language, tmp_path_factory.mktemp("flow")), flow, 1000)

    @pytest.mark.slow
    @pytest.mark.parametrize("flags", [("-O2",), FAST], ids=" ".join)
    @pytest.mark.parametrize("language", LANGUAGES)
    @settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
    @given(flow=testing.flows())
    def test_many_random_flows(self, tmp_path_factory, language, flags, flow):
        check_equal(Program(flow, language, tmp_path_factory.mktemp("flow"), flags=flags), flow, 10_000)

    @pytest.mark.parametrize("language", LANGUAGES)
    def test_a_trained_flow(self, tmp_path, language, trained):
        check_equal(Program(trained, language, tmp_path, flags=FAST), trained, 2000)

    @pytest.mark.skipif(platform.machine() != "x86_64", reason="other processors are not asked")
    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_c_finds_by_itself_what_the_processor_can_do(self, tmp_path_factory, dtype):
        flow = random_flow(2, "pwquad", dtype=dtype, scale=2)
        results = []
        for flags in (("-O1",), ("-O1", "-march=native")):
            folder = tmp_path_factory.mktemp("flow")
            results.append(Program(flow, "c", folder, flags=flags).sample(300, 1))
        for without, told in zip(*results, strict=True):
            np.testing.assert_array_equal(without, told)

    @pytest.mark.slow
    @pytest.mark.parametrize("flags", [("-O2",), FAST], ids=" ".join)
    @pytest.mark.parametrize("language", LANGUAGES)
    @pytest.mark.parametrize(
        ("cell", "dtype", "d"), [("pwquad", "float32", 8), ("rqs", "float32", 4), ("pwlinear", "float64", 5)]
    )
    def test_trained_flows(self, tmp_path, language, cell, dtype, d, flags):
        flow = trained_flow(cell, dtype, 20_000, d, {}, n_epochs=20)
        check_equal(Program(flow, language, tmp_path, flags=flags), flow, 10_000)

    @pytest.mark.parametrize("language", LANGUAGES)
    def test_a_defensive_mixture_of_different_flows(self, tmp_path, language):
        flows = [
            random_flow(seed=1, bounds=BOX, cell="rqs", dtype="float32"),
            random_flow(
                seed=2, bounds=BOX, cell="pwlinear", masking="maximal", n_bins=7, d_hidden=4, n_hidden=1
            ),
            random_flow(seed=3, bounds=BOX, cell="pwquad", masking="checkerboard", n_hidden=3),
        ]
        mixture = vf.Mixture(flows, defensive=0.2)
        program = Program(mixture, language, tmp_path)
        check_equal(program, mixture, 2000)
        assert not any("latent(" in path.read_text() for path in program.paths if path.suffix == ".h")

    @pytest.mark.parametrize("language", LANGUAGES)
    def test_a_mixture_of_precisions_has_that_of_the_coarser(self, tmp_path, language):
        mixture = vf.Mixture([random_flow(dtype="float32"), random_flow(seed=2, dtype="float64")])
        x, log_q = Program(mixture, language, tmp_path).sample(1000, 3)
        np.testing.assert_allclose(log_q, mixture.log_prob(x), rtol=0, atol=1e-5)

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    @pytest.mark.parametrize("language", LANGUAGES)
    def test_points_without_bounds(self, tmp_path, language, dtype):
        place = {"location": [1.0, -2.0, 30.0], "scale": [2.0, 0.1, 5.0]}
        flow = vf.Flow(3, "realnvp", d_hidden=9, dtype=dtype, **place)
        flow.params = testing.normal_params(flow.architecture, 0.5, np.random.default_rng(1))
        program = Program(flow, language, tmp_path, is_checked=True)
        check_equal(program, flow, 1000)
        x = flow.sample(100, seed=1)[0]
        x[3, 1], x[7, 0] = np.nan, np.inf
        status, _, log_q, words = program.call("log_prob", 100, points=x)
        assert status == OUTSIDE
        assert "not finite" in words
        np.testing.assert_array_equal(np.flatnonzero(np.isnan(log_q)), [3, 7])

    @pytest.mark.parametrize("language", LANGUAGES)
    def test_one_dimension(self, tmp_path, language):
        flow = random_flow(1, "pwquad", repetitions=3, dtype="float64", bounds=[[-2, 5]])
        check_equal(Program(flow, language, tmp_path), flow, 1000)


@pytest.fixture(scope="module")
def flow():
    return random_flow(bounds=BOX, dtype="float64")


@pytest.fixture(scope="module", params=LANGUAGES)
def program(request, flow, tmp_path_factory):
    """With checks of arrays, and sanitizers."""
    return Program(flow, request.param, tmp_path_factory.mktemp("program"), is_checked=True)


class TestSample:
    @pytest.mark.parametrize("seed", [0, 1, 2**32 - 1, 2**32, 2**63 - 1])
    def test_seeds(self, program, flow, seed):
        np.testing.assert_allclose(program.sample(10, seed)[0], flow.sample(10, seed=seed)[0], rtol=1e-12)

    def test_points_of_several_blocks_of_random_numbers(self, program, flow):
        x, log_q = (part[65_500:] for part in flow.sample(65_600, seed=3))
        found, found_log_q = program.sample(100, 3, first=65_500)
        np.testing.assert_allclose(found, x, rtol=1e-12)
        np.testing.assert_allclose(found_log_q, log_q, rtol=0, atol=1e-12)

    @pytest.mark.parametrize("n", [1, 2, 15, 16, 17, 63, 64, 65, 129])
    def test_parts_are_those_of_the_whole(self, program, n):
        whole = program.sample(300, 4)
        for part, expected in zip(program.sample(n, 4, first=70), whole, strict=True):
            np.testing.assert_array_equal(part, expected[70 : 70 + n])

    def test_no_points(self, program):
        assert program.call("sample", 0)[0] == 0

    @pytest.mark.parametrize(("n", "first"), [(-1, 0), (1, -1), (2, 2**63 - 1)])
    def test_negative_numbers_and_those_that_overflow(self, program, n, first):
        status, x, log_q, words = program.call("sample", n, 1, first)
        assert status == BAD_ARGUMENT
        assert "negative" in words
        assert not x.any()
        assert not log_q.any()


class TestPoints:
    def test_at_edges_of_bins_and_corners(self, program, flow):
        x = testing.in_box(np.random.default_rng(0).choice(edges(5), (500, 3)), flow.bounds)
        np.testing.assert_allclose(program.to_latent(x)[0], flow.to_latent(x)[0], rtol=0, atol=1e-12)
        z = np.random.default_rng(1).choice([0.0, 1.0, 5e-324, 0.5, 1 - 2**-53], (500, 3))
        x, log_q = program.from_latent(z)
        expected, expected_log_q = flow.from_latent(z)
        np.testing.assert_allclose(x, expected, rtol=1e-12)
        np.testing.assert_allclose(log_q, expected_log_q, rtol=0, atol=1e-12)
        assert np.all((x >= flow.bounds[:, 0]) & (x <= flow.bounds[:, 1]))

    @pytest.mark.parametrize("operation", ["to_latent", "from_latent", "log_prob"])
    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300, -1.5])
    def test_those_outside_are_told_and_become_nan(self, program, operation, bad):
        points = np.random.default_rng(0).random((100, 3)) * 0.2 + (
            0 if operation == "from_latent" else [0, 1, 3]
        )
        good = program.call(operation, 100, points=points)
        assert good[0] == 0
        points[[3, 70], [1, 2]] = bad
        status, results, log_q, words = program.call(operation, 100, points=points)
        assert status == OUTSIDE
        assert "outside" in words
        is_bad = np.isin(np.arange(100), [3, 70])
        np.testing.assert_array_equal(np.isnan(log_q), is_bad)
        np.testing.assert_array_equal(log_q[~is_bad], good[2][~is_bad])
        np.testing.assert_array_equal(results[~is_bad], good[1][~is_bad])
        assert operation == "log_prob" or np.isnan(results[is_bad]).all()

    @pytest.mark.parametrize("operation", ["to_latent", "from_latent", "log_prob"])
    def test_no_points_and_negative_numbers(self, program, operation):
        assert program.call(operation, 0)[0] == 0
        assert program.call(operation, -1)[0] == BAD_ARGUMENT

    def test_null_pointers_and_arrays_that_are_too_small(self, program):
        assert program.call("null", 5, 1, points=np.full((5, 3), 1.0))[0] == 0


@pytest.mark.parametrize("language", LANGUAGES)
def test_verify_tells_when_something_is_wrong(tmp_path, language):
    def with_another_constant(text):
        return text.replace("0x43b0d7e5", "0x43b0d7e6").replace("z'43b0d7e5'", "z'43b0d7e6'")

    program = Program(random_flow(dtype="float64"), language, tmp_path, edit=with_another_constant)
    assert program.call("verify")[::3] == (WRONG_SAMPLE, "sample differs from Python's")


@pytest.fixture(scope="module", params=LANGUAGES)
def large(request, tmp_path_factory):
    flow = random_flow(2, "pwquad", n_bins=11, d_hidden=180, n_hidden=3, dtype="float64")
    folder = tmp_path_factory.mktemp("large")
    return flow, Program(flow, request.param, folder, flags=("-O1",), is_checked=True, name="big_one")


class TestWeightsFile:
    def test_it_has_what_exceeds_1_mb(self, large):
        flow, program = large
        assert program.weights.stat().st_size == 8 * flow.n_params > 1_000_000
        assert all(path.stat().st_size < 100_000 for path in program.paths if path != program.weights)
        check_equal(program, flow, 100)

    @pytest.mark.parametrize(
        ("damage", "status"),
        [
            (lambda data: data[:-8], WRONG_SIZE),
            (lambda data: data + b"\0" * 8, WRONG_SIZE),
            (lambda data: data + b"\0", WRONG_SIZE),
            (lambda data: b"", WRONG_SIZE),
            (lambda data: bytes([data[0] ^ 1]) + data[1:], WRONG_SUM),
            (lambda data: data[:-1] + bytes([data[-1] ^ 128]), WRONG_SUM),
            (None, NO_FILE),
        ],
    )
    def test_a_damaged_one_is_refused(self, large, monkeypatch, damage, status):
        _, program = large
        damaged = program.folder / "damaged.bin"
        damaged.unlink(missing_ok=True)
        if damage is not None:
            damaged.write_bytes(damage(program.weights.read_bytes()))
        monkeypatch.setattr(program, "weights", damaged.name)
        found, weights, *_, words = program.call("load", 1)
        assert found == status
        assert words.startswith("the file of the weights")
        assert np.isnan(weights[0, 0])

    @pytest.mark.parametrize("language", LANGUAGES)
    @pytest.mark.parametrize(
        "d_hidden", range(355, 363)
    )  # all that can be left over after blocks of 64 bytes
    @pytest.mark.slow
    def test_any_size(self, tmp_path, language, d_hidden):
        flow = random_flow(2, "pwlinear", d_hidden=d_hidden, n_hidden=2, n_bins=1, dtype="float32")
        assert Program(flow, language, tmp_path).verify() == 0


@pytest.fixture(scope="module")
def result():
    def f(x):
        return np.exp(-((x - 0.5) ** 2).sum(axis=1) / 0.02)

    return vf.integrate(f, [[-1, 1], [0, 3]], n_calls=300, seed=1)


class TestResult:
    @pytest.mark.parametrize("language", LANGUAGES)
    def test_its_density_on_its_box(self, tmp_path, result, language):
        flow = vf.Mixture([result.flow.on_box(result.bounds)], result.defensive_share)
        assert result.defensive_share > 0
        check_equal(Program(result, language, tmp_path), flow, 1000)

    def test_an_infinite_box_is_refused(self, tmp_path):
        result = vf.integrate(lambda x: np.exp(-x[:, 0]), [[0, np.inf]], n_calls=200, seed=1)
        with pytest.raises(
            ValueError, match=r"\[0\.0, inf\] in row 0, and only a finite box .* result\.flow"
        ):
            vf.export(result, tmp_path / "new")
        assert not (tmp_path / "new").exists()


class TestRefusals:
    @pytest.mark.parametrize(
        "name", ["", "1st", "my-flow", "_flow", "flow.npz", "größe", "a" * 41, None, "a b"]
    )
    def test_names(self, tmp_path, flow, name):
        with pytest.raises(ValueError, match="must be a letter"):
            vf.export(flow, tmp_path / "new", name=name)
        assert not (tmp_path / "new").exists()

    def test_languages(self, tmp_path, flow):
        with pytest.raises(
            ValueError, match=r"language must be one of 'c', 'fortran', got 'fortan'.*'fortran'"
        ):
            vf.export(flow, tmp_path, "fortan")

    def test_what_is_no_flow(self, tmp_path):
        with pytest.raises(TypeError, match="flow must be a Flow, a Mixture or a Result, got str"):
            vf.export("flow.npz", tmp_path)

    def test_parameters_that_are_not_finite(self, tmp_path, flow):
        broken = flow.copy()
        broken.params[3] = np.nan
        with pytest.raises(ValueError, match="finite"):
            vf.export(broken, tmp_path / "new")
        assert not (tmp_path / "new").exists()

    def test_a_file_in_place_of_the_folder(self, tmp_path, flow):
        (tmp_path / "file").write_text("kept")
        with pytest.raises(OSError, match="file"):
            vf.export(flow, tmp_path / "file")
        assert (tmp_path / "file").read_text() == "kept"

    @pytest.mark.parametrize("existing", [False, True])
    def test_a_disk_that_is_full_leaves_nothing_half_written(self, tmp_path, flow, existing):
        folder = tmp_path / "source"
        if existing:
            vf.export(flow, folder)
        before = {path.name: path.read_bytes() for path in folder.glob("*")}
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))  # the header fits, the source does not
            with pytest.raises(OSError, match="File too large"):
                vf.export(flow, folder)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert folder.exists() == existing
        assert {path.name: path.read_bytes() for path in folder.glob("*")} == before


@pytest.mark.parametrize("name", ["flow.c", "latent.c", "load.c", "flow.f90", "latent.f90", "load.f90"])
def test_no_name_of_a_flow_makes_two_names_equal(name):
    code = re.sub(r'"[^"]*"|/\*.*?\*/|(?m:!.*$|//.*$)', "", template(name), flags=re.DOTALL)
    words = {word.lower() for word in re.findall(r"[A-Za-z]\w*", code)}
    headers = template("flow.h") + template("latent.h") + template("load.h") + template("flow.f90")
    public = {word.lower() for word in re.findall(r"\bNAME_\w+", headers)}
    suffixes = tuple(word.removeprefix("name") for word in public)
    assert [word for word in words if word.endswith(suffixes) and not word.startswith("name_")] == []


def test_the_source_does_not_depend_on_threads(tmp_path, flow):
    one = [path.read_text() for path in vf.export(flow, tmp_path / "one", name="a")]
    other = flow.copy()
    other.threads = 1
    assert [path.read_text() for path in vf.export(other, tmp_path / "two", name="a")] == one
    assert all(path.parent == Path(tmp_path / "one") for path in vf.export(flow, tmp_path / "one", name="a"))


@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")
@pytest.mark.skipif(shutil.which("size") is None, reason="size, of binutils, is not installed")
def test_the_object_has_no_state_and_allocates_and_prints_nothing(tmp_path, flow):
    vf.export(flow, tmp_path)
    subprocess.run(["gcc", "-O2", "-fno-pic", "-c", "flow.c"], cwd=tmp_path, check=True)
    sizes = subprocess.run(
        ["size", "-A", "flow.o"], cwd=tmp_path, check=True, capture_output=True, text=True
    ).stdout
    assert dict(re.findall(r"^(\.data|\.bss)\s+(\d+)", sizes, re.MULTILINE)) == {".data": "0", ".bss": "0"}
    names = subprocess.run(
        ["nm", "-u", "flow.o"], cwd=tmp_path, check=True, capture_output=True, text=True
    ).stdout
    assert set(names.split()) - {"U"} <= {
        "exp",
        "log",
        "sqrt",
        "memcpy",
        "memset",
        "log1p",
        "__stack_chk_fail",
        "__cpu_model",  # of the compiler's own library: what the processor can do
    }
