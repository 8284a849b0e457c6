"""Training takes little memory beyond the dataset: in processes of their own, so that peaks are theirs."""

import subprocess
import sys
from pathlib import Path

import pytest

import varflow

pytest.importorskip("resource", reason="peak memory is not told on this system")

D = 8

# Argument: rows. Prints by how many bytes the peak rises in one epoch.
TRAIN = f"""
import resource
import sys
from pathlib import Path

import numpy as np
import varflow as vf


def peak():
    # On Linux, ru_maxrss begins with the peak of the process that started this one.
    if sys.platform == "linux":
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def train(data):
    flow = vf.Flow({D}, n_bins=4, d_hidden=16, n_hidden=1, seed=1, threads=2)
    trainer = vf.BasicStatefulVarTrainer(flow, n_epochs=1, minibatch_size=10_000, holdout=0.1)
    record = trainer.train_on_dataset(data)
    assert record.epoch == 1
    assert flow.params.any()


def dataset(n):
    rng = np.random.default_rng(1)
    x, fx = np.empty((n, {D})), np.empty(n)
    for begin in range(0, n, 10_000):  # such that making it leaves no room that training could use
        block = rng.random(out=x[begin : begin + 10_000])
        fx[begin : begin + 10_000] = np.exp(-5 * ((block - 0.4) ** 2).sum(axis=1))
    return vf.Dataset(x, np.ones(n), fx)


train(dataset(1000))  # loads libraries and kernels: these take memory, too, but once
data = dataset(int(sys.argv[1]))
before = peak()
train(data)
print(peak() - before)
"""


def growth(n):
    """Bytes that training on n rows takes, found where kernels are in the cache: compilers take far more."""
    run(1000)
    return run(n)


def run(n):
    process = subprocess.run(
        [sys.executable, "-W", "error", "-c", TRAIN, str(n)], cwd=Path(varflow.__file__).parent.parent,
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    return int(process.stdout)


@pytest.mark.programs
def test_a_million_rows():
    # It cannot do without one number a row. With a control variate it keeps three: log p, log(f/p), and what
    # is learnt.
    assert 1_000_000 * 8 < growth(1_000_000) < 60e6


@pytest.mark.slow
def test_five_million_rows():
    assert 5_000_000 * 8 < growth(5_000_000) < 300e6
