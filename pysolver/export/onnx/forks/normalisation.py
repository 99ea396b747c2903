"""Normalize of SSD and of caffe-windows; BN of PSPNet and of SegNet; CuDNNBatchNorm of GENet."""

from __future__ import annotations

import numpy as np

from pysolver.export.onnx.graph import Scope, emits
from pysolver.export.onnx.normalisation import moments, normalise
from pysolver.layers.forks import normalisation as layers
from pysolver.layers.forks.normface import UnitVectors


@emits("Normalize")
def normalize(g: Scope, layer: layers.Normalize | UnitVectors, x: str) -> str | list[str]:
    rank = len(g.bottoms[0])
    if isinstance(layer, UnitVectors):
        return unit_vectors(g, layer, x)
    square = g.reduce("ReduceSumSquare", x, range(1, rank) if layer.across else [1], keep=True)
    norm = g.node("Sqrt", g.node("Add", square, g.constant(layer.eps, hint="eps")))
    shape = (layer.channels, *[1] * (rank - 2)) if layer.blobs[0].dim() else ()
    return g.node("Mul", g.node("Div", x, norm), g.blob(0, shape))


def unit_vectors(g: Scope, layer: UnitVectors, x: str) -> str | list[str]:
    size = g.reduce("ReduceSumSquare" if layer.power == 2 else "ReduceL1", x, [1], keep=True)
    norm = g.node("Add", size, g.constant(1e-6, hint="eps"))
    norm = g.node("Sqrt", norm) if layer.power == 2 else norm
    y = g.node("Div", x, norm)
    if layer.top_count == 1:
        return y
    shape = g.bottoms[0]
    return [y, g.reshape(norm, (shape[0], 1, *shape[2:]), g.tops[1])]


@emits("BN")
def bn(g: Scope, layer: layers.BN, x: str) -> str:
    """LAYER.0 and LAYER.1 are a mean and a variance; PSPNet's inverse deviation is in LAYER.scale."""
    if layer.top_count > 1:
        g.cannot("the batch's mean and variance as tops")
    slope, bias = (g.values(index).ravel() for index in (0, 1))
    if not layer.stored:
        rank = len(g.bottoms[0])
        centred, variance = moments(g, x, [axis for axis in range(rank) if axis != 1])
        y = g.node("Div", centred, g.node("Sqrt", g.node("Add", variance, g.constant(layer.eps, hint="eps"))))
        spread = (layer.blobs[0].numel(), *[1] * (rank - 2))
        return g.node("Add", g.node("Mul", y, g.blob(0, spread)), g.blob(1, spread))
    mean, inverse = np.zeros_like(slope), np.ones_like(slope)
    if not layer.is_segnet:
        mean, inverse = g.values(2).ravel(), layer.inverse_deviation().cpu().numpy()
    return normalise(g, x, slope * inverse, bias, mean, np.ones_like(mean), 0.0)


@emits("CuDNNBatchNorm")
def cudnn_batch_norm(g: Scope, layer: layers.CuDNNBatchNorm, x: str) -> str:
    if not layer.stored:
        g.cannot("phase TRAIN normalises by the batch: export the TEST net")
    slope, bias, mean, variance = (g.values(index).ravel() for index in range(4))
    return normalise(g, x, slope, bias, mean, variance, layer.eps)
