"""LRN, BatchNorm, MVN."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pysolver.blob import Shape
from pysolver.context import Context
from pysolver.layers.base import Layer, register
from pysolver.proto import caffe_pb2


def at_least_single(x: Tensor) -> Tensor:
    """x, in single precision if it came in half: squares of half precision overflow from 256 on."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


@register("LRN")
class LRN(Layer):
    """Local response normalisation of (N, C, H, W) (lrn_layer.cpp; Krizhevsky et al., 2012).

    ACROSS_CHANNELS: y = x * (k + alpha / n * sum of x^2 over n neighbouring channels) ^ -beta.
    WITHIN_CHANNEL: y = x * (1 + alpha / n^2 * sum of x^2 over n x n neighbours) ^ -beta; k is not used.
    n = local_size. Errors: an even n; a bottom without 4 axes.
    """

    def set_up(self, bottom: Shape) -> None:
        p = self.param.lrn_param
        self.check(p.local_size % 2 == 1, f"LRN only supports odd values for local_size, not {p.local_size}")
        self.size, self.alpha, self.beta, self.k = p.local_size, p.alpha, p.beta, p.k
        self.across = p.norm_region == caffe_pb2.LRNParameter.ACROSS_CHANNELS

    def top_shapes(self, bottom: Shape) -> list[Shape]:
        if len(bottom) != 4:
            self.fail(f"Input must have 4 axes, corresponding to (num, channels, height, width), not {list(bottom)}")
        return [bottom]

    def forward(self, x: Tensor) -> Tensor:
        x = at_least_single(x)
        if self.across:
            return _AcrossChannels.apply(x, self.size, self.alpha / self.size, self.beta, self.k)
        mean_square = F.avg_pool2d(x.square(), self.size, 1, self.size // 2)
        return x * (1 + self.alpha * mean_square).pow(-self.beta)


class _AcrossChannels(torch.autograd.Function):
    """LRN over channels; torch's own pads and pools in 3-d for it, which takes four times as long."""

    @staticmethod
    def forward(ctx, x: Tensor, size: int, alpha: float, beta: float, k: float) -> Tensor:
        scale = _window_sums(x.square(), size).mul_(alpha).add_(k)
        factor = _power(scale, beta)
        y = x * factor
        ctx.save_for_backward(x, y, scale, factor)
        ctx.size, ctx.slope = size, -2 * alpha * beta
        return y

    @staticmethod
    def backward(ctx, dy: Tensor) -> tuple[Tensor | None, ...]:
        """dx = dy s^-beta - 2 alpha beta x * sum over the window of dy y / s."""
        x, y, scale, factor = ctx.saved_tensors
        sums = _window_sums((dy * y).div_(scale), ctx.size)
        return (dy * factor).addcmul_(x, sums, value=ctx.slope), None, None, None, None


def _window_sums(x: Tensor, size: int) -> Tensor:
    """The sum over `size` neighbouring channels around each, missing ones 0."""
    sums = x.clone()
    for distance in range(1, min(size // 2, x.shape[1] - 1) + 1):
        sums[:, distance:] += x[:, :-distance]
        sums[:, :-distance] += x[:, distance:]
    return sums


def _power(scale: Tensor, beta: float) -> Tensor:
    """scale ^ -beta; the usual 0.75 by square roots, which are three times as fast."""
    if beta != 0.75:
        return scale.pow(-beta)
    root = scale.sqrt()
    return root.mul_(root.sqrt()).reciprocal_()


@register("BatchNorm")
class BatchNorm(Layer):
    """y = (x - mu) / sqrt(var + eps) for each channel, axis 1 (batch_norm_layer.cpp).

    Blobs, none of them learned: 0 the sum of means (C), 1 the sum of variances (C), 2 the sum's weight (1).
    Batch mode (use_global_stats unset: phase TRAIN): mu and the biased var of the batch of m elements a channel;
    each forward does blob2 = f blob2 + 1, blob0 = f blob0 + mu, blob1 = f blob1 + var m / (m - 1),
    f = moving_average_fraction. Global mode: mu = blob0 / blob2, var = blob1 / blob2, 0 if blob2 is.
    stats_batch_size (Intel): every so many items of the batch have statistics of their own, one part after the other.

    NVIDIA's Caffe, if scale_bias, scale_filler or bias_filler is given: y times blob 3 plus blob 4, both (C), learned;
    blob 2 stays 1, blob0 = f blob0 + (1 - f) mu, blob1 = f blob1 + (1 - f) var, in the first two batches mu and var
    themselves; eps is at least 1e-5; use_global_stats is not read.
    Errors: a `param` entry with a rate; a bottom of less than 2 axes; a batch that stats_batch_size does not divide.
    """

    takes_half = True
    top_is_free = True
    is_nvidia = False

    @classmethod
    def chosen(cls, param: caffe_pb2.LayerParameter, context: Context) -> type[BatchNorm]:
        p = param.batch_norm_param
        return _Nvidia if p.scale_bias or p.HasField("scale_filler") or p.HasField("bias_filler") else cls

    def set_up(self, bottom: Shape) -> None:
        p = self.param.batch_norm_param
        self.check(len(bottom) >= 2, f"needs a bottom of 2 or more axes, not {list(bottom)}")
        self.check(p.eps >= 0, f"eps must not be negative: {p.eps:g}")
        self.use_global = p.use_global_stats if p.HasField("use_global_stats") else not self.is_training
        self.fraction, self.eps = p.moving_average_fraction, p.eps
        self.part = 0 if self.use_global else p.stats_batch_size
        for shape in ((bottom[1],), (bottom[1],), (1,)):
            self.add_blob(shape).requires_grad_(False)
        self._add_parameters(bottom[1])

    def _add_parameters(self, channels: int) -> None:
        for spec in self.param.param:
            self.check(spec.lr_mult == 0, "Cannot configure batch normalization statistics as layer parameters.")
        while len(self.param.param) < 3:  # saved with the net
            self.param.param.add(lr_mult=0)

    def top_shapes(self, bottom: Shape) -> list[Shape]:
        if len(bottom) < 2 or bottom[1] != self.blobs[0].shape[0]:
            self.fail(f"has statistics of {self.blobs[0].shape[0]} channels, the bottom is {list(bottom)}")
        if self.part and bottom[0] % self.part:
            self.fail(f"stats_batch_size {self.part} does not divide the batch of {bottom[0]}")
        return [bottom]

    def forward(self, x: Tensor) -> Tensor:
        return self.normalise(x)

    def normalise(self, x: Tensor, gain: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        """BVLC's top, times `gain` plus `bias` by channel, and the statistics moved on."""
        mean_sum, var_sum, weight = self.blobs
        if self.use_global:
            scale = torch.where(weight == 0, 0, 1 / weight)
            return F.batch_norm(x, (mean_sum * scale).detach(), (var_sum * scale).detach(), gain, bias, eps=self.eps)
        if self.part:
            return torch.cat([self._by_batch(part, gain, bias) for part in x.split(self.part)])
        return self._by_batch(x, gain, bias)

    def _by_batch(self, x: Tensor, gain: Tensor | None, bias: Tensor | None) -> Tensor:
        mean_sum, var_sum, weight = self.blobs
        # With momentum 1 torch's running values become this batch's: its mean, and its variance by m - 1.
        mean, var = torch.zeros_like(mean_sum), torch.zeros_like(var_sum)
        if x.numel() == x.shape[1]:  # m = 1
            zeros = x - x  # its gradient is 0
            y, mean = F.batch_norm(zeros, mean, var, gain, bias, eps=self.eps), x.detach().reshape(-1)
        else:
            y = F.batch_norm(x, mean, var, gain, bias, training=True, momentum=1.0, eps=self.eps)
        with torch.no_grad():
            for total, value in ((mean_sum, mean), (var_sum, var)):
                torch.add(value, total, alpha=self.fraction, out=total)
            weight.mul_(self.fraction).add_(1)
        return y


class _Nvidia(BatchNorm):
    """With a factor and an offset of its own."""

    type_name = "BatchNorm"
    is_nvidia = True

    def _add_parameters(self, channels: int) -> None:
        p = self.param.batch_norm_param
        self.use_global, self.eps, self.batches_seen = not self.is_training, max(p.eps, 1e-5), 0
        if not self.param.blobs:
            self.blobs[2].data.fill_(1)
        self.add_blob((channels,), p.scale_filler if p.HasField("scale_filler") else caffe_pb2.FillerParameter(value=1))
        self.add_blob((channels,), p.bias_filler if p.HasField("bias_filler") else None)
        while len(self.param.param) < 5:  # saved with the net
            self.param.param.add()
        for index, spec in enumerate(self.param.param):
            spec.lr_mult = spec.decay_mult = float(index > 2)

    def forward(self, x: Tensor) -> Tensor:
        mean, var, _, scale, bias = self.blobs
        if self.use_global:
            return F.batch_norm(x, mean.detach(), var.detach(), scale, bias, eps=self.eps)
        with torch.no_grad():
            now = torch.var_mean(x.detach(), (0, *range(2, x.dim())), correction=0)
            for running, value in zip((var, mean), now, strict=True):
                running.lerp_(value, 1 - self.fraction if self.batches_seen > 1 else 1.0)
        self.batches_seen = min(self.batches_seen + 1, 2)  # a number that rose would be compiled anew each time
        return F.batch_norm(x, None, None, scale, bias, training=True, eps=self.eps)

    def state(self) -> dict[str, int]:
        """What an exact resume must know: whether the statistics still follow a single batch."""
        return {"batches": self.batches_seen}

    def load_state(self, state: dict[str, int]) -> None:
        """Continue from what state() returned."""
        self.batches_seen = min(state["batches"], 2)


@register("MVN")
class MVN(Layer):
    """y = (x - mean) / (deviation + eps) for each plane, or each item if across_channels (mvn_layer.cpp).

    normalize_variance false: only the mean is taken off. The top always has 4 axes, missing ones are 1.
    Errors: a bottom of more than 4 axes.
    """

    def set_up(self, bottom: Shape) -> None:
        p = self.param.mvn_param
        self.dims = (1, 2, 3) if p.across_channels else (2, 3)
        self.eps, self.with_variance = p.eps, p.normalize_variance

    def top_shapes(self, bottom: Shape) -> list[Shape]:
        if len(bottom) > 4:
            self.fail(f"needs a bottom of at most 4 axes, not {list(bottom)}")
        return [(*bottom, *[1] * (4 - len(bottom)))]

    def forward(self, x: Tensor) -> Tensor:
        x = at_least_single(x).reshape(*x.shape, *[1] * (4 - x.dim()))
        if self.with_variance:
            return _Standardise.apply(x, self.dims, self.eps)
        return x - x.mean(self.dims, keepdim=True)


class _Standardise(torch.autograd.Function):
    """MVN's formula, with Caffe's gradient, (dy - mean(dy) - y mean(y dy)) / (deviation + eps): exact for eps = 0."""

    @staticmethod
    def forward(ctx, x: Tensor, dims: tuple[int, ...], eps: float) -> Tensor:
        centred = x - x.mean(dims, keepdim=True)
        divisor = centred.square().mean(dims, keepdim=True).sqrt() + eps
        y = centred / divisor
        ctx.save_for_backward(y, divisor)
        ctx.dims = dims
        return y

    @staticmethod
    def backward(ctx, dy: Tensor) -> tuple[Tensor, None, None]:
        y, divisor = ctx.saved_tensors
        slope = (y * dy).mean(ctx.dims, keepdim=True)
        return (dy - dy.mean(ctx.dims, keepdim=True) - y * slope) / divisor, None, None
