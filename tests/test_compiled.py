"""Compiled integrands: every kind, from everything that has an address, with everything that goes wrong."""

import ctypes
import multiprocessing
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numba
import numpy as np
import pytest
from compilers import compiler, shared_library
from hypothesis import given
from hypothesis import strategies as st
from scipy import LowLevelCallable
from scipy.integrate import nquad

import varflow as vf
from varflow.cli.command import main
from varflow.compiled.elf import read_elf
from varflow.compiled.integrand import SLICE
from varflow.compiled.kinds import KINDS
from varflow.compiled.signatures import check_kind
from varflow.kernels import pointers

# Python 3.12 warns of a fork beside threads, which other tests may have left waiting.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")

DATA = Path(__file__).parent / "data"
VECTOR = {"batch": "batch", "cuba": "cuba"}  # kinds with several components, and functions of them
SCALAR = {"scipy": "scipy_kind"}
FUNCTIONS = {
    "batch": "batch",
    "scipy_kind": "scipy",
    "takes_five": "scipy",
    "cuba": "cuba",
    "fxn_": "vegas77",
}
EXACT = 2.0  # integral of the functions over the unit cube of three dimensions
ON_LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads ELF")
SIGNATURE = ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_int, ctypes.POINTER(ctypes.c_double), ctypes.c_void_p)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("libraries")


@pytest.fixture(scope="module")
def c(folder):
    return shared_library(DATA / "integrands.c", folder / "libc_kinds.so", "-std=c11")


@pytest.fixture(scope="module")
def fortran(folder):
    return shared_library(DATA / "integrands.f90", folder / "libfortran_kinds.so")


@pytest.fixture
def x():
    return np.random.default_rng(1).random((50, 3))


def value(x):
    return x**2 @ np.arange(1, x.shape[1] + 1)


def components(x, m):
    return value(x)[:, None] * np.arange(1, m + 1)


def address(path, symbol):
    return ctypes.cast(getattr(ctypes.CDLL(path), symbol), ctypes.c_void_p).value


def integrator_of(f, bounds, **options):
    """Make an integrator that takes a second: few points, a small flow."""
    sizes = {"n_bins": 4, "d_hidden": 8, "n_hidden": 1}
    return vf.Integrator(
        f, bounds, survey_strategy="flat", n_iter=1, n_points=4096, seed=1, flow_options=sizes, **options
    )


def integral(f, bounds, **options):
    return integrator_of(f, bounds, **options).integrate()


class TestKinds:
    @pytest.mark.parametrize(("kind", "symbol"), (VECTOR | SCALAR).items())
    def test_a_number(self, c, x, kind, symbol):
        f = vf.CompiledIntegrand(c, symbol, kind=kind)
        np.testing.assert_allclose(f(x), value(x), rtol=1e-14)
        assert f(x).shape == (50,)
        assert f(x[0]) == f(x)[0]
        assert f(x[:0]).shape == (0,)

    @pytest.mark.parametrize(("kind", "symbol"), VECTOR.items())
    @pytest.mark.parametrize("d", [1, 5])
    def test_components(self, c, kind, symbol, d):
        x = np.random.default_rng(2).random((2 * SLICE + 3, d))
        f = vf.CompiledIntegrand(c, symbol, kind=kind, n_components=4)
        np.testing.assert_allclose(f(x), components(x, 4), rtol=1e-14)
        assert f(x[0]).shape == (4,)

    @pytest.mark.parametrize("nvec", [2, 7, 100, 10_000])
    def test_cuba_with_several_points_at_once(self, folder, nvec):
        own = shared_library(DATA / "integrands.c", folder / f"lib{nvec}.so", "-std=c11")
        x = np.random.default_rng(3).random((1000, 3))
        f = vf.CompiledIntegrand(own, "cuba_nvec", kind="cuba", nvec=nvec, n_components=2)
        np.testing.assert_allclose(f(x), components(x, 2), rtol=1e-14)
        assert ctypes.CDLL(own).most_at_once() == min(nvec, 1000)

    @pytest.mark.parametrize(
        ("symbol", "kind", "m"),
        [
            ("batch", "batch", 3),
            ("scipy_kind", "scipy", 1),
            ("cuba77_", "cuba", 3),
            ("fxn_", "vegas77", 1),
        ],
    )
    def test_fortran(self, fortran, x, symbol, kind, m):
        f = vf.CompiledIntegrand(fortran, symbol, kind=kind, n_components=m, check=True)
        before = x.copy()
        np.testing.assert_allclose(f(x).reshape(50, m), components(x, m), rtol=1e-14)
        np.testing.assert_array_equal(x, before)

    def test_common_blocks_are_set_from_outside(self, fortran, x):
        f = vf.CompiledIntegrand(fortran, "fxn_", kind="vegas77")
        factor = ctypes.c_double.in_dll(ctypes.CDLL(fortran), "params_")
        factor.value = 2.5
        np.testing.assert_allclose(f(x), 2.5 * value(x), rtol=1e-14)
        factor.value = 1.0

    def test_a_copy_of_each_point_may_be_overwritten(self, c, x):
        before = x.copy()
        f = vf.CompiledIntegrand(c, "overwrites", kind="scipy")
        np.testing.assert_allclose(f(x), value(before), rtol=1e-14)
        np.testing.assert_array_equal(x, before)

    def test_batch_is_given_the_points_themselves(self, c):
        seen = []

        @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32, ctypes.c_void_p,
                          ctypes.c_int32, ctypes.c_void_p)  # fmt: skip
        def f(x, n, d, out, m, user):
            seen.append((x, n, d, m, user))
            return 0

        x = np.zeros((5000, 2))
        assert np.isnan(vf.CompiledIntegrand(f, kind="batch")(x)).all()  # what is not set is not finite
        assert seen == [(x.ctypes.data, 5000, 2, 1, None)]

    @given(st.integers(1, 9), st.integers(0, 40), st.integers(1, 5), st.integers(1, 12))
    def test_any_shape(self, c, d, n, m, nvec):
        x = np.random.default_rng(n).random((n, d))
        for f in (
            vf.CompiledIntegrand(c, "batch", kind="batch", n_components=m),
            vf.CompiledIntegrand(c, "cuba_nvec", kind="cuba", n_components=m, nvec=nvec),
        ):
            np.testing.assert_allclose(f(x).reshape(n, m), components(x, m), rtol=1e-13)

    def test_loops_are_compiled_once(self, c, fortran, x):
        for source, symbol, kind in (
            (c, "scipy_kind", "scipy"),
            (c, "cuba", "cuba"),
            (fortran, "fxn_", "vegas77"),
        ):
            vf.CompiledIntegrand(source, symbol, kind=kind)(np.asfortranarray(x))
            vf.CompiledIntegrand(source, symbol, kind=kind)(x.tolist())
        for kernel in (pointers.call_scipy, pointers.call_cuba, pointers.call_vegas77):
            assert len(kernel.signatures) == 1


