"""Caches of kernels: processes that start at once share one, and none is needed that cannot be written.

What a truncated one does, and one of another version, is in `test_import.py`.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import varflow

pytestmark = pytest.mark.programs

PACKAGE = Path(varflow.__file__).parent

# The least that compiles anything: two small kernels.
STEP = """
import sys
import numpy as np
import varflow as vf

params = np.zeros(3, np.float32)
vf.Adam().step(params, np.array([[1.0, -2.0, 0.5]], np.float32), progress=0.0, scale=1.0, threads=1)
print(params.tobytes().hex())
"""

SAMPLE = """
import varflow as vf

x, logqx = vf.Flow(2, n_bins=2, d_hidden=2, n_hidden=1, seed=1).sample(3, seed=1)
print(x.tobytes().hex(), logqx.tobytes().hex())
"""

# Functions that are linked into a kernel: the maps of all cells.
CELLS = """
import numpy as np
from varflow.kernels import splines
from varflow.kernels.compile import kernel

forward = kernel(splines.all_forward.py_func)
x = np.random.default_rng(1).random(304)
for cell in splines.CELLS.values():
    values = np.random.default_rng(2).uniform(0.1, 1, (cell.n_logits(5), 304))
    z, slope = np.empty((2, 304))
    forward(cell.code, z, slope, values[:0], values, x)
    print(z.tobytes().hex(), slope.tobytes().hex())
"""

PRODUCT = """
import numpy as np
from varflow.kernels.product import repeat_product

a, b = np.random.default_rng(1).random((2, 70, 70), np.float32)  # nothing cancels
c = np.zeros_like(a)
repeat_product(c, a, b, 1)
print(*c.ravel())
"""

MAPS = """
import numpy as np
import varflow as vf

x = np.random.default_rng(1).random((300, 3))
for cell in ("pwlinear", "pwquad", "rqs"):
    flow = vf.Flow(3, cell, n_bins=5, d_hidden=12, seed=1)
    flow.params = 0.3 * np.random.default_rng(2).normal(size=flow.n_params)
    for array in (*flow.to_latent(x), *flow.from_latent(x)):
        print(array.tobytes().hex())
"""

NO_SPACE = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
"""


