"""Small layers of the mobile and squeeze-and-excitation nets, of SSD and Fast R-CNN."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pysolver.blob import Shape
from pysolver.layers.activations import Elementwise
from pysolver.layers.base import Layer, between, exactly, register
from pysolver.layers.convolution import Convolution
from pysolver.layers.losses import Loss


@register("ReLU6")
class ReLU6(Elementwise):
    """y = min(max(x, 0) + negative_slope * min(x, 0), 6); no gradient from 6 on (MobileNet forks, relu6_layer.cpp)."""

    def set_up(self, bottom: Shape) -> None:
        self.slope = self.param.relu6_param.negative_slope

    def forward(self, x: Tensor) -> Tensor:
        if not self.slope:
            return F.relu6(x)
        return F.leaky_relu(x, self.slope).masked_fill(x >= 6, 6)


@register("Permute")
class Permute(Layer):
    """The axes in the order `order`; those that it does not name follow in theirs (SSD, permute_layer.cpp).

    Errors: an axis named twice or beyond the bottom's.
    """

    allows_in_place = False

    def set_up(self, bottom: Shape) -> None:
        order = list(self.param.permute_param.order)
        for axis in order:
            self.check(axis < len(bottom), f"order {order} names axis {axis}, the bottom {list(bottom)} has none")
        self.check(len(set(order)) == len(order), f"there are duplicate orders in {order}")
        self.order = order + [axis for axis in range(len(bottom)) if axis not in order]

    def top_shapes(self, bottom: Shape) -> list[Shape]:
        self.check(len(bottom) == len(self.order), f"the number of axes changed, the bottom is {list(bottom)}")
        return [tuple(bottom[axis] for axis in self.order)]

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(self.order).contiguous()


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


@register("SmoothL1Loss")
class SmoothL1Loss(Loss):
    """sum of w_out f(w_in (a - b)) / N (Fast R-CNN, SSD: smooth_L1_loss_layer.cpp).

    f(d) = (sigma d)^2 / 2 where |d| < 1 / sigma^2, else |d| - 1 / (2 sigma^2). Bottoms a, b, and, if given, w_in and
    w_out, all of one shape; gradients to a and b. Errors: other shapes.
    """

    bottoms = between(2, 4)
    no_gradient_bottoms = frozenset({2, 3})

    def set_up(self, *bottoms: Shape) -> None:
        self.sigma = self.param.smooth_l1_loss_param.sigma
        self.check(self.sigma > 0, f"sigma must be positive, not {self.sigma:g}")

    def top_shapes(self, *bottoms: Shape) -> list[Shape]:
        super().top_shapes(*bottoms)
        for other in bottoms[1:]:
            if torch.Size(other[1:]).numel() != torch.Size(bottoms[0][1:]).numel():
                self.fail(f"the bottoms must have one shape, not {list(bottoms[0])} and {list(other)}")
        return [()]

    def forward(self, a: Tensor, b: Tensor, *weights: Tensor) -> Tensor:
        difference = a - b.reshape(a.shape)
        if weights:
            difference = difference * weights[0].detach().reshape(a.shape)
        each = F.smooth_l1_loss(difference, torch.zeros_like(difference), reduction="none", beta=self.sigma**-2)
        if len(weights) > 1:
            each = each * weights[1].detach().reshape(a.shape)
        return each.sum() / a.shape[0]