class TestSources:
    def test_an_address(self, c, x):
        f = vf.CompiledIntegrand(address(c, "scipy_kind"), kind="scipy")
        np.testing.assert_allclose(f(x), value(x), rtol=1e-14)

    def test_a_path_relative_to_this_folder(self, c, x, monkeypatch):
        monkeypatch.chdir(c.parent)
        f = vf.CompiledIntegrand(c.name, "scipy_kind", kind="scipy")
        monkeypatch.chdir("/")
        assert pickle.loads(pickle.dumps(f)).function == str(c)

    def test_a_library_of_the_system(self):
        if not sys.platform.startswith("linux"):
            pytest.skip("libm.so.6 is there on Linux")
        with pytest.raises(ValueError, match=r"^there is no 'nothing' in libm\.so\.6$"):
            vf.CompiledIntegrand("libm.so.6", "nothing", kind="scipy")

    def test_ctypes(self, c, x):
        f = ctypes.CDLL(c).scipy_kind
        f.restype, f.argtypes = (
            ctypes.c_double,
            [ctypes.c_int, ctypes.POINTER(ctypes.c_double), ctypes.c_void_p],
        )
        assert vf.CompiledIntegrand(f).kind == "scipy"
        result = integral(f, 3)
        assert abs(result.mean - EXACT) < 5 * result.sdev
        integrand = vf.CompiledIntegrand(SIGNATURE(("scipy_kind", ctypes.CDLL(c))))
        del f
        np.testing.assert_allclose(integrand(x), value(x), rtol=1e-14)

    def test_a_function_of_python_by_ctypes(self, x):
        f = vf.CompiledIntegrand(SIGNATURE(lambda n, x, user: sum(x[k] for k in range(n))), threadsafe=True)
        np.testing.assert_allclose(f(x), x.sum(1), rtol=1e-14)

    @pytest.mark.parametrize("symbol", ["scipy_kind", "scipy_two"])
    def test_low_level_callables(self, c, x, symbol):
        f = ctypes.CDLL(c)[symbol]
        f.restype, f.argtypes = ctypes.c_double, [ctypes.c_int, ctypes.POINTER(ctypes.c_double)]
        scale = ctypes.c_double(3.0)
        if symbol == "scipy_kind":
            f.argtypes = (*f.argtypes, ctypes.c_void_p)
        data = ctypes.cast(ctypes.pointer(scale), ctypes.c_void_p) if symbol == "scipy_kind" else None
        llc = LowLevelCallable(f, data)
        factor = 3.0 if data else 1.0
        np.testing.assert_allclose(vf.CompiledIntegrand(llc)(x), factor * value(x), rtol=1e-14)
        own = vf.CompiledIntegrand(llc, user=np.array([2.0]))
        if data:
            np.testing.assert_allclose(own(x), 2.0 * value(x), rtol=1e-14)
        result = integral(llc, 3)
        exact, _ = nquad(llc, [(0, 1)] * 3, opts={"epsrel": 1e-8})
        assert exact == pytest.approx(factor * EXACT)
        assert abs(result.mean - exact) < 5 * result.sdev

    def test_numba(self, x):
        double, pointer = numba.types.float64, numba.types.CPointer(numba.types.float64)

        @numba.cfunc(double(numba.types.int32, pointer, numba.types.voidptr))
        def f(n, x, user):
            return x[0] * x[1]

        assert vf.CompiledIntegrand(f).kind == "scipy"
        np.testing.assert_array_equal(vf.CompiledIntegrand(f)(x), x[:, 0] * x[:, 1])
        assert integral(f, 2).mean == pytest.approx(0.25, rel=0.05)

        @numba.cfunc(double(double))
        def other(x):
            return x

        with pytest.raises(TypeError, match=r"kind .* must be given .*, it is double \(double\)\. Kinds are"):
            vf.integrate(other, 1)
        with pytest.raises(TypeError, match=r"is no function of kind 'scipy', .*: it is double \(double\)"):
            vf.CompiledIntegrand(other, kind="scipy")

    def test_numba_with_a_record_for_user(self, x):
        record = numba.from_dtype(np.dtype([("scale", np.float64)]))
        pointer = numba.types.CPointer(numba.types.float64)

        @numba.cfunc(numba.types.float64(numba.types.int32, pointer, numba.types.CPointer(record)))
        def f(n, x, user):
            return x[0] * numba.carray(user, 1)[0].scale

        scale = np.array([(3.0,)], dtype=[("scale", np.float64)])
        np.testing.assert_array_equal(vf.CompiledIntegrand(f, user=scale)(x), 3.0 * x[:, 0])

    def test_cffi(self, c, x):
        ffi = pytest.importorskip("cffi").FFI()
        ffi.cdef("""
            double scipy_kind(int n, double *x, void *user);
            int batch(const double *x, int64_t n, int32_t d, double *out, int32_t m, void *user);
        """)
        library = ffi.dlopen(str(c))
        assert vf.CompiledIntegrand(library.scipy_kind).kind == "scipy"
        assert vf.CompiledIntegrand(ffi.addressof(library, "batch")).kind == "batch"
        np.testing.assert_allclose(vf.CompiledIntegrand(library.batch)(x), value(x), rtol=1e-14)
        with pytest.raises((TypeError, ValueError), match=r"no pointer to a function|no code at the address"):
            vf.CompiledIntegrand(ffi.new("double *"), kind="batch")

    def test_f2py(self, folder, tmp_path, x, monkeypatch):
        """As f2py -c builds it, which itself needs meson."""
        include = Path(sysconfig.get_paths()["include"])
        if not (include / "Python.h").exists():
            pytest.skip("needs Python.h")
        source = tmp_path / "old.f"
        source.write_text(
            "      double precision function fxn(x, wgt)\n"
            "      double precision x(3), wgt\n"
            "      fxn = wgt*(x(1)**2 + 2*x(2)**2 + 3*x(3)**2)\n"
            "      end\n"
        )
        here = {"check": True, "cwd": tmp_path, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.run([sys.executable, "-m", "numpy.f2py", "-m", "old", source], **here)
        f2py = Path(np.__file__).parent / "f2py" / "src"
        flags = ["-O0", "-fPIC", "-w", f"-I{include}", f"-I{np.get_include()}", f"-I{f2py}"]
        fortran = [compiler("gfortran"), "-c", "-fPIC", "old.f", *map(str, tmp_path.glob("*wrappers.f"))]
        subprocess.run(fortran, **here)
        name = f"old{sysconfig.get_config_var('EXT_SUFFIX')}"
        objects = [*tmp_path.glob("*.o"), "oldmodule.c", f2py / "fortranobject.c"]
        subprocess.run([compiler("gcc"), *flags, "-shared", "-o", name, *objects, "-lgfortran"], **here)
        monkeypatch.syspath_prepend(tmp_path)
        import old

        f = vf.CompiledIntegrand(old.fxn, kind="vegas77", check=True)
        np.testing.assert_allclose(f(x), value(x), rtol=1e-14)
        with pytest.raises(TypeError, match=r"must be given .*, its declaration is not known"):
            vf.CompiledIntegrand(old.fxn)

    def test_capsules(self, c, x):
        make = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)(
            ("PyCapsule_New", ctypes.pythonapi)
        )
        name = b"double (int, double *, void *)"
        f = vf.CompiledIntegrand(make(address(c, "scipy_kind"), name, None))
        assert f.kind == "scipy"
        np.testing.assert_allclose(f(x), value(x), rtol=1e-14)


