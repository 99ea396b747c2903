"""Parameter: a learned blob without bottoms."""

from __future__ import annotations

from torch import Tensor

from pysolver.blob import Shape
from pysolver.layers.base import Layer, exactly, register


@register("Parameter")
class Parameter(Layer):
    """A learned blob of `shape` as a top; it starts as zeros, in forks as blob_filler says (parameter_layer.hpp)."""

    bottoms = exactly(0)
    deviations = "its gradient adds up over iter_size like any other"

    def set_up(self) -> None:
        p = self.param.parameter_param
        self.add_blob(tuple(p.shape.dim), p.blob_filler if p.HasField("blob_filler") else None)

    def top_shapes(self) -> list[Shape]:
        return [tuple(self.blobs[0].shape)]

    def forward(self) -> Tensor:
        return self.blobs[0].view_as(self.blobs[0])
