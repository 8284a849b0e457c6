"""What holds for all tests."""

import signal
import subprocess
import sys
from pathlib import Path

import numba
import pytest
from hypothesis import HealthCheck, settings
from libraries import built

import varflow

# The first example compiles kernels, or loads them: no single example may be judged by its time.
# More examples than of "quick" are for pytest's option --hypothesis-profile.
settings.register_profile(
    "quick", deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=25
)
settings.register_profile("thorough", settings.get_profile("quick"), max_examples=100)
settings.register_profile("nightly", settings.get_profile("quick"), max_examples=2000)
settings.load_profile("quick")

# Shells let jobs in the background ignore Ctrl-C, and so would the processes that tests send one to.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_sessionstart(session):
    """Compile all kernels once, before there are workers of pytest-xdist that would each compile them."""
    is_worker = hasattr(session.config, "workerinput")
    if not (is_worker or session.config.option.collectonly or numba.config.DISABLE_JIT):
        subprocess.run(
            [sys.executable, "-m", "varflow", "warmup"], cwd=Path(varflow.__file__).parent.parent, check=True,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip


def pytest_collection_modifyitems(items):
    """Begin with tests that compile kernels of their own, so that no second worker gets some of them."""
    items.sort(key=lambda item: item.path.stem not in ("test_product", "test_splines"))


@pytest.fixture(scope="session")
def library_folder(tmp_path_factory):
    """The folder of the shared library for C and Fortran."""
    return built(tmp_path_factory.mktemp("the library") / "lib")
