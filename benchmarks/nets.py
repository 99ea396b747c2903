"""The nets that are timed, each twice: as a NetParameter, and as a person writes it in PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pysolver.proto.net_spec import NetSpec, Top
from pysolver.proto.net_spec import layers as L
from pysolver.proto.net_spec import params as P

Shape = tuple[int, int, int]  # channels, height, width


@dataclass(frozen=True)
class Bench:
    """One row of the table."""

    name: str
    batch: int
    image: Shape
    spec: Callable[[Top], Top]  # from the data to the scores
    module: Callable[[], nn.Module]
    classes: int = 10

    def param(self, batch: int | None = None) -> Any:
        """NetParameter with an Input layer, scores and SoftmaxWithLoss."""
        n, batch = NetSpec(), batch or self.batch
        n.data, n.label = L.Input(ntop=2, shape=[dict(dim=[batch, *self.image]), dict(dim=[batch])])
        n.loss = L.SoftmaxWithLoss(self.spec(n.data), n.label)
        return n.to_proto()


XAVIER, MSRA = dict(type="xavier"), dict(type="msra")


# ---- LeNet, 20-50-500-10 -------------------------------------------------------------------------------------


def lenet(x: Top) -> Top:
    for outputs in (20, 50):
        x = L.Convolution(x, num_output=outputs, kernel_size=5, weight_filler=XAVIER)
        x = L.Pooling(x, pool=P.Pooling.MAX, kernel_size=2, stride=2)
    x = L.ReLU(L.InnerProduct(x, num_output=500, weight_filler=XAVIER), in_place=True)
    return L.InnerProduct(x, num_output=10, weight_filler=XAVIER)


def lenet_module() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 20, 5), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(800, 500), nn.ReLU(inplace=True), nn.Linear(500, 10),
    )  # fmt: skip


# ---- Caffe's cifar10_full: three convolutions, LRN within channels -------------------------------------------


def cifar(x: Top) -> Top:
    def convolution(x: Top, outputs: int) -> Top:
        return L.Convolution(x, num_output=outputs, kernel_size=5, pad=2, weight_filler=dict(type="gaussian", std=0.01))

    def norm(x: Top) -> Top:
        return L.LRN(x, local_size=3, alpha=5e-5, beta=0.75, norm_region=P.LRN.WITHIN_CHANNEL)

    def average(x: Top) -> Top:
        return L.Pooling(x, pool=P.Pooling.AVE, kernel_size=3, stride=2)

    x = L.Pooling(convolution(x, 32), pool=P.Pooling.MAX, kernel_size=3, stride=2)
    x = norm(L.ReLU(x, in_place=True))
    x = norm(average(L.ReLU(convolution(x, 32), in_place=True)))
    x = average(L.ReLU(convolution(x, 64), in_place=True))
    return L.InnerProduct(x, num_output=10, weight_filler=dict(type="gaussian", std=0.01))


class WithinChannel(nn.Module):
    """torch has no LRN within a channel; this is the shortest way to write it."""

    def forward(self, x: Tensor) -> Tensor:
        return x / (1 + 5e-5 * F.avg_pool2d(x * x, 3, 1, 1)) ** 0.75


def cifar_module() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 32, 5, padding=2), nn.MaxPool2d(3, 2, ceil_mode=True), nn.ReLU(inplace=True), WithinChannel(),
        nn.Conv2d(32, 32, 5, padding=2), nn.ReLU(inplace=True), nn.AvgPool2d(3, 2, ceil_mode=True), WithinChannel(),
        nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(inplace=True), nn.AvgPool2d(3, 2, ceil_mode=True),
        nn.Flatten(), nn.Linear(1024, 10),
    )  # fmt: skip


# ---- ResNet-56 for CIFAR (He et al., 2015), 1x1 convolutions where the shape changes ---------------------------


def _norm(x: Top) -> Top:
    x = L.BatchNorm(x, in_place=True)
    return L.Scale(x, in_place=True, bias_term=True)


def _convolution(x: Top, outputs: int, kernel: int, stride: int = 1) -> Top:
    return L.Convolution(
        x, num_output=outputs, kernel_size=kernel, stride=stride, pad=kernel // 2, bias_term=False, weight_filler=MSRA
    )


def resnet56(x: Top) -> Top:
    x, channels = L.ReLU(_norm(_convolution(x, 16, 3)), in_place=True), 16
    for outputs in (16, 32, 64):
        for _ in range(9):
            stride = 1 if outputs == channels else 2
            shortcut = x if stride == 1 else _norm(_convolution(x, outputs, 1, stride))
            x = L.ReLU(_norm(_convolution(x, outputs, 3, stride)), in_place=True)
            x = L.ReLU(L.Eltwise(_norm(_convolution(x, outputs, 3)), shortcut), in_place=True)
            channels = outputs
    x = L.Pooling(x, pool=P.Pooling.AVE, global_pooling=True)
    return L.InnerProduct(x, num_output=10, weight_filler=MSRA)


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        stride = 1 if inputs == outputs else 2
        self.conv1, self.norm1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.norm2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride == 2:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)), inplace=True)
        y = self.norm2(self.conv2(y))
        y += self.shortcut(x)
        return F.relu(y, inplace=True)


def resnet56_module() -> nn.Module:
    stages = [(16, 16), *[(16, 16)] * 8, (16, 32), *[(32, 32)] * 8, (32, 64), *[(64, 64)] * 8]
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True),
        *(Block(*stage) for stage in stages), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip


# ---- DenseNet-40, growth 12 (Huang et al., 2016) ---------------------------------------------------------------


def densenet40(x: Top) -> Top:
    def norm_relu(x: Top) -> Top:
        x = L.Scale(L.BatchNorm(x), in_place=True, bias_term=True)
        return L.ReLU(x, in_place=True)

    x, channels = _convolution(x, 16, 3), 16
    for block in range(3):
        if block:
            x = L.Pooling(_convolution(norm_relu(x), channels, 1), pool=P.Pooling.AVE, kernel_size=2, stride=2)
        for _ in range(12):
            x, channels = L.Concat(x, _convolution(norm_relu(x), 12, 3)), channels + 12
    x = L.Pooling(norm_relu(x), pool=P.Pooling.AVE, global_pooling=True)
    return L.InnerProduct(x, num_output=10, weight_filler=XAVIER)


class Grow(nn.Module):
    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, 12, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv(F.relu(self.norm(x), inplace=True))], 1)


def densenet40_module() -> nn.Module:
    parts, channels = [nn.Conv2d(3, 16, 3, padding=1, bias=False)], 16
    for block in range(3):
        if block:
            parts += [nn.BatchNorm2d(channels), nn.ReLU(inplace=True), nn.Conv2d(channels, channels, 1, bias=False)]
            parts += [nn.AvgPool2d(2)]
        for _ in range(12):
            parts, channels = [*parts, Grow(channels)], channels + 12
    parts += [nn.BatchNorm2d(channels), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*parts, nn.Linear(channels, 10))


BENCHES = [
    Bench("LeNet, batch 64", 64, (1, 28, 28), lenet, lenet_module),
    Bench("LeNet, batch 512", 512, (1, 28, 28), lenet, lenet_module),
    Bench("CIFAR 3-layer, batch 100", 100, (3, 32, 32), cifar, cifar_module),
    Bench("ResNet-56, batch 128", 128, (3, 32, 32), resnet56, resnet56_module),
    Bench("DenseNet-40, batch 64", 64, (3, 32, 32), densenet40, densenet40_module),
]
