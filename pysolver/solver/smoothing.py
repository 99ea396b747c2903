"""The displayed loss: a running mean over the last `average_loss` iterations (Solver::UpdateSmoothedLoss)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from pysolver.solver.note import Window

_MOST_WAITING = 100


@dataclass
class Smoothing:
    """Kept incrementally in float32 as in Caffe: it drifts by a few units of the last place, and a NaN stays."""

    size: int
    start: int = 0  # the iteration that filled the window's first place
    window: list[np.float32] = field(default_factory=list)
    value: np.float32 = np.float32(0)

    def add(self, iteration: int, loss: float) -> None:
        """Take in the loss of an iteration."""
        new = np.float32(loss)
        with np.errstate(invalid="ignore", over="ignore"):
            if len(self.window) < self.size:
                self.window.append(new)
                count = len(self.window)
                self.value = (self.value * np.float32(count - 1) + new) / np.float32(count)
            else:
                place = (iteration - self.start) % self.size
                self.value += (new - self.window[place]) / np.float32(self.size)
                self.window[place] = new

    def state(self) -> Window:
        """Plain numbers that from_state turns back into the same object."""
        return Window(self.start, tuple(map(float, self.window)), float(self.value))

    @classmethod
    def from_state(cls, size: int, state: Window) -> Smoothing:
        """What state() described; a window longer than `size` begins anew."""
        if len(state.losses) > size:
            return cls(size, state.start)
        return cls(size, state.start, [np.float32(x) for x in state.losses], np.float32(state.value))


class Losses:
    """The losses of iterations on their way from the device: on a GPU each look at one stalls it."""

    def __init__(self, device: torch.device) -> None:
        self._at_once = device.type == "cpu"
        self._waiting: list[tuple[int, Tensor]] = []

    def put(self, iteration: int, loss: Tensor) -> None:
        """The 0-d loss of an iteration, as it comes."""
        self._waiting.append((iteration, loss))

    @property
    def are_due(self) -> bool:
        """Whether they should be taken now, though nobody needs them."""
        return self._at_once or len(self._waiting) >= _MOST_WAITING

    def take(self) -> Iterator[tuple[int, float]]:
        """(iteration, loss) of all that wait, in their order."""
        waiting, self._waiting = self._waiting, []
        if waiting:
            iterations, losses = zip(*waiting)
            yield from zip(iterations, torch.stack(losses).tolist())
