"""Element-wise layers: one bottom, one top of the same shape."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from pysolver.blob import Shape
from pysolver.layers.base import Layer, register
from pysolver.proto import caffe_pb2


class Elementwise(Layer):
    """What they share: the top has the bottom's shape."""

    def top_shapes(self, bottom: Shape) -> list[Shape]:
        return [bottom]


@register("ReLU")
class ReLU(Elementwise):
    """y = max(x, 0) + negative_slope * min(x, 0); at 0 the gradient is the slope (relu_layer.cpp)."""

    takes_half = True

    def set_up(self, bottom: Shape) -> None:
        self.slope = self.param.relu_param.negative_slope
        self.can_overwrite = self.slope >= 0  # else backward cannot tell from the top which side the bottom was on

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(x, self.slope) if self.slope else F.relu(x)

    def overwrite(self, x: Tensor) -> Tensor:
        return F.leaky_relu_(x, self.slope) if self.slope else F.relu_(x)


@register("PReLU")
class PReLU(Elementwise):
    """y = max(x, 0) + a_c * min(x, 0) with a learned slope a channel (axis 1), or one for all (prelu_layer.cpp).

    Blob 0: the slopes, (C), or a scalar if channel_shared; filled with 0.25 unless `filler` is given.
    """

    def set_up(self, bottom: Shape) -> None:
        p = self.param.prelu_param
        self.check(len(bottom) >= 2, f"needs a bottom of 2 or more axes, not {list(bottom)}")
        filler = p.filler if p.HasField("filler") else caffe_pb2.FillerParameter(type="constant", value=0.25)
        self.add_blob(() if p.channel_shared else (bottom[1],), filler)

    def top_shapes(self, bottom: Shape) -> list[Shape]:
        slopes = self.blobs[0]
        if slopes.dim() and bottom[1] != slopes.shape[0]:
            self.fail(f"has {slopes.shape[0]} slopes, but the bottom {list(bottom)} has {bottom[1]} channels")
        return [bottom]

    def forward(self, x: Tensor) -> Tensor:
        return F.prelu(x, self.blobs[0])


@register("ELU")
class ELU(Elementwise):
    """y = x where x > 0, else alpha * (e^x - 1) (elu_layer.cpp); times lambda, which NVIDIA's Caffe has for SELU."""

    takes_half = True

    def set_up(self, bottom: Shape) -> None:
        p = self.param.elu_param
        self.alpha, self.factor = p.alpha, getattr(p, "lambda")

    def forward(self, x: Tensor) -> Tensor:
        y = F.elu(x, self.alpha)
        return y * self.factor if self.factor != 1 else y


@register("Sigmoid")
class Sigmoid(Elementwise):
    """y = 1 / (1 + e^-x) (sigmoid_layer.cpp)."""

    takes_half = True

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(x)


@register("TanH")
class TanH(Elementwise):
    """y = tanh(x) (tanh_layer.cpp)."""

    takes_half = True

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x)


@register("Swish")
class Swish(Elementwise):
    """y = x * sigmoid(beta * x) (swish_layer.cpp)."""

    def set_up(self, bottom: Shape) -> None:
        self.beta = self.param.swish_param.beta

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(x) if self.beta == 1 else x * torch.sigmoid(self.beta * x)


