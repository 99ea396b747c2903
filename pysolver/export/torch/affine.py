"""Scale and Bias."""

from __future__ import annotations

from pysolver.blob import Shape
from pysolver.export.torch import pieces
from pysolver.export.torch.source import Writer, writes
from pysolver.layers import affine as layers


def _spread(layer: layers.Broadcast, operand: Shape, bottom: Shape) -> Shape:
    first = layer.first % len(bottom) if bottom else 0
    return (*operand, *[1] * (len(bottom) - first - len(operand))) if operand else ()


@writes("Scale")
def scale(w: Writer, layer: layers.Scale, x: str, operand: str | None = None) -> str:
    if operand is None:
        spread = _spread(layer, tuple(layer.blobs[0].shape), w.bottoms[0])
        bindings = [(name, layer, i) for i, name in enumerate(("weight", "bias")[: len(layer.blobs)])]
        options = "" if layer.has_bias else ", bias=False"
        return f"{w.module(f'{w.piece(pieces.Scale)}({spread!r}{options})', *bindings)}({x})"
    spread = _spread(layer, w.bottoms[1], w.bottoms[0])
    product = f"{x} * {w.reshape(operand, w.bottoms[1], spread)}"
    return f"{product} + {w.parameter(0, spread)}" if layer.has_bias else product


@writes("Bias")
def bias(w: Writer, layer: layers.Bias, x: str, operand: str | None = None) -> str:
    if operand is None:
        return f"{x} + {w.parameter(0, _spread(layer, tuple(layer.blobs[0].shape), w.bottoms[0]))}"
    return f"{x} + {w.reshape(operand, w.bottoms[1], _spread(layer, w.bottoms[1], w.bottoms[0]))}"