class TestUser:
    @pytest.mark.parametrize(
        "user",
        [
            np.array([2.5]),
            np.array([2.5]).tobytes(),
            bytearray(np.array([2.5]).tobytes()),
            ctypes.c_double(2.5),
            ctypes.pointer(ctypes.c_double(2.5)),
            (ctypes.c_double * 2)(2.5, 0.0),
        ],
        ids=lambda user: type(user).__name__,
    )
    @pytest.mark.parametrize("kind", ["batch", "scipy", "cuba"])
    def test_is_given_to_f(self, c, x, user, kind):
        f = vf.CompiledIntegrand(c, (VECTOR | SCALAR)[kind], kind=kind, user=user)
        np.testing.assert_allclose(f(x), 2.5 * value(x), rtol=1e-14)

    def test_an_address(self, c, x):
        scale = np.array([4.0])
        f = vf.CompiledIntegrand(c, "batch", kind="batch", user=scale.ctypes.data)
        np.testing.assert_allclose(f(x), 4.0 * value(x), rtol=1e-14)

    @pytest.mark.parametrize("user", ["text", 1.5, -1, True, object()])
    def test_refused(self, c, user):
        with pytest.raises(
            TypeError, match=r"^user must be an address, a pointer or data of ctypes, bytes or an array"
        ):
            vf.CompiledIntegrand(c, "batch", kind="batch", user=user)


