"""The losses of iterations, on their way from the device to those who are told."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pysolver.logs import events as e
from pysolver.logs.events import Emit
from pysolver.net.net import Net
from pysolver.solver import finite
from pysolver.solver.smoothing import Smoothing

_MOST_WAITING = 100


class Losses:
    """Each is told as an Iteration and goes into the smoothed loss; one that is no finite number is reported.

    On a GPU each look at one stalls it, so they wait there until somebody asks. stop_on_nan: a loss that is not finite
    is an error.
    """

    def __init__(self, net: Net, smoothing: Smoothing, emit: Emit, stop_on_nan: bool) -> None:
        self.smoothing = smoothing
        self._net, self._emit, self._stop_on_nan = net, emit, stop_on_nan
        self._are_at_hand = net.context.device.type == "cpu"
        self._waiting: list[tuple[int, Tensor]] = []
        self._nan_told = False

    def put(self, iteration: int, loss: Tensor) -> None:
        """Take in the 0-d loss of an iteration, as it comes."""
        self._waiting.append((iteration, loss))
        if self._are_at_hand or self._stop_on_nan or len(self._waiting) >= _MOST_WAITING:
            self.settle()

    def settle(self) -> None:
        """Take in all that wait, in their order."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        iterations, losses = zip(*waiting)
        for iteration, loss in zip(iterations, torch.stack(losses).tolist()):
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

    def forget(self) -> None:
        """Drop those that wait: the run goes on from somewhere else."""
        self._waiting.clear()
