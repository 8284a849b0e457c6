"""The page that specifies the flow file is right: its reader gives the densities of the flow."""

import ast
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pages import ROOT, blocks
from strategies import percent_of_examples

import varflow as vf
from varflow.flow.masks import MASKS
from varflow.kernels.splines import CELLS
from varflow.testing import flows, in_box, normal_params

PAGE = ROOT / "examples" / "guides" / "flow_file.md"
SOURCE = blocks(PAGE, "python")[0]
STANDARD = {"ast", "hashlib", "json", "math", "struct", "zipfile"}
# Relative to 1 + |log q|: float32 networks round, which the reader, in float64, does not.
TOLERANCES = {"float32": 1e-6, "float64": 1e-12}
every_kind = st.sampled_from(sorted(CELLS))


@pytest.fixture(scope="module")
def reader():
    names = {}
    exec(compile(SOURCE, PAGE.name, "exec"), names)
    return names


def assert_agree(reader, flow, path, tolerance):
    flow.save(path)
    header, params = reader["read_flow"](path)
    given = np.random.default_rng(1).uniform(-3, 3, (20, flow.n_conditions))  # some beyond the range
    if flow.latent == "normal":
        points, _ = flow.sample(20, seed=2, conditions=given)
    else:
        points = in_box(np.random.default_rng(0).random((20, flow.d)), flow.bounds)
    found = [
        reader["log_prob"](header, params, *point)
        for point in zip(points.tolist(), given.tolist(), strict=True)
    ]
    np.testing.assert_allclose(found, flow.log_prob(points, given), rtol=tolerance, atol=tolerance)


def test_the_reader_needs_the_standard_library_alone():
    imported = {
        alias.name
        for node in ast.walk(ast.parse(SOURCE))
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    assert imported == STANDARD <= sys.stdlib_module_names
    assert not any(isinstance(node, ast.ImportFrom) for node in ast.walk(ast.parse(SOURCE)))


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize(("cell", "masking"), list(product(CELLS, MASKS)))
def test_it_gives_the_density(reader, tmp_path, cell, masking, dtype):
    bounds = [(-1, 1), (0, 5), (2, 2.5), (0, 1), (-3, 0)]
    place = (
        {"location": [0, 1, 2, 3, 4], "scale": 2.5} if cell == "realnvp" else {"bounds": bounds, "n_bins": 4}
    )
    sizes = {"d_hidden": 8, "n_hidden": 2, "repetitions": 2}
    flow = vf.Flow(5, cell, masking, **sizes, **place, dtype=dtype, seed=1)
    flow.params = normal_params(flow.architecture, 0.5, np.random.default_rng(1))
    assert np.ptp(flow.log_prob(flow.sample(20, seed=1)[0])) > 0.5  # far from uniform
    assert_agree(reader, flow, tmp_path / "flow.npz", TOLERANCES[dtype])


@percent_of_examples(50)
@given(flow=flows(cell=every_kind, dtype="float64", n_conditions=st.integers(0, 2)))
def test_it_gives_the_density_of_any_flow(reader, tmp_path_factory, flow):
    assert_agree(reader, flow, tmp_path_factory.mktemp("flow") / "flow.npz", 1e-10)


@pytest.mark.parametrize("place", [0, 100, -100, -70, -1])
def test_it_refuses_a_damaged_file(reader, tmp_path, place):
    path = tmp_path / "flow.npz"
    vf.Flow(2, seed=1).save(path)
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="damaged"):
        reader["read_flow"](path)


def test_the_container_is_what_the_page_says(tmp_path):
    import zipfile

    path = Path(tmp_path / "flow.npz")
    vf.Flow(2, seed=1).save(path)
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: info.compress_type for info in archive.infolist()}
        assert members == {"header.npy": zipfile.ZIP_STORED, "params.npy": zipfile.ZIP_STORED}
        assert archive.comment == path.read_bytes()[-79:]
