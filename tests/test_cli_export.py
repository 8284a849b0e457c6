"""The command `varflow export`."""

import numpy as np
import pytest

import varflow as vf
from varflow.cli.command import main


@pytest.fixture
def path(tmp_path):
    vf.Flow(2, seed=1).save(tmp_path / "decay.npz")
    return tmp_path / "decay.npz"


def run(capsys, *arguments):
    """Status, and what is printed on stdout and stderr."""
    try:
        status = main(["export", *map(str, arguments)])
    except SystemExit as exit:
        status = exit.code
    return status, *capsys.readouterr()


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ([], ["decay.c", "decay.h"]),
        (["--language", "fortran"], ["decay.f90"]),
        (["--language", "c", "--name", "B0"], ["B0.c", "B0.h"]),
    ],
)
def test_it_writes_the_files_of_export(path, tmp_path, capsys, options, names):
    folder = tmp_path / "new" / "source"
    status, out, err = run(capsys, path, "-o", folder, *options)
    assert (status, err) == (0, "")
    assert sorted(file.name for file in folder.iterdir()) == names
    assert all(f"wrote {folder / name}: {(folder / name).stat().st_size:,} bytes" in out for name in names)
    language = "fortran" if names == ["decay.f90"] else "c"
    paths = vf.export(vf.Flow.load(path), tmp_path / "other", language, name=names[0].partition(".")[0])
    for other in paths:
        assert other.read_text() == (folder / other.name).read_text()


def test_mixtures_and_results_are_exported_too(tmp_path, capsys):
    vf.Mixture([vf.Flow(2, seed=1), vf.Flow(2, seed=2)]).save(tmp_path / "mixture.npz")
    result = vf.integrate(lambda x: x[:, 0], [[0, 2]], n_calls=500, seed=1)
    result.save(tmp_path / "result.npz")
    for name in ("mixture", "result"):
        assert run(capsys, tmp_path / f"{name}.npz", "-o", tmp_path / "source")[0] == 0
        assert (tmp_path / "source" / f"{name}.c").exists()


def refusal(capsys, *arguments):
    status, out, err = run(capsys, *arguments)
    assert (status, out, err.count("\n")) == (2, "", 1)
    return err


def test_what_is_refused(path, tmp_path, capsys):
    folder = tmp_path / "source"
    assert "did you mean 'fortran'?" in refusal(capsys, path, "-o", folder, "--language", "fortan")
    assert "got '2nd'" in refusal(capsys, path, "-o", folder, "--name", "2nd")
    assert "-o" in refusal(capsys, path)
    assert "missing.npz" in refusal(capsys, tmp_path / "missing.npz", "-o", folder)
    path.with_name("my-flow.npz").write_bytes(path.read_bytes())
    assert "name (--name) must be a letter" in refusal(capsys, path.with_name("my-flow.npz"), "-o", folder)
    damaged = tmp_path / "damaged.npz"
    damaged.write_bytes(path.read_bytes()[:-100])
    assert "damaged.npz" in refusal(capsys, damaged, "-o", folder)
    assert not folder.exists()
    assert refusal(capsys, path, "-o", path)


def test_a_result_on_an_infinite_box_is_refused(tmp_path, capsys):
    result = vf.integrate(lambda x: np.exp(-x[:, 0]), [[0, np.inf]], n_calls=500, seed=1)
    result.save(tmp_path / "result.npz")
    assert "only a finite box can be exported" in refusal(
        capsys, tmp_path / "result.npz", "-o", tmp_path / "new"
    )
