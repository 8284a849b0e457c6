"""How far long work has come: a bar on a terminal, rare lines in a log, or nothing.

`Progress` shows nothing; `Bar` and `Lines` do, and are told the same. Each is made where work begins and its
length is known, so that what is handed down to that place is the class.
"""

import os
import sys
import time
from functools import lru_cache
from threading import RLock
from types import TracebackType
from typing import Any, TextIO

__all__ = ["Bar", "Lines", "Progress", "is_terminal", "way_of_showing"]

MIN_SECONDS = 0.1  # between two pictures of a bar
LINE_SECONDS = 30.0  # between two lines in a log, at least
MARGIN = 3  # columns that a bar leaves free: terminals write ^C there
NARROW = 60  # columns below which words and figures take the place of the bar
MANY = 10_000  # from which on counts are rounded, as 12.3k
LONG = "{desc} {percentage:3.0f}%|{bar}| COUNTS {unit}s, {remaining} left{postfix}"
SHORT = "{desc} {percentage:.0f}%, {remaining} left{postfix}"


class Progress:
    """How far long work has come, which is shown nowhere. A context manager, for as long as the work takes.

    Parameters
    ----------
    total : int
        How much there is to be done.
    unit : str
        What is counted, in the singular.
    doing : str
        What is being done, at first.
    """

    def __init__(self, total: int, unit: str, doing: str) -> None:
        self.total, self.unit, self.doing = total, unit, doing

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def update(self, n: float, doing: str = "", figure: str = "") -> None:
        """Tell how much is done of the total, what is being done, and a figure worth knowing."""


class Bar(Progress):
    """Bar on stderr, with the time left; it leaves nothing behind.

    Lines that the process prints meanwhile go above it, where they would go to the same terminal.
    """

    def __enter__(self) -> "Bar":
        self._file, self._due = sys.stderr, 0.0
        self._bar: Any = None
        self._above: list[_Above] = []
        try:
            self._bar = _bar()(
                total=self.total,
                desc=self.doing,
                unit=self.unit,
                file=self._file,
                leave=False,
                mininterval=0,
                miniters=0,
            )
            self._above = [_Above(name, self._bar) for name in ("stdout", "stderr")]
        except BaseException:  # Ctrl-C
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()
        if self._file.isatty():  # which has written ^C after the bar where that was pressed
            self._file.write(_empty_line(self._file))
            self._file.flush()
        for above in self._above:
            above.end()

    def update(self, n: float, doing: str = "", figure: str = "") -> None:  # noqa: D102
        now, doing = time.monotonic(), doing or self.doing
        if now < self._due and doing == self._bar.desc:
            return
        self._due = now + MIN_SECONDS
        self._bar.desc, self._bar.postfix = doing, figure
        self._bar.update(min(n, self.total) - self._bar.n)


class Lines(Progress):
    """Lines on stderr, one for each tenth of the work at most, and none for work that takes seconds."""

    def __enter__(self) -> "Lines":
        self._begin = self._last = time.monotonic()
        self._first: float | None = None  # what an earlier process has done
        self._told = 0.0  # at the last line
        return self

    def update(self, n: float, doing: str = "", figure: str = "") -> None:  # noqa: D102
        now = time.monotonic()
        self._first = n if self._first is None else self._first
        is_due = now - self._last >= LINE_SECONDS and n < self.total
        if is_due and 10 * n // self.total > 10 * self._told // self.total:
            left = (now - self._begin) * (self.total - n) / max(n - self._first, 1e-9)
            parts = [f"{doing or self.doing}: {n:,.0f} of {self.total:,} {self.unit}s", f"{left:,.0f} s left"]
            print("varflow:", ", ".join([*parts, *filter(None, [figure])]), file=sys.stderr, flush=True)
            self._last, self._told = now, n


def is_terminal() -> bool:
    """Tell whether stderr is a terminal that can write a line anew."""
    return sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def way_of_showing(progress: bool | type[Progress] | None) -> type[Progress]:
    """Give the way that users name: a bar or not, or, if None, a bar where stderr is a terminal.

    Raises
    ------
    TypeError
        If it is something else.
    """
    if isinstance(progress, type) and issubclass(progress, Progress):
        return progress
    if progress is not None and not isinstance(progress, bool):
        raise TypeError(f"progress must be True, False or None, got {progress!r}")
    is_wanted = is_terminal() if progress is None else progress
    return Bar if is_wanted and sys.stderr is not None else Progress


@lru_cache(maxsize=1)
def _bar() -> Any:
    """Make the class of bars, once a bar is wanted."""
    from tqdm import tqdm

    class FittingBar(tqdm):
        """Bar that follows the width of the terminal, and has neither thread nor process-wide lock."""

        monitor_interval = 0

        @property
        def format_dict(self) -> dict[str, Any]:
            columns = _columns(self.fp)
            counts = "/".join(
                self.format_sizeof(n) if n >= MANY else str(int(n)) for n in (self.n, self.total)
            )
            bar_format = SHORT if columns < NARROW else LONG.replace("COUNTS", counts)
            return {**super().format_dict, "ncols": max(columns - MARGIN, 1), "bar_format": bar_format}

    FittingBar.set_lock(RLock())  # tqdm's own is one of all processes, which takes a semaphore
    return FittingBar


def _columns(file: Any) -> int:
    """Find the width of a terminal: what COLUMNS says, or else the terminal itself, or 80."""
    given = os.environ.get("COLUMNS", "")
    if given.isdigit() and int(given) > 0:
        return int(given)
    try:
        return os.get_terminal_size(file.fileno()).columns or 80
    except (OSError, ValueError, AttributeError):
        return 80


def _empty_line(file: Any) -> str:
    """What empties the line that the cursor is in."""
    return "\r" + " " * (_columns(file) - 1) + "\r"


class _Above:
    """Takes the place of sys.stdout or sys.stderr while a bar is on the terminal that it goes to.

    Complete lines go above the bar; what is begun waits for its end, or that of the bar.

    Parameters
    ----------
    name : str
        "stdout" or "stderr".
    bar : tqdm
        The bar.
    """

    def __init__(self, name: str, bar: Any) -> None:
        self._name, self._bar, self._process = name, bar, os.getpid()
        self._begun, self._begun_here = "", ""  # the latter in a worker
        self._stream: TextIO = getattr(sys, name)
        if self._stream is not None and self._stream.isatty():
            setattr(sys, name, self)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write as a file does."""
        if os.getpid() != self._process:
            return self._write_from_worker(text)
        with self._bar.get_lock():
            lines, end, self._begun = (self._begun + text).rpartition("\n")
            if end:
                self._bar.clear()
                self._stream.write(lines + end)
                self._stream.flush()
                self._bar.refresh()
        return len(text)

    def _write_from_worker(self, text: str) -> int:
        """Write in a process that was forked: the bar is the other's, which draws it anew by and by."""
        lines, end, self._begun_here = (self._begun_here + text).rpartition("\n")
        if end:
            self._stream.write(_empty_line(self._stream) + lines + end)
            self._stream.flush()
        return len(text)

    def end(self) -> None:
        """Give the place back."""
        if getattr(sys, self._name) is self:
            setattr(sys, self._name, self._stream)
        if self._begun:
            self._stream.write(self._begun)
