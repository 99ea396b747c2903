"""A backend that only pretends to train: for tests of what stands around a training."""

from __future__ import annotations

import os
import resource
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from pysolver.disciplined.trial import here
from pysolver.errors import CaffeError, OutOfMemory

LOG = """I1124 02:00:00.000000  1 solver.cpp:279] Solving Tiny
I1124 02:00:00.100000  1 solver.cpp:337] Iteration 0, Testing net (#0)
I1124 02:00:00.200000  1 solver.cpp:404]     Test net output #0: loss = {loss} (* 1 = {loss} loss)
I1124 02:00:01.000000  1 caffe.cpp:250] Optimization Done.
"""


@dataclass(frozen=True)
class Pretend:
    """A backend that writes a log without training; `deaths` times it takes its process down first.

    words: with which it fails instead. memory: whether that is for want of it.
    """

    loss: float = 0.5
    deaths: int = 0
    words: str = ""
    seconds: float = 0.0
    memory: bool = False

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
            log.write_text(LOG[:80])
            raise (OutOfMemory if self.memory else CaffeError)(self.words)
        log.write_text(LOG.format(loss=self.loss))


@dataclass(frozen=True)
class Limited:
    """Trains in this process, which from the first trial on has only so many bytes more than before."""

    more: int

    def __call__(self, solver: Path, log: Path, judge: object, start: Path | None = None) -> None:
        import pysolver.disciplined.in_process  # noqa: F401  torch is no part of what is limited

        now = 1024 * int(Path("/proc/self/status").read_text().split("VmData:")[1].split()[0])
        limits = resource.getrlimit(resource.RLIMIT_DATA)
        if limits[0] == resource.RLIM_INFINITY:
            resource.setrlimit(resource.RLIMIT_DATA, (now + self.more, limits[1]))
        here(solver, log)
