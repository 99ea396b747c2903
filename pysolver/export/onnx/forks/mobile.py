"""ReLU6 and ShuffleChannel of mobile nets, Axpy of squeeze-and-excitation nets."""

from __future__ import annotations

from pysolver.export.onnx.graph import Scope, emits
from pysolver.layers.forks import mobile as layers


@emits("ReLU6")
def relu6(g: Scope, layer: layers.ReLU6, x: str) -> str:
    six = g.constant(6, hint="max")
    if layer.slope:
        return g.node("Min", g.node("LeakyRelu", x, alpha=layer.slope), six)
    return g.node("Clip", x, g.constant(0, hint="min"), six)


@emits("Axpy")
def axpy(g: Scope, layer: layers.Axpy, a: str, x: str, b: str) -> str:
    factors, planes = g.bottoms[:2]
    a = g.reshape(a, factors, (*factors[:2], *[1] * (len(planes) - 2)))
    return g.node("Add", g.node("Mul", a, x), b)


@emits("ShuffleChannel")
def shuffle_channel(g: Scope, layer: layers.ShuffleChannel, x: str) -> str:
    items, channels, *plane = g.bottoms[0]
    parts = (items, layer.group, channels // layer.group, *plane)
    order = [0, 2, 1, *range(3, len(parts))]
    y = g.node("Transpose", g.reshape(x, g.bottoms[0], parts), perm=order)
    return g.reshape(y, tuple(parts[i] for i in order), g.tops[0])
