"""Where a flow is computed: on the processor, or on a GPU."""

import logging
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from varflow.errors import BackendError
from varflow.validation import unknown_name

__all__ = ["BACKENDS", "PRECISIONS", "choose_backend", "choose_precision", "is_on_device", "load_gpu"]

logger = logging.getLogger(__name__)

BACKENDS = ("cpu", "cuda", "auto")
PRECISIONS = {"mixed": "float32", "float32": "float32", "float64": "float64"}  # and the networks' dtype in it


@cache
def missing() -> str | None:
    """Say what a GPU would need that is not there; None if nothing is missing."""
    if find_spec("numba_cuda") is None:  # what numba itself has of it is too old
        return "the package numba-cuda is not installed: python -m pip install 'varflow[cuda]'"
    from numba import cuda

    try:
        if cuda.is_available():
            return None
    except Exception as error:
        return f"the CUDA driver does not answer: {' '.join(str(error).split())}"
    return "no GPU, or no CUDA driver, is found (nvidia-smi tells more)"


@cache
def _say_fallback() -> None:
    """Say it once a process."""
    logger.warning("backend 'auto' takes the CPU: %s", missing())


def choose_backend(name: str) -> str:
    """Find out which backend is meant.

    Parameters
    ----------
    name : {"cpu", "cuda", "auto"}
        "auto" is the GPU if there is one, and else, with a word to the log, the CPU.

    Returns
    -------
    {"cpu", "cuda"}
        The backend.

    Raises
    ------
    ValueError
        If the name is unknown.
    BackendError
        If a GPU is asked for and something is missing.
    """
    if name not in BACKENDS:
        raise unknown_name("backend", name, BACKENDS)
    if name == "auto" and missing() is not None:
        _say_fallback()
        return "cpu"
    if name == "cpu":
        return "cpu"
    load_gpu()  # raises if something is missing
    return "cuda"


def load_gpu() -> Any:
    """Import the module `runtime.device`, and numba.cuda with it, which takes long: only where a GPU is used.

    Returns
    -------
    module
        The module.

    Raises
    ------
    BackendError
        If something is missing.
    """
    if reason := missing():
        raise BackendError(f"backend 'cuda': {reason}")
    return import_module("varflow.runtime.device")


def choose_precision(precision: str | None, dtype: str, backend: str) -> str:
    """Find out which precision is meant.

    Parameters
    ----------
    precision : {"mixed", "float32", "float64"} or None
        Precision of networks and coordinates. None is "float64" if the networks have it, else "mixed".
    dtype : {"float32", "float64"}
        Precision of the networks.
    backend : {"cpu", "cuda"}
        The backend.

    Returns
    -------
    str
        The precision.

    Raises
    ------
    ValueError
        If the name is unknown, contradicts the dtype, or is not there in the backend.
    """
    if precision is None:
        return "mixed" if dtype == "float32" else "float64"
    if precision not in PRECISIONS:
        raise unknown_name("precision", precision, PRECISIONS)
    if PRECISIONS[precision] != dtype:
        raise ValueError(
            f"precision {precision!r} needs networks of dtype {PRECISIONS[precision]!r}, got {dtype!r}"
        )
    if precision == "float32" and backend == "cpu":
        raise ValueError("precision 'float32' is for backend 'cuda'; coordinates are float64 on the CPU")
    return precision


def is_on_device(array: object) -> bool:
    """Tell whether an array lives on a GPU: one of numba's, or of others that say so in the common way."""
    return hasattr(array, "__cuda_ndarray__") or hasattr(array, "__cuda_array_interface__")
