"""Scale and Bias: products and sums broadcast from an axis on."""

from __future__ import annotations

import torch
from torch import Tensor

from pysolver.blob import Shape
from pysolver.layers.base import Layer, between, register
from pysolver.logs import notices
from pysolver.proto import caffe_pb2


class Broadcast(Layer):
    """What Scale and Bias share: the operand is blob 0, or bottom 1, and covers bottom 0's axes from `axis` on.

    Its shape is bottom.shape[axis : axis + num_axes], num_axes -1 for all the rest; 0 axes are a scalar.
    Errors: an axis out of range, num_axes below -1 or too large, an operand whose shape does not match.
    """

    takes_half = True
    bottoms = between(1, 2)
    top_is_free = True
    first: int  # the axis of bottom 0 where the operand begins

    def operand_shape(self, bottom: Shape, axis: int, num_axes: int) -> Shape:
        self.check(num_axes >= -1, "num_axes must be non-negative, or -1 to extend to the end of the bottom")
        first = self.axis(axis, bottom)
        self.check(
            first + max(num_axes, 0) <= len(bottom),
            f"the learned blob of {num_axes} axes from axis {first} extends past the end of the bottom {list(bottom)}",
        )
        return bottom[first:] if num_axes == -1 else bottom[first : first + num_axes]

    def top_shapes(self, bottom: Shape, operand: Shape | None = None) -> list[Shape]:
        operand = tuple(self.blobs[0].shape) if operand is None else operand
        first = self.axis(self.first, bottom) if operand else 0
        if bottom[first : first + len(operand)] != operand:
            self.fail(f"dimension mismatch: the operand {list(operand)} does not fit {list(bottom)} at axis {first}")
        return [bottom]

    def spread(self, operand: Tensor, x: Tensor) -> Tensor:
        """The operand with ones for the axes of x behind it."""
        first = self.first % x.dim() if x.dim() else 0
        return operand.reshape(*operand.shape, *[1] * (x.dim() - first - operand.dim())) if operand.dim() else operand


@register("Scale")
class Scale(Broadcast):
    """y = x * a, or x * a + b with bias_term (scale_layer.cpp).

    One bottom: blob 0 is a (filled with 1 unless `filler` is given), blob 1 is b. Two bottoms: a is bottom 1, blob 0
    is b. Shapes and errors: see Broadcast.
    """

    def set_up(self, bottom: Shape, operand: Shape | None = None) -> None:
        p = self.param.scale_param
        self.first, self.has_bias = p.axis, p.bias_term
        self.is_by_channel = operand is None and self.axis(p.axis, bottom) == 1 and p.num_axes == 1
        shape = operand
        if operand is None:
            shape = self.operand_shape(bottom, p.axis, p.num_axes)
            self.add_blob(shape, p.filler if p.HasField("filler") else caffe_pb2.FillerParameter(value=1))
        if p.bias_term:
            self.context.emit(notices.MakingLayer(self.name))
            self.add_blob(shape, p.bias_filler)

    def forward(self, x: Tensor, operand: Tensor | None = None) -> Tensor:
        scale = self.spread(self.blobs[0] if operand is None else operand, x)
        return torch.addcmul(self.spread(self.blobs[-1], x), x, scale) if self.has_bias else x * scale


@register("Bias")
class Bias(Broadcast):
    """y = x + b: one bottom: b is blob 0; two: bottom 1 (bias_layer.cpp). Shapes and errors: see Broadcast."""

    def set_up(self, bottom: Shape, operand: Shape | None = None) -> None:
        p = self.param.bias_param
        self.first = p.axis
        if operand is None:
            self.add_blob(self.operand_shape(bottom, p.axis, p.num_axes), p.filler)

    def forward(self, x: Tensor, operand: Tensor | None = None) -> Tensor:
        return x + self.spread(self.blobs[0] if operand is None else operand, x)
