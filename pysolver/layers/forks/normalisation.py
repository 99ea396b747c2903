"""Normalize of SSD; BN of PSPNet, of SegNet and DeconvNet; CuDNNBatchNorm of GENet."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pysolver.blob import Shape
from pysolver.component import Component
from pysolver.context import Context
from pysolver.layers.base import Layer, between, register
from pysolver.layers.forks.normface import UnitVectors
from pysolver.layers.normalisation import at_least_single
from pysolver.proto import caffe_pb2
from pysolver.proto.caffe_pb2 import LayerParameter


class OfChannels(Layer):
    """What works on the channels, axis 1, and is for as many as at set-up."""

    channels: int

    def set_up(self, bottom: Shape) -> None:
        self.check(len(bottom) >= 2, f"needs a bottom of 2 or more axes, not {list(bottom)}")
        self.channels = bottom[1]

    def top_shapes(self, bottom: Shape) -> list[Shape]:
        if len(bottom) < 2 or bottom[1] != self.channels:
            self.fail(f"is for {self.channels} channels, the bottom is {list(bottom)}")
        return [bottom]


def of_batch(x: Tensor, scale: Tensor, bias: Tensor, eps: float) -> Tensor:
    """scale (x - mean) / sqrt(var + eps) + bias by the batch's own statistics; of one value a channel, the bias."""
    if x.numel() == x.shape[1]:  # torch refuses it
        return F.batch_norm(x - x, torch.zeros_like(scale), torch.ones_like(scale), scale, bias, eps=eps)
    return F.batch_norm(x, None, None, scale, bias, training=True, eps=eps)


@register("Normalize")
class Normalize(OfChannels):
    """y = a x / sqrt(sum of x^2 + eps): the sum over channels of each place, or the whole item if across_spatial.

    Blob 0: a, (C), or a scalar if channel_shared, filled with 1 unless scale_filler is given (SSD,
    normalize_layer.cpp). Caffe multiplies the gradient of x / norm by a at the end, which is exact only if all a are
    equal; so does this layer. Without a norm_param it is another Caffe's: y = x / norm, see UnitVectors.
    Errors: a bottom of less than 2 axes; other channels than at set-up.
    """

    @classmethod
    def chosen(cls, param: LayerParameter, context: Context) -> type[Component]:
        return cls if param.HasField("norm_param") else UnitVectors

    def set_up(self, bottom: Shape) -> None:
        super().set_up(bottom)
        p = self.param.norm_param
        self.across, self.eps = p.across_spatial, p.eps
        filler = p.scale_filler if p.HasField("scale_filler") else caffe_pb2.FillerParameter(value=1)
        self.add_blob(() if p.channel_shared else (self.channels,), filler)

    def forward(self, x: Tensor) -> Tensor:
        scale = self.blobs[0].reshape(-1, *[1] * (x.dim() - 2)) if self.blobs[0].dim() else self.blobs[0]
        x = _ScaledGradient.apply(at_least_single(x), scale.detach())
        unit = x * (x.square().sum(tuple(range(1, x.dim())) if self.across else 1, keepdim=True) + self.eps).rsqrt()
        return unit.detach() * scale + (unit - unit.detach())


