"""What importing varflow costs, what it offers, and where its kernels can be kept."""

import inspect
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numba
import pytest

import varflow
from varflow.kernels.compile import kernel

PACKAGE = Path(varflow.__file__).parent

ONE_STEP = """
import numpy as np
import varflow as vf

x = np.random.default_rng(1).random((100, 2))
flow = vf.Flow(2, n_bins=4, d_hidden=8, n_hidden=1, seed=1)
before = flow.params.copy()
vf.BasicVarTrainer(flow).train_step_on_target_minibatch(x, np.ones(100), x[:, 0], vf.Adam())
assert np.isfinite(flow.params).all() and (flow.params != before).any()
print(vf.__file__)
"""


def run_python(code, *options, package=PACKAGE, **environment):
    """Output (stdout, stderr) of a new interpreter that finds this package."""
    process = subprocess.run(
        [sys.executable, *options, "-c", code], cwd=package.parent, env=os.environ | environment,
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    return process.stdout, process.stderr


def test_imports_nothing_slow_and_warns_of_nothing():
    code = "import sys, varflow; print(*sys.modules)"
    out, err = run_python(code, "-W", "error")
    loaded = out.split()
    assert "varflow.training.trainers" in loaded
    for module in ("scipy.linalg", "h5py", "tqdm", "matplotlib", "threadpoolctl", "varflow.cli.command"):
        assert module not in loaded
    assert err == ""


def test_all_is_there_sorted_and_documented():
    names = varflow.__all__
    assert names == sorted(names)
    assert len(set(names)) == len(names)
    for name in names:
        value = getattr(varflow, name)
        if name == "__version__":
            assert value.count(".") == 2
            continue
        assert value.__module__.startswith("varflow.")
        assert value.__doc__
        # What a dataclass or a tuple makes up is no docstring.
        assert not value.__doc__.startswith(f"{name}("), name


@pytest.mark.parametrize(
    "name", [name for name in varflow.__all__ if inspect.isclass(getattr(varflow, name))]
)
def test_public_methods_are_documented(name):
    for method, value in vars(getattr(varflow, name)).items():
        if not method.startswith("_") and (inspect.isroutine(value) or isinstance(value, property)):
            assert getattr(value, "__func__", value).__doc__, method


@pytest.mark.parametrize("below", ["", "folder"])
def test_cache_folder_that_cannot_be_made_is_no_obstacle(below, tmp_path):
    file = tmp_path / "file"
    file.touch()
    out, _ = run_python(ONE_STEP, "-W", "error", NUMBA_CACHE_DIR=str(file / below))
    assert out.split() == [varflow.__file__]


def plus(x, y):
    return x + y


def remade_plus():
    """Function as a new process would have it: nothing compiled, but what is in the cache."""
    return kernel(plus)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    return tmp_path


def test_entries_of_the_cache_are_found_again(cache):
    for _ in range(2):
        assert remade_plus()(1, 2) == 3
        assert remade_plus()(1.5, 2.5) == 4
    again = remade_plus()
    again(1, 2)
    again(1.5, 2.5)
    assert (sum(again.stats.cache_hits.values()), sum(again.stats.cache_misses.values())) == (2, 0)


def test_processes_that_compile_at_once_keep_each_other_s_entries(cache):
    """Files of one entry are not touched by who writes another: their names are different."""
    remade_plus()(1, 2)
    first = {path: path.read_bytes() for path in cache.rglob("*.nb?")}
    remade_plus()(1.5, 2.5)
    assert len(first) == 2
    assert len(list(cache.rglob("*.nb?"))) == 4
    assert all(path.read_bytes() == content for path, content in first.items())


@pytest.mark.parametrize("kind", ["nbi", "nbc"])
@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.99])
def test_truncated_cache_files_are_compiled_again(cache, kind, share):
    remade_plus()(1, 2)
    (path,) = cache.rglob(f"*.{kind}")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    assert remade_plus()(1, 2) == 3
    again = remade_plus()
    again(1, 2)
    assert sum(again.stats.cache_hits.values()) == 1


@pytest.mark.slow  # it compiles everything
def test_kernels_are_compiled_in_each_process_where_no_folder_can_be_written_to(tmp_path):
    package = tmp_path / "varflow"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    file = tmp_path / "file"
    file.touch()
    # Files where folders should be: not even root can write there.
    for folder in (package, package / "kernels"):
        (folder / "__pycache__").touch()
    places = dict.fromkeys(("NUMBA_CACHE_DIR", "HOME", "XDG_CACHE_HOME"), str(file))
    out, err = run_python(ONE_STEP, "-W", "error", package=package, **places)
    assert out.split() == [str(package / "__init__.py")]
    assert err.count("compiling kernels") == 1
    assert not list(tmp_path.rglob("*.nbi"))


@pytest.mark.slow  # it compiles a map of one coordinate, twice
def test_kernels_are_compiled_anew_when_any_of_their_modules_changes(tmp_path):
    package = tmp_path / "varflow"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    code = "import varflow as vf; print(vf.Flow(1, n_bins=2, seed=1).to_latent([[0.25]])[0].item())"
    cache = str(tmp_path / "cache")
    assert run_python(code, package=package, NUMBA_CACHE_DIR=cache)[0].strip() == "0.25"
    splines = package / "kernels" / "splines.py"
    line = "return min(z * over_total, one)"
    source = splines.read_text()
    assert source.count(line) == 1
    splines.write_text(source.replace(line, f"{line} / filled(2.0, x)"))
    assert run_python(code, package=package, NUMBA_CACHE_DIR=cache)[0].strip() == "0.125"
