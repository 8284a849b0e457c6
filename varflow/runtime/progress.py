"""The progress bar of an integration."""

import sys
from types import TracebackType
from typing import Any

__all__ = ["Progress"]


class Progress:
    """Progress bar on stderr, with the number of integrand calls and the running estimate; or none.

    Parameters
    ----------
    n_calls : int
        Total number of integrand calls.
    is_shown : bool or None
        Whether to show the bar. None shows it if stderr is a terminal.
    """

    def __init__(self, n_calls: int, is_shown: bool | None) -> None:
        self.n_calls = n_calls
        self.is_shown = sys.stderr.isatty() if is_shown is None else is_shown
        self._bar: Any = None

    def __enter__(self) -> "Progress":
        if self.is_shown:
            from tqdm import tqdm  # only needed if the bar is shown

            self._bar = tqdm(total=self.n_calls, unit="call", unit_scale=True, leave=False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def update(self, n_calls: int, stage: str, estimate: str) -> None:
        """Show the number of calls so far, the current stage and the estimate."""
        if self._bar is not None:
            self._bar.set_description(stage, refresh=False)
            self._bar.set_postfix_str(estimate, refresh=False)
            self._bar.update(min(n_calls, self.n_calls) - self._bar.n)
