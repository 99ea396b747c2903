"""The losses of iterations: smoothed, told, and reported where one is no finite number."""

from __future__ import annotations

import math

from pysolver.logs import events as e
from pysolver.logs.events import Emit
from pysolver.net.net import Net
from pysolver.solver import finite
from pysolver.solver.smoothing import Smoothing


class Losses:
    """What becomes of a loss once it has been read. stop_on_nan: one that is not finite is an error."""

    def __init__(self, net: Net, smoothing: Smoothing, emit: Emit, stop_on_nan: bool) -> None:
        self.smoothing = smoothing
        self._net, self._emit, self._stop_on_nan = net, emit, stop_on_nan
        self._nan_told = False

    def take(self, iteration: int, loss: float) -> None:
        """That of an iteration: it is told as such."""
        self._emit(e.Iteration(iteration, loss))
        self.add(iteration, loss)

    def add(self, iteration: int, loss: float) -> None:
        """Take in one that is no iteration's own."""
        self.smoothing.add(iteration, loss)
        if math.isfinite(loss):
            return
        if self._stop_on_nan:
            raise finite.refusal(self._net, iteration, loss)
        if not self._nan_told:
            finite.tell(self._net, iteration, loss, self._emit)
            self._nan_told = True
