"""What varflow/kernels uses of numba beyond what numba promises: these tests say first when that has changed.

numba is pinned below the next minor version for their sake. Where one fails with a new version, mend the file
that it names before the pin is raised.
"""

import inspect
import re
from pathlib import Path

import llvmlite.binding
import numba
import pytest
from numba.core import caching, codegen, compiler, event

from varflow.kernels import cpu

COMPILE = "varflow/kernels/compile.py"


def test_the_version_is_one_that_was_tested():
    project = (Path(__file__).parent.parent / "pyproject.toml").read_text()
    (minor,) = re.findall(r'"numba>=[\d.]+,<0\.(\d+)"', project)
    found = tuple(map(int, numba.__version__.split(".")[:2]))
    assert found < (0, int(minor)), "raise the pin in pyproject.toml only when the tests below pass"


@pytest.mark.parametrize(
    ("owner", "name", "parameters"),
    [
        (caching.FunctionCache, "_index_key", ["self", "sig", "codegen"]),
        (caching.IndexDataCacheFile, "__init__", ["self", "cache_path", "filename_base", "source_stamp"]),
        (caching.IndexDataCacheFile, "load", ["self", "key"]),
        (caching.IndexDataCacheFile, "save", ["self", "key", "data"]),
        (caching.IndexDataCacheFile, "flush", ["self"]),
        (codegen.JITCodeLibrary, "_finalize_final_module", ["self"]),
        (codegen.JITCodeLibrary, "_finalize_dynamic_globals", ["self"]),
        (codegen.JITCodeLibrary, "_verify_declare_only_symbols", ["self"]),
        (codegen.JITCodeLibrary, "get_pointer_to_function", ["self", "name"]),
        (codegen.JITCPUCodegen, "set_env", ["self", "env_name", "env"]),
        (
            compiler.CompilerBase,
            "__init__",
            ["self", "typingctx", "targetctx", "library", "args", "return_type", "flags", "locals"],
        ),
        (event.Listener, "on_start", ["self", "event"]),
        (event, "register", ["kind", "listener"]),
    ],
)
def test_methods_have_the_parameters_that_are_counted_on(owner, name, parameters):
    assert list(inspect.signature(getattr(owner, name)).parameters) == parameters, f"see {COMPILE}"


def test_what_kernels_are_compiled_with_is_there():
    assert isinstance(codegen.CPUCodeLibrary.codegen, property), f"see {COMPILE}"
    for option in ("nrt", "no_cpython_wrapper", "no_cfunc_wrapper"):
        assert option in compiler.Flags.options, f"see {COMPILE}"
    assert hasattr(cpu.gradient, "_cache"), f"kernels are kept by this attribute: see {COMPILE}"
    assert isinstance(cpu.gradient._cache._impl.filename_base, str), f"see {COMPILE}"
    assert llvmlite.binding.get_host_cpu_features(), "see varflow/kernels/product.py"
