"""Ranks of real MPIs: the same bits, whatever their number, and none waits for one that has failed."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from mpi_launchers import PROGRAMS, launchers, needed

import varflow as vf
from varflow.runtime.node_memory import named_memory

pytestmark = pytest.mark.programs

VARFLOW = [sys.executable, "-m", "varflow"]
FUNCTIONS = """
import os
import time

import numpy as np

n_calls = 0


def f(x):
    return np.exp(-40 * ((x - 0.4) ** 2).sum(axis=1))


def slow(x):
    time.sleep(2e-5 * len(x))
    return f(x)


def fails_on_one(x):
    global n_calls
    n_calls += 1
    is_first = "0" in (os.environ.get("PMI_RANK"), os.environ.get("OMPI_COMM_WORLD_RANK"))
    return f(x) if n_calls < 4 or is_first else 1 / 0
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("mpi")
    (path / "functions.py").write_text(FUNCTIONS)
    return path


def without_mpi(program):
    done = subprocess.run(
        [sys.executable, PROGRAMS / program, "alone"], capture_output=True, text=True, check=True, timeout=120
    )
    return json.loads(done.stdout)


def test_bits_do_not_depend_on_the_number_of_ranks():
    needed()
    expected = without_mpi("integrals.py")
    of_others = [(one, 2) for one in launchers()[1:]]
    for launcher, n in [(launchers()[0], n) for n in (2, 3, 4)] + of_others:
        got = json.loads(launcher.python(n, "integrals.py"))
        assert got["found"] == expected["found"], (launcher.name, n)
        assert len(got["counted"]) == n
        assert sum(got["counted"]) == sum(expected["counted"])  # each point on one rank
        assert got["n_calls"] == expected["n_calls"]


def test_trainings_have_the_same_bits_too():
    launcher = needed()
    expected = without_mpi("trainings.py")
    for n in (2, 3):
        assert json.loads(launcher.python(n, "trainings.py")) == expected, n


def test_samples_are_shared(tmp_path):
    needed()
    box = [(-np.inf, np.inf), (0, 1), (0, np.inf)]
    result = vf.integrate(lambda x: np.exp(-(x**2).sum(axis=1)), box, n_calls=100, seed=1)
    result.save(tmp_path / "result.npz")
    for launcher, n in ((launchers()[0], 3), *((one, 2) for one in launchers()[1:])):
        launcher.python(n, "samples.py", tmp_path / "result.npz")
    vf.Flow(3, "rqs", seed=1).save(tmp_path / "flow.npz")
    for source, n_points, points in (
        ("flow.npz", "200001", "points.npz"),
        ("result.npz", "2001", "points.csv"),
    ):
        command = [*VARFLOW, "sample", source, "-n", n_points, "--seed", "3", "-o"]
        subprocess.run([*command, points], cwd=tmp_path, check=True, capture_output=True)
        done = launchers()[0].run(3, *command, f"shared_{points}", cwd=tmp_path)
        assert done.stdout.count("wrote ") == 1, done.stderr
        assert (tmp_path / f"shared_{points}").read_bytes() == (tmp_path / points).read_bytes()
    refused = launchers()[0].run(2, *command, "nowhere/points.npz", cwd=tmp_path)
    assert refused.returncode == 2
    assert refused.stderr.count("varflow: ") == 1


def test_events_have_the_same_bits_too(tmp_path):
    launcher = needed()
    vf.Flow(3, "rqs", seed=1).save(tmp_path / "flow.npz")
    (tmp_path / "me.py").write_text("def f(x):\n    return x.prod(axis=1)\n")
    x, log_q = vf.load_flow(tmp_path / "flow.npz").sample(1000, seed=1)
    vf.Dataset(x, logpx=log_q, fx=x.prod(axis=1)).save(tmp_path / "points.csv")
    for arguments in (["me.py:f", "-n", "2000"], ["points.csv"]):
        command = [*VARFLOW, "sample", "flow.npz", "--seed", "3", "--unweight", *arguments, "-o"]
        alone = subprocess.run(
            [*command, "alone.npy"], cwd=tmp_path, check=True, capture_output=True, text=True
        )
        done = launcher.run(3, *command, "shared.npy", cwd=tmp_path)
        assert alone.stdout.replace("alone", "shared") in done.stdout, done.stderr
        assert (tmp_path / "shared.npy").read_bytes() == (tmp_path / "alone.npy").read_bytes()
        refused = launcher.run(2, *command, "nowhere/points.npz", cwd=tmp_path)
        assert refused.returncode == 2
        assert refused.stderr.count("cannot write to the folder") == 1


