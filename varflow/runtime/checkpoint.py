"""Checkpoints: files that a run writes every so often, and goes on from when it is started again."""

import json
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from varflow.errors import Preempted
from varflow.runtime.archive import FilePath, Kind, check_writable, read_archive, write_archive
from varflow.runtime.communicator import ALONE, Communicator
from varflow.runtime.signals import is_stop_requested, stoppable_run
from varflow.validation import check_finite_from_0, check_flag, check_path

__all__ = ["SECONDS", "Checkpoint", "CheckpointSettings", "Saved"]

logger = logging.getLogger(__name__)

SECONDS = 60.0  # between two checkpoints, if nothing else is asked for

Saved = tuple[dict[str, Any], dict[str, np.ndarray]]  # header and arrays


@dataclass(frozen=True)
class CheckpointSettings:
    """Where a run keeps its state, and how often.

    Parameters
    ----------
    checkpoint : path or None
        File that the state is written to; nothing is kept if None.
    resume : bool
        Whether to go on from that file where it exists.
    checkpoint_seconds : float
        Time between two checkpoints.

    Raises
    ------
    TypeError, ValueError
        If one of them is out of range; the message names it.
    """

    checkpoint: FilePath | None = None
    resume: bool = False
    checkpoint_seconds: float = SECONDS

    def __post_init__(self) -> None:
        check_path("checkpoint", self.checkpoint)
        check_flag("resume", self.resume)
        check_finite_from_0("checkpoint_seconds", self.checkpoint_seconds)


class Checkpoint:
    """A file that a run keeps its state in; without a path, nothing is kept.

    Parameters
    ----------
    settings : CheckpointSettings
        Which file, and whether to go on from it. A file that exists where this is not wanted is an error.
    kind : Kind
        What the file holds.
    identity : mapping
        What two runs must have in common, in numbers and text: one goes on from the other's file only then.
    comm : Communicator
        The ranks of the run, all of which have a path or none; the first of them reads and writes.

    Raises
    ------
    FileExistsError
        If there is a file and `resume` is False.
    OSError
        If the file cannot be written.
    """

    def __init__(
        self,
        settings: CheckpointSettings,
        kind: Kind,
        identity: Mapping[str, Any],
        comm: Communicator = ALONE,
    ) -> None:
        self.path, self.kind = settings.checkpoint, kind
        # As a file gives it back: lists for tuples, Python's numbers for NumPy's.
        self.identity = json.loads(json.dumps(identity, default=lambda number: number.item()))
        self._resume, self._seconds = settings.resume, settings.checkpoint_seconds
        self._comm, self._written = comm, time.monotonic()
        if self.path is not None:
            comm.first(self._check_file)

    def _check_file(self) -> None:
        assert self.path is not None
        if Path(self.path).exists() and not self._resume:
            raise FileExistsError(f"{self.path} exists: give resume=True to go on from it, or remove it")
        check_writable(self.path)

    def read(self) -> Saved | None:
        """Read the state to go on from, if there is one.

        Returns
        -------
        tuple (dict, dict of ndarray) or None
            Header and arrays as they were written.

        Raises
        ------
        FileFormatError
            If the file is no checkpoint, is damaged or of a version that is not understood.
        ValueError
            If the file is of another run.
        """
        return None if self.path is None else self._comm.first(self._read)

    def _read(self) -> Saved | None:
        assert self.path is not None
        if not self._resume or not Path(self.path).exists():
            return None
        header, arrays = read_archive(self.path, self.kind)
        found = header.get("identity", {})
        is_old = header["version"] < self.kind.version  # identities have grown
        for name, value in self.identity.items():
            if found.get(name) != value and not (is_old and name not in found):
                both = f"is {found.get(name)!r} there, {value!r} here"
                if re.fullmatch("[0-9a-f]{64}", str(value)):  # sums, which tell nobody anything
                    both = "differ"
                raise ValueError(
                    f"{self.path} is of another run: {name} {both}; give another file, or remove it"
                )
        logger.info("going on from %s", self.path)
        return header, arrays

    @contextmanager
    def running(self) -> Iterator[None]:
        """Let signals stop the run of the block; see `stop_by_signals`.

        Raises
        ------
        Preempted
            At the end of the block, if a signal came too late for the last step of the run. Its checkpoint
            has been written then.
        """
        if self.path is None:
            yield
            return
        with stoppable_run():
            yield
            if self._comm.any(is_stop_requested())[0]:
                raise self._preempted()

    def _preempted(self) -> Preempted:
        return Preempted(f"stopped by a signal; {self.path} has the state to go on from")

    def step(self, state: Callable[[], Saved]) -> None:
        """Write the state if it is time to; called wherever the run could go on from.

        Parameters
        ----------
        state : callable
            Gives header and arrays.

        Raises
        ------
        Preempted
            If a signal has asked the process, or another rank, to stop. The state has been written then.
        OSError
            If it has, and the state cannot be written.
        """
        if self.path is None:
            return
        is_due = self._comm.is_first and time.monotonic() - self._written >= self._seconds
        is_to_stop, is_due = self._comm.any(is_stop_requested(), is_due)
        if is_to_stop:
            self.write(state)
            raise self._preempted()
        if is_due:
            self.try_to_write(state)

    def try_to_write(self, state: Callable[[], Saved]) -> None:
        """Write the state; where that fails, log a warning: a full disk must not end, or cost, a long run.

        Parameters
        ----------
        state : callable
            Gives header and arrays.
        """
        try:
            self.write(state)
        except OSError as error:
            logger.warning("no checkpoint could be written, the last one stays: %s", error)
            self._written = time.monotonic()

    def write(self, state: Callable[[], Saved]) -> None:
        """Write the state.

        Parameters
        ----------
        state : callable
            Gives header and arrays.

        Raises
        ------
        OSError
            If the file cannot be written. The last one is as it was.
        """
        if self.path is None:
            return
        self._comm.first(lambda: self._write(state))
        self._written = time.monotonic()

    def _write(self, state: Callable[[], Saved]) -> None:
        assert self.path is not None
        header, arrays = state()
        write_archive(self.path, self.kind, {**header, "identity": self.identity}, arrays)
