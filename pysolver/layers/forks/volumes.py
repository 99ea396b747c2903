"""Convolution3D, Deconvolution3D, Pooling3D and the softmax of voxels of C3D (Tran et al., 2015): over (N, C, length,
H, W), with square windows in a frame."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pysolver.blob import Shape
from pysolver.layers.base import Layer, exactly, register
from pysolver.layers.convolution import Convolution, Deconvolution, Weighted
from pysolver.layers.indices import IndexCheck
from pysolver.layers.losses import Loss, passing
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
    P3D (pooling3d_layer.cpp of pseudo-3d-residual-networks; any kernel_l): windows (kernel_l, kernel_h, kernel_w), or
    kernel_size for the last two, and so the strides and pads, which MAX takes too; with any pad a last window that
    starts behind the volume and its pad is left out.
    Errors: a bottom without 5 axes; kernel or stride 0; C3D's pad with MAX; STOCHASTIC.
    """

    def set_up(self, bottom: Shape) -> None:
        _check_volume(self, bottom)
        own = self.param.HasField("pooling3d_param")
        p = self.param.pooling3d_param if own else self.param.pooling_param
        is_p3d = own and p.HasField("kernel_l")
        if is_p3d:
            self.kernel, self.stride, self.pad = self._p3d("kernel", "size"), self._p3d("stride"), self._p3d("pad")
        else:
            self.kernel = (p.kernel_depth, p.kernel_size, p.kernel_size)
            self.stride = (p.temporal_stride, p.stride, p.stride)
            self.pad = (0, p.pad, p.pad)
        self.leaves_out = is_p3d and any(self.pad)
        self.is_max = p.pool == caffe_pb2.Pooling3DParameter.MAX
        self.check(min(self.kernel) > 0, f"kernel_depth and kernel_size must be positive, not {list(self.kernel[:2])}")
        self.check(min(self.stride) > 0, f"temporal_stride and stride must be positive, not {list(self.stride[:2])}")
        self.check(self.is_max or p.pool == caffe_pb2.Pooling3DParameter.AVE, "pools by MAX or AVE")
        self.check(is_p3d or not p.pad or not self.is_max, "Padding implemented only for average pooling.")
        self.check(not is_p3d or all(pad < k for pad, k in zip(self.pad, self.kernel, strict=True)), "pad is too large")

    def _p3d(self, what: str, suffix: str = "") -> tuple[int, int, int]:
        """P3D's `what` of the three axes, `what_suffix` being that of the last two."""
        p, square = self.param.pooling3d_param, f"{what}_{suffix}" if suffix else what
        pair = [p.HasField(f"{what}_{axis}") for axis in "hw"]
        self.check(all(pair) or not any(pair), f"{what}_h and {what}_w are given together")
        self.check(not (any(pair) and p.HasField(square)), f"{square} or {what}_h and {what}_w, not both")
        of_plane = [getattr(p, f"{what}_{axis}") if all(pair) else getattr(p, square) for axis in "hw"]
        return (getattr(p, f"{what}_l"), of_plane[0], of_plane[1])

    def counts(self, size: Shape) -> Shape:
        counts = []
        for length, kernel, stride, pad in zip(size, self.kernel, self.stride, self.pad, strict=True):
            count = math.ceil((length + 2 * pad - kernel) / stride) + 1
            counts.append(count - (self.leaves_out and (count - 1) * stride >= length + pad))
        return tuple(counts)

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


@register("VoxelSoftmax")
class VoxelSoftmax(Layer):
    """The softmax over the channels of each voxel (C3D 1.0, voxel_wise_softmax_layer.cpp). Errors: a bottom without 5
    axes.
    """

    def top_shapes(self, bottom: Shape) -> list[Shape]:
        _check_volume(self, bottom)
        return [bottom]

    def forward(self, x: Tensor) -> Tensor:
        return x.softmax(1)


@register("VoxelSoftmaxWithLoss")
class VoxelSoftmaxWithLoss(Loss):
    """-sum of log(max(p[label], FLT_MIN)) / voxels, p the softmax over channels (C3D 1.0,
    voxel_wise_softmax_loss_layer.cpp).

    Bottoms: scores (N, C, length, H, W), labels (N, any, length, H, W), of which channel 0 counts. A label of C or more
    costs nothing, but, as there, its voxel still has the gradient p. Errors: a bottom without 5 axes; another volume.
    """

    deviations = "a label below 0 is an error; the gradient has the loss weight"

    def set_up(self, data: Shape, label: Shape) -> None:
        _check_volume(self, data)
        self.labels = IndexCheck(self, data[1], "label", "classes")

    def top_shapes(self, *bottoms: Shape) -> list[Shape]:
        data, label = bottoms
        _check_volume(self, label)
        self.check(label[2:] == data[2:], f"needs labels of the volume of {list(data)}, not {list(label)}")
        return super().top_shapes(*bottoms)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        label = label.detach()[:, :1]
        counts = label.long() < x.shape[1]
        total = x.logsumexp(1, keepdim=True)
        each = torch.where(counts, total - x.gather(1, self.labels(label.where(counts, 0))), total)
        cost = each.detach().clamp(max=-math.log(torch.finfo(torch.float32).tiny)).where(counts, 0)
        return passing(cost.mean(), each.mean())