class TestRefused:
    @pytest.mark.parametrize(
        ("kwargs", "error", "match"),
        [
            (
                {},
                TypeError,
                r"kind of 'batch' of .*c_kinds.so must be given .*: double precision function fxn",
            ),
            ({"kind": "bach"}, ValueError, "^kind must be one of 'batch', .* did you mean 'batch'"),
            (
                {"kind": "scipy", "n_components": 2},
                ValueError,
                "^n_components must be 1 for kind 'scipy', got 2",
            ),
            ({"kind": "batch", "n_components": 0}, ValueError, "^n_components must be at least 1, got 0"),
            ({"kind": "batch", "n_components": 1.0}, TypeError, "^n_components must be an integer"),
            ({"kind": "cuba", "nvec": -1}, ValueError, "^nvec must be at least 1"),
            ({"kind": "batch", "nvec": 2}, ValueError, "^nvec is for kind 'cuba', got nvec=2 for 'batch'"),
            ({"kind": "batch", "threadsafe": 1}, TypeError, "^threadsafe must be True or False"),
            ({"kind": "batch", "check": 1}, TypeError, "^check must be True or False"),
        ],
    )
    def test_arguments(self, c, kwargs, error, match):
        with pytest.raises(error, match=match):
            vf.CompiledIntegrand(c, "batch", **kwargs)

    def test_a_path_has_a_symbol_and_nothing_else_has_one(self, c):
        with pytest.raises(
            TypeError, match=r"^symbol must be a name where function is a path, and only there, got None"
        ):
            vf.CompiledIntegrand(c, kind="batch")
        with pytest.raises(TypeError, match="got 'batch'"):
            vf.CompiledIntegrand(address(c, "batch"), "batch", kind="batch")

    @pytest.mark.parametrize("f", [None, 1.5, True, np.sin, lambda x: x, [1]])
    def test_no_function(self, f):
        with pytest.raises(
            TypeError, match=r"^a compiled integrand must be a path and a symbol, an address, .* got"
        ):
            vf.CompiledIntegrand(f, kind="scipy")

    @pytest.mark.parametrize(
        ("found", "match"), [(0, "null pointer, 0"), (-1, "64 bits, got -1"), (2**64, "64 bits")]
    )
    def test_no_address(self, found, match):
        with pytest.raises(ValueError, match=match):
            vf.CompiledIntegrand(found, kind="scipy")

    @ON_LINUX
    def test_an_address_of_data(self, c):
        f = ctypes.CDLL(c).batch
        with pytest.raises(
            ValueError, match=r"no code at the address 0x.*ctypes\.cast\(function, ctypes\.c_void_p\)"
        ):
            vf.CompiledIntegrand(ctypes.addressof(f), kind="batch")

    def test_a_function_of_ctypes_of_unknown_declaration(self, c):
        f = ctypes.CDLL(c).scipy_kind
        for integrate in (vf.CompiledIntegrand, lambda f: vf.integrate(f, 3)):
            with pytest.raises(
                TypeError, match=r"must be given as in vf\.CompiledIntegrand.*its declaration is not known"
            ):
                integrate(f)
        assert vf.CompiledIntegrand(f, kind="scipy")(np.ones(3)) == 6.0

    def test_a_function_of_ctypes_without_its_result(self, c):
        f = ctypes.CDLL(c).scipy_kind
        f.argtypes = [ctypes.c_int, ctypes.POINTER(ctypes.c_double), ctypes.c_void_p]
        with pytest.raises(TypeError, match=r"it is int \(int, double \*, void \*\)"):
            vf.integrate(f, 3)

    @pytest.mark.parametrize("x", [1.0, np.ones((2, 2, 2)), np.ones((3, 0))])
    def test_points(self, c, x):
        with pytest.raises(ValueError, match=r"^x must be points"):
            vf.CompiledIntegrand(c, "batch", kind="batch")(x)


