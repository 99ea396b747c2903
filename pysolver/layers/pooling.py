"""Pooling and SPP: Caffe's window rule on torch's kernels."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pysolver.blob import Shape
from pysolver.layers.base import Layer, between, register
from pysolver.proto import caffe_pb2

_MAX, _AVE, _STOCHASTIC = (caffe_pb2.PoolingParameter.PoolMethod.Value(name) for name in ("MAX", "AVE", "STOCHASTIC"))
_LEAST = -torch.finfo(torch.float32).max  # Caffe's maximum of an empty window


class Window(NamedTuple):
    """Kernel, stride and pad, each (height, width)."""

    kernel: Shape
    stride: Shape
    pad: Shape
    ceil: bool = True

    def counts(self, size: Shape) -> Shape:
        """Windows along each axis for a plane of `size`: rounded up (or down), then, if there is any pad, the last
        one goes if it would start beyond the image and its leading pad (pooling_layer.cpp)."""
        return tuple(self._count(*axis, clip=any(self.pad)) for axis in zip(size, *self[:3], strict=True))

    def _count(self, size: int, kernel: int, stride: int, pad: int, clip: bool) -> int:
        free = size + 2 * pad - kernel
        count = (-(-free // stride) if self.ceil else math.trunc(free / stride)) + 1
        return count - 1 if clip and (count - 1) * stride >= size + pad else count

    def suits_torch(self, size: Shape) -> bool:
        """Whether torch's own rule gives these windows: it always clips, and takes no pad above half a kernel."""
        return all(pad <= kernel // 2 for pad, kernel in zip(self.pad, self.kernel, strict=True)) and all(
            (count - 1) * stride < length + pad
            for count, stride, length, pad in zip(self.counts(size), self.stride, size, self.pad, strict=True)
        )

    def margins(self, size: Shape) -> list[int]:
        """For F.pad: what makes every window fit, left, right, top, bottom. Negative where no window reaches."""
        margins = []
        axes = zip(size, self.counts(size), *self[:3], strict=True)
        for length, count, kernel, stride, pad in reversed(list(axes)):
            margins += [pad, (count - 1) * stride + kernel - length - pad]
        return margins

    def divisors(self, x: Tensor) -> Tensor:
        """What AVE divides by: the window's area inside the image and its pad, at least 1."""
        size = tuple(x.shape[2:])
        areas = []
        for length, count, kernel, stride, pad in zip(size, self.counts(size), *self[:3], strict=True):
            starts = torch.arange(count, device=x.device) * stride - pad
            areas.append((starts + kernel).clamp(max=length + pad) - starts)
        return torch.outer(*areas).clamp(min=1).to(x.dtype)


def max_pool(x: Tensor, window: Window) -> tuple[Tensor, Tensor]:
    """The maximum of each window and its index h * W + w in the plane; the first of equal ones wins.

    A window outside the image gives -FLT_MAX and index -1.
    """
    size = tuple(x.shape[2:])
    if window.suits_torch(size):
        return F.max_pool2d(x, window.kernel, window.stride, window.pad, 1, window.ceil, return_indices=True)
    padded = F.pad(x, window.margins(size), value=-math.inf)
    y, index = F.max_pool2d(padded, window.kernel, window.stride, return_indices=True)
    row = index // padded.shape[3] - window.pad[0]
    column = index % padded.shape[3] - window.pad[1]
    inside = (row >= 0) & (row < size[0]) & (column >= 0) & (column < size[1])
    return y.masked_fill(~inside, _LEAST), torch.where(inside, row * size[1] + column, -1)


def average_pool(x: Tensor, window: Window) -> Tensor:
    """The mean of each window; pad counts as zeros, what lies beyond the pad does not count."""
    size = tuple(x.shape[2:])
    if window.suits_torch(size):
        return F.avg_pool2d(x, window.kernel, window.stride, window.pad, window.ceil, count_include_pad=True)
    sums = F.avg_pool2d(F.pad(x, window.margins(size)), window.kernel, window.stride, divisor_override=1)
    return sums / window.divisors(x)


def stochastic_pool(x: Tensor, window: Window, training: bool) -> Tensor:
    """Training: one element of each window, drawn with probability proportional to it. Else sum(x^2) / sum(x)."""
    size = tuple(x.shape[2:])
    columns = F.unfold(F.pad(x, window.margins(size)), window.kernel, stride=window.stride)
    columns = columns.unflatten(1, (x.shape[1], -1))
    if training:
        running = columns.detach().cumsum(2)
        threshold = (1 - torch.rand_like(running[:, :, -1:])) * running[:, :, -1:]
        y = columns.gather(2, (running >= threshold).byte().argmax(2, keepdim=True))
    else:
        sums = columns.sum(2, keepdim=True)
        positive = sums > 0
        y = (columns.square().sum(2, keepdim=True) / torch.where(positive, sums, 1)).masked_fill(~positive, 0)
    return y.reshape(*x.shape[:2], *window.counts(size))


def pool(x: Tensor, method: int, window: Window, training: bool) -> Tensor:
    """`method` of PoolingParameter.PoolMethod (SPPParameter's has the same numbers)."""
    if method == _AVE:
        return average_pool(x, window)
    if method == _STOCHASTIC:
        return stochastic_pool(x, window, training)
    return max_pool(x, window)[0]


