"""Normalize, InnerDistance, ChannelScale, LabelSpecificAdd and LabelSpecificRescale of NormFace (Wang et al., 2017) and
its Caffe, caffe-windows."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from pysolver.blob import Shape
from pysolver.layers.base import Layer, between, exactly, register
from pysolver.layers.dense import make_unit_rows
from pysolver.layers.indices import IndexCheck
from pysolver.layers.losses import passing


class UnitVectors(Layer):
    """y = x / norm: of each place of (N, C, ...), over its channels (caffe-windows, normalize_layer.cpp).

    normalize_type L2: norm = sqrt(sum of x^2 + 1e-6), L1: sum of |x| + 1e-6. Second top: the norms (N, 1, H, W), with
    a gradient if bp_norm. It is the type Normalize in a file without norm_param (of the older ones some have the
    normalize_type in softmax_param). Errors: another normalize_type; fields of SSD's; fewer than 2 or more than 4 axes.
    """

    type_name = "Normalize"
    tops = between(1, 2)
    deviations = "1e-6 as its CPU code, its GPU code adds 1e-12"

    def set_up(self, bottom: Shape) -> None:
        p, old = self.param.normalize_param, self.param.softmax_param
        kind = old.normalize_type if old.HasField("normalize_type") else p.normalize_type
        self.check(kind in ("L1", "L2"), f"normalize_type is L1 or L2, not {kind!r}")
        for field in ("across_spatial", "scale_filler", "channel_shared", "eps"):
            self.check(not p.HasField(field), f"{field} is of SSD's Normalize, which has a norm_param")
        self.power, self.has_norm_gradient = int(kind[1]), p.bp_norm

    def top_shapes(self, bottom: Shape) -> list[Shape]:
        self.check(2 <= len(bottom) <= 4, f"needs a bottom (N, C), (N, C, H) or (N, C, H, W), not {list(bottom)}")
        norms = (bottom[0], 1, *bottom[2:], *[1] * (4 - len(bottom)))
        return [bottom, norms][: self.top_count]

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        size = x.square() if self.power == 2 else x.abs()
        norm = size.sum(1, keepdim=True) + 1e-6
        norm = norm.sqrt() if self.power == 2 else norm
        if self.top_count == 1:
            return x / norm
        return x / norm, (norm if self.has_norm_gradient else norm.detach()).reshape(*norm.shape, *[1] * (4 - x.dim()))


@register("InnerDistance")
class InnerDistance(Layer):
    """(N, num_output): the distance of each item to each row of the weights (inner_distance_layer.cpp).

    distance_type L2: the sum of squares, L1: of absolute values, whose gradient is 0 at 0. The weights are blob 0,
    (num_output, features), or bottom 1, (M, features). normalize: every forward makes the rows of blob 0 of length 1,
    with the gradient as of the rows it made. Errors: another distance_type; other features.
    """

    bottoms = between(1, 2)
    allows_in_place = False

    def set_up(self, data: Shape, weights: Shape | None = None) -> None:
        p = self.param.inner_distance_param
        self.check(p.distance_type in ("L1", "L2"), f"distance_type is L1 or L2, not {p.distance_type!r}")
        self.power = int(p.distance_type[1])
        self.has_unit_rows = self.is_opaque = p.normalize and weights is None
        if weights is None:
            self.check(p.num_output > 0, "num_output must be positive")
            self.add_blob((p.num_output, math.prod(data[1:])), p.weight_filler)

    def top_shapes(self, data: Shape, weights: Shape | None = None) -> list[Shape]:
        shape = tuple(self.blobs[0].shape) if weights is None else weights
        if math.prod(data[1:]) != math.prod(shape[1:]):
            self.fail(f"items of {list(data)} and weights of {list(shape)} have other features")
        return [(data[0], shape[0])]

    def forward(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        if self.has_unit_rows:
            make_unit_rows(self.blobs[0])
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


class LabelSpecific(Layer):
    """What both share: bottoms scores (N, ...), labels (N); tops the scores and, if asked for, a number (1), which may
    be another in each forward. Errors: a label outside the classes.
    """

    bottoms = exactly(2)
    tops = between(1, 2)
    no_gradient_bottoms = frozenset({1})
    is_opaque = True  # by that number
    p: Any

    def set_up(self, data: Shape, label: Shape) -> None:
        self.labels = IndexCheck(self, math.prod(data[1:]), "label", "classes")
        self.forwards = self.p.iteration

    def top_shapes(self, data: Shape, label: Shape) -> list[Shape]:
        self.check(math.prod(label) == data[0], f"needs one label an item, not {list(label)} for {list(data)}")
        return [data, (1,)][: self.top_count]


@register("LabelSpecificAdd")
class LabelSpecificAdd(LabelSpecific):
    """x, plus bias at the label where x > -bias (CosFace's margin; label_specific_add.cpp of caffe-windows).

    Bottoms: scores (N, ...), labels (N). With bias_base the bias is bias_base + (1 + bias_gamma i)^bias_power - 1, from
    bias_min to bias_max, in forward i from `iteration` on. In TEST nothing is added. Tops: the scores and, if asked
    for, the bias (1). The gradient passes. Errors: a label outside the classes.
    """

    deviations = "transform_test is not read, as there; a label outside the classes is an error"

    def set_up(self, data: Shape, label: Shape) -> None:
        self.p = self.param.label_specific_add_param
        super().set_up(data, label)

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


@register("LabelSpecificRescale")
class LabelSpecificRescale(LabelSpecific):
    """x times positive_weight at the label and negative_weight elsewhere (label_specific_rescale.cpp of caffe-windows).

    Bottoms: scores (N, ...), labels (N). for_ip: only labels' scores above 0 are rescaled; bias_fix: there
    1 - positive_weight is added. With positive_weight_base, in TRAIN, it is positive_weight_base (1 + gamma i)^-power,
    from positive_weight_min to positive_weight_max where they are given, in the i-th forward after `iteration`. In TEST
    nothing is rescaled unless rescale_test. Tops: the scores and, if asked for, the positive weight (1).
    Errors: a label outside the classes.
    """

    deviations = "a label outside the classes is an error; as there, a resumed run counts from `iteration` again"

    def set_up(self, data: Shape, label: Shape) -> None:
        self.p = self.param.label_specific_rescale_param
        super().set_up(data, label)

    def positive_weight(self) -> float:
        """That of this forward, which is counted."""
        p = self.p
        if not p.HasField("positive_weight_base") or not self.is_training:
            return p.positive_weight
        self.forwards += 1
        weight = p.positive_weight_base * (1 + p.gamma * self.forwards) ** -p.power
        if p.HasField("positive_weight_min"):
            weight = max(weight, p.positive_weight_min)
        return min(weight, p.positive_weight_max) if p.HasField("positive_weight_max") else weight

    def forward(self, x: Tensor, label: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        p, weight, top = self.p, self.positive_weight(), x
        if self.is_training or p.rescale_test:
            flat, index = x.flatten(1), self.labels(label).reshape(-1, 1)
            own = flat.gather(1, index)
            new = own * weight + (1 - weight if p.bias_fix else 0)
            if p.for_ip:
                new = torch.where(own.detach() > 0, new, own)
            top = (flat * p.negative_weight).scatter(1, index, new).reshape(x.shape)
        return (top, x.new_full((1,), weight)) if self.top_count > 1 else top
