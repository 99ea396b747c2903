"""Convolution3D, Deconvolution3D and Pooling3D of C3D (Tran et al., 2015): over (N, C, length, H, W), with
square windows in a frame."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pysolver.blob import Shape
from pysolver.layers.base import Layer, exactly, register
from pysolver.layers.convolution import Convolution, Deconvolution, Weighted
from pysolver.proto import caffe_pb2


def _check_volume(layer: Layer, bottom: Shape) -> None:
    if len(bottom) != 5:
        layer.fail(f"needs a bottom (N, C, length, H, W), not {list(bottom)}")


def _first(field: int | Sequence[int], default: int) -> int:
    """What a field says that is single in one message and repeated in the other."""
    return field if isinstance(field, int) else next(iter(field), default)


class Volume(Weighted):
    """What both share: kernels (kernel_depth, kernel_size, kernel_size), steps (temporal_stride, stride, stride), zeros
    around (temporal_pad, pad, pad). The fields are those of convolution3d_param or, in files of C3D 1.0, of
    convolution_param. filter_group only saves that fork's memory, group is not read.
    Errors: as Convolution; a bottom without 5 axes.
    """

    bottoms = exactly(1)
    tops = exactly(1)

    def set_up(self, bottom: Shape) -> None:
        _check_volume(self, bottom)
        own = self.param.HasField("convolution3d_param")
        p = self.param.convolution3d_param if own else self.param.convolution_param
        size, stride, pad = _first(p.kernel_size, 0), _first(p.stride, 1), _first(p.pad, 0)
        self.channel_axis, self.spatial, self.channels = 1, 3, bottom[1]
        self.outputs, self.group, self.dilation = p.num_output, 1, (1, 1, 1)
        self.kernel = (p.kernel_depth, size, size)
        self.stride = (p.temporal_stride, stride, stride)
        self.pad = (p.temporal_pad, pad, pad)
        self.check(self.outputs > 0, "num_output must be positive")
        self.check(min(self.kernel) > 0, f"kernel_depth and kernel_size must be positive, not {list(self.kernel[:2])}")
        self.check(min(self.stride) > 0, f"temporal_stride and stride must be positive, not {list(self.stride[:2])}")
        self.add_blob(self.weight_shape(), p.weight_filler)
        if p.bias_term:
            self.add_blob((self.outputs,), p.bias_filler)


@register("Convolution3D")
class Convolution3D(Volume, Convolution):
    """Convolution of volumes, weights (O, C, kernel...) (convolution3d_layer.cpp). Fields and errors: see Volume."""


@register("Deconvolution3D")
class Deconvolution3D(Volume, Deconvolution):
    """The transpose of Convolution3D, weights (C, O, kernel...) (deconvolution3d_layer.cpp). Fields and errors: see
    Volume.
    """


@register("Pooling3D")
class Pooling3D(Layer):
    """MAX or AVE over windows (kernel_depth, kernel_size, kernel_size) (pool3d_layer.cpp).

    out = ceil((in + 2 pad - kernel) / stride) + 1; pad only in the frame and only for AVE, whose divisor is the
    window's volume inside the padded image. The fields are those of pooling3d_param or, in files of C3D 1.0, of
    pooling_param.
    Errors: a bottom without 5 axes; kernel or stride 0; pad with MAX; STOCHASTIC.
    """

    def set_up(self, bottom: Shape) -> None:
        _check_volume(self, bottom)
        own = self.param.HasField("pooling3d_param")
        p = self.param.pooling3d_param if own else self.param.pooling_param
        self.kernel = (p.kernel_depth, p.kernel_size, p.kernel_size)
        self.stride = (p.temporal_stride, p.stride, p.stride)
        self.pad = (0, p.pad, p.pad)
        self.is_max = p.pool == caffe_pb2.Pooling3DParameter.MAX
        self.check(min(self.kernel) > 0, f"kernel_depth and kernel_size must be positive, not {list(self.kernel[:2])}")
        self.check(min(self.stride) > 0, f"temporal_stride and stride must be positive, not {list(self.stride[:2])}")
        self.check(self.is_max or p.pool == caffe_pb2.Pooling3DParameter.AVE, "pools by MAX or AVE")
        self.check(not p.pad or not self.is_max, "Padding implemented only for average pooling.")

    def counts(self, size: Shape) -> Shape:
        axes = zip(size, self.kernel, self.stride, self.pad, strict=True)
        return tuple(math.ceil((length + 2 * pad - kernel) / stride) + 1 for length, kernel, stride, pad in axes)

    def top_shapes(self, bottom: Shape) -> list[Shape]:
        _check_volume(self, bottom)
        counts = self.counts(bottom[2:])
        self.check(min(counts) > 0, f"a bottom {list(bottom)} is too small for the kernel {list(self.kernel)}")
        return [(*bottom[:2], *counts)]

    def behind(self, size: Shape) -> Shape:
        """How far the last window of each axis reaches beyond the volume."""
        axes = zip(size, self.counts(size), self.kernel, self.stride, self.pad, strict=True)
        return tuple((count - 1) * stride + kernel - length - pad for length, count, kernel, stride, pad in axes)

    def divisors(self, size: Shape) -> Tensor:
        """What the sum of each window is divided by: its part inside the padded volume."""
        lengths = []
        for length, count, kernel, stride, pad in zip(
            size, self.counts(size), self.kernel, self.stride, self.pad, strict=True
        ):
            starts = torch.arange(count) * stride - pad
            lengths.append(((starts + kernel).clamp(max=length + pad) - starts).float())
        return torch.einsum("a,b,c->abc", *lengths)

    def forward(self, x: Tensor) -> Tensor:
        size = tuple(x.shape[2:])
        sides = list(zip(self.pad, self.behind(size), strict=True))
        margins = [margin for side in reversed(sides) for margin in side]
        if self.is_max:
            least = torch.finfo(x.dtype).min  # what that fork starts from: the maximum of a window that lies outside
            return F.max_pool3d(F.pad(x, margins, value=least), self.kernel, self.stride)
        sums = F.avg_pool3d(F.pad(x, margins), self.kernel, self.stride, divisor_override=1)
        return sums / self.divisors(size).to(x)
