"""Callbacks around each layer of a net (Net::Callback in include/caffe/net.hpp)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pysolver.net.net import Net

Callback = Callable[[int], None]
MOMENTS = ("before_forward", "after_forward", "before_backward", "after_backward")


class Observed:
    """The passes of a net. Once somebody listens they go layer by layer, those of a solver too."""

    def __init__(self, net: Net) -> None:
        self._net = net
        self._last = len(net.layers) - 1
        self._callbacks: dict[str, list[Callback]] = {moment: [] for moment in MOMENTS}

    def add(self, moment: str, callback: Callback) -> None:
        """Call it with each layer's index at one of MOMENTS."""
        self._callbacks[moment].append(callback)
        self._net.run, self._net.forward_backward = self._run, self._forward_backward

    def forward(self, start: int, end: int) -> float:
        """Layers start..end by index; the sum of their weighted losses."""
        if not any(self._callbacks.values()):
            return self._net.forward(start, end)
        loss = 0.0
        for index in range(start, end + 1):
            self._tell("before_forward", index)
            loss += self._net.forward(index, index)
            self._tell("after_forward", index)
        return loss

    def backward(self, start: int, end: int) -> None:
        """Layers start down to end."""
        if not any(self._callbacks.values()):
            self._net.backward(start, end)
            return
        for index in range(start, end - 1, -1):
            self._tell("before_backward", index)
            self._net.backward(index, index)
            self._tell("after_backward", index)

    def _tell(self, moment: str, index: int) -> None:
        for callback in self._callbacks[moment]:
            callback(index)

    def _run(self) -> Tensor:
        return torch.tensor(self.forward(0, self._last), device=self._net.context.device)

    def _forward_backward(self) -> Tensor:
        loss = self._run()
        self.backward(self._last, 0)
        return loss
