"""What was asked of an integrator, so that a script that is started again goes on from there.

A script calls methods one after another. When it is started again after an interruption, the calls that had
been completed are answered from the checkpoint, the one that was interrupted goes on, and later ones begin.
"""

from typing import Any

from varflow.integration.channel_engine import ChannelEngine
from varflow.integration.engine import Engine
from varflow.integration.iteration import Iteration
from varflow.integration.plan import Agenda, described

__all__ = ["Requests", "in_words"]

PROGRESS = ("n_drawn", "n_taken", "group")  # what a step has done, or found out, among what describes it


class Requests:
    """Agendas that an engine was given, in this order.

    Parameters
    ----------
    engine : Engine or ChannelEngine
        The engine.
    """

    def __init__(self, engine: Engine | ChannelEngine) -> None:
        self._engine = engine
        self._known: list[dict[str, Any]] = []  # agenda, and the length of the history once it was completed
        self._n_done = 0  # by this process, or answered to it
        self._n_resumed = 0  # of an earlier process

    @property
    def are_answered(self) -> bool:
        """Whether the next one may be one that an earlier process has made."""
        return self._n_done < self._n_resumed

    @property
    def history(self) -> list[Iteration]:
        """The iterations of all so far; those that an earlier process has added later do not count yet."""
        history = self._engine.state.history
        if not self.are_answered:
            return history
        return history[: self._known[self._n_done - 1]["n_history"]] if self._n_done else []

    @property
    def n_before(self) -> int:
        """Number of points whose values were known when the present one began."""
        n_before: int = self._known[self._n_done].get("n_before", 0)  # files had none until version 0.1.0
        return n_before

    def begin(self, agenda: Agenda) -> bool:
        """Make the next one: begin with its agenda, or go on where it was interrupted.

        Returns
        -------
        bool
            Whether anything is left to be done.

        Raises
        ------
        ValueError
            If an earlier process has asked for something else at this place.
        """
        wanted = described(agenda)
        known = self._known[self._n_done] if self._n_done < len(self._known) else None
        if known is None or in_words(known["agenda"]) != in_words(wanted):
            if self.are_answered and known is not None:
                raise ValueError(
                    f"the checkpoint is of another integration: its call {self._n_done + 1} was for "
                    f"{in_words(known['agenda'])}, here it is for {in_words(wanted)}"
                )
            self._engine.begin(agenda)
            self._known[self._n_done :] = [
                {"agenda": wanted, "n_history": None, "n_before": self._engine.n_told}
            ]
        elif known["n_history"] is not None:
            self._n_done += 1
            return False
        self._n_resumed = self._n_done
        return True

    def end(self) -> None:
        """Note that it is completed."""
        self._known[self._n_done]["n_history"] = len(self._engine.state.history)
        self._n_done += 1

    def state(self) -> list[dict[str, Any]]:
        """Return them in a form for JSON; see `restore`."""
        return self._known

    def restore(self, state: list[dict[str, Any]]) -> None:
        """Restore what `state` returned, for another process to make them again."""
        self._known, self._n_resumed = state, len(state)


def in_words(agenda: list[Any]) -> str:
    """Name the steps of an agenda, with their settings."""
    return ", ".join(
        f"{name}({', '.join(f'{key}={value}' for key, value in settings.items() if key not in PROGRESS)})"
        for name, settings in agenda
    )