class TestLibraries:
    def test_missing(self, c):
        with pytest.raises(FileNotFoundError, match=r"did you mean '.*/libc_kinds\.so'") as caught:
            vf.CompiledIntegrand(c.with_name("libckinds.so"), "batch", kind="batch")
        assert caught.value.filename.endswith("libckinds.so")
        with pytest.raises(FileNotFoundError, match=r"No such file or directory: 'nowhere/libx\.so'$"):
            vf.CompiledIntegrand("nowhere/libx.so", "batch", kind="batch")

    @ON_LINUX
    @pytest.mark.parametrize(
        ("symbol", "hint"),
        [
            ("fxn", r"'fxn_'\? \(Fortran adds the underscore\)"),
            ("FXN", r"'fxn_'\? \(Fortran"),
            ("batch_", r"'batch'\?$"),
            ("in_module", r"'__integrands_MOD_in_module'\?"),
            ("stop_", r"'stops_'\?"),
        ],
    )
    def test_near_symbols(self, fortran, symbol, hint):
        with pytest.raises(ValueError, match=rf"there is no '{symbol}' in .*; did you mean {hint}"):
            vf.CompiledIntegrand(fortran, symbol, kind="batch")

    @ON_LINUX
    def test_names_of_c_plus_plus(self, folder, c):
        source = folder / "plus.c"
        source.write_text("int _Z5matrixPKdl(void); int _Z5matrixPKdl(void) { return 0; }")
        library = shared_library(source, folder / "libplus.so")
        with pytest.raises(ValueError, match=r'did you mean \'_Z5matrixPKdl\'\? \(C\+\+ .* extern "C"\)'):
            vf.CompiledIntegrand(library, "matrix", kind="batch")

    @ON_LINUX
    def test_data_is_no_function(self, c, fortran):
        with pytest.raises(ValueError, match=r"'data_not_code' in .* is no function but data"):
            vf.CompiledIntegrand(c, "data_not_code", kind="batch")
        with pytest.raises(ValueError, match=r"'params_' in .* is no function but data"):
            vf.CompiledIntegrand(fortran, "params_", kind="vegas77")

    @ON_LINUX
    @pytest.mark.parametrize(("machine", "name"), [(183, "AArch64"), (21, "PowerPC"), (9999, "machine 9999")])
    def test_another_architecture(self, c, tmp_path, machine, name):
        content = bytearray(c.read_bytes())
        content[18:20] = machine.to_bytes(2, sys.byteorder)
        (tmp_path / "lib.so").write_bytes(content)
        own = read_elf(sys.executable).machine
        with pytest.raises(
            OSError, match=f"lib.so cannot be loaded: it is for {name}, and this Python for {own}$"
        ):
            vf.CompiledIntegrand(tmp_path / "lib.so", "batch", kind="batch")

    @ON_LINUX
    def test_what_is_no_shared_library(self, c, tmp_path):
        (tmp_path / "f.c").write_text("int f(void); int g(void); int g(void) { return f(); }")
        subprocess.run([compiler("gcc"), "-c", "f.c", "-o", "object.so"], cwd=tmp_path, check=True)
        subprocess.run(["ar", "rc", "archive.so", "object.so"], cwd=tmp_path, check=True)
        subprocess.run(
            [compiler("gcc"), "-shared", "-fPIC", "f.c", "-o", "lacks.so"], cwd=tmp_path, check=True
        )
        (tmp_path / "text.so").write_text("int f(void);")
        (tmp_path / "cut.so").write_bytes(c.read_bytes()[:100])
        for name, words in {
            "object": "it is an object file; link it with -shared",
            "archive": "it is a static library; link one with -shared",
            "lacks": "undefined symbol: f",
            "text": "invalid ELF header|file too short",
            "cut": "file too short|cannot read file data",
        }.items():
            with pytest.raises(OSError, match=rf"{name}\.so cannot be loaded: ({words})"):
                vf.CompiledIntegrand(tmp_path / f"{name}.so", "g", kind="batch")

    @ON_LINUX
    @given(st.data())
    def test_damaged_files_are_read_or_not(self, tmp_path_factory, c, data):
        content = bytearray(c.read_bytes())
        for _ in range(data.draw(st.integers(1, 20))):
            content[data.draw(st.integers(4, len(content) - 1))] = data.draw(st.integers(0, 255))
        path = tmp_path_factory.getbasetemp() / f"damaged{os.getpid()}.so"
        path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
        read_elf(path)

    @ON_LINUX
    def test_symbols_are_those_of_nm(self, c, fortran):
        if shutil.which("nm") is None:
            pytest.skip("needs nm")
        for path in (c, fortran):
            lines = subprocess.run(["nm", "-D", path], capture_output=True, text=True, check=True).stdout
            functions = set(re.findall(r"^\w+ T (\w+)$", lines, re.MULTILINE))
            assert functions
            assert functions <= set(read_elf(path).functions)
            assert set(re.findall(r"^\w+ [BD] (\w+)$", lines, re.MULTILINE)) <= set(read_elf(path).data)


class TestErrors:
    @pytest.mark.parametrize(
        ("kind", "symbol", "status"), [("batch", "status_above_half", 7), ("cuba", "cuba_status", -999)]
    )
    def test_a_status_shows_the_points(self, c, x, kind, symbol, status):
        x = x[np.argsort(x[:, 0])]
        f = vf.CompiledIntegrand(c, symbol, kind=kind)
        with pytest.raises(
            vf.CompiledIntegrandError, match=rf"'{symbol}' of .* returned status {status} at x = \["
        ) as caught:
            f(x)
        assert caught.value.status == status
        first = x[np.argmax(x[:, 0] > 0.5)][None]
        np.testing.assert_array_equal(caught.value.x, x if kind == "batch" else first)
        again = pickle.loads(pickle.dumps(caught.value))
        np.testing.assert_array_equal(again.x, caught.value.x)

    @pytest.mark.parametrize("workers", [1, 2])
    def test_a_status_has_the_partial_result(self, c, workers):
        f = vf.CompiledIntegrand(c, "cuba_status", kind="cuba")
        with pytest.raises(vf.CompiledIntegrandError) as caught:
            integral(f, [(0, 0.6), (0, 1)], workers=workers)
        assert caught.value.x.shape == (1, 2)
        assert caught.value.x[0, 0] > 0.5

    def test_nan(self, c):
        f = vf.CompiledIntegrand(c, "nan_above_half", kind="scipy")
        with pytest.raises(vf.InvalidIntegrandError, match=r"^f is nan at x = \[0\.[5-9]"):
            integral(f, 3)
        result = integral(f, 3, on_invalid="zero")
        assert result.n_invalid > 0


