"""Convolution, Deconvolution and Im2col over any number of spatial axes."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pysolver.blob import Shape
from pysolver.layers.base import Layer, at_least, register

_CONVOLUTION = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


class Spatial(Layer):
    """What the family shares: convolution_param's geometry.

    Axes before `axis` are independent items, `axis` is the channels, the n axes after it are spatial.
    kernel_size, pad, stride, dilation are given once or once a spatial axis, or, for two axes, as kernel_h and
    kernel_w (and so on); of pad_h and pad_w one may be missing: 0. Source: base_conv_layer.cpp.
    """

    def read_geometry(self, bottom: Shape) -> None:
        p = self.param.convolution_param
        self.channel_axis = self.axis(p.axis, bottom)
        self.spatial = len(bottom) - self.channel_axis - 1
        self.channels = bottom[self.channel_axis]
        self.kernel = self._per_axis(p, "kernel_size", "kernel", None)
        self.stride = self._per_axis(p, "stride", "stride", 1)
        self.pad = self._per_axis(p, "pad", "pad", 0)
        self.dilation = self._per_axis(p, "dilation", None, 1)
        for field, values in (("kernel_size", self.kernel), ("stride", self.stride), ("dilation", self.dilation)):
            self.check(all(value > 0 for value in values), f"{field} must be positive, not {list(values)}")

    def _per_axis(self, p: Any, field: str, short: str | None, default: int | None) -> Shape:
        """The value of every spatial axis, from the list `field` or from `short`_h and `short`_w."""
        values = tuple(getattr(p, field))
        pair = short and (p.HasField(f"{short}_h"), p.HasField(f"{short}_w"))
        if pair and any(pair):
            self.check(all(pair) or default == 0, f"{short}_h and {short}_w are given together or not at all")
            self.check(self.spatial == 2, f"{short}_h and {short}_w are for 2 spatial axes, here are {self.spatial}")
            self.check(not values, f"either {field} or {short}_h and {short}_w, not both")
            return getattr(p, f"{short}_h"), getattr(p, f"{short}_w")
        if not values and default is not None:
            values = (default,)
        if len(values) not in (1, self.spatial):
            self.fail(
                f"{field} must be given once or once for each of {self.spatial} spatial axes, not {len(values)} times"
            )
        return values * self.spatial if len(values) == 1 else values

    def check_bottoms(self, bottoms: tuple[Shape, ...]) -> None:
        """Same axes and channels as at set-up; all bottoms alike."""
        first = bottoms[0]
        if len(first) != self.channel_axis + 1 + self.spatial:
            self.fail(
                f"bottom num_axes may not change: it was {self.channel_axis + 1 + self.spatial}, now {list(first)}"
            )
        if first[self.channel_axis] != self.channels:
            self.fail(
                f"Input size incompatible with convolution kernel: the bottom {list(first)} has "
                f"{first[self.channel_axis]} channels, the weights are for {self.channels}"
            )
        for other in bottoms[1:]:
            if other != first:
                self.fail(f"All inputs must have the same shape, not {list(first)} and {list(other)}")

    def window_counts(self, sizes: Shape) -> Shape:
        """Window positions along each axis: (in + 2 pad - extent) / stride + 1, in C's division, towards zero."""
        free = [
            size + 2 * pad - (dilation * (kernel - 1) + 1)
            for size, pad, kernel, dilation in zip(sizes, self.pad, self.kernel, self.dilation, strict=True)
        ]
        counts = tuple(int(math.trunc(f / s)) + 1 for f, s in zip(free, self.stride, strict=True))
        if any(count < 1 for count in counts):
            self.fail(f"a bottom of spatial size {list(sizes)} is too small for the kernel {list(self.kernel)}")
        return counts

    def complete(self, x: Tensor) -> Tensor:
        """x, with zeros behind axes that are shorter than the one window that C's division grants them."""
        missing = [
            max(0, dilation * (kernel - 1) + 1 - size - 2 * pad)
            for size, pad, kernel, dilation in zip(x.shape[2:], self.pad, self.kernel, self.dilation, strict=True)
        ]
        if not any(missing):
            return x
        return F.pad(x, [value for size in reversed(missing) for value in (0, size)])

    def windows(self, x: Tensor) -> Tensor:
        """(N, C, spatial...) -> (N, C, positions..., kernel...): a view where there is no padding."""
        x = F.pad(self.complete(x), [pad for pad in reversed(self.pad) for _ in (0, 1)])
        for axis, (kernel, stride, dilation) in enumerate(zip(self.kernel, self.stride, self.dilation, strict=True)):
            x = x.unfold(2 + axis, dilation * (kernel - 1) + 1, stride)[..., ::dilation]
        return x


