"""The displayed loss: a running mean over the last `average_loss` iterations (Solver::UpdateSmoothedLoss)."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from pysolver.solver.note import Window


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
