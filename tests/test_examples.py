"""The examples build, and do what is said of them."""

import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from compilers import shared_library

import varflow as vf

pytestmark = pytest.mark.programs

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    source = EXAMPLES / "dalitz.c"
    path = tmp_path_factory.mktemp("program") / "dalitz"
    assert "cc -O2 -o dalitz dalitz.c -lm" in source.read_text()
    subprocess.run(["cc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", path, source, "-lm"], check=True)
    return path


def table(text):
    return np.loadtxt(text.splitlines(), delimiter=",", skiprows=1)


def test_the_kept_dataset_is_what_the_program_writes(program):
    written = subprocess.run([program], capture_output=True, text=True, check=True).stdout
    kept = (EXAMPLES / "dalitz.csv").read_text()
    assert written.splitlines()[0] == kept.splitlines()[0] == "x1,x2,x3,x4,x5,p,f"
    # The mathematical library of another system may round the last bit of f in another way.
    np.testing.assert_allclose(table(written), table(kept), rtol=1e-12, atol=0)


def test_another_seed_gives_other_points(program):
    one, two = (
        subprocess.run([program, "10", seed], capture_output=True, text=True, check=True).stdout
        for seed in ("1", "2")
    )
    assert table(one).shape == (10, 7)
    assert not np.any(table(one)[:, :5] == table(two)[:, :5])


def test_bad_arguments_are_refused(program):
    process = subprocess.run([program, "many"], capture_output=True, text=True, check=False)
    assert process.returncode == 2
    assert process.stderr.count("\n") == 1


def test_the_dataset_is_what_the_readme_says():
    data = vf.Dataset.read(EXAMPLES / "dalitz.csv")
    assert (data.n, data.d) == (20_000, 5)
    assert np.all(data.px == 1)
    assert np.all(data.fx > 0)


BUILDS = {
    "c": ["gcc", "-std=c99", "-pedantic", "-I.", EXAMPLES / "event_generator.c", "camel.c"],
    "fortran": ["gfortran", "-std=f2008", "camel.f90", EXAMPLES / "event_generator.f90"],
}


@pytest.fixture(scope="module")
def camel():
    """A flow that has learned the function of the generators a little."""
    x = np.random.default_rng(1).random((2000, 4))
    f = sum(np.exp(-((x - centre) ** 2).sum(axis=1) / 0.04) for centre in (1 / 3, 2 / 3))
    flow = vf.Flow(4, d_hidden=16, seed=0)
    vf.BasicStatefulVarTrainer(flow, n_epochs=5, seed=0).train_on_batch(x, np.ones(2000), f)
    return flow


