"""A backend that only pretends to train: for tests of what stands around a training."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from pysolver.errors import CaffeError

LOG = """I1124 02:00:00.000000  1 solver.cpp:279] Solving Tiny
I1124 02:00:00.100000  1 solver.cpp:337] Iteration 0, Testing net (#0)
I1124 02:00:00.200000  1 solver.cpp:404]     Test net output #0: loss = {loss} (* 1 = {loss} loss)
I1124 02:00:01.000000  1 caffe.cpp:250] Optimization Done.
"""


@dataclass(frozen=True)
class Pretend:
    """A backend that writes a log without training; `deaths` times it takes its process down first."""

    loss: float = 0.5
    deaths: int = 0
    words: str = ""
    seconds: float = 0.0

    def __call__(self, solver: Path, log: Path, judge: object, start: Path | None = None) -> None:
        calls = log.with_name("calls")
        with calls.open("a") as file:
            gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "none")
            file.write(f"{sorted(os.sched_getaffinity(0))} gpu:{gpu} {os.getpid()}\n")
        if len(calls.read_text().splitlines()) <= self.deaths:
            log.write_text(LOG[:80])
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(self.seconds)
        if self.words:
            raise CaffeError(self.words)
        log.write_text(LOG.format(loss=self.loss))
