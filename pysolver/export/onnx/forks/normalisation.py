"""Normalize of SSD; BN of PSPNet and of SegNet; CuDNNBatchNorm of GENet."""

from __future__ import annotations

import numpy as np

from pysolver.export.onnx.graph import Scope, emits
from pysolver.export.onnx.normalisation import moments, normalise
from pysolver.layers.forks import normalisation as layers


@emits("Normalize")
def normalize(g: Scope, layer: layers.Normalize, x: str) -> str:
    rank = len(g.bottoms[0])
    square = g.reduce("ReduceSumSquare", x, range(1, rank) if layer.across else [1], keep=True)
    norm = g.node("Sqrt", g.node("Add", square, g.constant(layer.eps, hint="eps")))
    shape = (layer.channels, *[1] * (rank - 2)) if layer.blobs[0].dim() else ()
    return g.node("Mul", g.node("Div", x, norm), g.blob(0, shape))


@emits("BN")
def bn(g: Scope, layer: layers.BN, x: str) -> str:
    """LAYER.0 and LAYER.1 are a mean and a variance; PSPNet's inverse deviation is in LAYER.scale."""
    slope, bias = (g.values(index).ravel() for index in (0, 1))
    if not layer.stored:
        rank = len(g.bottoms[0])
        centred, variance = moments(g, x, [axis for axis in range(rank) if axis != 1])
        y = g.node("Div", centred, g.node("Sqrt", g.node("Add", variance, g.constant(layer.eps, hint="eps"))))
        spread = (layer.blobs[0].numel(), *[1] * (rank - 2))
        return g.node("Add", g.node("Mul", y, g.blob(0, spread)), g.blob(1, spread))
    mean, inverse = np.zeros_like(slope), np.ones_like(slope)
    if not layer.is_segnet:
        mean, inverse = (g.values(index).ravel() for index in (2, 3))
    return normalise(g, x, slope * inverse, bias, mean, np.ones_like(mean), 0.0)


@emits("CuDNNBatchNorm")
def cudnn_batch_norm(g: Scope, layer: layers.CuDNNBatchNorm, x: str) -> str:
    if not layer.stored:
        g.cannot("phase TRAIN normalises by the batch: export the TEST net")
    slope, bias, mean, variance = (g.values(index).ravel() for index in range(4))
    return normalise(g, x, slope, bias, mean, variance, layer.eps)