class Weighted(Spatial):
    """What Convolution and Deconvolution share. Blob 0: weights, blob 1: bias (num_output), if bias_term."""

    takes_half = True
    bottoms = at_least(1)
    tops = at_least(1)

    def set_up(self, *bottoms: Shape) -> None:
        p = self.param.convolution_param
        self.read_geometry(bottoms[0])
        self.outputs, self.group = p.num_output, p.group
        self.check(self.outputs > 0, "num_output must be positive")
        self.check(self.group > 0, "group must be positive")
        self.check(len(bottoms) == self.top_count, f"has {len(bottoms)} bottoms, but {self.top_count} tops")
        self.top_is_free = self.channel_axis == 1
        for what, count in (("channels of the bottom", self.channels), ("num_output", self.outputs)):
            self.check(count % self.group == 0, f"{what} ({count}) must be a multiple of group ({self.group})")
        self.add_blob(self.weight_shape(), p.weight_filler)
        if p.bias_term:
            self.add_blob((self.outputs,), p.bias_filler)

    def weight_shape(self) -> Shape:
        raise NotImplementedError

    def sizes(self, sizes: Shape) -> Shape:
        """Spatial sizes of the top."""
        raise NotImplementedError

    def top_shapes(self, *bottoms: Shape) -> list[Shape]:
        self.check_bottoms(bottoms)
        items, sizes = bottoms[0][: self.channel_axis], bottoms[0][self.channel_axis + 1 :]
        return [(*items, self.outputs, *self.sizes(sizes))] * len(bottoms)

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        return tuple(self._one(x) for x in bottoms)

    def _one(self, x: Tensor) -> Tensor:
        items = x.shape[: self.channel_axis]
        if len(items) != 1:
            x = x.reshape(math.prod(items), *x.shape[self.channel_axis :])
        y = self.convolve(x, self.blobs[0], self.blobs[1] if len(self.blobs) > 1 else None)
        if self.param.convolution_param.relu:  # of Intel's Caffe: a ReLU fused with it
            y = F.leaky_relu(y, self.param.convolution_param.negative_slope)
        return y if len(items) == 1 else y.reshape(*items, *y.shape[1:])

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """One (N, C, spatial...) tensor."""
        raise NotImplementedError


def _correlate(windows: Tensor, weight: Tensor, bias: Tensor | None, group: int) -> Tensor:
    """The sum of windows (N, C, positions..., kernel...) times weight (O, C/g, kernel...), for any number of axes."""
    axes = weight.dim() - 2
    items, channels, *positions = windows.shape[: 2 + axes]
    grouped = windows.reshape(items, group, channels // group, math.prod(positions), -1)
    rows = weight.reshape(group, weight.shape[0] // group, channels // group, -1)
    y = torch.einsum("ngcpk,gock->ngop", grouped, rows).reshape(items, -1, *positions)
    return y if bias is None else y + bias.reshape(-1, *[1] * axes)


@register("Convolution")
class Convolution(Weighted):
    """Cross-correlation with learned kernels (conv_layer.cpp).

    Bottoms (N, C, in...), all of one shape and convolved with the same weights into as many tops (N, O, out...),
    out = (in + 2 pad - (dilation (kernel - 1) + 1)) / stride + 1 in C's division: an axis that is short by less
    than the stride still gives one position. Weights (O, C/group, kernel...).
    Errors: channels or num_output not divisible by group, a geometry that leaves no position.
    """

    def weight_shape(self) -> Shape:
        return (self.outputs, self.channels // self.group, *self.kernel)

    def sizes(self, sizes: Shape) -> Shape:
        return self.window_counts(sizes)

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        convolution = _CONVOLUTION.get(self.spatial)
        if convolution is None:
            return _correlate(self.windows(x), weight, bias, self.group)
        x = self.complete(x)
        # torch's backward ends the process at strides far beyond the image; where there is one position, none matters
        stride = [
            max(1, min(step, n + 2 * pad)) for step, n, pad in zip(self.stride, x.shape[-self.spatial :], self.pad)
        ]
        return convolution(x, weight, bias, stride, self.pad, self.dilation, self.group)


@register("Deconvolution")
class Deconvolution(Weighted):
    """The transpose of Convolution, with weights (C, O/group, kernel...) (deconv_layer.cpp).

    out = stride (in - 1) + dilation (kernel - 1) + 1 - 2 pad. Errors: as Convolution; more than 3 spatial axes.
    """

    def weight_shape(self) -> Shape:
        self.check(1 <= self.spatial <= 3, f"needs 1, 2 or 3 spatial axes, not {self.spatial}")
        return (self.channels, self.outputs // self.group, *self.kernel)

    def sizes(self, sizes: Shape) -> Shape:
        counts = tuple(
            stride * (size - 1) + dilation * (kernel - 1) + 1 - 2 * pad
            for size, pad, kernel, stride, dilation in zip(
                sizes, self.pad, self.kernel, self.stride, self.dilation, strict=True
            )
        )
        if any(count < 1 for count in counts):
            self.fail(f"pad {list(self.pad)} leaves nothing of a bottom of spatial size {list(sizes)}")
        return counts

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        transposed = _TRANSPOSED[self.spatial]
        return transposed(x, weight, bias, self.stride, self.pad, 0, self.group, self.dilation)


@register("Im2col")
class Im2col(Spatial):
    """Every window as a column: (N, C, in...) -> (N, C * prod(kernel), out...) (im2col_layer.cpp)."""

    def set_up(self, bottom: Shape) -> None:
        self.read_geometry(bottom)

    def top_shapes(self, bottom: Shape) -> list[Shape]:
        self.check_bottoms((bottom,))
        rows = self.channels * math.prod(self.kernel)
        return [(*bottom[: self.channel_axis], rows, *self.window_counts(bottom[self.channel_axis + 1 :]))]

    def forward(self, x: Tensor) -> Tensor:
        (top,) = self.top_shapes(tuple(x.shape))
        windows = self.windows(x.reshape(-1, *x.shape[self.channel_axis :]))
        positions = tuple(range(2, 2 + self.spatial))
        kernels = tuple(range(2 + self.spatial, 2 + 2 * self.spatial))
        return windows.permute(0, 1, *kernels, *positions).reshape(top)