def test_datasets_are_read_by_all_ranks_together(tmp_path):
    launcher = needed()
    generator = np.random.default_rng(0)
    x, p = generator.random((1001, 3)), np.ones(1001)
    f = x.sum(axis=1)
    for name in ("by_rows.npz", "by_rows.h5", "text.csv"):
        vf.Dataset(x, p, f).save(tmp_path / name)
    np.savez_compressed(tmp_path / "compressed.npz", x=x, p=p, f=f)
    np.savez(tmp_path / "fortran.npz", x=np.asfortranarray(x), p=p, f=f)
    np.savez(tmp_path / "columns.npz", x=x, p=p[:, None], f=f)
    np.savez(tmp_path / "other_types.npz", x=x.astype(np.float32), p=p, f=np.arange(1001))
    good = sorted(path.name for path in tmp_path.iterdir())
    (tmp_path / "cut_short.npz").write_bytes((tmp_path / "by_rows.npz").read_bytes()[:5000])
    (tmp_path / "empty.npz").touch()
    (tmp_path / "text.xyz").touch()
    np.savez(tmp_path / "no_f.npz", x=x, p=p)
    np.savez(tmp_path / "text.npz", x=x, p=p, f=np.array(["a"] * 1001))
    x[700, 1] = np.nan
    np.savez(tmp_path / "nan.npz", x=x, p=p, f=f)
    told = json.loads(launcher.python(3, "datasets.py", tmp_path))
    assert sorted(name for name, words in told.items() if words == "1001 points") == good
    for name, words in {
        "cut_short.npz": "FileFormatError: .* is not an npz file, or is cut short",
        "empty.npz": "FileFormatError: .*empty.npz is empty",
        "text.xyz": "ValueError: the extension of .* must be one of",
        "no_f.npz": "FileFormatError: .* must hold x, one of p, .* it holds x, p",
        "text.npz": "FileFormatError: .*: fx must hold real numbers",
        "nan.npz": "FileFormatError: .*: x must be finite, found nan in row 700, column 1",
    }.items():
        assert re.match(words, told[name]), told[name]


def test_memory_that_there_is_no_room_for_is_told():
    with (
        pytest.raises(OSError, match=r"no room in .* for 1,152,921,504,606,846,976 bytes"),
        named_memory(1 << 60),
    ):
        pass


def test_ranks_may_have_workers():
    needed().python(2, "pools.py")


def test_what_one_rank_raises_ends_all():
    needed()
    for launcher in launchers():
        told = json.loads(launcher.python(3, "failures.py"))
        kinds = dict.fromkeys(told, ["ValueError"] * 3) | {
            "raises": ["TypeError"] * 3,
            "odd": ["RankError", "RankError", "OddError"],
            "nan": ["InvalidIntegrandError"] * 3,
            "interrupted": ["KeyboardInterrupt"] * 3,
            "callback": ["LookupError"] * 3,
            "no file": ["FileNotFoundError"] * 3,
            "no comm": ["TypeError"] * 3,
            "goes on": ["nothing"] * 3,
        }
        assert {name: [kind for kind, _, _ in ranks] for name, ranks in told.items()} == kinds, launcher.name
        for name, rank, words in (
            ("odd", 0, "rank 2 raised OddError: cannot be sent"),
            ("nan", 2, "f is nan at x = ["),
            ("shape", 0, "got shape () at each point on rank 0, and shape (2,) on rank 2"),
            ("callback", 1, "after "),
            ("seed", 2, "must have the same arguments: seed is 0 on rank 0 and 1 on rank 1"),
            ("argument", 0, "loss must be one of 'variance', 'dkl', got 'nonsense'"),
            ("calls", 0, "ByCalls(n_calls=1000) on rank 0 and ByCalls(n_calls=1001) on rank 1"),
            ("checkpoint", 0, "has a checkpoint is True on rank 0 and False on rank 2"),
            ("version", 1, f"varflow is {vf.__version__} on rank 0 and 0.0.1 on rank 2"),
            ("no comm", 0, "comm must be a communicator of mpi4py, such as MPI.COMM_WORLD, got 'world'"),
            ("freed", 1, "comm was freed"),
        ):
            assert words in told[name][rank][1], told[name]
        message, cause = told["raises"][0][1:]
        assert "can only concatenate list" in message
        assert "on rank 2" in cause
        assert "return [] + 1" in cause  # the line of the other rank