class _ScaledGradient(torch.autograd.Function):
    """x, whose gradient is multiplied by the scale on its way down."""

    @staticmethod
    def forward(ctx, x: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(scale)
        return x.view_as(x)

    @staticmethod
    def backward(ctx, dy: Tensor) -> tuple[Tensor, None]:
        return dy * ctx.saved_tensors[0], None


@register("BN")
class BN(OfChannels):
    """Batch normalisation with slope and bias in one layer, on axis 1.

    PSPNet (bn_layer.cpp): y = slope (x - mean) / sqrt(var + eps) + bias. Blobs, (1, C) each: slope, bias, the running
    mean and inverse deviation, both r = momentum r + (1 - momentum) batch value; these two are used in TEST, and in
    TRAIN if frozen. SegNet (any of scale_filler, shift_filler, bn_mode given): blobs scale and
    shift, (1, C, 1, 1); bn_mode LEARN: batch statistics in every phase, with an eps of 1e-9 unless given; INFERENCE:
    y = scale x + shift. DeconvNet: the batch's mean and variance, (1, C, 1, 1), as further tops of LEARN.
    Errors: a bottom of less than 2 axes; further tops of others.
    """

    tops = between(1, 3)
    deviations = "P3D's, and the published sources of PSPNet and TSN, keep the variance in blob 3: not computed here"

    def set_up(self, bottom: Shape) -> None:
        super().set_up(bottom)
        p, channels = self.param.bn_param, self.channels
        self.momentum, self.eps = p.momentum, p.eps
        self.is_segnet = any(p.HasField(field) for field in ("scale_filler", "shift_filler", "bn_mode"))
        has_moments = self.is_segnet and p.bn_mode == p.LEARN
        self.check(has_moments or self.top_count == 1, "only batch statistics of DeconvNet's BN have tops of their own")
        if self.is_segnet:
            self.eps = p.eps if p.HasField("eps") else 1e-9
            self.stored, self.learns = p.bn_mode == p.INFERENCE, True
            self.add_blob((1, channels, 1, 1), p.scale_filler)
            self.add_blob((1, channels, 1, 1), p.shift_filler)
            return
        self.stored, self.learns = p.frozen or not self.is_training, not p.frozen
        self.add_blob((1, channels), p.slope_filler)
        self.add_blob((1, channels), p.bias_filler)
        self.add_blob((1, channels)).requires_grad_(False)
        self.add_blob((1, channels), caffe_pb2.FillerParameter(value=1)).requires_grad_(False)

    def top_shapes(self, bottom: Shape) -> list[Shape]:
        moments = (1, self.channels, 1, 1)
        return [*super().top_shapes(bottom), moments, moments][: self.top_count]

    def inverse_deviation(self) -> Tensor:
        """That of blob 3, (C)."""
        return self.blobs[3].detach().flatten()

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        slope, bias = (blob.flatten() if self.learns else blob.detach().flatten() for blob in list(self.blobs)[:2])
        spread = (-1, *[1] * (x.dim() - 2))
        if self.stored:
            if not self.is_segnet:
                mean, inverse = self.blobs[2].detach().flatten(), self.inverse_deviation()
                x = (x - mean.reshape(spread)) * inverse.reshape(spread)
            return torch.addcmul(bias.reshape(spread), x, slope.reshape(spread))
        if not self.is_segnet:
            self._remember(x.detach())
        y = of_batch(x, slope, bias, self.eps)
        if self.top_count == 1:
            return y
        var, mean = torch.var_mean(x.detach(), (0, *range(2, x.dim())), correction=0)
        return (y, *(value.reshape(1, -1, 1, 1) for value in (mean, var)))[: self.top_count]

    @torch.no_grad()
    def _remember(self, x: Tensor) -> None:
        axes = (0, *range(2, x.dim()))
        var, mean = torch.var_mean(x, axes, correction=0)
        for running, value in ((self.blobs[2], mean), (self.blobs[3], (var + self.eps).rsqrt())):
            running.mul_(self.momentum).add_(value, alpha=1 - self.momentum)


@register("CuDNNBatchNorm")
class CuDNNBatchNorm(OfChannels):
    """y = scale (x - mean) / sqrt(var + eps) + bias on axis 1 (GENet's cudnn_batch_norm_layer.cpp).

    Blobs, (1, C, 1, 1) each: scale, bias, running mean and variance, both r = momentum r + (1 - momentum) batch value,
    the variance by m - 1 of m elements; these two are used in TEST, and in TRAIN if frozen, when nothing learns. eps
    is at least 1e-5. Errors: a bottom of less than 2 axes.
    """

    deviations = "also runs on the CPU"

    def set_up(self, bottom: Shape) -> None:
        super().set_up(bottom)
        p, shape = self.param.cudnn_batch_norm_param, (1, self.channels, 1, 1)
        self.momentum, self.eps = p.momentum, max(p.eps, 1e-5)
        self.learns = not p.frozen
        self.stored = p.frozen or not self.is_training
        self.add_blob(shape, p.scale_filler)
        self.add_blob(shape, p.bias_filler)
        self.add_blob(shape).requires_grad_(False)
        self.add_blob(shape, caffe_pb2.FillerParameter(value=float(p.frozen))).requires_grad_(False)
        while len(self.param.param) < 4:  # saved with the net
            self.param.param.add()
        for index, spec in enumerate(self.param.param):
            if index > 1 or p.frozen:
                spec.lr_mult = spec.decay_mult = 0

    def forward(self, x: Tensor) -> Tensor:
        scale, bias = (blob.flatten() if self.learns else blob.detach().flatten() for blob in list(self.blobs)[:2])
        mean, var = (blob.detach().view(-1) for blob in list(self.blobs)[2:])
        if self.stored:
            return F.batch_norm(x, mean, var, scale, bias, eps=self.eps)
        self.check(x.numel() > x.shape[1], "one value a channel has no variance: a larger batch is needed")
        return F.batch_norm(x, mean, var, scale, bias, training=True, momentum=1 - self.momentum, eps=self.eps)
