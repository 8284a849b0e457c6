"""Files of varflow's own: what is written is read again, and whatever has happened to a file is seen."""

import io
import json
import os
import pickle
import stat
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from strategies import percent_of_examples

import varflow as vf
from varflow.errors import FileFormatError
from varflow.runtime import archive
from varflow.runtime.archive import Kind, check_writable, read_archive, seal, write_archive

DATA = Path(__file__).parent / "data"
KIND = Kind("varflow test", version=4, oldest=2, sealed=3)
SIZES = {"n_bins": 2, "d_hidden": 2, "n_hidden": 1, "threads": 1}
TINY = {"cell": "pwlinear", "repetitions": 1, **SIZES}


def only_files(folder):
    return sorted(path.name for path in folder.iterdir())


def savez(path, **arrays):
    """Write an archive without a seal, as NumPy does."""
    with open(path, "wb") as file:
        np.savez(file, **arrays)


def header_bytes(**values):
    return np.frombuffer(json.dumps(values).encode(), np.uint8)


def tiny_flow():
    flow = vf.Flow(2, **TINY, seed=1, bounds=[[0, 1], [-1, 2]])
    flow.params = flow.params + np.linspace(-1, 1, flow.n_params)
    return flow


@cache
def tiny_result():
    return vf.integrate(lambda x: x[:, 0], 1, n_calls=20_000, seed=1, flow_options=SIZES)


def assert_refused_in_a_line(load, path, contents):
    path.write_bytes(contents)
    with pytest.raises(FileFormatError, match=path.name) as error:
        load(path)
    assert "\n" not in str(error.value)


OWN_FILES = pytest.mark.parametrize(
    ("make", "load"), [(tiny_flow, vf.Flow.load), (tiny_result, vf.Result.load)], ids=["flow", "result"]
)

numbers = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text())


