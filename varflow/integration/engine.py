"""The engine of an integration: a state machine that asks for values of the integrand, and is told them.

It goes through an agenda of steps. The first one draws pieces of points; they are handed out by
`Engine.ask`, in parts as small as the caller likes, and their values come back by `Engine.tell`, in any
order. Once all values of the oldest piece are known or given up, `Engine.advance` lets the step learn from
them; this is where flows are trained. Points are numbered in the order in which they are drawn. All is on the
unit cube.

Between two calls, everything is in the `State`, the agenda and the pieces, which `saved` puts into a file.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from varflow.integration.domain import Domain
from varflow.integration.iteration import Iteration
from varflow.integration.outcome import outcome
from varflow.integration.plan import Agenda, agenda_of, described
from varflow.integration.proposal import Draw
from varflow.integration.received import Received
from varflow.integration.result import Result, Source
from varflow.integration.sampling import proposed_points, weighted_points
from varflow.integration.state import DEFENSIVE_SHARE, State
from varflow.integration.unweighting import FORMS
from varflow.runtime.checkpoint import Saved

__all__ = ["Engine"]

DRAWN, ASKED, TOLD, FORGOTTEN = range(4)  # what can become of a point, in this order


class Piece:
    """Points that were drawn, and what is known of the integrand at them.

    Parameters
    ----------
    points : Draw
        The n points.
    first : int
        Number of the first.
    """

    def __init__(self, points: Draw, first: int) -> None:
        self.points, self.first = points, first
        self.status = np.full(len(points.u), DRAWN, np.int8)
        self.values: np.ndarray | None = None  # (n, m)

    @property
    def is_complete(self) -> bool:
        """Whether all values are known or given up."""
        return bool((self.status >= TOLD).all())

    def arrays(self, prefix: str) -> dict[str, np.ndarray]:
        """Return the points and what is known, as arrays to be saved; see `of`."""
        numbers = np.array([self.first, self.points.n_uniform, self.values is not None])
        arrays = {"numbers": numbers, "status": self.status.copy(), "u": self.points.u}
        arrays |= {"log_flow": self.points.log_flow, "log_q": self.points.log_q}
        if self.values is not None:
            arrays["values"] = self.values.copy()
        return {f"{prefix}_{name}": array for name, array in arrays.items()}

    @classmethod
    def of(cls, prefix: str, arrays: Mapping[str, np.ndarray]) -> "Piece":
        """Rebuild the piece from what `arrays` returned."""
        first, n_uniform, has_values = arrays[f"{prefix}_numbers"].tolist()
        u, log_flow, log_q = (arrays[f"{prefix}_{name}"] for name in ("u", "log_flow", "log_q"))
        piece = cls(Draw(u, log_flow, log_q, n_uniform), first)
        piece.status = arrays[f"{prefix}_status"].copy()
        piece.values = arrays[f"{prefix}_values"].copy() if has_values else None
        return piece


class Engine:
    """State machine of an integration; see the module's docstring. Threads may call it at the same time.

    Parameters
    ----------
    state : State
        What is known at the beginning.

    Attributes
    ----------
    agenda : list of Step
        What is to be done, in this order.
    pieces : list of Piece
        What the first step has drawn and not taken yet, in this order.
    n_drawn : int
        Number of points drawn so far.
    """

    def __init__(self, state: State) -> None:
        self.state = state
        self.agenda: Agenda = []
        self.pieces: list[Piece] = []
        self.n_drawn = 0
        self._lock = threading.Lock()  # of the pieces
        self._advancing = threading.RLock()  # of all else

    def begin(self, agenda: Agenda) -> None:
        """Begin with an agenda. What is left of another one is given up: its estimates so far stay."""
        with self._advancing, self._lock:
            if self.agenda and self.agenda[0].n_taken > 0:
                self.agenda[0].end(self.state)
            self.state.n_calls += self._n(TOLD)
            self.agenda, self.pieces = agenda, []

    def stop(self) -> None:
        """Conclude the estimate at hand from the values that are known, and give up all else.

        Points of which there is no estimate are an iteration without one, so that they are counted.
        """
        with self._advancing:
            stage, seconds = self.stage, self.agenda[0].seconds if self.agenda else 0.0
            with self._lock:
                for piece in self.pieces:
                    piece.status[piece.status < TOLD] = FORGOTTEN
            while self.agenda and self.agenda[0].is_estimate and self.pieces:
                with self._all_or_nothing():
                    self._act()
            if self.agenda and self.agenda[0].is_done:
                self.agenda = []
            self.begin([])
            self.state.batches = None
            n_rest = self.state.n_calls - sum(one.n_calls for one in self.state.history)
            if n_rest > 0:
                self.state.append_search(stage, n_rest, seconds)

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to be done."""
        return not self.agenda

    def show_training(self, show: Callable[[float], object]) -> None:
        """Call `show` with the share that is done, within steps of which training takes all of the time."""
        self.state.show_training = show

    def ask(self, n: int | None = None, ahead: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Hand out points.

        Parameters
        ----------
        n : int, optional
            So many, or fewer; if not given, all of the piece at hand.
        ahead : bool
            Whether to draw more where the pieces at hand have fewer, as far as the step goes and does not
            need values first: from the flow as it is, which they do not train any more.

        Returns
        -------
        numbers : ndarray of int, (n,)
            Their numbers; none where the values of others must be told first, or `advance` is to be called.
        u : ndarray, (n, d)
            The points, in the unit cube.
        """
        if self._advancing.acquire(blocking=False):
            try:
                self._draw(n, ahead)
            finally:
                self._advancing.release()
        with self._lock:
            numbers, u = [np.empty(0, np.int64)], [np.empty((0, self.state.flow.d))]
            n_left = np.inf if n is None else n
            for piece in self.pieces:
                rows = np.flatnonzero(piece.status == DRAWN)
                rows = rows[: int(min(n_left, len(rows)))]
                piece.status[rows] = ASKED
                n_left -= len(rows)
                numbers.append(piece.first + rows)
                u.append(piece.points.u[rows])
            return np.concatenate(numbers), np.concatenate(u)

    def _draw(self, n: int | None, ahead: bool) -> None:
        """Draw a piece where there is none; `ahead`, as many as n points need."""
        while self.agenda and (not self.pieces or (ahead and n is not None and self._n(DRAWN) < n)):
            points = self.agenda[0].draw(self.state)
            if points is None:
                return
            with self._lock:
                self.pieces.append(Piece(points, self.n_drawn))
                self.n_drawn += len(points.u)

    def _n(self, status: int) -> int:
        return sum(int(np.count_nonzero(piece.status == status)) for piece in self.pieces)

    @property
    def stage(self) -> str:
        """What the points at hand are for; "done" where there are no more."""
        return self.agenda[0].stage if self.agenda else "done"

    @property
    def n_told(self) -> int:
        """Number of points whose values are known."""
        return self.state.n_calls + self._n(TOLD)

    @property
    def n_open(self) -> int:
        """Number of points that were asked for and not told."""
        return self._n(ASKED)

    def open_points(self) -> tuple[np.ndarray, np.ndarray]:
        """Give numbers (n,) and points (n, d) that were asked for and not told."""
        numbers, u = [np.empty(0, np.int64)], [np.empty((0, self.state.flow.d))]
        with self._lock:
            for piece in self.pieces:
                rows = np.flatnonzero(piece.status == ASKED)
                numbers.append(piece.first + rows)
                u.append(piece.points.u[rows])
        return np.concatenate(numbers), np.concatenate(u)

    def n_asked(self) -> int:
        """Count the points that were ever handed out; their numbers are the first."""
        return self.n_drawn - self._n(DRAWN)

    def tell(self, numbers: np.ndarray, values: np.ndarray) -> None:
        """Take values (n, m) of the integrand on the unit cube, at points of these numbers, all open."""
        with self._lock:
            for piece in self.pieces:
                is_here = (numbers >= piece.first) & (numbers < piece.first + len(piece.status))
                rows = numbers[is_here] - piece.first
                if piece.values is None:
                    piece.values = np.zeros((len(piece.status), values.shape[1]))
                piece.values[rows] = values[is_here]
                piece.status[rows] = TOLD

    def forget(self, numbers: np.ndarray) -> None:
        """Give up points of these numbers, all open."""
        self._set(numbers, FORGOTTEN)

    def take_back(self, numbers: np.ndarray) -> None:
        """Hand out points of these numbers, all open, again."""
        self._set(numbers, DRAWN)

    def _set(self, numbers: np.ndarray, status: int) -> None:
        with self._lock:
            for piece in self.pieces:
                is_here = (numbers >= piece.first) & (numbers < piece.first + len(piece.status))
                piece.status[numbers[is_here] - piece.first] = status

    def advance(self) -> bool:
        """Learn from complete pieces, and decide what is next. Returns whether anything was done.

        Where an exception ends it, as Ctrl-C may, it is as if the unfinished part had not been begun.
        """
        has_acted = False
        with self._advancing:
            while self.is_ready:
                with self._all_or_nothing():
                    self._act()
                has_acted = True
        return has_acted

    @property
    def is_ready(self) -> bool:
        """Whether `advance` has anything to do."""
        with self._lock:
            return bool(self.agenda) and (
                self.pieces[0].is_complete if self.pieces else self.agenda[0].is_done
            )

    def _act(self) -> None:
        step = self.agenda[0]
        if not self.pieces:
            self.agenda[:1] = step.then(self.state)
            return
        piece = self.pieces[0]
        is_known = piece.status == TOLD
        of_none = -np.inf if self.state.is_log else 0.0  # where f is not known, its size tells no unit
        told = np.zeros((len(is_known), 1)) if piece.values is None else piece.values
        values = told if is_known.all() else np.where(is_known[:, None], told, of_none)
        self.state.n_calls += int(np.count_nonzero(is_known))
        step.take(self.state, piece.points, self.state.in_its_unit(values), is_known)
        with self._lock:
            self.pieces.pop(0)

    @contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        """Restore state and agenda where the block raises."""
        agenda, pieces = described(self.agenda), list(self.pieces)
        begin, work = self.agenda[0].begin, self.agenda[0].work
        header, arrays = self.state.saved()
        try:
            yield
        except BaseException:
            self.state.restore(header, arrays)
            self.agenda, self.pieces = agenda_of(agenda), pieces
            self.agenda[0].begin, self.agenda[0].work = begin, work
            raise

    def has_changed(self, evaluate: Callable[[np.ndarray], np.ndarray]) -> bool:
        """Tell whether the integrand has another value than before at a point that is known."""
        known = self.state.memory.arrays()
        if self.state.memory.n == 0:
            return False
        found = self.state.divided(evaluate(known["u"][:1])).log_f
        return not np.allclose(found, known["log_f"][:1], rtol=0, atol=1e-6)

    def weighted_points(
        self, n: int, evaluate: Callable[[np.ndarray], np.ndarray], generator: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draw points (n, d) of the unit cube with weights (n, m); see `sampling.weighted_points`."""
        propose = partial(
            proposed_points, flow=self.state.flow, uniform_share=DEFENSIVE_SHARE, generator=generator
        )
        return weighted_points(n, propose, evaluate, FORMS[self.state.is_log])

    def result(
        self, history: list[Iteration], domain: Domain, received: Received, source: Source | None
    ) -> Result:
        """Make the result of the iterations in a history; see `outcome`."""
        return outcome(self.state, history, domain, received, source)

    def saved(self) -> Saved:
        """Header and arrays, for a file."""
        with self._advancing, self._lock:
            header, arrays = self.state.saved()
            header |= {
                "agenda": described(self.agenda),
                "n_drawn": self.n_drawn,
                "n_pieces": len(self.pieces),
            }
            for k, piece in enumerate(self.pieces):
                arrays |= piece.arrays(f"piece{k}")
            return header, arrays

    def restore(self, header: Mapping[str, Any], arrays: dict[str, np.ndarray]) -> None:
        """Go on from what `saved` returned."""
        self.state.restore(header, arrays)
        self.agenda, self.n_drawn = agenda_of(header["agenda"]), header["n_drawn"]
        self.pieces = [Piece.of(f"piece{k}", arrays) for k in range(header["n_pieces"])]