def start(code, package=PACKAGE, **environment):
    command = [sys.executable, "-W", "error", "-c", code]
    environment = os.environ | {name: str(value) for name, value in environment.items()}
    return subprocess.Popen(
        command,
        cwd=package.parent,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def output(process, timeout=300):
    """Output (stdout, stderr) of a process that ends well."""
    out, err = process.communicate(timeout=timeout)
    assert process.returncode == 0, err
    return out, err


def unwritable(tmp_path):
    """A copy of the package, and an environment, in which no cache can be kept, not even by root."""
    package = tmp_path / "varflow"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    file = tmp_path / "file"
    file.touch()
    for folder in (package, package / "kernels"):
        (folder / "__pycache__").touch()
        folder.chmod(0o555)
    return package, dict.fromkeys(("NUMBA_CACHE_DIR", "HOME", "XDG_CACHE_HOME"), file / "none")


def all_at_once(n, code, cache):
    """What each of n processes prints that begin with no cache, and what one more does after them."""
    processes = [start(code, NUMBA_CACHE_DIR=cache) for _ in range(n)]
    found = [output(process) for process in processes]
    return found, output(start(code, NUMBA_CACHE_DIR=cache))


def assert_all_the_same_and_the_last_compiles_nothing(found, last):
    assert {out for out, _ in found} == {last[0]}
    assert any("compiling kernels" in err for _, err in found)
    assert last[1] == ""


def test_processes_that_start_at_once_share_a_cache(tmp_path):
    assert_all_the_same_and_the_last_compiles_nothing(*all_at_once(3, STEP, tmp_path / "cache"))
    assert {path.suffix for path in tmp_path.rglob("*.*") if path.is_file()} == {".nbi", ".nbc", ".lock"}


@pytest.mark.parametrize("code", [CELLS, pytest.param(MAPS, marks=pytest.mark.slow)], ids=["one", "all"])
def test_the_process_that_compiles_computes_the_same_bits_as_those_that_find_the_cache(tmp_path, code):
    cold, err = output(start(code, NUMBA_CACHE_DIR=tmp_path / "cache"))
    assert err.count("compiling kernels") == 1
    assert output(start(code, NUMBA_CACHE_DIR=tmp_path / "cache")) == (cold, "")


@pytest.mark.parametrize(
    "code", [PRODUCT, pytest.param(SAMPLE, marks=pytest.mark.slow)], ids=["product", "flow"]
)
def test_plain_products_give_what_blocks_give_and_have_entries_of_their_own(tmp_path, code):
    code = code.replace("print(x.tobytes().hex(), logqx.tobytes().hex())", "print(*x.ravel(), *logqx)")
    blocked, _ = output(start(code, NUMBA_CACHE_DIR=tmp_path))
    plain, err = output(start(code, VARFLOW_PLAIN_PRODUCTS=1, NUMBA_CACHE_DIR=tmp_path))
    assert err.count("compiling kernels") == 1
    found, expected = (np.array(text.split(), float) for text in (plain, blocked))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.slow  # it compiles the map eight times
def test_eight_processes_that_sample_at_once_share_a_cache(tmp_path):
    assert_all_the_same_and_the_last_compiles_nothing(*all_at_once(8, SAMPLE, tmp_path / "cache"))


@pytest.mark.slow  # it takes minutes to start them
def test_sixty_four_processes_that_start_at_once_compile_each_kernel_once(tmp_path):
    code = f"""
import numba.core.event as event

class Compiled(event.Listener):
    def on_start(self, event):
        function = event.data["dispatcher"].py_func
        if function.__module__.startswith("varflow.kernels.") and hasattr(event.data["dispatcher"], "_cache"):
            compiled.append(f"{{function.__name__}} {{event.data['args']}}")
    def on_end(self, event):
        pass

compiled = []
event.register("numba:compile", Compiled())
{STEP}
print("compiled", *compiled, sep="; ")
"""
    processes = [start(code, NUMBA_CACHE_DIR=tmp_path, OMP_NUM_THREADS=1) for _ in range(64)]
    found = [output(process, 3000)[0].splitlines() for process in processes]
    assert len({lines[0] for lines in found}) == 1
    kernels = [kernel for lines in found for kernel in lines[-1].split("; ")[1:]]
    assert any("fold_lanes" in kernel for kernel in kernels)
    assert len(kernels) == len(set(kernels))


def test_read_only_package_and_home_are_no_obstacle(tmp_path):
    package, places = unwritable(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    for _ in range(2):  # the second finds nothing either
        out, err = output(start(STEP + "print(vf.__file__)", package, **places))
        assert err.count("compiling kernels") == 1
    assert out.split() == [output(start(STEP))[0].strip(), str(package / "__init__.py")]
    assert sorted(tmp_path.rglob("*")) == before


def test_full_disk_is_no_obstacle(tmp_path):
    pytest.importorskip("resource", reason="the size of files cannot be limited on this system")
    cache = tmp_path / "cache"
    out, err = output(start(NO_SPACE + STEP, NUMBA_CACHE_DIR=cache))
    assert err.count("compiling kernels") == 1
    again, err = output(start(STEP, NUMBA_CACHE_DIR=cache))  # there is room again
    assert again == out
    assert err.count("compiling kernels") == 1
    assert output(start(STEP, NUMBA_CACHE_DIR=cache)) == (out, "")


@pytest.mark.slow  # it compiles everything
def test_warmup_says_that_nothing_can_be_kept(tmp_path):
    package, places = unwritable(tmp_path)
    out, _ = output(
        start(
            "import varflow as vf; from varflow.training.warmup import warmup; print(warmup())",
            package,
            **places,
        )
    )
    assert out == "None\n"


READ_ONLY = """
import tempfile

write = tempfile.TemporaryFile
def refuse(*arguments, dir=None, **options):
    if "image" in str(dir):
        raise OSError("read-only file system")
    return write(*arguments, dir=dir, **options)
tempfile.TemporaryFile = refuse
"""


def test_a_cache_that_was_filled_and_cannot_be_written_any_more_is_read(tmp_path):
    """As in the image of a container, which root cannot write to either; numba tries it with such a file."""
    package, image = tmp_path / "varflow", tmp_path / "image"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    cold, _ = output(start(STEP, package, NUMBA_CACHE_DIR=image))
    entries = sorted(image.rglob("*.nb?"))
    assert output(start(READ_ONLY + STEP, package, NUMBA_CACHE_DIR=image)) == (cold, "")
    assert sorted(image.rglob("*.nb?")) == entries
