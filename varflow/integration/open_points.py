"""The points of a run that are out: found again by their coordinates or their numbers."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from varflow.data.arrays import FloatArray, as_floats
from varflow.integration.domain import Domain
from varflow.integration.engine import Engine

__all__ = ["OpenPoints"]

CLOSE = 1e-9  # relative difference of coordinates that printing and reading them may make
CLOSE_ON_CUBE = 1e-6  # difference on the unit cube, beyond which points are others all the same

IntArray = npt.NDArray[np.int64]


class OpenPoints:
    """Lookup of points that an engine has handed out and whose values it has not been told.

    Parameters
    ----------
    domain : Domain
        The box, in whose coordinates points are looked for.
    engine : Engine
        The engine.
    """

    def __init__(self, domain: Domain, engine: Engine) -> None:
        self._domain, self._engine = domain, engine
        self._forgotten: list[IntArray] = []
        self._told: list[npt.NDArray[np.uint64]] = []  # hashes, for messages

    def numbers(self, points: npt.ArrayLike) -> IntArray:
        """Find the numbers of points, which must all be open and differ from each other.

        Parameters
        ----------
        points : array_like, (n, d), or of int, (n,)
            The points, in the coordinates of the box, or their numbers.

        Raises
        ------
        TypeError, ValueError
            If they are not; the message names the first wrong row.
        """
        given = np.asarray(points)
        if given.ndim == 1 and given.dtype.kind in "iu":
            numbers = given.astype(np.int64)
            self._check_open(numbers)
        else:
            numbers = self._find(as_floats("points", points))
        order = np.argsort(numbers, kind="stable")
        is_double = np.diff(numbers[order]) == 0
        if is_double.any():
            first = int(np.argmax(is_double))
            raise ValueError(f"points[{order[first]}] and points[{order[first + 1]}] are the same point")
        return numbers

    def locate(self, numbers: IntArray) -> tuple[FloatArray, FloatArray]:
        """Give points x (n, d), and log |dx/du| there, (n,), by numbers that `numbers` has found."""
        found, u = self._engine.open_points()
        return self.in_box(u[np.searchsorted(found, numbers)])

    def in_box(self, u: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Map points u (n, d) of the unit cube, perhaps none, to the box; and log |dx/du|, (n,)."""
        return self._domain.from_cube(u) if len(u) else (u, np.empty(0))

    def note(self, numbers: IntArray, x: FloatArray | None) -> None:
        """Note that points were told, which are at x (n, d), or forgotten, where x is None."""
        if x is None:
            self._forgotten.append(numbers)
        else:
            self._told.append(_hashes(x))

    def arrays(self) -> dict[str, np.ndarray]:
        """Return what was noted, as arrays to be saved; see `restore`."""
        forgotten, told = [np.empty(0, np.int64), *self._forgotten], [np.empty(0, np.uint64), *self._told]
        return {"forgotten": np.concatenate(forgotten), "told": np.concatenate(told)}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Restore what `arrays` returned."""
        self._forgotten, self._told = [arrays["forgotten"]], [arrays["told"]]

    def _check_open(self, numbers: IntArray) -> None:
        is_open = np.isin(numbers, self._engine.open_points()[0])
        if is_open.all():
            return
        row = int(np.argmin(is_open))
        number = int(numbers[row])
        if not 0 <= number < self._engine.n_asked():
            why = "was never asked for"
        else:
            is_forgotten = any(number in part for part in self._forgotten)
            why = "was forgotten" if is_forgotten else "was told already"
        raise ValueError(f"points[{row}] is number {number}, which {why}; nothing was taken")

    def _find(self, x: FloatArray) -> IntArray:
        """Find open points by their coordinates."""
        if x.ndim != 2 or x.shape[1] != self._domain.d:
            raise ValueError(
                f"points must have shape (n, {self._domain.d}), or (n,) for their numbers, found {x.shape}"
            )
        numbers, u = self._engine.open_points()
        known, _ = self.in_box(u)
        rows = _same_rows(x, known)
        is_missing = rows < 0
        rows[is_missing] = self._close_rows(x[is_missing], known)
        if (rows < 0).any():
            row = int(np.argmax(rows < 0))
            found = _hashes(x[row : row + 1])[0]
            is_told = any(found in part for part in self._told)
            why = "was told already" if is_told else "was never asked for"
            raise ValueError(f"points[{row}] = {x[row].tolist()} {why}; nothing was taken")
        return numbers[rows]

    def _close_rows(self, x: FloatArray, known: FloatArray) -> IntArray:
        """Find rows of known points that differ by rounding alone; -1 where there is not exactly one."""
        rows = np.full(len(x), -1)
        bounds = self._domain.bounds
        inside = np.flatnonzero(((x >= bounds[:, 0]) & (x <= bounds[:, 1]) & np.isfinite(x)).all(axis=1))
        if len(inside) == 0 or len(known) == 0:
            return rows
        from scipy.spatial import cKDTree  # slow to import, and only rounded points need it

        on_cube, known_on_cube = (self._domain.to_cube(part)[0] for part in (x[inside], known))
        distance, nearest = cKDTree(known_on_cube).query(on_cube, k=2, distance_upper_bound=2 * CLOSE_ON_CUBE)
        is_found = (distance[:, 0] <= CLOSE_ON_CUBE) & (distance[:, 1] > CLOSE_ON_CUBE)
        row, candidate = inside[is_found], nearest[is_found, 0]
        is_close = (np.abs(x[row] - known[candidate]) <= CLOSE * np.abs(known[candidate])).all(axis=1)
        rows[row[is_close]] = candidate[is_close]
        return rows


def _same_rows(x: FloatArray, known: FloatArray) -> IntArray:
    """Find for each point the row of known points that is the same to the bit; -1 where there is none."""
    if len(known) == 0:
        return np.full(len(x), -1)
    hashes = _hashes(known)
    order = np.argsort(hashes)
    place = np.searchsorted(hashes[order], _hashes(x))
    candidate = order[np.minimum(place, len(known) - 1)]
    return np.where((known[candidate] == x).all(axis=1), candidate, -1)


def _hashes(x: FloatArray) -> npt.NDArray[np.uint64]:
    """Compute a number for each point (n, d) that hardly any other has."""
    bits = np.ascontiguousarray(x + 0.0).view(np.uint64)  # + 0.0 makes 0 of -0
    total = np.zeros(len(x), np.uint64)
    for column in bits.T:
        total = (total ^ column) * np.uint64(0x9E3779B97F4A7C15)  # odd, with its bits evenly spread
        total ^= total >> np.uint64(29)
    return total
