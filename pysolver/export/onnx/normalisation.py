"""LRN, BatchNorm, MVN."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pysolver.export.onnx.graph import Scope, emits
from pysolver.layers import normalisation as layers


@emits("LRN")
def lrn(g: Scope, layer: layers.LRN, x: str) -> str:
    if layer.across:
        return g.node("LRN", x, size=layer.size, alpha=layer.alpha, beta=layer.beta, bias=layer.k)
    n, pad = layer.size, layer.size // 2
    square = g.pad(g.node("Mul", x, x), [0, 0, pad, pad], [0, 0, pad, pad])
    mean = g.node("AveragePool", square, kernel_shape=[n, n])
    scaled = g.node("Mul", mean, g.constant(layer.alpha, hint="alpha"))
    base = g.node("Add", scaled, g.constant(1, hint="one"))
    return g.node("Mul", x, g.node("Pow", base, g.constant(-layer.beta, hint="power")))


@emits("BatchNorm")
def batch_norm(g: Scope, layer: layers.BatchNorm, x: str) -> str:
    """LAYER.0 and LAYER.1 are the mean and the variance: the sums that Caffe stores, divided by their weight."""
    if not layer.use_global:
        axes = [axis for axis in range(len(g.bottoms[0])) if axis != 1]
        centred, variance = moments(g, x, axes)
        deviation = g.node("Sqrt", g.node("Add", variance, g.constant(layer.eps, hint="eps")))
        y = g.node("Div", centred, deviation)
        if layer.is_nvidia:
            spread = (g.bottoms[0][1], *[1] * (len(g.bottoms[0]) - 2))
            y = g.node("Add", g.node("Mul", y, g.blob(3, spread)), g.blob(4, spread))
        return y
    if layer.is_nvidia:
        stored = {name: g.values(index) for name, index in (("scale", 3), ("shift", 4), ("mean", 0), ("variance", 1))}
        return normalise(g, x, **stored, eps=layer.eps)
    weight = float(g.values(2)[0])
    sums, squares = (g.values(index) * np.float32(1 / weight if weight else 0) for index in (0, 1))
    return normalise(g, x, np.ones_like(sums), np.zeros_like(sums), sums, squares, layer.eps)


def normalise(
    g: Scope, x: str, scale: np.ndarray, shift: np.ndarray, mean: np.ndarray, variance: np.ndarray, eps: float
) -> str:
    """One BatchNormalization node; mean and variance are LAYER.0 and LAYER.1."""
    named = {"scale": scale, "shift": shift, "0": mean, "1": variance}
    return g.node("BatchNormalization", x, *(g.constant(v.ravel(), hint=h) for h, v in named.items()), epsilon=eps)


def moments(g: Scope, x: str, axes: Sequence[int]) -> tuple[str, str]:
    """(x - mean, mean of its square) over the axes, which stay as ones."""
    centred = g.node("Sub", x, g.reduce("ReduceMean", x, axes, keep=True))
    return centred, g.reduce("ReduceMean", g.node("Mul", centred, centred), axes, keep=True)


@emits("MVN")
def mvn(g: Scope, layer: layers.MVN, x: str) -> str:
    x = g.reshape(x, g.bottoms[0], g.tops[0])
    if not layer.with_variance:
        return g.node("Sub", x, g.reduce("ReduceMean", x, layer.dims, keep=True))
    centred, variance = moments(g, x, layer.dims)
    deviation = g.node("Sqrt", variance)
    return g.node("Div", centred, g.node("Add", deviation, g.constant(layer.eps, hint="eps")))
