"""caffe.Layer: the base class of layers that users write in Python (python/caffe/_caffe.cpp)."""

from __future__ import annotations

from pysolver.blob import Blob
from pysolver.layers.python_layer import ParameterBlobs, UserLayer
from pysolver.proto.caffe_pb2 import LayerParameter


class Layer(UserLayer):
    """What a user's layer may override; the net calls it (pysolver.layers.python_layer).

    Blobs have numpy `.data`, `.diff`, `.shape` and `.reshape(*dims)`. Set by the net before setup: `param_str`,
    `phase` (0 TRAIN, 1 TEST) and `blobs`, whose add_blob(*shape) adds a learned blob of zeros.
    """

    type = "Python"
    param_str: str
    phase: int
    blobs: ParameterBlobs

    def __init__(self, param: LayerParameter) -> None:
        """param: the LayerParameter."""
        self.param = param

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        """Called once: check the bottoms, add blobs."""

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        """Called before each forward: give every top its shape."""

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        """Compute top[i].data from bottom[i].data."""

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        """Compute bottom[i].diff where propagate_down[i], and the diffs of self.blobs, from top[i].diff."""
