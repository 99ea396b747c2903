"""A Run of what happens while it happens: what reading the log afterwards would give, its numbers in full."""

from __future__ import annotations

import math
import time

from pysolver.logs import events as e
from pysolver.logs.assemble import Assembler
from pysolver.logs.run import Run


class Recorder:
    """A subscriber: call it with each event of a run, then ask for the run. Seconds count from its `Solving`."""

    def __init__(self) -> None:
        self._tables = Assembler()
        self._start = time.perf_counter()

    def __call__(self, event: e.Event) -> None:
        seconds = round(time.perf_counter() - self._start, 6)
        match event:
            case e.Display(iteration, loss, speed):
                self._tables.display(iteration, seconds, loss, math.nan if speed is None else speed)
            case e.Output(phase, index, name, value, weight):
                self._tables.output(phase, (str(index), name), weight is not None, value)
            case e.Rate(iteration, lr, momentum, weight_decay):
                told = (math.nan if number is None else number for number in (lr, momentum, weight_decay))
                self._tables.rate(iteration, seconds, *told)
            case e.Testing(iteration, net):
                self._tables.test(iteration, seconds, net)
            case e.Clipping(norm, clip, scale):
                self._tables.clip(norm, clip, scale)
            case e.Iteration():
                pass
            case _:
                if isinstance(event, e.Solving):
                    self._start = time.perf_counter()
                self._tables.head(event)

    def run(self, name: str) -> Run:
        """Everything so far."""
        return self._tables.run(name)