class TestCheck:
    @pytest.mark.parametrize(
        ("kind", "symbol", "m"),
        [("batch", "batch", 3), ("scipy", "scipy_kind", 1), ("cuba", "cuba", 2), ("scipy", "overwrites", 1)],
    )
    def test_good_ones(self, c, x, kind, symbol, m):
        f = vf.CompiledIntegrand(c, symbol, kind=kind, n_components=m, check=True)
        np.testing.assert_allclose(f(x).reshape(50, m), components(x, m), rtol=1e-14)

    @pytest.mark.parametrize(
        ("kind", "symbol", "words"),
        [
            ("batch", "cuba", "did not survive a call in a child process, which was killed by SIGSEGV"),
            ("batch", "leaves_unset", "leaves some of the m = 1 values of a point unset"),
            ("batch", "changes_x", "changes x, which it must not"),
            ("batch", "writes_three", "writes more than m = 1 values for a point"),
            (
                "batch",
                "transposed",
                "has other values at two points at once than at each alone: x must be read as",
            ),
            ("scipy", "takes_five", "reads more than the d = 3 coordinates of a point"),
            ("scipy", "writes_beyond", "writes beyond the d = 3 coordinates of a point"),
        ],
    )
    def test_bad_ones(self, c, x, kind, symbol, words):
        f = vf.CompiledIntegrand(c, symbol, kind=kind, check=True)
        with pytest.raises(vf.CompiledIntegrandError, match=words) as caught:
            f(x)
        assert f"is it of kind '{kind}'" in str(caught.value)
        assert "of d = 3 dimensions?" in str(caught.value)
        np.testing.assert_array_equal(caught.value.x, x[:2])

    @pytest.mark.parametrize(
        ("symbol", "kind"),
        [
            (symbol, kind)
            for symbol, own in FUNCTIONS.items()
            for kind in KINDS
            if kind != own and (symbol, kind) != ("batch", "cuba")  # which does not come back
        ],
    )
    def test_no_function_of_another_kind_passes(self, c, fortran, x, symbol, kind):
        f = vf.CompiledIntegrand(fortran if symbol == "fxn_" else c, symbol, kind=kind, check=True)
        with pytest.raises(vf.CompiledIntegrandError, match=f"is it of kind '{kind}'"):
            f(x)

    def test_one_that_does_not_come_back_is_told(self, c, x, monkeypatch, caplog):
        monkeypatch.setattr("varflow.compiled.trial.PATIENCE", 0.05)
        f = vf.CompiledIntegrand(c, "takes_a_while", kind="scipy", check=True)
        np.testing.assert_allclose(f(x), value(x), rtol=1e-14)
        assert "f has not come back from a call in a child process yet: is it of kind 'scipy'" in caplog.text

    @pytest.mark.parametrize(
        ("symbol", "words"), [("exits", "ended with exit status 3"), ("crashes", "was killed by SIGSEGV")]
    )
    def test_how_it_died(self, c, symbol, words):
        f = vf.CompiledIntegrand(c, symbol, kind="scipy", check=True)
        with pytest.raises(vf.CompiledIntegrandError, match=words):
            f(np.ones((3, 2)))

    def test_is_made_once_for_each_number_of_dimensions(self, c, monkeypatch):
        f = vf.CompiledIntegrand(c, "scipy_kind", kind="scipy", check=True)
        asked = []
        monkeypatch.setattr(
            "varflow.compiled.integrand.complaint_of_trial", lambda *args: asked.append(args) or ""
        )
        for d in (2, 2, 3, 2):
            f(np.ones((4, d)))
        assert len(asked) == 2


