"""Who may listen to a solver beside the log: a progress bar. (TensorBoard is in pysolver/logs/tensorboard.py.)"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from pysolver.errors import CaffeError
from pysolver.logs import events as e
from pysolver.logs.events import Emit
from pysolver.logs.writer import CaffeLog
from pysolver.solver.solver import Solver


class ProgressBar:
    """A bar that counts iterations, on a terminal only; a log that goes to the same terminal scrolls above it."""

    def __init__(self, solver: Solver, log: Emit) -> None:
        self._log = log if isinstance(log, CaffeLog) else CaffeLog()
        self._beneath = self._log.stream
        self._bar = None
        terminal = next((stream for stream in (sys.stderr, sys.stdout) if stream.isatty()), None)
        if terminal is None:
            return
        from tqdm import tqdm

        self._bar = tqdm(total=solver.param.max_iter, initial=solver.iter, unit="iter", file=terminal, leave=False)
        solver.add_callback(lambda: None, self._step)

    def __call__(self, event: e.Event) -> None:
        if self._bar is not None and isinstance(event, e.Display):
            self._bar.set_postfix_str(f"loss {event.loss:g}")

    def _step(self) -> None:
        self._bar.update()

    def write(self, text: str) -> None:
        """A log line, above the bar."""
        self._bar.write(text, file=sys.stderr, end="")

    def flush(self) -> None:
        """Nothing is held back."""

    def __enter__(self) -> ProgressBar:
        if self._bar is not None and sys.stderr.isatty():
            self._log.stream = self  # type: ignore[assignment]  # a stream as far as a log needs one
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._log.stream = self  # type: ignore[assignment]  # a stream as far as a log needs one._beneath
            self._bar.close()


@contextlib.contextmanager
def rank_log(folder: str, rank: int) -> Iterator[CaffeLog]:
    """The log of one process of several: FOLDER/rank_<N>.log, which begins anew with each start."""
    path = Path(folder, f"rank_{rank}.log")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    except OSError as error:
        raise CaffeError(f"{path}: cannot be written: {error.strerror}") from None
    with file:
        yield CaffeLog(file)