@register("BNLL")
class BNLL(Elementwise):
    """y = log(1 + e^x), without overflow (bnll_layer.cpp)."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.logaddexp(x, x.new_zeros(()))


@register("AbsVal")
class AbsVal(Elementwise):
    """y = |x|; at 0 the gradient is 0 (absval_layer.cpp)."""

    allows_in_place = False

    def forward(self, x: Tensor) -> Tensor:
        return x.abs()


@register("Power")
class Power(Elementwise):
    """y = (shift + scale * x) ^ power; constant, with gradient 0, if power * scale is 0 (power_layer.cpp)."""

    deviations = "the gradient at shift + scale * x = 0 is the finite one where it exists, not 0/0"

    def set_up(self, bottom: Shape) -> None:
        p = self.param.power_param
        self.power, self.scale, self.shift = p.power, p.scale, p.shift

    def forward(self, x: Tensor) -> Tensor:
        if self.power * self.scale == 0:
            return x.masked_fill(x.new_ones((), dtype=torch.bool), self.shift**self.power if self.power else 1.0)
        inner = x if self.scale == 1 else x * self.scale
        inner = inner if self.shift == 0 else inner + self.shift
        return inner if self.power == 1 else inner.pow(self.power)


@register("Exp")
class Exp(Elementwise):
    """y = base ^ (shift + scale * x); base -1 is e (exp_layer.cpp). Errors: another base <= 0."""

    def set_up(self, bottom: Shape) -> None:
        p = self.param.exp_param
        self.check(p.base > 0 or p.base == -1, f"base must be positive, or -1 for e, not {p.base:g}")
        log_base = 1.0 if p.base == -1 else math.log(p.base)
        self.scale, self.shift = p.scale * log_base, p.shift * log_base

    def forward(self, x: Tensor) -> Tensor:
        return torch.exp(x * self.scale + self.shift)


@register("Log")
class Log(Elementwise):
    """y = log_base(shift + scale * x); base -1 is e (log_layer.cpp). Errors: another base <= 0."""

    def set_up(self, bottom: Shape) -> None:
        p = self.param.log_param
        self.check(p.base > 0 or p.base == -1, f"base must be positive, or -1 for e, not {p.base:g}")
        self.check(p.base != 1, "base 1 has no logarithm")
        self.factor = 1.0 if p.base == -1 else 1 / math.log(p.base)
        self.scale, self.shift = p.scale, p.shift

    def forward(self, x: Tensor) -> Tensor:
        return torch.log(x * self.scale + self.shift) * self.factor


@register("Clip")
class Clip(Elementwise):
    """y = min(max(x, min), max); the gradient passes at both ends (clip_layer.cpp)."""

    def set_up(self, bottom: Shape) -> None:
        p = self.param.clip_param
        self.least, self.most = p.min, p.max

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(self.least, self.most)


@register("Threshold")
class Threshold(Elementwise):
    """y = 1 where x > threshold, else 0; no gradient (threshold_layer.cpp)."""

    def set_up(self, bottom: Shape) -> None:
        self.threshold = self.param.threshold_param.threshold

    def forward(self, x: Tensor) -> Tensor:
        return (x > self.threshold).to(x.dtype)


@register("Dropout")
class Dropout(Elementwise):
    """TRAIN: each element is 0 with probability p = dropout_ratio, else x / (1 - p). TEST: y = x.

    scale_train false, of Fast R-CNN: 0 or x in TRAIN, x (1 - p) in TEST. sample_weights_test, of Bayesian SegNet: TEST
    drops as TRAIN does. Source: dropout_layer.cpp. Errors: a ratio outside [0, 1).
    """

    takes_half = True

    def set_up(self, bottom: Shape) -> None:
        p = self.param.dropout_param
        self.ratio, self.drops = p.dropout_ratio, self.is_training or p.sample_weights_test
        self.factor = 1 if p.scale_train else 1 - p.dropout_ratio
        self.check(0 <= self.ratio < 1, f"dropout_ratio must lie in [0, 1), not {self.ratio:g}")

    def forward(self, x: Tensor) -> Tensor:
        if not self.drops:
            return x * self.factor if self.factor != 1 else F.dropout(x, self.ratio, False)
        if x.device.type != "cpu":
            y = F.dropout(x, self.ratio, True)
            return y * self.factor if self.factor != 1 else y
        mask = (torch.rand_like(x) >= self.ratio).to(x.dtype)  # three times as fast as torch's own on the CPU
        return x * mask.mul_(self.factor / (1 - self.ratio))
