"""Scale and Bias: products and sums broadcast from an axis on."""

from __future__ import annotations

from pysolver.blob import Shape
from pysolver.export.onnx.graph import Scope, emits
from pysolver.layers import affine as layers


def _spread(layer: layers.Broadcast, operand: Shape, bottom: Shape) -> Shape:
    """The operand's shape with ones for the axes of the bottom behind it."""
    first = layer.first % len(bottom) if bottom else 0
    return (*operand, *[1] * (len(bottom) - first - len(operand))) if operand else ()


@emits("Scale")
def scale(g: Scope, layer: layers.Scale, x: str, operand: str | None = None) -> str:
    shape = g.bottoms[1] if operand else tuple(layer.blobs[0].shape)
    spread = _spread(layer, shape, g.bottoms[0])
    y = g.node("Mul", x, g.reshape(operand, shape, spread) if operand else g.blob(0, spread))
    return g.node("Add", y, g.blob(len(layer.blobs) - 1, spread)) if layer.has_bias else y


@emits("Bias")
def bias(g: Scope, layer: layers.Bias, x: str, operand: str | None = None) -> str:
    shape = g.bottoms[1] if operand else tuple(layer.blobs[0].shape)
    spread = _spread(layer, shape, g.bottoms[0])
    return g.node("Add", x, g.reshape(operand, shape, spread) if operand else g.blob(0, spread))