@register("Pooling")
class Pooling(Layer):
    """MAX, AVE or STOCHASTIC over windows of each plane of (N, C, H, W) (pooling_layer.cpp).

    out = ceil((in + 2 pad - kernel) / stride) + 1 (round_mode FLOOR, or ceil_mode false as forks have it: rounded
    down), less one if there is any pad and the last window would start at in + pad or beyond. MAX may have a second
    top: the winner's index h * W + w.
    Errors: both or no forms of the kernel; kernel or stride 0; pad not below the kernel, or with STOCHASTIC;
    kernel, pad or stride together with global_pooling; a bottom without 4 axes.
    """

    takes_half = True
    tops = between(1, 2)
    deviations = "STOCHASTIC also runs on the CPU; NaN wins a MAX; an AVE window outside the image gives 0"

    def set_up(self, bottom: Shape) -> None:
        p = self.param.pooling_param
        self.check_bottom(bottom)
        pair = p.HasField("kernel_h") or p.HasField("kernel_w")
        self.method, self.is_global = p.pool, p.global_pooling
        if p.global_pooling:
            self.check(not p.HasField("kernel_size") and not pair, "With global_pooling no kernel can be given")
        else:
            self.check(p.HasField("kernel_size") != pair, "needs kernel_size, or kernel_h and kernel_w, not both")
            self.check(
                not pair or (p.HasField("kernel_h") and p.HasField("kernel_w")), "needs both kernel_h and kernel_w"
            )
        for short in ("pad", "stride"):
            fields = [p.HasField(name) for name in (f"{short}_h", f"{short}_w")]
            self.check(
                not any(fields) or (all(fields) and not p.HasField(short)),
                f"needs {short}, or both {short}_h and {short}_w, not a mixture",
            )
        self.window = Window(
            kernel=(p.kernel_h, p.kernel_w) if pair else (p.kernel_size, p.kernel_size),
            stride=(p.stride_h, p.stride_w) if p.HasField("stride_h") else (p.stride, p.stride),
            pad=(p.pad_h, p.pad_w) if p.HasField("pad_h") else (p.pad, p.pad),
            ceil=p.round_mode == caffe_pb2.PoolingParameter.CEIL and p.ceil_mode,
        )
        self._check_window()
        self.top_is_free = p.pool != _STOCHASTIC
        self.check(self.top_count < 2 or p.pool == _MAX, "only MAX has a second top")

    def _check_window(self) -> None:
        kernel, stride, pad, _ = self.window
        self.check(min(stride) > 0, f"stride must be positive, not {list(stride)}")
        if self.is_global:
            self.check(pad == (0, 0) and stride == (1, 1), "With global_pooling pad must be 0 and stride 1")
            return
        self.check(min(kernel) > 0, f"Filter dimensions cannot be zero: {list(kernel)}")
        if any(pad):
            self.check(self.method in (_MAX, _AVE), "Padding implemented only for average and max pooling.")
            self.check(
                pad[0] < kernel[0] and pad[1] < kernel[1], f"pad {list(pad)} must be below the kernel {list(kernel)}"
            )

    def check_bottom(self, bottom: Shape) -> None:
        if len(bottom) != 4:
            self.fail(f"Input must have 4 axes, corresponding to (num, channels, height, width), not {list(bottom)}")

    def window_for(self, size: Shape) -> Window:
        return self.window._replace(kernel=size) if self.is_global else self.window

    def top_shapes(self, bottom: Shape) -> list[Shape]:
        self.check_bottom(bottom)
        counts = self.window_for(bottom[2:]).counts(bottom[2:])
        if min(counts) < 1:
            self.fail(f"a bottom {list(bottom)} is too small for the kernel {list(self.window.kernel)}")
        return [(*bottom[:2], *counts)] * self.top_count

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        window = self.window_for(tuple(x.shape[2:]))
        if self.top_count == 2:
            y, index = max_pool(x, window)
            return y, index.to(x.dtype)
        return pool(x, self.method, window, self.is_training)


@register("SPP")
class SPP(Layer):
    """Spatial pyramid pooling (spp_layer.cpp; He et al., 2014).

    Level l = 0 .. pyramid_height - 1 pools to 2^l x 2^l bins: kernel = stride = ceil(H / 2^l),
    pad = (kernel 2^l - H + 1) / 2; all levels flattened side by side, (N, C (4^height - 1) / 3). With one level the
    top stays 4-d. Errors: pyramid_height 0; an image too small for its finest level.
    """

    def set_up(self, bottom: Shape) -> None:
        p = self.param.spp_param
        self.check(p.pyramid_height > 0, "pyramid_height must be positive")
        self.height, self.method = p.pyramid_height, p.pool

    def windows(self, size: Shape) -> list[Window]:
        windows = []
        for bins in (2**level for level in range(self.height)):
            kernel = tuple(-(-length // bins) for length in size)
            pad = tuple((k * bins - length + 1) // 2 for k, length in zip(kernel, size, strict=True))
            if any(p >= k for p, k in zip(pad, kernel, strict=True)):
                self.fail(f"an image of {list(size)} is too small for a level of {bins} x {bins} bins")
            windows.append(Window(kernel, kernel, pad))
        return windows

    def top_shapes(self, bottom: Shape) -> list[Shape]:
        self.check(len(bottom) == 4, f"Input must have 4 axes (num, channels, height, width), not {list(bottom)}")
        counts = [window.counts(bottom[2:]) for window in self.windows(bottom[2:])]
        if self.height == 1:
            return [(*bottom[:2], *counts[0])]
        return [(bottom[0], bottom[1] * sum(math.prod(count) for count in counts))]

    def forward(self, x: Tensor) -> Tensor:
        levels = [pool(x, self.method, window, self.is_training) for window in self.windows(tuple(x.shape[2:]))]
        return levels[0] if self.height == 1 else torch.cat([level.flatten(1) for level in levels], 1)