def test_commands_share_the_work_of_mpiexec_and_print_once(folder):
    launcher = needed()
    arguments = [
        "integrate",
        "functions.py:f",
        "--dim",
        "2",
        "--calls",
        "33000",
        "--d-hidden",
        "16",
        "--json",
    ]
    alone = subprocess.run(
        [*VARFLOW, *arguments, "-o", "alone.npz"], cwd=folder, capture_output=True, text=True, check=True
    )
    shared = launcher.run(3, *VARFLOW, *arguments, "--workers", "2", "-o", "shared.npz", cwd=folder)
    assert shared.returncode == 0, shared.stderr
    figures = [json.loads(done.stdout) for done in (alone, shared)]
    for one in figures:
        del one["seconds"]
    assert figures[0] == figures[1]
    apart = launcher.run(2, *VARFLOW, *arguments, "--no-mpi", cwd=folder)
    assert len(apart.stdout.splitlines()) == 2
    failed = launcher.run(2, *VARFLOW, "integrate", "functions.py:fails_on_one", "--dim", "2", cwd=folder)
    assert failed.returncode == 2
    assert failed.stderr.count("varflow: f raised ZeroDivisionError: division by zero at ") == 1
    assert "functions.py:23 (on rank 1)" in failed.stderr
    for wrong in (["--dim"], ["--dim", "2", "-o", "nowhere/r.npz"]):
        refused = launcher.run(2, *VARFLOW, "integrate", "functions.py:f", *wrong, cwd=folder)
        assert refused.returncode == 2
        assert refused.stderr.count("varflow: ") == 1


def test_a_signal_to_one_rank_stops_all_and_another_number_of_ranks_goes_on(folder):
    launcher = needed()
    command = [
        *VARFLOW,
        "integrate",
        "functions.py:slow",
        "--dim",
        "2",
        "--calls",
        "33000",
        "--d-hidden",
        "16",
    ]
    kept = [*command, "--checkpoint", "run.ckpt", "--checkpoint-seconds", "0.1", "--json"]
    expected = subprocess.run([*command, "--json"], cwd=folder, capture_output=True, text=True, check=True)
    running = subprocess.Popen(
        launcher.arguments(2, *kept), cwd=folder, env=launcher.settings(), stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not (folder / "run.ckpt").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(last_of(running.pid), signal.SIGTERM)
    _, said = running.communicate(timeout=60)
    assert "start the same command again" in said, said
    assert said.count("varflow: ") == 1
    assert running.returncode == 75
    resumed = launcher.run(3, *kept, cwd=folder)
    assert resumed.returncode == 0, resumed.stderr
    figures = [json.loads(done.stdout) for done in (expected, resumed)]
    for one in figures:
        del one["seconds"]
    assert figures[0] == figures[1]


def last_of(pid):
    """The last of the processes of Python below a process."""
    below = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in below.splitlines()[1:]]
    family, found = {pid}, []
    for child, parent, arguments in ((int(a), int(b), c) for a, b, c in rows):
        if parent in family:
            family.add(child)
            found += [child] if "-m varflow" in arguments and "mpiexec" not in arguments.split()[0] else []
    return found[-1]


def test_what_is_missing_is_told(folder):
    environment = os.environ | {"PMI_SIZE": "2", "PMI_RANK": "0"}
    code = "import sys; sys.modules['mpi4py'] = None; from varflow.cli import main; sys.exit(main())"
    arguments = ["integrate", "functions.py:f", "--dim", "2"]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment, cwd=folder, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "MPI needs mpi4py: python -m pip install 'varflow[mpi]'" in done.stderr


def test_mpi4py_of_another_mpi_is_told(folder):
    found = {one.name: one for one in launchers()}
    if len(found) < 2:
        pytest.skip("needs two MPIs")
    other = found["mpich"].settings() | {"MPI4PY_MPIABI": "openmpi"}
    command = found["mpich"].arguments(2, *VARFLOW, "integrate", "functions.py:f", "--dim", "2")
    done = subprocess.run(
        command, env=other, cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )  # fmt: skip
    assert done.returncode == 2
    assert "2 processes were started together, but each is alone in MPI.COMM_WORLD" in done.stderr
    assert done.stderr.count("varflow: ") == 1


def test_importing_varflow_calls_no_mpi():
    code = "import sys, varflow; sys.exit('mpi4py' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