@given(
    header=st.dictionaries(st.text().filter(lambda key: key not in ("format", "version")), numbers),
    arrays=st.dictionaries(
        st.sampled_from(["a", "b"]),
        hnp.arrays(st.sampled_from([">f4", "<f8", ">i8", "?"]), hnp.array_shapes(min_dims=0, min_side=0)),
    ),
)
@settings(percent_of_examples(50), suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_written_is_read(tmp_path, header, arrays):
    write_archive(tmp_path / "a", KIND, header, arrays)
    found, read = read_archive(tmp_path / "a", KIND)
    assert found == {**header, "format": "varflow test", "version": 4}
    assert read.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(read[name], array)
        assert read[name].dtype == array.dtype.newbyteorder("=")
    assert only_files(tmp_path) == ["a"]


@OWN_FILES
def test_numpy_alone_reads_it(make, load, tmp_path):
    made = make()
    made.save(tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz", allow_pickle=False) as archive:
        flow = made if isinstance(made, vf.Flow) else made.flow
        np.testing.assert_array_equal(archive["params"], flow.params)
        assert json.loads(archive["header"].tobytes())["format"].startswith("varflow ")


@OWN_FILES
def test_every_truncation_is_seen(make, load, tmp_path):
    """All of them in what comes first and last, and one in 13 between."""
    path = tmp_path / "a.npz"
    make().save(path)
    whole = path.read_bytes()
    n = len(whole)
    for length in sorted({*range(min(n, 1000)), *range(0, n, 13), *range(max(0, n - 1000), n)}):
        assert_refused_in_a_line(load, path, whole[:length])


@OWN_FILES
def test_every_mutation_is_seen(make, load, tmp_path):
    """A flipped bit, a byte that is gone, put in or written over, a piece that is moved."""
    path = tmp_path / "a.npz"
    make().save(path)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(2000):
        damaged = bytearray(whole)
        begin, end = sorted(rng.integers(len(whole), size=2))
        kind = rng.integers(5)
        if kind == 0:
            damaged[begin] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            del damaged[begin]
        elif kind == 2:
            damaged.insert(begin, int(rng.integers(256)))
        elif kind == 3:
            damaged[begin:end] = rng.bytes(end - begin)
        else:
            damaged[begin:end] = damaged[begin:end][::-1]
        if damaged != whole:
            assert_refused_in_a_line(load, path, damaged)


def test_a_lost_seal_is_seen(tmp_path):
    flow = tiny_flow()
    header = header_bytes(**flow.description(), format="varflow flow", version=3)
    savez(tmp_path / "a", header=header, params=flow.params)
    with pytest.raises(FileFormatError, match="a is damaged: its checksum is missing"):
        vf.Flow.load(tmp_path / "a")
    seal(tmp_path / "a")
    np.testing.assert_array_equal(vf.Flow.load(tmp_path / "a").params, flow.params)


def test_an_older_flow_is_read():
    """Version 2, which had no seal, as varflow wrote it in November 2026."""
    flow = vf.Flow.load(DATA / "flow-2.npz")
    np.testing.assert_array_equal(flow.params, tiny_flow().params)
    expected = [-1.7540004745798057, -0.6418254182032301, -1.0897565520328585]  # of the varflow that wrote it
    np.testing.assert_allclose(flow.log_prob([[0.1, 0.2], [0.5, 1.5], [0.9, -0.7]]), expected, rtol=1e-6)


def test_an_older_result_is_read():
    """Version 1, which had no seal."""
    found = vf.Result.load(DATA / "result-1.npz")
    assert (found.mean, found.sdev, found.n_calls) == (1.000146130842979, 0.0003402236084670656, 20_000)
    assert found.warnings == ("training made the flow no better: the first one is used",)


def test_files_of_this_version_are_read():
    """Kept for the versions to come."""
    np.testing.assert_array_equal(vf.Flow.load(DATA / "flow-3.npz").params, tiny_flow().params)
    older, newer = (vf.Result.load(DATA / f"result-{version}.npz") for version in (1, 2))
    assert newer.summary() == older.summary()


@pytest.mark.parametrize(
    ("header", "match"),
    [
        ({"format": "other", "version": 4}, "a: format must be 'varflow test', found 'other'"),
        ({}, "a: format must be 'varflow test', found None"),
        (
            {"format": "varflow test", "version": 1},
            "understands 2 and 3 and 4 only",
        ),
        ({"format": "varflow test", "version": 5}, "a has version 5, but"),
        ({"format": "varflow test", "version": True}, "a has version True, but"),
        ({"format": "varflow test"}, "a has version None, but"),
        ([1], "a: header must be a JSON object, found list"),
        (None, "a: header must be a JSON object, found NoneType"),
    ],
)
def test_headers(tmp_path, header, match):
    savez(tmp_path / "a", header=np.frombuffer(json.dumps(header).encode(), np.uint8))
    with pytest.raises(FileFormatError, match=match):
        read_archive(tmp_path / "a", KIND)


@pytest.mark.parametrize("text", [b"{", b"\xff", b"", b"[" * 100_000])
def test_header_is_not_json(tmp_path, text):
    savez(tmp_path / "a", header=np.frombuffer(text, np.uint8))
    with pytest.raises(FileFormatError, match="a: header is not JSON") as error:
        read_archive(tmp_path / "a", KIND)
    assert "\n" not in str(error.value)


def test_header_is_not_bytes(tmp_path):
    savez(tmp_path / "a", header=np.zeros(2))
    with pytest.raises(FileFormatError, match="header must be bytes, found float64"):
        read_archive(tmp_path / "a", KIND)


@pytest.mark.parametrize("params", [np.zeros((2, 2)), np.zeros(3), np.full(20, np.inf), np.array(["a"] * 20)])
def test_params_that_are_none(tmp_path, params):
    header = header_bytes(**tiny_flow().description(), format="varflow flow", version=2)
    savez(tmp_path / "a", header=header, params=params)
    with pytest.raises(FileFormatError, match="a: "):
        vf.Flow.load(tmp_path / "a")


def test_params_that_are_not_finite_are_not_written(tmp_path):
    flow = tiny_flow()
    flow.params[3] = np.nan
    with pytest.raises(ValueError, match="params must be finite"):
        flow.save(tmp_path / "a")
    assert only_files(tmp_path) == []


def test_a_folder_is_no_place_for_a_file(tmp_path):
    for refuse in (check_writable, tiny_flow().save):
        with pytest.raises(IsADirectoryError, match="is a folder, not a file"):
            refuse(tmp_path)
    assert only_files(tmp_path) == []


@pytest.mark.skipif(not hasattr(os, "O_DIRECTORY"), reason="folders are not opened on this system")
@pytest.mark.parametrize("name", ["open", "fsync"])
def test_a_system_that_cannot_sync_folders_is_no_obstacle(tmp_path, monkeypatch, name):
    original, refused = getattr(os, name), []

    def refuse(file, *arguments):
        is_folder = Path(file).is_dir() if name == "open" else stat.S_ISDIR(os.fstat(file).st_mode)
        if is_folder:
            refused.append(file)
            raise PermissionError
        return original(file, *arguments)

    monkeypatch.setattr(os, name, refuse)
    flow = tiny_flow()
    flow.save(tmp_path / "a")
    monkeypatch.undo()
    assert len(refused) == 1
    np.testing.assert_array_equal(vf.Flow.load(tmp_path / "a").params, flow.params)
    assert only_files(tmp_path) == ["a"]


def test_other_files(tmp_path):
    path = tmp_path / "a"
    with pytest.raises(FileNotFoundError, match="a"):
        read_archive(path, KIND)
    with pytest.raises(IsADirectoryError):
        read_archive(tmp_path, KIND)
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    for contents in (b"", b"text", pickle.dumps({"params": 1}), buffer.getvalue()):
        assert_refused_in_a_line(lambda path: read_archive(path, KIND), path, contents)
    savez(path, params=np.zeros(3))
    with pytest.raises(FileFormatError, match="a is not a varflow test: it holds params"):
        read_archive(path, KIND)
    savez(path, header=np.array([None]))
    with pytest.raises(FileFormatError, match="allow_pickle=False"):
        read_archive(path, KIND)


class TestLeftOvers:
    """Temporary files of processes that were killed."""

    @staticmethod
    def left_over(folder, pid, age, name="result.npz"):
        path = folder / f"{archive._temporary_prefix(folder / name)}{pid}-00000000.npz"
        path.touch()
        os.utime(path, (time.time() - age,) * 2)
        return path

    @staticmethod
    def dead_pid():
        process = subprocess.Popen([sys.executable, "-c", ""])
        process.wait()
        return process.pid

    def test_are_removed_by_the_next_write_of_the_same_file(self, tmp_path):
        old = self.left_over(tmp_path, self.dead_pid(), 2 * archive.LEFT_OVER_SECONDS)
        kept = [
            self.left_over(tmp_path, os.getpid(), 2 * archive.LEFT_OVER_SECONDS),  # its writer lives
            self.left_over(tmp_path, self.dead_pid(), 0),  # a writer on another machine may look like this
            self.left_over(tmp_path, self.dead_pid(), 2 * archive.LEFT_OVER_SECONDS, name="other.npz"),
        ]
        with archive.atomic_path(tmp_path / "result.npz") as temporary:
            temporary.write_bytes(b"1")
        assert not old.exists()
        assert all(path.exists() for path in kept)
        assert (tmp_path / "result.npz").read_bytes() == b"1"
