"""Selection of the backend and the precision: whether a flow is evaluated on the CPU or on a GPU."""

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
PRECISIONS = {"mixed": "float32", "float32": "float32", "float64": "float64"}  # dtype of the networks


@cache
def missing() -> str | None:
    """Describe what is missing for the use of a GPU; None if nothing is."""
    if find_spec("numba_cuda") is None:  # the CUDA target built into Numba is too old
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
    """Log the fallback to the CPU, once per process."""
    logger.warning("backend 'auto' takes the CPU: %s", missing())


def choose_backend(name: str) -> str:
    """Resolve the name of a backend.

    Parameters
    ----------
    name : {"cpu", "cuda", "auto"}
        "auto" selects the GPU if there is one, and otherwise the CPU, with a warning in the log.

    Returns
    -------
    {"cpu", "cuda"}
        The backend.

    Raises
    ------
    ValueError
        If the name is unknown.
    BackendError
        If "cuda" is requested and something that it needs is missing.
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
    """Import `varflow.runtime.device`.

    It imports numba.cuda, which is slow, and is therefore loaded only where a GPU is used.

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
    """Resolve the name of a precision.

    Parameters
    ----------
    precision : {"mixed", "float32", "float64"} or None
        Precision of networks and coordinates. None means "float64" if that is the dtype of the networks, and
        "mixed" otherwise.
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
        If the name is unknown, contradicts the dtype, or is not supported by the backend.
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
    """Test whether an array is on a GPU: a Numba device array, or another with the CUDA array interface."""
    return hasattr(array, "__cuda_ndarray__") or hasattr(array, "__cuda_array_interface__")
