"""ReLU6, ShuffleChannel and depthwise convolution of mobile nets, Axpy of squeeze-and-excitation nets."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pysolver.blob import Shape
from pysolver.layers.activations import Elementwise
from pysolver.layers.base import Layer, exactly, register
from pysolver.layers.convolution import Convolution


@register("ReLU6")
class ReLU6(Elementwise):
    """y = min(max(x, 0) + negative_slope * min(x, 0), 6); no gradient from 6 on (MobileNet forks, relu6_layer.cpp)."""

    def set_up(self, bottom: Shape) -> None:
        self.slope = self.param.relu6_param.negative_slope

    def forward(self, x: Tensor) -> Tensor:
        if not self.slope:
            return F.relu6(x)
        return F.leaky_relu(x, self.slope).masked_fill(x >= 6, 6)


@register("Axpy")
class Axpy(Layer):
    """y = a * x + b: bottoms a (N, C) or (N, C, 1, 1), x and b (N, C, H, W) (SENet, axpy_layer.cpp).

    Errors: other shapes.
    """

    bottoms = exactly(3)

    def top_shapes(self, a: Shape, x: Shape, b: Shape) -> list[Shape]:
        if a[:2] != x[:2] or any(dim != 1 for dim in a[2:]):
            self.fail(f"needs one factor for each channel of {list(x)}, not {list(a)}")
        if x != b:
            self.fail(f"bottoms 1 and 2 must have one shape, not {list(x)} and {list(b)}")
        return [x]

    def forward(self, a: Tensor, x: Tensor, b: Tensor) -> Tensor:
        return torch.addcmul(b, x, a.reshape(*a.shape[:2], *[1] * (x.dim() - 2)))


@register("ShuffleChannel")
class ShuffleChannel(Layer):
    """Channels as (group, C / group) become (C / group, group) (ShuffleNet, shuffle_channel_layer.cpp).

    Errors: group 0, or not a divisor of the channels.
    """

    def set_up(self, bottom: Shape) -> None:
        self.group = self.param.shuffle_channel_param.group
        self.check(self.group > 0, "group must be positive")

    def top_shapes(self, bottom: Shape) -> list[Shape]:
        if len(bottom) < 2 or bottom[1] % self.group:
            self.fail(f"the channels of {list(bottom)} must be a multiple of group ({self.group})")
        return [bottom]

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (self.group, -1)).transpose(1, 2).flatten(1, 2)


@register("ConvolutionDepthwise")
class ConvolutionDepthwise(Convolution):
    """Convolution of every channel with its own kernel: weights (C, 1, kernel...) (conv_dw_layer.cpp).

    Errors: as Convolution; num_output other than the bottom's channels.
    """

    def set_up(self, *bottoms: Shape) -> None:
        p = self.param.convolution_param
        channels = bottoms[0][self.axis(p.axis, bottoms[0])]
        p.group = channels
        self.check(
            p.num_output == channels, f"num_output must be the bottom's channels, {channels}, not {p.num_output}"
        )
        super().set_up(*bottoms)


@register("DepthwiseConvolution")
class DepthwiseConvolution(Convolution):
    """Convolution under the name of a faster kernel for group = channels (depthwise_conv_layer.cpp)."""
