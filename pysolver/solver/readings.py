"""Numbers on their way from the device to those who are told."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_MOST_WAITING = 100


class Readings:
    """0-d tensors of one type, each with who is told its value; they are told in the order in which they came.

    On a GPU each look at one stalls it, so they wait there until somebody asks. at_once: each is looked at as it comes.
    """

    def __init__(self, at_once: bool) -> None:
        self._at_once = at_once
        self._waiting: list[tuple[Tensor, Callable[[float], None]]] = []

    def put(self, value: Tensor, tell: Callable[[float], None]) -> None:
        """Take in a value that nobody else writes to."""
        self._waiting.append((value, tell))
        if self._at_once or len(self._waiting) >= _MOST_WAITING:
            self.settle()

    def settle(self) -> None:
        """Tell all that wait."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        values, tells = zip(*waiting)
        for tell, value in zip(tells, torch.stack(values).tolist()):
            tell(value)

    def forget(self) -> None:
        """Drop those that wait: the run goes on from somewhere else."""
        self._waiting.clear()
