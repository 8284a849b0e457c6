"""The compiled integrand: a function of C, Fortran or another language as an integrand of varflow."""

import os
import threading
from functools import partial
from typing import Any
from uuid import uuid4
from weakref import WeakValueDictionary

import numpy as np
import numpy.typing as npt

from varflow.compiled.kinds import KINDS, NO_FAILURE, Failure
from varflow.compiled.library import find_function, resolved
from varflow.compiled.pointers import is_pointer, pointer_to, user_pointer
from varflow.compiled.signatures import check_kind
from varflow.compiled.trial import complaint_of_trial
from varflow.data.arrays import read_only
from varflow.errors import CompiledIntegrandError
from varflow.runtime.threads import default_threads, run, share
from varflow.validation import check_flag, positive_int

__all__ = ["CompiledIntegrand", "compiled_integrand"]

FloatArray = npt.NDArray[np.float64]

SLICE = 2048  # points between which Ctrl-C is noticed


class CompiledIntegrand:
    """Integrand in C, Fortran or another compiled language, called without Python in between.

    It goes wherever varflow takes a function of points: ``vf.integrate(vf.CompiledIntegrand(...), 4)``.

    There are four kinds, by how f is declared:

    - "batch": ``int f(const double *x, int64_t n, int32_t d, double *out, int32_t m, void *user)``. It is
      called with many points at once: x (n, d) and out (n, m) in C, x(d, n) and out(m, n) in Fortran; the
      arrays are varflow's own, and f must not change x. A status other than 0 is an error.
    - "scipy": ``double f(int n, double *x, void *user)``, that of `scipy.integrate.nquad`, n being d.
    - "cuba": ``int f(const int *ndim, const double x[], const int *ncomp, double f[], void *user)``, with the
      further arguments ``const int *nvec, const int *core`` if it wants them; core is 0. A status other than
      0 is an error.
    - "vegas77": ``double precision function fxn(x, wgt)``, Lepage's own, arguments by reference; wgt is 1.

    In all but "batch", f is given a copy of each point, which it may overwrite.

    A wrong kind, or another number of dimensions than f reads, cannot be seen from an address: f then reads
    and writes where it must not, which ends the process or gives wrong numbers. What is known of the
    declaration is compared with the kind, and `check=True` makes the first call elsewhere.

    Parameters
    ----------
    function : path, int or object
        Path of a shared library, with the name of the function as `symbol`; or the address of the function;
        or a function of ctypes, a pointer of cffi, a function by ``numba.cfunc``, a
        ``scipy.LowLevelCallable``, an object of f2py, or a capsule. It is kept, so that nothing is unloaded.
    symbol : str, optional
        Name of the function in the library. gfortran calls FXN ``fxn_``.
    kind : {"batch", "scipy", "cuba", "vegas77"}, optional
        May be left out where the object knows the declaration of the function, as all but paths, addresses
        and f2py's can.
    n_components : int
        Number of components, m. f returns values (n,) where it is 1, else (n, m). It is 1 for "scipy" and
        "vegas77".
    nvec : int
        How many points a function of kind "cuba" is given at once, at most.
    user : optional
        What f is given as `user`: bytes, an array, data or a pointer of ctypes, or an address; kept. If not
        given, that of a LowLevelCallable, or the null pointer.
    threadsafe : bool
        Whether f may be called by several threads at once. It is then, by all threads that varflow may use
        (`OMP_NUM_THREADS`). If not, as with COMMON blocks and SAVE, varflow calls one such function at a
        time. The values are the same, if f treats each point separately.
    check : bool
        Whether to call f in a child process first, at one point and at two, for each number of dimensions. It
        tells how f died there, or whether f reads or writes beyond its arguments or sets no values.

    Raises
    ------
    OSError
        If the library is not there or cannot be loaded; the message says why.
    TypeError
        If `function` is something else, or `kind` is missing, or the declaration is not of that kind.
    ValueError
        If the library has no such function, there is no code at the address, or an argument is out of range.

    Notes
    -----
    With ``workers=n`` of `integrate`, each process has the library, and common blocks of its own. A STOP,
    exit or invalid address in f then ends one of these processes, which is an error that has the points and
    the estimate so far; in a single process, it ends the program. A function that is not given by a path, or
    has anything but bytes or an array for `user`, can be sent to processes that are forked, and to no others.

    Examples
    --------
    Here a function by ``numba.cfunc`` stands for one of C or Fortran, of which the library and the name would
    be given:

    >>> import numba
    >>> @numba.cfunc("float64(int32, CPointer(float64), CPointer(void))")
    ... def product(n, x, user):
    ...     return x[0] * x[1]
    >>> f = vf.CompiledIntegrand(product)
    >>> f.kind, f([[0.5, 0.5], [1.0, 0.5]])
    ('scipy', array([0.25, 0.5 ]))
    >>> print(vf.integrate(f, 2, n_calls=200, seed=1))
    0.2511(43)
    """

    def __init__(
        self,
        function: Any,
        symbol: str | None = None,
        *,
        kind: str | None = None,
        n_components: int = 1,
        nvec: int = 1,
        user: Any = None,
        threadsafe: bool = False,
        check: bool = False,
    ) -> None:
        check_flag("threadsafe", threadsafe)
        check_flag("check", check)
        self.n_components, self.nvec = positive_int("n_components", n_components), positive_int("nvec", nvec)
        self.user, self.threadsafe, self.check = user, threadsafe, check
        is_path = isinstance(function, str | os.PathLike)
        if is_path != isinstance(symbol, str):
            raise TypeError(f"symbol must be a name where function is a path, and only there, got {symbol!r}")
        self.symbol = symbol
        self.function = resolved(function) if is_path else function
        pointer = pointer_to(find_function(self.function, str(symbol)) if is_path else function)
        self.kind = check_kind(kind, pointer.signature, self._name)
        self._kind = KINDS[self.kind]
        if self._kind.n_components not in (None, self.n_components):
            raise ValueError(f"n_components must be 1 for kind {self.kind!r}, got {n_components}")
        if self.nvec > 1 and self.kind != "cuba":
            raise ValueError(f"nvec is for kind 'cuba', got nvec={nvec} for {self.kind!r}")
        self._address = pointer.address
        self._user = pointer.user if user is None else user_pointer(user)
        self._checked: set[int] = set()  # numbers of dimensions
        self._key = uuid4().hex
        _alive[self._key] = self

    def __call__(self, x: npt.ArrayLike) -> Any:
        """Evaluate f.

        Parameters
        ----------
        x : array_like, (n, d) or (d,)
            Points, or a single one.

        Returns
        -------
        ndarray, (n,) or (n, m)
            The values; without the first axis at a single point. NaN where f has set none.

        Raises
        ------
        CompiledIntegrandError
            If f returns a status other than 0, or the check complains. It has the points of the call.
        """
        given = np.asarray(x, np.float64, order="C")
        if given.ndim not in (1, 2) or given.shape[-1] == 0:
            raise ValueError(f"x must be points (n, d) or a point (d,), got shape {given.shape}")
        points = read_only(given.reshape(-1, given.shape[-1]))
        values = np.empty((len(points), self.n_components))
        values.fill(np.nan)
        if self.threadsafe:
            self._check(points)
            self._set(points, values, min(default_threads(), max(len(points), 1)))
        else:
            with _one_at_a_time:
                self._check(points)
                self._set(points, values, 1)
        found = values[:, 0] if self.n_components == 1 else values
        return found if given.ndim == 2 else found[0]

    def __repr__(self) -> str:
        return f"CompiledIntegrand({self._name}, kind={self.kind!r}, n_components={self.n_components})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (self._key, self._arguments())

    @property
    def _name(self) -> str:
        return repr(self.function) if self.symbol is None else f"{self.symbol!r} of {self.function}"

    def _arguments(self) -> dict[str, Any] | None:
        """Return what another process can make the same from; None where it can not."""
        is_elsewhere = self.symbol is not None and isinstance(
            self.user, bytes | bytearray | np.ndarray | None
        )
        names = "function", "symbol", "kind", "n_components", "nvec", "user", "threadsafe", "check"
        return {name: getattr(self, name) for name in names} if is_elsewhere else None

    def _set(self, x: FloatArray, values: FloatArray, n_threads: int) -> None:
        """Set the values (n, m) at points x (n, d)."""
        failures = [NO_FAILURE] * n_threads
        is_ending = False

        def task(k: int) -> None:
            nonlocal is_ending
            begin, end = share(k, n_threads, len(x))
            size = max(end - begin, 1) if self._kind.is_at_once else max(SLICE, self.nvec)
            space = np.empty((self.nvec, x.shape[1]))
            try:
                for row in range(begin, end, size):
                    rows = slice(row, min(row + size, end))
                    first, count, status = self._evaluate(x[rows], values[rows], space)
                    if status:
                        failures[k] = row + first, count, status
                    if status or is_ending:
                        break
            except BaseException:
                is_ending = True  # Ctrl-C, which the other threads do not get
                raise

        run(task, n_threads)
        for first, count, status in failures:
            if status:
                raise self._error(f"returned status {status}", x[first : first + count], status)

    def _evaluate(self, x: FloatArray, values: FloatArray, space: FloatArray) -> Failure:
        return self._kind.evaluate(self._address, self._user, x, values, space)

    def _check(self, x: FloatArray) -> None:
        """Call f in a child process, where that is wanted and has not been done."""
        d = x.shape[1]
        if not self.check or d in self._checked or not len(x):
            return
        nothing = np.empty((0, self.n_components))
        self._evaluate(x[:0], nothing, np.empty((1, d)))  # compiles, for the child too
        try_out = partial(self._kind.try_out, self._address, self._user)
        hint = f"is it of kind {self.kind!r}, {self._kind.prototype}, and of d = {d} dimensions?"
        complaint = complaint_of_trial(try_out, x, self.n_components, self.nvec, hint)
        if complaint:
            raise self._error(f"{complaint}; {hint} It was called", x[:2])
        self._checked.add(d)

    def _error(self, words: str, x: FloatArray, status: int | None = None) -> CompiledIntegrandError:
        where = f"at x = {x[0].tolist()}" + (f" and {len(x) - 1} more points" if len(x) > 1 else "")
        error = CompiledIntegrandError(f"{self._name} {words} {where}")
        error.x, error.status = x.copy(), status
        return error


def compiled_integrand(f: Any) -> CompiledIntegrand | None:
    """Make an integrand of an object that stands for a compiled function; None where it does not.

    Raises
    ------
    TypeError
        If its declaration does not tell its kind.
    """
    if isinstance(f, CompiledIntegrand):
        return f
    return CompiledIntegrand(f) if is_pointer(f) else None


# The integrands of this process, and of those that it was forked from: addresses are good nowhere else.
_alive: "WeakValueDictionary[str, CompiledIntegrand]" = WeakValueDictionary()
# COMMON blocks may be shared by several functions, and libraries by several libraries.
_one_at_a_time = threading.RLock()


def _restored(key: str, arguments: dict[str, Any] | None) -> CompiledIntegrand:
    """Find an integrand that was pickled, or make it again."""
    found = _alive.get(key)
    if found is not None:
        return found
    if arguments is None:
        raise TypeError(
            "a compiled integrand by an address, or with one for user, is good in processes that are forked, "
            "and this one was not: give a path and a symbol"
        )
    return CompiledIntegrand(**arguments)


def _renew() -> None:
    """Replace the lock in a forked child, where no thread would release it."""
    global _one_at_a_time
    _one_at_a_time = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
