"""InnerDistance, ChannelScale and LabelSpecificAdd of NormFace (Wang et al., 2017) and its Caffe, caffe-windows."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pysolver.blob import Shape
from pysolver.layers.base import Layer, between, exactly, register
from pysolver.layers.indices import IndexCheck
from pysolver.layers.losses import passing


@register("InnerDistance")
class InnerDistance(Layer):
    """(N, num_output): the distance of each item to each row of the weights (inner_distance_layer.cpp).

    distance_type L2: the sum of squares, L1: of absolute values, whose gradient is 0 at 0. The weights are blob 0,
    (num_output, features), or bottom 1, (M, features). Errors: another distance_type; other features.
    """

    bottoms = between(1, 2)
    allows_in_place = False

    def set_up(self, data: Shape, weights: Shape | None = None) -> None:
        p = self.param.inner_distance_param
        self.check(p.distance_type in ("L1", "L2"), f"distance_type is L1 or L2, not {p.distance_type!r}")
        self.power = int(p.distance_type[1])
        if weights is None:
            self.check(p.num_output > 0, "num_output must be positive")
            self.add_blob((p.num_output, math.prod(data[1:])), p.weight_filler)

    def top_shapes(self, data: Shape, weights: Shape | None = None) -> list[Shape]:
        shape = tuple(self.blobs[0].shape) if weights is None else weights
        if math.prod(data[1:]) != math.prod(shape[1:]):
            self.fail(f"items of {list(data)} and weights of {list(shape)} have other features")
        return [(data[0], shape[0])]

    def forward(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        away = x.flatten(1)[:, None] - (self.blobs[0] if weights is None else weights.flatten(1))
        return (away.square() if self.power == 2 else away.abs()).sum(2)


@register("ChannelScale")
class ChannelScale(Layer):
    """y = x s: (N, C, H, W) times one number for each place, (N, 1, H, W) or of that count (channel_scale_layer.cpp).

    do_forward false: y = x; do_backward_feature false: the gradient passes as of y = x; do_backward_scale false: none
    to s. Errors: other counts; global_scale.
    """

    bottoms = exactly(2)

    def set_up(self, data: Shape, scale: Shape) -> None:
        self.p = self.param.channel_scale_param
        self.check(not self.p.global_scale, "global_scale is not computed here")

    def top_shapes(self, data: Shape, scale: Shape) -> list[Shape]:
        good = len(data) >= 2 and scale[:1] == data[:1] and math.prod(scale) * data[1] == math.prod(data)
        self.check(good, f"needs one number for each place of {list(data)}, not {list(scale)}")
        return [data]

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        s = scale.reshape(x.shape[0], 1, *x.shape[2:])
        if self.p.do_forward and self.p.do_backward_feature and self.p.do_backward_scale:
            return x * s
        down = x * s.detach() if self.p.do_backward_feature else x
        if self.p.do_backward_scale:
            down = down + x.detach() * s
        return passing((x * s if self.p.do_forward else x).detach(), down)


@register("LabelSpecificAdd")
class LabelSpecificAdd(Layer):
    """x, plus bias at the label where x > -bias (CosFace's margin; label_specific_add.cpp of caffe-windows).

    Bottoms: scores (N, ...), labels (N). With bias_base the bias is bias_base + (1 + bias_gamma i)^bias_power - 1, from
    bias_min to bias_max, in forward i from `iteration` on. In TEST nothing is added. Tops: the scores and, if asked
    for, the bias (1). The gradient passes. Errors: a label outside the classes.
    """

    bottoms = exactly(2)
    tops = between(1, 2)
    no_gradient_bottoms = frozenset({1})
    is_opaque = True  # each forward may have another bias
    deviations = "transform_test is not read, as there; a label outside the classes is an error"

    def set_up(self, data: Shape, label: Shape) -> None:
        self.p = self.param.label_specific_add_param
        self.labels = IndexCheck(self, math.prod(data[1:]), "label", "classes")
        self.forwards = self.p.iteration

    def top_shapes(self, data: Shape, label: Shape) -> list[Shape]:
        self.check(math.prod(label) == data[0], f"needs one label an item, not {list(label)} for {list(data)}")
        return [data, (1,)][: self.top_count]

    def bias(self) -> float:
        """That of this forward, which is counted."""
        p = self.p
        if not p.HasField("bias_base") or not self.is_training:
            return p.bias
        value = p.bias_base + (1 + p.bias_gamma * self.forwards) ** p.bias_power - 1
        self.forwards += 1
        return min(max(value, p.bias_min), p.bias_max)

    def forward(self, x: Tensor, label: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        bias, top = self.bias(), x
        if self.is_training:
            index = self.labels(label).reshape(-1, 1)
            flat = x.flatten(1)
            own = flat.detach().gather(1, index)
            top = flat.scatter_add(1, index, torch.where(own > -bias, bias, 0.0).to(x.dtype)).reshape(x.shape)
        return (top, x.new_full((1,), bias)) if self.top_count > 1 else top
