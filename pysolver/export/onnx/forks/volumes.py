"""Convolution3D, Deconvolution3D and Pooling3D of C3D."""

from __future__ import annotations

import math

import numpy as np

from pysolver.export.onnx.convolution import convolution, deconvolution
from pysolver.export.onnx.graph import Scope, emits
from pysolver.layers.forks import volumes as layers

_LEAST = -float(np.finfo(np.float32).max)

emits("Convolution3D")(convolution)
emits("Deconvolution3D")(deconvolution)


@emits("Pooling3D")
def pooling3d(g: Scope, layer: layers.Pooling3D, x: str) -> str:
    """Windows that reach beyond the volume by less than a kernel are said in pads, others get a Pad node."""
    size = g.bottoms[0][2:]
    ends = layer.behind(size)
    windows = {"kernel_shape": layer.kernel, "strides": layer.stride}
    if layer.is_max and all(0 <= end < kernel for end, kernel in zip(ends, layer.kernel, strict=True)):
        return g.node("MaxPool", x, **windows, pads=[*layer.pad, *ends] if any((*layer.pad, *ends)) else None)
    if any((*layer.pad, *ends)):
        x = g.pad(x, [0, 0, *layer.pad], [0, 0, *ends], _LEAST if layer.is_max else 0.0)
    if layer.is_max:
        return g.node("MaxPool", x, **windows)
    y = g.node("AveragePool", x, **windows)
    correction = math.prod(layer.kernel) / layer.divisors(size).numpy()
    return y if (correction == 1).all() else g.node("Mul", y, g.constant(correction, hint="correction"))
