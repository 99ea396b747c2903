"""Train a trial in this process, with its log in a file."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

from pysolver.disciplined.judges import Judge
from pysolver.errors import CaffeError, about
from pysolver.logs import events as e
from pysolver.logs.recorder import Recorder
from pysolver.logs.writer import CaffeLog
from pysolver.shelf import Shelf
from pysolver.solver.signals import Action
from pysolver.solver.train import TrainOptions, train

_SHELF = Shelf()  # the trials of a tuning read the same few data sets
_ALONE = threading.Lock()  # a process has one stderr: a dask worker may have several threads


def train_into(solver: Path, log: Path, judge: Judge | None = None, start: Path | None = None) -> None:
    """Train a solver file; stderr is the log. The judge is asked when a test is over; its reason ends the run.

    start: the solver state that it goes on from.
    """
    watcher = _Watcher(judge, str(log)) if judge else None
    with _ALONE, _stderr_into(log):
        train(
            TrainOptions(str(solver), snapshot=str(start) if start else None, progress=False),
            subscribers=[watcher] if watcher else [],
            action=watcher.action if watcher else lambda: Action.NONE,
            shelf=_SHELF,
        )


@contextlib.contextmanager
def _stderr_into(log: Path) -> Iterator[None]:
    """CaffeError names the log; also where the disk is full, which closing the file tells once more."""
    try:
        with about(log), open(log, "a", buffering=1) as file, contextlib.redirect_stderr(file):
            yield
    except OSError as error:
        raise CaffeError(f"{error.filename or log}: cannot be written: {error.strerror}") from None


class _Watcher:
    """Listens to a run and shows the judge what it is so far."""

    def __init__(self, judge: Judge, name: str) -> None:
        self._name, self._judge, self._recorder, self._log = name, judge, Recorder(), CaffeLog()
        self._tested = False

    def __call__(self, event: e.Event) -> None:
        self._recorder(event)
        self._tested |= isinstance(event, e.Output) and event.phase == "Test"

    def action(self) -> Action:
        """What the solver asks for after each iteration, and within tests."""
        if self._tested:
            self._tested = False
            reason = self._judge(self._recorder.run(self._name))
            if reason:
                self._log(e.GaveUp(reason))
                return Action.STOP
        return Action.NONE
