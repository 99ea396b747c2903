"""Parameter; Python."""

from __future__ import annotations

from pysolver.export.torch.source import Writer, refuse, writes
from pysolver.layers.base import Layer


@writes("Parameter")
def parameter(w: Writer, layer: Layer) -> str:
    return w.parameter(0, tuple(layer.blobs[0].shape))


refuse("Python", "its code is written for Caffe's blobs")
