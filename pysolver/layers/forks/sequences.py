"""Lstm of CTPN (Tian et al., 2016), from Junhyuk Oh's Caffe."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pysolver.blob import Shape
from pysolver.layers.base import between, register
from pysolver.layers.recurrent import Carrying


class _Bounded(torch.autograd.Function):
    """x, and a gradient within a bound."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bound: float) -> Tensor:
        ctx.bound = bound
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient.clamp(-ctx.bound, ctx.bound), None


@register("Lstm")
class Lstm(Carrying):
    """An LSTM over (T steps, N streams, ...): i, f, o = logistic, g = tanh of W_x x + W_h h + b, c = f c + i g,
    h = o tanh(c); the top is h, (T, N, num_output) (lstm_layer.cpp of CTPN).

    Blobs: W_x (4 D, I), W_h (4 D, D), b (4 D), gates in the order i, f, o, g. Without a second bottom every batch
    starts anew; with it, (T, N) of 0 where a sequence starts and 1 where it goes on, from the end of the batch before.
    clipping_threshold above 0 bounds the gradient of what goes into the gates. No gradient to the second bottom.
    Errors: num_output 0; a bottom of less than 2 axes; another size of its items later; a marker of another size.
    """

    bottoms = between(1, 2)
    no_gradient_bottoms = frozenset({1})
    deviations = "of a marker the numbers of step t are those from t N on, there from t on"

    def set_up(self, x: Shape, *marker: Shape) -> None:
        p = self.param.lstm_param
        self.check(p.num_output > 0, "num_output must be positive")
        self.check(len(x) >= 2, f"needs a bottom (T steps, N streams, ...), not {list(x)}")
        self.outputs, self.inputs, self.bound = p.num_output, torch.Size(x[2:]).numel(), p.clipping_threshold
        self.add_blob((4 * self.outputs, self.inputs), p.weight_filler)
        self.add_blob((4 * self.outputs, self.outputs), p.weight_filler)
        self.add_blob((4 * self.outputs,), p.bias_filler)
        self.keeps_tensors = bool(marker)

    def top_shapes(self, x: Shape, *marker: Shape) -> list[Shape]:
        if torch.Size(x[2:]).numel() != self.inputs:
            self.fail(f"the weights are for {self.inputs} inputs a step, the bottom is {list(x)}")
        if marker and torch.Size(marker[0]).numel() != x[0] * x[1]:
            self.fail(f"needs a marker of {x[0]} x {x[1]} numbers, not {list(marker[0])}")
        return [(*x[:2], self.outputs)]

    def forward(self, x: Tensor, *marker: Tensor) -> Tensor:
        steps, streams = x.shape[:2]
        to_inputs, to_hidden, bias = self.blobs
        gates = F.linear(x.reshape(steps, streams, -1), to_inputs, bias)
        goes_on = marker[0].detach().reshape(steps, streams, 1) != 0 if marker else None
        first = (x.new_zeros(streams, self.outputs),) * 2
        hidden, cell = self.goes_on_from(first) if marker else first
        tops = []
        for step in range(steps):
            here = gates[step]
            if goes_on is not None or step:
                keep = goes_on[step].to(x.dtype) if goes_on is not None else 1
                here, cell = here + keep * F.linear(hidden, to_hidden), keep * cell
            if self.bound > 0:
                here = _Bounded.apply(here, self.bound)
            i, f, o, g = here.chunk(4, 1)
            cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
            hidden = o.sigmoid() * cell.tanh()
            tops.append(hidden)
        if marker and steps:
            self.carried = hidden.detach(), cell.detach()
        return torch.stack(tops) if tops else x.new_zeros(0, streams, self.outputs)