class TestEventGenerators:
    def run(self, folder, camel, language):
        """What a generator prints, and its events."""
        command = BUILDS[language]
        if shutil.which(command[0]) is None:
            pytest.skip(f"{command[0]} is not installed")
        vf.export(camel, folder, language, name="camel")
        build = [*command, "-O2", "-march=native", "-Wall", "-Wextra", "-Werror", "-o", "generator", "-lm"]
        subprocess.run(build, cwd=folder, check=True)
        run = ["./generator", "events.txt", "20000", "3"]
        printed = subprocess.run(run, cwd=folder, check=True, capture_output=True, text=True).stdout
        return printed, (folder / "events.txt").read_text()

    @pytest.mark.parametrize("language", BUILDS)
    def test_events_are_distributed_as_f(self, tmp_path, camel, language):
        printed, events = self.run(tmp_path, camel, language)
        integral, error = map(float, re.search(r"integral: (\S+) ± (\S+)", printed).groups())
        one_peak = math.erf(1 / 3 / 0.2) / 2 + math.erf(2 / 3 / 0.2) / 2
        assert abs(integral - one_peak**4) < 5 * error
        x = np.loadtxt(events.splitlines())
        assert f"events of equal weight: {len(x)}," in printed
        assert np.all(np.abs(x.mean(axis=0) - 0.5) < 5 * x.std(axis=0) / np.sqrt(len(x)))

    def test_both_languages_write_the_same_events(self, tmp_path, camel):
        outcomes = []
        for language in BUILDS:
            (tmp_path / language).mkdir()
            outcomes.append(self.run(tmp_path / language, camel, language))
        assert outcomes[0][1] == outcomes[1][1]
        assert outcomes[0][0].splitlines()[1:] == outcomes[1][0].splitlines()[1:]

    @pytest.mark.parametrize("language", BUILDS)
    def test_bad_arguments_are_refused(self, tmp_path, camel, language):
        self.run(tmp_path, camel, language)
        for arguments in ([], ["events.txt", "10"]):
            done = subprocess.run(
                ["./generator", *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
            )
            assert done.returncode == 2
            assert done.stderr.startswith("usage: ")


@pytest.fixture
def environment(tmp_path):
    """Variables of a process in which `varflow` is the command."""
    command = tmp_path / "bin" / "varflow"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m varflow "$@"\n')
    command.chmod(0o755)
    return {**os.environ, "PATH": f"{command.parent}:{os.environ['PATH']}", "CALLS": "150"}


def test_a_shell_script_integrates_with_the_program(tmp_path, environment):
    script = EXAMPLES / "ask_and_tell.sh"
    subprocess.run([script], cwd=tmp_path, env=environment, check=True, stdout=subprocess.DEVNULL)
    result = vf.Result.load(tmp_path / "width.npz")
    assert 140 < result.n_calls <= 150
    data = vf.Dataset.read(EXAMPLES / "dalitz.csv")
    exact, error = data.fx.mean(), data.fx.std() / np.sqrt(data.n)
    assert abs(result.mean - exact) < 5 * np.hypot(result.sdev, error)


def test_tasks_of_an_array_job_share_a_run(tmp_path, environment, program):
    (tmp_path / "dalitz").symlink_to(program)
    start = ["varflow", "start", "width.run", "--dim", "5", "--calls", "100"]
    subprocess.run(start, cwd=tmp_path, env=environment, check=True, stdout=subprocess.DEVNULL)
    tasks = [
        subprocess.Popen([EXAMPLES / "array_job.sh"], cwd=tmp_path, stdout=subprocess.DEVNULL,
                         stderr=subprocess.DEVNULL, env={**environment, "SLURM_ARRAY_TASK_ID": str(k)})
        for k in range(2)
    ]  # fmt: skip
    assert [task.wait(timeout=120) for task in tasks] == [0, 0]
    run = vf.Run.load(tmp_path / "width.run")
    assert run.ask() is None
    assert run.n_told > 90


@pytest.fixture(scope="module")
def matrix_element(tmp_path_factory):
    source = EXAMPLES / "matrix_element.f"
    assert "gfortran -O2 -shared -fPIC -o libme.so matrix_element.f" in source.read_text()
    library = shared_library(source, tmp_path_factory.mktemp("library") / "libme.so")
    return vf.CompiledIntegrand(library, "fxn_", kind="vegas77")


def cross_section(x):
    """The same from the amplitudes of each helicity, at points (n, 3)."""
    beta, mass, width, sin2w, alpha, s_min = 0.05, 91.1876, 2.4952, 0.2312, 0.0078125, 400.0
    s = 95.0**2 * (1 - x[:, 0] ** (1 / beta)) * (1 - x[:, 1] ** (1 / beta))
    costh = 2 * x[:, 2] - 1
    ratio = s / (4 * sin2w * (1 - sin2w)) / (s - mass**2 + 1j * mass * width)
    couplings = 2 * sin2w, 2 * sin2w - 1  # of the Z to right- and left-handed leptons, V - A and V + A
    total = sum(
        np.abs(1 + one * other * ratio) ** 2 * (1 + (costh if one == other else -costh)) ** 2
        for one in couplings
        for other in couplings
    )
    return np.where(s < s_min, 0.0, 2 * 0.3893794e9 * np.pi * alpha**2 / (8 * s) * total)


def test_the_matrix_element_is_the_sum_of_its_amplitudes(matrix_element):
    x = np.random.default_rng(1).random((1000, 3))
    np.testing.assert_allclose(matrix_element(x), cross_section(x), rtol=1e-10)


def test_the_matrix_element_in_ten_lines(matrix_element):
    results = [vf.integrate(matrix_element, 3, n_calls=40_000, seed=seed) for seed in (1, 2, 3)]
    # Gauss' points in the energies; in cos(theta), two are exact.
    (u, weights), (v, halves) = (np.polynomial.legendre.leggauss(n) for n in (1000, 2))
    x = np.stack(np.meshgrid(u, u, v, indexing="ij"), axis=-1).reshape(-1, 3) / 2 + 0.5
    exact = np.einsum("ijk,i,j,k", cross_section(x).reshape(1000, 1000, 2), weights, weights, halves) / 8
    assert (
        np.median([result.sdev for result in results]) < 0.002 * exact
    )  # single ones follow their largest weight
    for result in results:
        assert abs(result.mean - exact) < 5 * result.sdev
