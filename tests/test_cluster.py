"""The scripts for batch systems: in the shell, and by a Slurm of one's own."""

import csv
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from slurm import lacking, slurm

import varflow as vf

pytestmark = pytest.mark.programs

EXAMPLES = Path(__file__).parent.parent / "examples"
CLUSTER = EXAMPLES / "cluster"
SCRIPTS = sorted(path for path in CLUSTER.iterdir() if path.suffix in (".sh", ".slurm", ".pbs"))


@pytest.fixture
def folder(tmp_path):
    """The scripts and the integrand, and commands `varflow` and `qsub` beside them."""
    for path in [*CLUSTER.iterdir(), EXAMPLES / "camel.py"]:
        shutil.copy(path, tmp_path)
    write(tmp_path / "bin" / "varflow", f'exec "{sys.executable}" -m varflow "$@"')
    write(tmp_path / "bin" / "qsub", 'echo "$@" >>queued')
    write(tmp_path / "bin" / "scontrol", 'echo "$@" >>queued')
    return tmp_path


def write(path, line):
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)


def variables(folder, **others):
    path = f"{folder / 'bin'}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "HOME": str(folder), **others}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_sound(script):
    subprocess.run(["bash", "-n", script], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", script], check=True)


SLOW = """
import time
from pathlib import Path
from camel import f as fast

def f(x):
    Path("begun").touch()
    time.sleep(0.005 * len(x))
    return fast(x)
"""

SIGNALS = """
import os, signal
from pathlib import Path
from camel import f as fast

def f(x):
    if not Path("signalled").exists():
        Path("signalled").touch()
        os.kill(os.getpid(), signal.SIGUSR1)
    return fast(x)
"""


def let_job_integrate(folder, source):
    (folder / "other.py").write_text(source)
    for name in ("integrate.slurm", "integrate.pbs", "ranks.slurm"):
        text = (folder / name).read_text()
        assert text.count("camel.py:f") == 1
        (folder / name).write_text(text.replace("camel.py:f", "other.py:f"))


def assert_the_bits_of_a_run_without_interruption(folder, n_calls):
    found = vf.Result.load(folder / "camel.npz")
    sys.path.insert(0, str(folder))
    try:
        from camel import f
    finally:
        sys.path.remove(str(folder))
    whole = vf.integrate(f, 4, n_calls=n_calls, seed=0)
    assert (found.mean, found.sdev, found.n_calls) == (whole.mean, whole.sdev, whole.n_calls)
    np.testing.assert_array_equal(found.flow.params, whole.flow.params)


def test_a_job_of_pbs_is_queued_again_and_goes_on(folder):
    let_job_integrate(folder, SIGNALS)
    job = variables(folder, PBS_O_WORKDIR=str(folder), PBS_JOBID="1.server", NCPUS="1", CALLS="300")
    for status in (75, 0):
        process = subprocess.run(["bash", "integrate.pbs"], cwd=folder, env=job, check=False)
        assert process.returncode == status
    assert (folder / "queued").read_text() == f"{folder}/integrate.pbs\n"
    assert_the_bits_of_a_run_without_interruption(folder, 300)


def test_signals_are_passed_on_and_the_job_is_queued_again(folder):
    write(folder / "bin" / "work", "trap 'exit 75' USR1; touch begun; while true; do sleep 0.05; done")
    job = variables(folder, SLURM_JOB_ID="7", SLURM_CPUS_PER_TASK="3")
    process = subprocess.Popen(["./again.sh", "work"], cwd=folder, env=job)
    while not (folder / "begun").exists():
        time.sleep(0.01)
    process.send_signal(10)
    assert process.wait(timeout=60) == 75
    assert (folder / "queued").read_text() == "requeue 7\n"
    limited = ["./again.sh", "timeout", "--preserve-status", "--signal=USR1", "1", "work"]
    assert subprocess.run(limited, cwd=folder, env=job, check=False).returncode == 75
    assert (folder / "queued").read_text() == 2 * "requeue 7\n"
    for status in (0, 2):
        process = subprocess.run(
            ["./again.sh", "sh", "-c", f"exit {status}"], cwd=folder, env=job, check=False
        )
        assert process.returncode == status
    settings = ["./again.sh", "sh", "-c", 'echo "$OMP_NUM_THREADS"']
    assert subprocess.run(settings, cwd=folder, env=job, check=True, capture_output=True).stdout == b"3\n"
    assert (folder / "queued").read_text() == 2 * "requeue 7\n"


@pytest.fixture
def batch(folder, tmp_path_factory):
    """The environment of Slurm's commands."""
    if lacking():
        pytest.skip(lacking())
    (folder / "bin" / "scontrol").unlink()
    with slurm(tmp_path_factory.mktemp("slurm"), 2) as environment:
        yield {**variables(folder), **environment, "PATH": f"{folder / 'bin'}:{environment['PATH']}"}


def wait_for_jobs(environment, seconds):
    """Wait until all jobs have ended; those that are queued again are among them."""
    end = time.monotonic() + seconds
    while subprocess.run(["squeue", "-h"], env=environment, capture_output=True, check=True).stdout:
        assert time.monotonic() < end, subprocess.run(
            ["squeue"], env=environment, capture_output=True, text=True
        )
        time.sleep(1)


@pytest.mark.slow
def test_a_job_of_slurm_is_queued_again_before_its_time_is_up(folder, batch):
    let_job_integrate(folder, SLOW)
    command = ["sbatch", "--time=2", "--cpus-per-task=2", "--mem=0", "integrate.slurm"]
    subprocess.run(command, cwd=folder, env={**batch, "CALLS": "30000"}, check=True)
    wait_for_jobs(batch, 1500)
    log = (folder / "camel.log").read_text()
    assert "stopped by a signal" in log or "start the same command again" in log, log
    assert "result = 0.96" in log
    assert_the_bits_of_a_run_without_interruption(folder, 30_000)


@pytest.mark.slow
def test_tasks_of_slurm_work_together_and_are_queued_again(folder, batch):
    pytest.importorskip("mpi4py")
    let_job_integrate(folder, SLOW)
    (folder / "camel.npz").symlink_to("ranks.npz")
    size = ["--ntasks=2", "--mem-per-cpu=0"]
    environment = {**batch, "CALLS": "3000", "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    submitted = subprocess.run(
        ["sbatch", "--parsable", *size, "ranks.slurm"], cwd=folder, env=environment, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    while not (folder / "begun").exists():
        time.sleep(0.1)
    subprocess.run(
        ["scancel", "--batch", "--signal=USR1", submitted.stdout.strip()], env=environment, check=True
    )
    wait_for_jobs(batch, 300)
    log = (folder / "ranks.log").read_text()
    assert log.count("start the same command again") == 1, log
    assert log.count("result = ") == 1, log
    assert_the_bits_of_a_run_without_interruption(folder, 3000)
    strangers = ["srun", "-n", "2", "--mpi=none", "varflow", "integrate", "camel.py:f", "--dim", "2", "--mpi"]
    told = subprocess.run(strangers, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert told.returncode == 2
    assert told.stderr.count("varflow: srun has started 2 tasks, but each is alone") == 1


@pytest.mark.slow
def test_an_array_job_of_slurm_ends_with_a_table(folder, batch):
    lines = [f"camel-{d} camel.py:f --dim {d} --calls 300" for d in (2, 3, 4)]
    (folder / "integrals.txt").write_text("\n".join([*lines, ""]))
    text = (folder / "integrals.slurm").read_text()
    (folder / "integrals.slurm").write_text(text.replace("#SBATCH --mem=2G", "#SBATCH --mem=0"))
    subprocess.run(["./submit.sh"], cwd=folder, env=batch, check=True)
    wait_for_jobs(batch, 600)
    with open(folder / "table.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["camel-2", "camel-3", "camel-4"]
    for row in rows:
        assert abs(float(row["mean"]) - 0.97) < 0.05
    assert (folder / "table.log").read_text().startswith("wrote table.csv: 3 rows\nname ")
