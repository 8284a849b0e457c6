"""Files: round trips keep every bit, damage is named in one line, and nothing half written is left behind."""

import bz2
import contextlib
import gzip
import lzma
import os
import pickle
import stat
import sys
import tracemalloc
import zipfile
from io import BytesIO

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from varflow.data.points import coordinate_names, read_points, write_points
from varflow.data.samples import SampleWriter
from varflow.errors import FileFormatError
from varflow.runtime.archive import atomic_path

KEYS = [(p, f) for p in ("px", "logpx") for f in ("fx", "logfx")]


def points(n=50, d=3, p="px", f="fx", seed=1):
    rng = np.random.default_rng(seed)
    return {"x": rng.random((n, d)), p: rng.random(n), f: rng.normal(size=n)}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for key, array in expected.items():
        assert found[key].dtype == array.dtype
        assert found[key].shape == array.shape
        assert found[key].tobytes() == array.tobytes()


def fail_after(write, error, *args):
    write(*args)
    raise error


def only_files(folder):
    return sorted(path.name for path in folder.iterdir())


def read_text(folder, text, name="points.csv", columns=None):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_points(path, columns)


class TestAtomicPath:
    def test_replaces_on_success(self, tmp_path):
        path = tmp_path / "a.npz"
        path.write_text("old")
        with atomic_path(path) as temporary:
            assert temporary.parent == tmp_path
            assert temporary.suffix == ".npz"
            temporary.write_text("new")
            assert path.read_text() == "old"
        assert path.read_text() == "new"
        assert only_files(tmp_path) == ["a.npz"]

    @pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
    def test_keeps_the_old_file_on_failure(self, tmp_path, error):
        path = tmp_path / "a.npz"
        path.write_text("old")
        with pytest.raises(error), atomic_path(path) as temporary:
            fail_after(temporary.write_text, error, "half")
        assert path.read_text() == "old"
        assert only_files(tmp_path) == ["a.npz"]

    @pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
    def test_permissions_are_those_of_open(self, tmp_path):
        path = tmp_path / "a.npz"
        with open(tmp_path / "opened", "w"), atomic_path(path):
            pass
        assert path.stat().st_mode == (tmp_path / "opened").stat().st_mode
        path.chmod(0o640)
        with atomic_path(path):
            pass
        assert stat.S_IMODE(path.stat().st_mode) == 0o640

    def test_a_link_stays_a_link(self, tmp_path):
        (tmp_path / "target").mkdir()
        link = tmp_path / "link.npz"
        link.symlink_to(tmp_path / "target" / "a.npz")
        with atomic_path(link) as temporary:
            temporary.write_text("new")
        assert link.is_symlink()
        assert (tmp_path / "target" / "a.npz").read_text() == "new"

    def test_missing_folder(self, tmp_path):
        path = tmp_path / "missing" / "a.npz"
        with (
            pytest.raises(FileNotFoundError, match=r"cannot write to the folder of .*a\.npz"),
            atomic_path(path),
        ):
            pass

    @pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root writes everywhere")
    def test_unwritable_folder(self, tmp_path):
        folder = tmp_path / "locked"
        folder.mkdir(0o500)
        with (
            pytest.raises(PermissionError, match="cannot write to the folder of"),
            atomic_path(folder / "a.npz"),
        ):
            pass

    def test_a_file_as_folder(self, tmp_path):
        (tmp_path / "file").touch()
        match = "cannot write to the folder of .*: Not a directory"
        with pytest.raises(NotADirectoryError, match=match), atomic_path(tmp_path / "file" / "a.npz"):
            pass

    def test_a_folder_as_file(self, tmp_path):
        with pytest.raises(IsADirectoryError, match="is a folder, not a file"), atomic_path(tmp_path):
            pass


