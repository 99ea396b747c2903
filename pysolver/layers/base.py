"""What a layer is. All that a layer's file needs is imported from here.

To add a layer, write a class in the file of its family:

    @register("Power")
    class Power(Layer):
        def top_shapes(self, bottom): return [bottom]
        def forward(self, x): ...

Nothing else is touched: the registry, the documentation and the gradient tests find it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from pysolver.blob import Shape
from pysolver.component import Component, at_least, between, exactly, register
from pysolver.context import Context
from pysolver.layers.fillers import check, fill
from pysolver.logs import notices
from pysolver.proto import blobproto
from pysolver.proto.caffe_pb2 import FillerParameter, LayerParameter

__all__ = ["Layer", "at_least", "between", "exactly", "register"]


class Layer(Component, nn.Module):
    """A part of the computed net: the base class checks what the class declares, the subclass computes."""

    blobs: nn.ParameterList
    is_opaque: bool = False  # torch.compile cannot look into forward
    keeps_tensors: bool = False  # of one forward for the next, other than its blobs and buffers
    takes_half: bool = False  # bottoms may come in half precision; else they are made float32 before
    can_overwrite: bool = False  # `overwrite` exists
    top_is_free: bool = False  # the single top is a new tensor that backward does not read: others may overwrite it

    def __init__(self, param: LayerParameter, context: Context) -> None:
        nn.Module.__init__(self)
        Component.__init__(self, param, context)
        self.blobs = nn.ParameterList()

    def forward(self, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        """The tops. Differentiable by autograd; never writes into its bottoms."""
        raise NotImplementedError

    def overwrite(self, *bottoms: Tensor) -> Tensor:
        """As forward, with the top in the memory of bottom 0: where that is free, and nobody else reads it."""
        raise NotImplementedError

    def add_blob(self, shape: Shape, filler: FillerParameter | None = None) -> nn.Parameter:
        """A new parameter, from the prototxt's own `blobs` if it has them, else filled (no filler: zeros)."""
        index = len(self.blobs)
        self.check(math.prod(shape) <= blobproto.LARGEST_COUNT, f"blob size exceeds INT_MAX: {list(shape)}")
        is_filled = bool(self.param.blobs) or filler is not None
        blob = nn.Parameter(torch.empty(shape) if is_filled else torch.zeros(shape))
        if self.param.blobs:
            if index == 0:
                self.context.emit(notices.SkippingFillers())
            if index >= len(self.param.blobs):
                self.fail(f"the definition carries {len(self.param.blobs)} blobs, the layer needs more")
            given = self.param.blobs[index]
            with self.about(f"blob {index} given in the definition"):
                blobproto.check(given)
            if not blobproto.shapes_equal(tuple(shape), given):
                self.fail(f"blob {index} given in the definition has shape {blobproto.shape_of(given)}, not {shape}")
            blob.data.copy_(torch.from_numpy(blobproto.to_array(given)).reshape(shape))
        elif filler is not None:
            with self.about():
                check(blob, filler)
                if self.context.unfilled is None:
                    fill(blob.data, filler)
                else:
                    self.context.unfilled.append((blob, filler))
        self.blobs.append(blob)
        return blob

    def extra_repr(self) -> str:
        return repr(self.name)
