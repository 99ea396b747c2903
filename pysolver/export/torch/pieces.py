"""Modules that torch lacks: an exported file brings along the source of those that it needs, so each stands alone."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class Scale(nn.Module):
    """x * weight + bias, both spread over x."""

    def __init__(self, shape, bias=True):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(shape))
        self.bias = nn.Parameter(torch.zeros(shape)) if bias else None

    def forward(self, x):
        return x * self.weight if self.bias is None else x * self.weight + self.bias


class UnitLinear(nn.Module):
    """The inner products of x with the weight's rows, each made of length 1."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(outputs, inputs))

    def forward(self, x):
        return F.linear(x, F.normalize(self.weight, dim=1, eps=0))


class FrozenBatchNorm(nn.Module):
    """weight * (x - mean) * inverse_deviation + bias for each channel."""

    def __init__(self, channels):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("inverse_deviation", torch.ones(channels))

    def forward(self, x):
        weight, bias, mean, inverse = (
            part.reshape(-1, *[1] * (x.dim() - 2))
            for part in (self.weight, self.bias, self.mean, self.inverse_deviation)
        )
        return (x - mean) * inverse * weight + bias


class LRNWithinChannel(nn.Module):
    """x * (1 + alpha * mean of x^2 over size x size neighbours) ^ -beta."""

    def __init__(self, size, alpha, beta):
        super().__init__()
        self.size, self.alpha, self.beta = size, alpha, beta

    def forward(self, x):
        mean = F.avg_pool2d(x.square(), self.size, 1, self.size // 2)
        return x * (1 + self.alpha * mean).pow(-self.beta)


class PaddedAvgPool2d(nn.Module):
    """The sum over each window of the padded plane, divided by the part of the window that counts."""

    def __init__(self, kernel_size, stride, padding, size):
        super().__init__()
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding
        left, right, top, bottom = padding
        rows, columns = (
            self.counted(length, kernel, step, before, count)
            for length, kernel, step, before, count in zip(size[:2], kernel_size, stride, (top, left), size[2:])
        )
        self.register_buffer("divisor", torch.outer(rows, columns), persistent=False)

    @staticmethod
    def counted(length, kernel, step, before, count):
        """How much of each window lies inside the plane with `before` on either side."""
        starts = torch.arange(count) * step - before
        return ((starts + kernel).clamp(max=length + before) - starts).clamp(min=1).float()

    def forward(self, x):
        x = F.pad(x, self.padding)
        return F.avg_pool2d(x, self.kernel_size, self.stride, divisor_override=1) / self.divisor


class LSTM(nn.Module):
    """x (T, N, I), cont (T, N): 0 where a sequence starts -> h (T, N, D). Gates i, f, o, g, as in Caffe."""

    def __init__(self, inputs, outputs, static=0):
        super().__init__()
        self.from_input = nn.Linear(inputs, 4 * outputs)
        self.from_static = nn.Linear(static, 4 * outputs, bias=False) if static else None
        self.from_hidden = nn.Linear(outputs, 4 * outputs, bias=False)

    def forward(self, x, cont, static=None, state=None):
        gates = self.from_input(x.flatten(2))
        if static is not None:
            gates = gates + self.from_static(static.flatten(1))
        h, c = state or (x.new_zeros(x.shape[1], self.from_hidden.in_features),) * 2
        hidden = []
        for outside, goes_on in zip(gates, cont.unsqueeze(2)):
            i, f, o, g = (outside + self.from_hidden(goes_on * h)).chunk(4, -1)
            c = goes_on * f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            hidden.append(h)
        return torch.stack(hidden), h, c


class RNN(nn.Module):
    """x (T, N, I), cont (T, N): 0 where a sequence starts -> y (T, N, D)."""

    def __init__(self, inputs, outputs, static=0):
        super().__init__()
        self.from_input = nn.Linear(inputs, outputs)
        self.from_static = nn.Linear(static, outputs, bias=False) if static else None
        self.from_hidden = nn.Linear(outputs, outputs, bias=False)
        self.output = nn.Linear(outputs, outputs)

    def forward(self, x, cont, static=None, h=None):
        from_input = self.from_input(x.flatten(2))
        if static is not None:
            from_input = from_input + self.from_static(static.flatten(1))
        h = x.new_zeros(x.shape[1], self.from_hidden.in_features) if h is None else h
        hidden = []
        for outside, goes_on in zip(from_input, cont.unsqueeze(2)):
            h = torch.tanh(outside + self.from_hidden(goes_on * h))
            hidden.append(h)
        return torch.tanh(self.output(torch.stack(hidden))), h


def lstm_unit(c, gates, cont):
    """One step of an LSTM: the next c and h. c (1, N, D), gates i, f, o, g (1, N, 4 D), cont (1, N)."""
    i, f, o, g = gates.chunk(4, -1)
    c = cont.unsqueeze(2) * f.sigmoid() * c + i.sigmoid() * g.tanh()
    return c, o.sigmoid() * c.tanh()