class TestThreads:
    def test_the_same_values_on_any_number(self, c, x, monkeypatch):
        x = np.random.default_rng(4).random((3 * SLICE, 3))
        for kind, symbol in (VECTOR | SCALAR).items():
            f = vf.CompiledIntegrand(c, symbol, kind=kind, threadsafe=True)
            found = []
            for n in (1, 2, 3):
                monkeypatch.setattr("varflow.compiled.integrand.default_threads", lambda n=n: n)
                found.append(f(x))
                assert len(f(x[:1])) == 1
            np.testing.assert_array_equal(found[0], found[1])
            np.testing.assert_array_equal(found[0], found[2])

    def test_several_are_in_f_at_once(self, monkeypatch):
        monkeypatch.setattr("varflow.compiled.integrand.default_threads", lambda: 2)
        barrier = threading.Barrier(2, timeout=60)

        def meets(n, x, user):
            if x[0] == 0.0:
                barrier.wait()  # fails unless another thread is here too
            return 1.0

        x = np.ones((100, 1))
        x[[0, 99]] = 0.0
        vf.CompiledIntegrand(SIGNATURE(meets), threadsafe=True)(x)
        assert not barrier.broken

    def test_one_at_a_time_unless_it_is_safe(self, folder, x):
        own = shared_library(DATA / "integrands.c", folder / "libcounts.so", "-std=c11")
        x = np.random.default_rng(5).random((40_000, 3))
        f = vf.CompiledIntegrand(own, "counts", kind="scipy")
        again = vf.CompiledIntegrand(own, "counts", kind="scipy")
        with ThreadPoolExecutor(4) as executor:
            list(executor.map(lambda g: g(x), [f, again] * 4))
        assert ctypes.CDLL(own).number_of_calls() == 8 * 40_000

    def test_the_first_status_counts(self, c, monkeypatch):
        monkeypatch.setattr("varflow.compiled.integrand.default_threads", lambda: 4)
        f = vf.CompiledIntegrand(c, "cuba_status", kind="cuba", threadsafe=True)
        x = np.zeros((1000, 1))
        x[[300, 700, 999], 0] = 0.6, 0.7, 0.8
        for _ in range(5):
            with pytest.raises(vf.CompiledIntegrandError) as caught:
                f(x)
            assert caught.value.x.tolist() == [[0.6]]

    def test_the_gil_is_free(self, c):
        """A function of Python runs while one of C waits for it."""
        turn = threading.Event()

        def waits(n, x, user):
            assert turn.wait(60)
            return 1.0

        f = vf.CompiledIntegrand(SIGNATURE(waits))
        thread = threading.Thread(target=f, args=(np.ones((1, 1)),))
        thread.start()
        turn.set()
        thread.join(60)
        assert not thread.is_alive()


class TestSpeed:
    @pytest.mark.parametrize("kind", KINDS)
    def test_a_call_costs_less_than_30_ns_beyond_the_function(self, c, fortran, kind):
        """The fastest of many, in the time of this thread: other processes may be at work."""
        x = np.random.default_rng(6).random((8192, 3))
        library = ctypes.CDLL(c)
        own = partial(
            library.total, x.ctypes.data_as(ctypes.c_void_p), ctypes.c_int64(8192), 3, library.scipy_kind
        )
        f = vf.CompiledIntegrand(
            *{"vegas77": (fortran, "fxn_")}.get(kind, (c, (VECTOR | SCALAR).get(kind))), kind=kind
        )
        of_function, of_call = (min(seconds(work) for _ in range(50)) for work in (own, partial(f, x)))
        assert of_call - of_function < 30e-9 * len(x)

    @pytest.mark.parametrize("n_threads", [1, 2])
    def test_ctrl_c_does_not_wait_for_all_points(self, c, monkeypatch, n_threads):
        monkeypatch.setattr("varflow.compiled.integrand.default_threads", lambda: n_threads)
        f = vf.CompiledIntegrand(c, "slow", kind="scipy", threadsafe=True)
        timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
        begin = time.perf_counter()
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            f(np.ones((1_000_000, 1)))  # takes a minute or more
        assert time.perf_counter() - begin < 20


def seconds(work):
    begin = time.thread_time()
    work()
    return time.thread_time() - begin


def evaluated(f, x):
    return f(x)


class TestWorkers:
    @pytest.mark.parametrize("source", ["path", "address", "user"])
    def test_the_same_bits(self, c, source):
        f = {
            "path": lambda: vf.CompiledIntegrand(c, "cuba", kind="cuba", n_components=2),
            "address": lambda: vf.CompiledIntegrand(address(c, "scipy_kind"), kind="scipy"),
            "user": lambda: vf.CompiledIntegrand(c, "scipy_kind", kind="scipy", user=ctypes.c_double(2.0)),
        }[source]()
        one, two = (integral(f, 2, workers=n) for n in (1, 2))
        np.testing.assert_array_equal(one.mean, two.mean)

    def test_processes_that_are_started_anew(self, c, x):
        f = vf.CompiledIntegrand(c, "batch", kind="batch", n_components=2, user=np.array([3.0]), check=True)
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            np.testing.assert_array_equal(pool.submit(evaluated, f, x).result(), f(x))

    def test_an_address_is_good_in_no_other_process(self, c, tmp_path):
        f = vf.CompiledIntegrand(address(c, "batch"), kind="batch")
        assert pickle.loads(pickle.dumps(f)) is f
        (tmp_path / "f.pickle").write_bytes(pickle.dumps(f))
        code = "import pickle; pickle.load(open('f.pickle', 'rb'))"
        process = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert process.returncode == 1
        assert "is good in processes that are forked, and this one was not: give a path" in process.stderr

    @pytest.mark.parametrize(
        ("symbol", "kind", "how"),
        [
            ("exits", "scipy", "ended with exit status 3"),
            ("crashes", "scipy", "was killed by SIGSEGV"),
            ("stops_", "vegas77", "ended with exit status 4"),
        ],
    )
    def test_the_end_of_a_process_is_an_error(self, c, fortran, symbol, kind, how):
        f = vf.CompiledIntegrand(fortran if kind == "vegas77" else c, symbol, kind=kind)
        with pytest.raises(
            vf.WorkerDiedError, match=rf"a worker process {how} while it called f with x of shape \(\d+, 3\)"
        ) as caught:
            integral(f, 3, workers=2)
        assert (caught.value.x[:, 0] > 0.999).any()
        assert caught.value.x.shape[1] == 3
        assert caught.value.partial is None or caught.value.partial.n_calls > 0

    def test_the_partial_result(self, c):
        f = vf.CompiledIntegrand(c, "crashes", kind="scipy")
        with integrator_of(f, [(0, 0.99)] * 2, workers=2) as integrator:
            integrator.integrate()
            integrator.domain = integrator.integrand.domain = vf.Domain([(0, 1.5), (0, 1)])
            with pytest.raises(vf.WorkerDiedError, match="SIGSEGV") as caught:
                integrator.extend(20_000)
            assert caught.value.partial.n_calls > 4000


