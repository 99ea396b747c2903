"""Processes at work for this one, which it ends before it ends itself."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any

HEED = 0.5  # seconds that the main thread waits at most: a signal that reached another one is answered after them


class Children:
    """Processes that are waited for in one thread and ended from another."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen] = set()
        self._ended = False

    @contextlib.contextmanager
    def start(self, words: Sequence[str], **how: Any) -> Iterator[subprocess.Popen]:
        """A process as long as the block runs, at most. It has a session of its own: Ctrl-C is ours to answer."""
        process = subprocess.Popen(words, start_new_session=True, **how)
        self._running.add(process)
        try:
            if self._ended:  # between the two lines above
                process.send_signal(signal.SIGINT)
            yield process
        finally:
            process.kill()
            process.wait()
            self._running.discard(process)

    def end(self, patience: float) -> None:
        """Ctrl-C for all of them, at which a training writes a snapshot; those that need longer are killed.

        patience: seconds. What is started later ends at once.
        """
        self._ended = True
        running = tuple(self._running)
        try:
            for process in running:
                process.send_signal(signal.SIGINT)
            for process in running:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(patience)
        finally:  # also if the second Ctrl-C comes
            for process in running:
                process.kill()


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP leave the block by SystemExit, as Ctrl-C does by KeyboardInterrupt; ignored ones stay so."""
    before = {}
    if threading.current_thread() is threading.main_thread():  # others cannot have handlers
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
                before[number] = signal.signal(number, _leave)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
