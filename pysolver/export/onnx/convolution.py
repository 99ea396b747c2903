"""Convolution, Deconvolution, Im2col."""

from __future__ import annotations

import math

import numpy as np

from pysolver.export.onnx.activations import rectified
from pysolver.export.onnx.graph import Scope, emits
from pysolver.layers import convolution as layers


def _windows(g: Scope, layer: layers.Spatial) -> dict:
    """The attributes that say the geometry. Behind axes that C's division grants one window too much come zeros."""
    sizes = g.bottoms[0][layer.channel_axis + 1 :]
    missing = [
        max(0, dilation * (kernel - 1) + 1 - size - 2 * pad)
        for size, pad, kernel, dilation in zip(sizes, layer.pad, layer.kernel, layer.dilation, strict=True)
    ]
    ends = [pad + more for pad, more in zip(layer.pad, missing, strict=True)]
    return {
        "kernel_shape": layer.kernel,
        "strides": layer.stride,
        "pads": [*layer.pad, *ends],
        "dilations": layer.dilation,
    }


def _weighted(g: Scope, layer: layers.Weighted, op: str, attributes: dict, bottoms: tuple[str, ...]) -> tuple[str, ...]:
    matrix = tuple(layer.blobs[0].shape)
    weights = [g.blob(0, matrix if layer.spatial else (*matrix, 1)), *(g.blob(i) for i in range(1, len(layer.blobs)))]
    if not layer.spatial:  # a matrix for each item: ONNX wants one axis at least
        attributes = {"kernel_shape": [1]}
    tops = []
    for x, before, after in zip(bottoms, g.bottoms, g.tops, strict=True):
        c = layer.channel_axis
        items = math.prod(before[:c])
        line = () if layer.spatial else (1,)
        folded, unfolded = (items, *before[c:], *line), (items, *after[c:], *line)
        y = g.node(op, g.reshape(x, before, folded), *weights, **attributes, group=layer.group)
        if layer.param.convolution_param.relu:
            y = rectified(g, y, layer.param.convolution_param.negative_slope)
        tops.append(g.reshape(y, unfolded, after))
    return tuple(tops)


@emits("Convolution", "ConvolutionDepthwise", "DepthwiseConvolution")
def convolution(g: Scope, layer: layers.Convolution, *bottoms: str) -> tuple[str, ...]:
    return _weighted(g, layer, "Conv", _windows(g, layer), bottoms)


@emits("Deconvolution")
def deconvolution(g: Scope, layer: layers.Deconvolution, *bottoms: str) -> tuple[str, ...]:
    geometry = {"kernel_shape": layer.kernel, "strides": layer.stride, "pads": [*layer.pad, *layer.pad]}
    return _weighted(g, layer, "ConvTranspose", {**geometry, "dilations": layer.dilation}, bottoms)


@emits("Im2col")
def im2col(g: Scope, layer: layers.Im2col, x: str) -> str:
    """A convolution whose kernels each pick one place of the window."""
    before, c = g.bottoms[0], layer.channel_axis
    if not layer.spatial:
        return g.reshape(x, before, g.tops[0])
    places = math.prod(layer.kernel)
    one_hot = np.eye(places, dtype=np.float32).reshape(1, places, 1, *layer.kernel)
    kernels = np.repeat(one_hot, layer.channels, 0)
    folded = (math.prod(before[:c]), *before[c:])
    picks = g.constant(kernels.reshape(layer.channels * places, 1, *layer.kernel), hint="picks")
    y = g.node("Conv", g.reshape(x, before, folded), picks, **_windows(g, layer), group=layer.channels)
    return g.reshape(y, (folded[0], *g.tops[0][c:]), g.tops[0])