class TestRoundTrips:
    @pytest.mark.parametrize("name", ["a.npz", "a.NPZ", "a.h5", "a.hdf5"])
    @pytest.mark.parametrize(("p", "f"), KEYS)
    def test_binary(self, tmp_path, name, p, f):
        arrays = points(p=p, f=f) | {"bounds": np.array([[0.0, 1.0]] * 3)}
        write_points(tmp_path / name, arrays)
        assert_same(read_points(tmp_path / name), arrays)
        assert only_files(tmp_path) == [name]

    @pytest.mark.parametrize("name", ["a.csv", "a.txt", "a.dat"])
    @pytest.mark.parametrize(("p", "f"), KEYS)
    def test_text(self, tmp_path, name, p, f):
        arrays = points(p=p, f=f)
        arrays[f][0] = -np.inf
        write_points(tmp_path / name, arrays | {"bounds": np.array([[0.0, 1.0]] * 3)})
        assert_same(read_points(tmp_path / name), arrays)

    @pytest.mark.parametrize("name", ["a.npz", "a.csv"])
    @given(
        table=hnp.arrays(
            np.float64,
            st.tuples(st.integers(1, 20), st.integers(3, 6)),
            elements=st.floats(allow_nan=False, allow_infinity=False),
        )
    )
    @settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_every_number(self, tmp_path, name, table):
        x, px, fx = (np.ascontiguousarray(part) for part in (table[:, :-2], table[:, -2], table[:, -1]))
        arrays = {"x": x, "px": px, "fx": fx}
        write_points(tmp_path / name, arrays)
        assert_same(read_points(tmp_path / name), arrays)

    def test_text_over_several_blocks(self, tmp_path):
        arrays = points(n=70_000, d=1)
        write_points(tmp_path / "a.csv", arrays)
        assert_same(read_points(tmp_path / "a.csv"), arrays)

    def test_text_takes_little_more_than_its_array(self, tmp_path):
        path = tmp_path / "a.csv"
        path.write_text("0.25,0.5,0.75,0.125,0.5,0.25,1.0,2.0\n" * 200_000)
        tracemalloc.start()
        arrays = read_points(path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert arrays["x"].flags.c_contiguous
        assert peak < 1.35 * 200_000 * 8 * 8


class TestText:
    @pytest.mark.parametrize("delimiter", [",", ";", "\t", " ", ", ", "   "])
    @pytest.mark.parametrize("header", ["", "x1_x2_p_f\n", "# made today\n\n# by hand\n"])
    @pytest.mark.parametrize("end", ["\n", "\r\n"])
    def test_delimiters_headers_and_comments(self, tmp_path, delimiter, header, end):
        lines = [header + "0.25_0.5_1_-2e3", "# between", "", "0.75_1_2_inf # at the end"]
        text = "\n".join(lines).replace("_", delimiter)
        arrays = read_text(tmp_path, text.replace("\n", end))
        assert_same(
            arrays,
            {
                "x": np.array([[0.25, 0.5], [0.75, 1.0]]),
                "px": np.array([1.0, 2.0]),
                "fx": np.array([-2e3, np.inf]),
            },
        )

    @pytest.mark.parametrize(
        ("header", "p", "f"),
        [
            ("x,p,f", "px", "fx"),
            ("x,logp,f", "logpx", "fx"),
            ("x,LogPx,LOGF", "logpx", "logfx"),
            ('"x","p","logfx"', "px", "logfx"),
            ("# x logp logf", "logpx", "logfx"),
            ("#x,logp,logf\n# made today", "logpx", "logfx"),
            ("# this file has no logp, logf", "px", "fx"),
            ("x, logp, logf\n[cm], [], []", "logpx", "logfx"),
            ("\ufeffx,logp,logf", "logpx", "logfx"),
        ],
    )
    def test_header_names_logs(self, tmp_path, header, p, f):
        assert read_text(tmp_path, f"{header}\n0.5,1,2\n").keys() == {"x", p, f}

    def test_byte_order_mark_without_header(self, tmp_path):
        assert read_text(tmp_path, "\ufeff0.5,1,2\n")["x"].tolist() == [[0.5]]

    def test_one_point_without_a_line_end(self, tmp_path):
        assert read_text(tmp_path, "0.5 1 2")["x"].tolist() == [[0.5]]

    @pytest.mark.parametrize(
        ("text", "match"),
        [
            ("", " is empty"),
            ("x,p,f\n", " holds no points"),
            ("# comment\n\n", " holds no points"),
            (
                "x,p,f\n# comment\n0.5,1,2\n\n0.5,1\n",
                ", line 5: needs 3 columns like the first point, found 2",
            ),
            ("0.5,1,2\n0.5,1,2,3\n", ", line 2: needs 3 columns like the first point, found 4"),
            ("x p f\n0.5 1 2\n0.5 1 two\n0.5 1\n", ", line 3: 'two' is not a number"),
            ("0.5,abc,2\n", ", line 1: 'abc' is not a number"),
            ("0.5,1,2\n0.5,,2\n", ", line 2: '' is not a number"),
            ("0.5,1,2\n0.5,1,1_000\n", ", line 2: '1_000' is not a number"),
            ("0,5;1,0;2,0\n", ", line 1: '0,5' is not a number"),
            ("0;1,0;2,0\n", ", line 1: '1,0' is not a number"),
            ("x,p\n0.5,1\n", r", line 2: needs at least 3 columns \(x..., p, f\), found 2"),
            ("0.5\n", ", line 1: needs at least 3 columns"),
            (b"0.5,1,2\n0.5,1,2 # \xb5m\n", ", line 2 is not UTF-8 text"),
            (b"\xb5,p,f\n0.5,1,2\n", ", line 1 is not UTF-8 text"),
        ],
    )
    def test_errors_name_the_line(self, tmp_path, text, match):
        with pytest.raises(FileFormatError, match=rf"points\.csv({match})") as error:
            read_text(tmp_path, text)
        assert "\n" not in str(error.value)


TABLE = {"x": np.array([[0.25, 0.5], [0.75, 1.0]]), "px": np.array([1.0, 2.0]), "fx": np.array([-2e3, 4.0])}
ROWS = "0.25,0.5,1,-2e3\n0.75,1,2,4\n"  # the same as text


def as_named(p, f):
    return {"x": TABLE["x"], p: TABLE["px"], f: TABLE["fx"]}


class TestColumns:
    @pytest.mark.parametrize(
        ("text", "p", "f"),
        [
            ("p,f,x1,x2\n1,-2e3,0.25,0.5\n2,4,0.75,1\n", "px", "fx"),
            ("y;logfx;x;px\n0.25;-2e3;0.5;1\n0.75;4;1;2\n", "px", "logfx"),
            ("F\tx 1\tx 2\tLogP\n-2e3\t0.25\t0.5\t1\n4\t0.75\t1\t2\n", "logpx", "fx"),
            ('"f","p","x2","x1",\n-2e3,1,0.25,0.5,\n4,2,0.75,1,\n', "px", "fx"),
            (
                "Events of today\n x1, logp, x2, f\n[cm], [], [cm], []\n.25,1,.5,-2e3\n.75,2,1,4\n",
                "logpx",
                "fx",
            ),
            ("# p f x1 x2\n1 -2e3 0.25 0.5\n2 4 0.75 1\n", "px", "fx"),  # as np.savetxt writes a header
            ("# a table of points\n" + ROWS, "px", "fx"),
            (ROWS, "px", "fx"),
        ],
    )
    def test_by_header(self, tmp_path, text, p, f):
        assert_same(read_text(tmp_path, text), as_named(p, f))

    @pytest.mark.parametrize(
        ("header", "match"),
        [
            (
                ",x1,p,f",
                "seems to have an index as column 1 .pandas: index=False leaves it out.; write one that",
            ),
            ("Unnamed: 0,x1,p,f", "seems to have an index as column 1"),
            ("x1,p,f,Index", "seems to have an index as column 4"),
            ("x1,,p,f", "seems to have an index as column 2"),
            ("x1,p,f,weight", "has a column weight, which may be part of f"),
            (
                "x1,x2,p,weight",
                "must name one of f, fx, logf, logfx, found none; .* columns=, --columns x1,x2,p,f$",
            ),
            ("x1,x2,density,value", "must name one of p, px, logp, logpx, found none"),
            ("x1,P,p,f", "must name one of p, px, logp, logpx, found P and p"),
            ("x1,p,f,logf", "must name one of f, fx, logf, logfx, found f and logf"),
            ("x1,x1,p,f", "has two columns x1"),
            ("x1,p,f", "has 3 names for the 4 columns of the first point"),  # as R writes names of rows
            ("x1,x2,x3,p,f", "has 5 names for the 4 columns of the first point"),
            ("Points of today", "has 1 names for the 4 columns"),
        ],
    )
    def test_a_header_that_leaves_it_open_is_refused(self, tmp_path, header, match):
        with pytest.raises(
            FileFormatError, match=rf"points\.csv, line 2: the header {header} {match}"
        ) as error:
            read_text(tmp_path, f"# made today\n{header}\n{ROWS}")
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize(
        "header", ["", "x1,x2,density,value\n", ",index,weight,x1\n", "Points of today\n"]
    )
    @pytest.mark.parametrize("name", ["points.csv", "points.csv.gz"])
    def test_by_hand(self, tmp_path, header, name):
        found = read_text(tmp_path, header + ROWS, name, ["weight", " index", "logp", "F"])
        assert_same(found, as_named("logpx", "fx"))
        found = read_text(tmp_path, header + ROWS, name, ("f", "x", "p", "y"))
        expected = {"x": [[0.5, -2e3], [1.0, 4.0]], "px": [1.0, 2.0], "fx": [0.25, 0.75]}
        assert {key: array.tolist() for key, array in found.items()} == expected
        assert found["x"].flags.c_contiguous

    @pytest.mark.parametrize(
        ("columns", "error", "match"),
        [
            ("x,y,p,f", TypeError, "^columns must be a sequence of names, such as .*, got 'x,y,p,f'$"),
            ([1, "y", "p", "f"], TypeError, "^columns must be a sequence of names"),
            ([], ValueError, "^columns must name one of p, px, logp, logpx, found none; got $"),
            (["x", "x", "p", "f"], ValueError, "^columns has two columns x; got x,x,p,f$"),
            (["x", "", "p", "f"], ValueError, "^columns must name p, f and each coordinate; got x,,p,f$"),
            (["p", "f"], ValueError, "^columns must name p, f and each coordinate; got p,f$"),
            (
                ["x", "p", "f"],
                FileFormatError,
                r"points\.csv, line 2: columns must name all 4 columns, got 3$",
            ),
            (
                ["x1", "x2", "p", "f"],
                FileFormatError,
                r"line 1: columns must have the order of the file, p,f,x1,x2, got x1,x2,p,f: leave columns",
            ),
        ],
    )
    def test_wrong_by_hand(self, tmp_path, columns, error, match):
        with pytest.raises(error, match=match):
            read_text(tmp_path, "p,f,x1,x2\n" + ROWS, columns=columns)

    @pytest.mark.parametrize("name", ["a.npz", "a.h5"])
    def test_arrays_have_names(self, tmp_path, name):
        write_points(tmp_path / name, points())
        with pytest.raises(
            ValueError, match=f"^columns is for text alone, and .*{name} has arrays with names"
        ):
            read_points(tmp_path / name, ["x1", "p", "f"])


class TestCoordinateNames:
    @pytest.mark.parametrize(
        ("header", "columns", "names"),
        [
            ("f,mass / GeV,p,angle\n", None, ["mass / GeV", "angle"]),
            ("# a b p f\n", None, ["a", "b"]),
            ("", None, ["x1", "x2"]),
            ("", ["a", "p", "b", "f"], ["a", "b"]),
        ],
    )
    def test_of_text(self, header, columns, names, tmp_path):
        path = tmp_path / "points.csv"
        path.write_text(header + "1,2,3,4\n")
        assert coordinate_names(path, columns) == names

    def test_of_arrays(self, tmp_path):
        assert coordinate_names(tmp_path / "points.npz") is None


class TestWritersOfText:
    """What other programs make of text."""

    @pytest.mark.parametrize(
        "text",
        [
            "2.5D-01  5.0D-01  1.0D+00 -2.0D+03\n 0.75d0 1.0d0 0.2D1 4\n",
            '"0.25","0.5","1","-2e3"\n"0.75",1,"2",4\n',
            '"0.25" "0.5" "1" "-2e3"\n"0.75" 1 "2" 4\n',
            "0.25,0.5,1,-2e3,\n0.75,1,2,4,\n",
            "0.25;0.5;1;-2e3; \n0.75;1;2;4\n",
            "0.25\t0.5\t1\t-2e3\t\n0.75\t1\t2\t4\t\n",
            "  # made today\n0.25,0.5,1,-2e3\n\t# by hand\n   \n0.75,1,2,4\n",
            "0.25,0.5,1,-2e3\r0.75,1,2,4\r",
        ],
    )
    def test_numbers(self, tmp_path, text):
        assert_same(read_text(tmp_path, text), TABLE)

    @pytest.mark.parametrize(
        ("row", "match"),
        [
            ("0.5 2.5-104 1", "'2.5-104' is not a number: Fortran leaves out the E of .*; use ES25.16E3$"),
            ("0.5 -.25+100 1", "'-.25.100' is not a number: Fortran leaves out the E"),
            (
                "0.5 1 *****",
                "'[*]{5}' is not a number, but what Fortran prints where the format is too narrow: use",
            ),
            ("***** ***** *****", "'[*]{5}' is not a number, but what"),
            ("0.5 2024-01 1", "'2024-01' is not a number$"),
            ("0.5 1 d", "'d' is not a number$"),
            ("0.5 1 0x1p0", "'0x1p0' is not a number$"),
            ('0.5 1 "2', "'\"2' is not a number$"),
        ],
    )
    def test_no_numbers(self, tmp_path, row, match):
        with pytest.raises(FileFormatError, match=rf"points\.csv, line 4: {match}"):
            read_text(tmp_path, f"x p f\n0.5 1 2\n\n{row}\n0.5 1 2\n0.5 1\n")

    @pytest.mark.parametrize(
        "text", ["0.5,1,2\n0.5,1,,\n", '"0.5";"1";"2"\n"0,5";"1";"2"\n', "0.5,1,2\n,,,\n"]
    )
    def test_empty_fields_and_decimal_commas_are_refused(self, tmp_path, text):
        with pytest.raises(FileFormatError, match=r"points\.csv, line 2: "):
            read_text(tmp_path, text)

    @pytest.mark.parametrize(
        "first", ["***,***,***", "2.5-104,2.5-104,2.5-104", '"0,5";"1,5";"2,5"', '"1","2","3']
    )
    @pytest.mark.parametrize("header", ["x,p,f\n", ""])
    def test_the_first_point_is_no_header(self, tmp_path, header, first):
        line = 1 + bool(header)
        with pytest.raises(FileFormatError, match=rf"points\.csv, line {line}: .* is not a number"):
            read_text(tmp_path, f"{header}{first}\n0.5,1,2\n")

    def test_quotes_inside_a_number_are_refused(self, tmp_path):
        for row in ('1"5",1,2', '"4"1,1,2', '"1""5",1,2', '"1" "5",1,2'):
            with pytest.raises(FileFormatError, match=r"points\.csv, line 2: .* is not a number"):
                read_text(tmp_path, f"0.5,1,2\n{row}\n")

    @pytest.mark.parametrize("compress", [bytes, gzip.compress, bz2.compress, lzma.compress])
    @pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.dat", "a.txt.gz", "a.CSV.BZ2", "a.b.csv.xz"])
    def test_compressed_whatever_the_name(self, tmp_path, compress, name):
        text = ("x,y,p,f\n" + ROWS).replace(",", "\t" if ".tsv" in name else ",")
        assert_same(read_text(tmp_path, compress(text.encode("utf-8-sig")), name), TABLE)

    @pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
    def test_compressed_and_damaged(self, tmp_path, compress):
        whole = compress(ROWS.encode() * 1000)
        for part in (whole[:-9], whole[: len(whole) // 2], whole[:20] + b"?" + whole[21:]):
            with pytest.raises(
                FileFormatError, match=r"points\.csv is not a complete (gzip|bz2|lzma) file: "
            ):
                read_text(tmp_path, part)
        with pytest.raises(FileFormatError, match=r"points\.csv holds no points"):
            read_text(tmp_path, compress(b""))
        with pytest.raises(FileFormatError, match=r"points\.csv, line 2: needs 4 columns"):
            read_text(tmp_path, compress(b"1,2,3,4\n1\n"))

    @pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
    @pytest.mark.parametrize("compress", [bytes, gzip.compress])
    def test_utf_16_is_named(self, tmp_path, encoding, compress):
        with pytest.raises(FileFormatError, match=r"points\.csv is UTF-16 text: save it as UTF-8$"):
            read_text(tmp_path, compress(ROWS.encode(encoding)))

    def test_binary_data(self, tmp_path):
        with pytest.raises(FileFormatError, match=r"a\.dat, line 1 is not UTF-8 text"):
            read_text(tmp_path, np.array([128, 0], np.int32).tobytes(), "a.dat")  # as Fortran begins a record

    @pytest.mark.parametrize("name", ["a.gz", "a.npz.gz", "a.zip"])
    def test_other_names(self, tmp_path, name):
        with pytest.raises(ValueError, match=name):
            read_text(tmp_path, ROWS, name)


class TestNamesAndShapes:
    @pytest.mark.parametrize("name", ["a.npz", "a.h5"])
    @pytest.mark.parametrize(("p", "f"), [("p", "f"), ("logp", "fx"), ("px", "logf")])
    def test_names(self, tmp_path, name, p, f):
        write_points(tmp_path / name, as_named(p, f) | {"bounds": np.array([0.0, 2.0])})
        keys = {"p": "px", "logp": "logpx", "f": "fx", "logf": "logfx"}
        expected = as_named(keys.get(p, p), keys.get(f, f)) | {"bounds": np.array([0.0, 2.0])}
        assert_same(read_points(tmp_path / name), expected)

    @pytest.mark.parametrize("name", ["a.npz", "a.h5"])
    def test_p_and_f_may_be_something_else(self, tmp_path, name):
        write_points(tmp_path / name, TABLE | {"p": np.zeros(2), "logf": np.zeros(2)})
        assert_same(read_points(tmp_path / name), TABLE)
        write_points(tmp_path / name, as_named("p", "fx") | {"logp": np.zeros(2)})
        with pytest.raises(FileFormatError, match="must hold x, one of p"):
            read_points(tmp_path / name)

    @pytest.mark.parametrize("name", ["a.npz", "a.h5"])
    @pytest.mark.parametrize("n", [1, 2, 5])
    @pytest.mark.parametrize(("p_shape", "f_shape"), [((1, -1), (-1, 1)), ((-1, 1), (-1,)), ((-1,), (1, -1))])
    def test_rows_and_columns(self, tmp_path, name, n, p_shape, f_shape):
        arrays = points(n=n, d=2)
        stored = {"x": arrays["x"], "px": arrays["px"].reshape(p_shape), "fx": arrays["fx"].reshape(f_shape)}
        write_points(tmp_path / name, stored)
        assert_same(read_points(tmp_path / name), arrays)

    @pytest.mark.parametrize("name", ["a.npz", "a.h5"])
    def test_transposed_x(self, tmp_path, name):
        arrays = points(n=50, d=3, p="p")
        write_points(tmp_path / name, arrays | {"x": arrays["x"].T, "p": arrays["p"][None]})
        match = (
            rf"{name}: x must have shape \(n, d\), found \(3, 50\) with 50 values of .x: store its transpose$"
        )
        with pytest.raises(FileFormatError, match=match):
            read_points(tmp_path / name)

    def test_groups(self, tmp_path):
        path = tmp_path / "a.h5"
        with h5py.File(path, "w") as file:
            file["run/events/x"], file["run/events/p"], file["run/events/f"] = TABLE.values()
            file["none"] = h5py.SoftLink("/nowhere")
            file["type"] = np.dtype(float)
        for group in ("/run/events", "/run/events/", "//run/events"):
            assert_same(read_points(f"{path}:{group}"), TABLE)
        held = r"it holds /run/events/f \(2,\), /run/events/p \(2,\), /run/events/x \(2, 2\)"
        for name in (path, f"{path}:/run"):
            with pytest.raises(FileFormatError, match=rf"{name} must hold x, .*; {held}; .* FILE:/GROUP$"):
                read_points(name)
        for name in (f"{path}:/away", f"{path}:/run/events/x", f"{path}:/none"):
            with pytest.raises(FileFormatError, match=f"^{name} must name a group of the file; {held}$"):
                read_points(name)
        with pytest.raises(FileNotFoundError, match=r"b\.h5"):
            read_points(f"{tmp_path / 'b.h5'}:/run")

    def test_of_many_arrays_some_are_named(self, tmp_path):
        with h5py.File(tmp_path / "a.h5", "w") as file:
            for k in range(100):
                file[f"y{k}"] = 0.0
        with pytest.raises(FileFormatError, match="it holds /y0 ") as error:
            read_points(tmp_path / "a.h5")
        assert str(error.value).count("/y") == 20


class TestBadFiles:
    @pytest.mark.parametrize("call", [read_points, lambda path: write_points(path, points())])
    @pytest.mark.parametrize("name", ["points", "points.xlsx", ".npz"])
    def test_unknown_extension(self, tmp_path, call, name):
        with pytest.raises(
            ValueError, match=r"the extension of .* must be one of '\.npz', '\.csv', .*, got '"
        ):
            call(tmp_path / name)
        assert only_files(tmp_path) == []

    @pytest.mark.parametrize("extension", ["npz", "csv", "h5"])
    def test_missing_folder_or_empty(self, tmp_path, extension):
        path = tmp_path / f"points.{extension}"
        with pytest.raises(FileNotFoundError, match=path.name):
            read_points(path)
        with pytest.raises(FileNotFoundError, match="cannot write to the folder of"):
            write_points(tmp_path / "missing" / path.name, points())
        path.touch()
        with pytest.raises(FileFormatError, match=f"{path.name} is empty"):
            read_points(path)
        path.unlink()
        path.mkdir()
        with pytest.raises(OSError, match=path.name):
            read_points(path)

    @pytest.mark.parametrize(("name", "kind"), [("a.npz", "npz"), ("a.h5", "HDF5")])
    def test_text_under_another_name(self, tmp_path, name, kind):
        with pytest.raises(FileFormatError, match=f"{name} is not an? .*{kind} file"):
            read_text(tmp_path, "0.5,1,2\n", name)

    @pytest.mark.parametrize("name", ["a.npz", "a.h5"])
    def test_truncated_or_damaged(self, tmp_path, name):
        """Whatever the damage, it is refused in one line, or does not touch what is read."""
        path = tmp_path / name
        write_points(path, points())
        whole, expected = path.read_bytes(), read_points(path)
        rng = np.random.default_rng(0)
        for length in rng.integers(1, len(whole), 60):
            path.write_bytes(whole[:length])
            with pytest.raises(FileFormatError, match=name) as error:
                read_points(path)
            assert "\n" not in str(error.value)
        for _ in range(200):
            damaged = bytearray(whole)
            damaged[rng.integers(len(whole))] ^= 1 << rng.integers(8)
            path.write_bytes(damaged)
            with contextlib.suppress(FileFormatError):
                assert read_points(path).keys() <= expected.keys()

    @pytest.mark.parametrize("name", ["a.npz", "a.h5"])
    @pytest.mark.parametrize(
        "keys", [("px", "fx"), ("x", "px"), ("x", "px", "logpx", "fx"), ("x", "px", "fx", "logfx"), ("y",)]
    )
    def test_keys(self, tmp_path, name, keys):
        write_points(tmp_path / name, {key: np.zeros(1) for key in keys})
        match = f"{name} must hold x, one of p, px, logp, logpx, and one of f, fx, logf, logfx; it holds"
        with pytest.raises(FileFormatError, match=match) as error:
            read_points(tmp_path / name)
        assert all(key in str(error.value).split("it holds")[1] for key in keys)

    def test_other_members_do_not_matter(self, tmp_path):
        arrays = points()
        np.savez(tmp_path / "a.npz", note=np.array(["text"]), **arrays)
        assert_same(read_points(tmp_path / "a.npz"), arrays)
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file.create_group("more")
            for key, array in arrays.items():
                file[key] = array
        assert_same(read_points(tmp_path / "a.h5"), arrays)

    def test_pickles_are_refused(self, tmp_path):
        np.savez(tmp_path / "a.npz", **points() | {"fx": np.array([None])})
        with pytest.raises(FileFormatError, match="Object arrays cannot be loaded"):
            read_points(tmp_path / "a.npz")
        (tmp_path / "b.npz").write_bytes(pickle.dumps(points()))
        with pytest.raises(FileFormatError, match="is not an npz file"):
            read_points(tmp_path / "b.npz")
        with pytest.raises(ValueError, match="Object arrays cannot be saved"):
            write_points(tmp_path / "c.npz", {"x": np.array([None])})
        assert only_files(tmp_path) == ["a.npz", "b.npz"]

    def test_members_must_be_arrays(self, tmp_path):
        with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
            for key in points():
                archive.writestr(key, "text")
        with pytest.raises(FileFormatError, match="its member x is not an array"):
            read_points(tmp_path / "a.npz")

    def test_hdf5_needs_h5py(self, tmp_path, monkeypatch):
        (tmp_path / "a.h5").write_text("anything")
        monkeypatch.setitem(sys.modules, "h5py", None)
        with pytest.raises(ImportError, match=r"pip install varflow\[hdf5\]"):
            read_points(tmp_path / "a.h5")
        with pytest.raises(ImportError, match=r"pip install varflow\[hdf5\]"):
            write_points(tmp_path / "b.h5", points())
        assert only_files(tmp_path) == ["a.h5"]


class TestSampleWriter:
    @staticmethod
    def write(path, x, q, blocks, n=None):
        with SampleWriter(path, len(x) if n is None else n, x.shape[1]) as writer:
            for start in range(0, len(x), blocks):
                writer.write(x[start : start + blocks], q[start : start + blocks])

    @pytest.mark.parametrize("blocks", [1, 7, 100])
    def test_npz(self, tmp_path, blocks):
        arrays = points()
        self.write(tmp_path / "a.npz", arrays["x"], arrays["px"], blocks)
        with np.load(tmp_path / "a.npz", allow_pickle=False) as archive:
            assert_same(dict(archive), {"x": arrays["x"], "q": arrays["px"]})
        assert only_files(tmp_path) == ["a.npz"]

    def test_csv(self, tmp_path):
        arrays = points(n=20, d=2)
        self.write(tmp_path / "a.csv", arrays["x"], arrays["px"], 6)
        assert (tmp_path / "a.csv").read_text().startswith("x1,x2,q\n")
        table = np.loadtxt(tmp_path / "a.csv", delimiter=",", skiprows=1)
        np.testing.assert_array_equal(table, np.column_stack([arrays["x"], arrays["px"]]))

    @pytest.mark.parametrize("blocks", [1, 7, 100])
    def test_npy(self, tmp_path, blocks):
        arrays = points()
        self.write(tmp_path / "a.npy", arrays["x"], arrays["px"], blocks)
        found = np.load(tmp_path / "a.npy", allow_pickle=False)
        np.testing.assert_array_equal(found, np.column_stack([arrays["x"], arrays["px"]]))

    @pytest.mark.parametrize("name", ["csv", "npy"])
    def test_stream_is_what_a_file_holds(self, tmp_path, name):
        arrays, stream = points(), BytesIO()
        with SampleWriter(stream, 50, 3, column="w", stream_format=name) as writer:
            writer.write(arrays["x"][:20], arrays["px"][:20])
            writer.write(arrays["x"][20:], arrays["px"][20:])
        with SampleWriter(tmp_path / f"a.{name}", 50, 3, column="w") as writer:
            writer.write(arrays["x"], arrays["px"])
        assert stream.getvalue() == (tmp_path / f"a.{name}").read_bytes()

    def test_stream_of_another_format(self):
        with pytest.raises(ValueError, match="stream_format must be one of 'csv', 'npy', got 'npz'"):
            SampleWriter(BytesIO(), 1, 1, stream_format="npz")

    @pytest.mark.parametrize("name", ["a.npz", "a.csv", "a.npy"])
    def test_converts(self, tmp_path, name):
        with SampleWriter(tmp_path / name, 4, 2) as writer:
            writer.write([[1, 2], [3, 4]], [5, 6])
            writer.write(np.zeros((0, 2)), np.zeros(0))
            writer.write(np.array([[1, 2], [3, 4]], np.float32).T, np.arange(4.0)[::2])
        if name == "a.npz":
            with np.load(tmp_path / name) as archive:
                assert archive["x"].tolist() == [[1, 2], [3, 4], [1, 3], [2, 4]]
                assert archive["q"].tolist() == [5, 6, 0, 2]

    @pytest.mark.parametrize("name", ["a.npz", "a.csv", "a.npy"])
    @pytest.mark.parametrize(
        ("n", "match"), [(49, "was to have 49 rows, but got 50"), (51, "51 rows, but 50 were written")]
    )
    def test_wrong_number_of_rows(self, tmp_path, name, n, match):
        arrays = points()
        with pytest.raises(ValueError, match=match):
            self.write(tmp_path / name, arrays["x"], arrays["px"], 10, n)
        assert only_files(tmp_path) == []

    @pytest.mark.parametrize("name", ["a.npz", "a.csv", "a.npy"])
    @pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
    def test_no_file_after_a_failure(self, tmp_path, name, error):
        with pytest.raises(error), SampleWriter(tmp_path / name, 4, 1) as writer:
            fail_after(writer.write, error, np.zeros((2, 1)), np.zeros(2))
        assert only_files(tmp_path) == []

    @pytest.mark.parametrize(("x", "q"), [((2, 2), (2,)), ((2, 3), (3,)), ((3,), (1,)), ((2, 3), (2, 1))])
    def test_shapes(self, tmp_path, x, q):
        with (
            pytest.raises(ValueError, match=r"x, numbers must have shapes \(m, 3\), \(m,\), found"),
            SampleWriter(tmp_path / "a.npz", 2, 3) as writer,
        ):
            writer.write(np.zeros(x), np.zeros(q))
        assert only_files(tmp_path) == []

    @pytest.mark.parametrize("name", ["a.h5", "a.txt", "a"])
    def test_other_extensions(self, tmp_path, name):
        with pytest.raises(ValueError, match=r"must be one of '\.npz', '\.csv', '\.npy', got"):
            SampleWriter(tmp_path / name, 1, 1)

    def test_missing_folder(self, tmp_path):
        writer = SampleWriter(tmp_path / "missing" / "a.npz", 1, 1)
        with pytest.raises(FileNotFoundError, match="cannot write to the folder of"), writer:
            pass

    def test_holds_no_points_in_memory(self, tmp_path):
        x, q = np.zeros((10_000, 4)), np.zeros(10_000)
        tracemalloc.start()
        with SampleWriter(tmp_path / "a.npz", 40 * len(x), 4) as writer:
            for _ in range(40):
                writer.write(x, q)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 1e6  # of 16 MB written
