"""Integrands that are evaluated on a GPU."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from varflow.runtime.backend import is_on_device, load_gpu

__all__ = ["device_integrand", "is_device_function"]


class _DeviceIntegrand:
    """Function of points on the host that copies them to the GPU and evaluates f there; can be pickled."""

    def __init__(self, f: Callable[..., Any]) -> None:
        self.f = f
        self._kernel: Any = None

    def __call__(self, x: np.ndarray) -> Any:
        gpu = load_gpu()
        points = gpu.to_device(x)
        if not is_device_function(self.f):
            return _to_host(self.f(points))
        if self._kernel is None:
            self._kernel = gpu.point_kernel(self.f)
        return gpu.value_at_each(self._kernel, points)

    def __getstate__(self) -> dict[str, Any]:
        return {"f": self.f, "_kernel": None}


def device_integrand(f: Callable[..., Any]) -> Callable[[np.ndarray], Any]:
    """Make an integrand from a function that runs on the GPU.

    Parameters
    ----------
    f : callable
        Takes points, a device array (n, d) of float64 (numba's; CuPy's ``asarray`` accepts it without a
        copy), and returns a device array (n,) or (n, m), or a dict of these. Or a function compiled by
        ``numba.cuda.jit(device=True)`` that takes a point (d,) and returns a number; `integrate` recognises
        such functions without this wrapper.

    Returns
    -------
    callable
        The integrand, to be passed to `integrate` or `Integrator` as f.

    Raises
    ------
    BackendError
        If there is no GPU, or something that it requires is missing.
    TypeError
        If f is not callable.

    Examples
    --------
    >>> from numba import cuda
    >>> @cuda.jit(device=True)
    ... def f(x):
    ...     return x[0] * x[1]
    >>> vf.device_integrand(f)(np.array([[0.5, 0.5]]))
    array([0.25])
    """
    if not (callable(f) or is_device_function(f)):
        raise TypeError(f"f must be callable, got {f!r}")
    load_gpu()
    return _DeviceIntegrand(f)


def is_device_function(f: object) -> bool:
    """Return whether f was made by ``numba.cuda.jit(device=True)``, without importing numba.cuda."""
    options = getattr(f, "targetoptions", None)
    is_simulated = getattr(f, "_device", False) is True
    return is_simulated or (isinstance(options, dict) and bool(options.get("device")))


def _to_host(values: Any) -> Any:
    """Copy what f returned to the host."""
    if isinstance(values, Mapping):
        return {key: _to_host(part) for key, part in values.items()}
    return load_gpu().to_host(values) if is_on_device(values) else values