class TestCommand:
    def run(self, capsys, *words):
        status = main(["integrate", *map(str, words)])
        return status, capsys.readouterr()

    def test_a_library(self, c, capsys, monkeypatch):
        monkeypatch.chdir(c.parent)
        options = ["--dim", 1, "--calls", 100, "--seed", 1]
        status, printed = self.run(
            capsys, f"{c.name}:batch", "--kind", "batch", "--components", 2, "--threadsafe", *options
        )
        expected = vf.integrate(
            vf.CompiledIntegrand(c, "batch", kind="batch", n_components=2), 1, n_calls=100, seed=1
        )
        assert (status, printed.err) == (0, "")
        assert f"result = {expected}" in printed.out

    @pytest.mark.parametrize(
        ("function", "options", "words"),
        [
            ("libc_kinds.so:batch", "", "--kind must be given for a function in a library. Kinds are"),
            ("libc_kinds.so:batch", "--kind scipi", "did you mean 'scipy'?"),
            ("libc_kinds.so:bach", "--kind batch", "there is no 'bach' in "),
            ("./libckinds.so:batch", "--kind batch", "did you mean "),
            ("camel.py:f", "--kind batch", "--kind, --components and --threadsafe are for a function in"),
            ("libc_kinds.so:batch", "--kind batch --components 0", "n_components must be at least 1"),
            ("libc_kinds.so:cuba_status", "--kind cuba", "returned status -999 at x = ["),
            ("libc_kinds.so:nan_above_half", "--kind scipy", "f is nan at x = ["),
            ("libc_kinds.so:exits", "--kind scipy --workers 2", "ended with exit status 3 while it called f"),
        ],
    )  # fmt: skip
    def test_refused_in_a_line(self, c, capsys, monkeypatch, function, options, words):
        monkeypatch.chdir(c.parent)
        try:
            status, printed = self.run(
                capsys, function, "--dim", 2, "--calls", 40_000, "--seed", 1, *options.split()
            )
        except SystemExit as ended:  # by argparse
            status, printed = ended.code, capsys.readouterr()
        assert status == 2
        assert printed.err.startswith("varflow: ")
        assert words in printed.err
        assert all(line.startswith(("varflow: ", "after ")) for line in printed.err.splitlines())


class TestDeclarations:
    def test_each_kind_is_recognised(self):
        known = {
            "int (double *, int64_t, int32_t, double *, int, void *)": "batch",
            "int (const double *, long long, int, double*, int)": "batch",
            "double (int, double *, void *)": "scipy",
            "double(int, double*)": "scipy",
            "int (int *, double *, int *, double *, void *, int *)": "cuba",
            "int32_t (const int *, const double *, const int *, double *)": "cuba",
            "double (double *, double *)": "vegas77",
        }
        for signature, kind in known.items():
            assert check_kind(None, signature, "f") == kind
            for other in KINDS.keys() - {kind}:
                with pytest.raises(TypeError, match=f"f is no function of kind '{other}'"):
                    check_kind(other, signature, "f")
        assert set(known.values()) == set(KINDS)

    @pytest.mark.parametrize(
        "signature",
        [None, "", "words", "double (double)", "double (int, float *)", "double (void *, void *)",
         "double ()", "float (int, double *)", "double (int, double *, void *, void *)",
         "void (int, double *)"],
    )  # fmt: skip
    def test_nothing_is_guessed(self, signature):
        with pytest.raises(TypeError, match="the kind of f must be given"):
            check_kind(None, signature, "f")

    @pytest.mark.parametrize(
        ("kind", "signature"),
        [("scipy", "double (int, void *, void *)"), ("vegas77", "double (void *, void *)"), ("batch", None),
         ("cuba", "int (int *, cubareal *, int *, cubareal *)"), ("scipy", "words")],
    )  # fmt: skip
    def test_what_is_not_known_is_believed(self, kind, signature):
        assert check_kind(kind, signature, "f") == kind
