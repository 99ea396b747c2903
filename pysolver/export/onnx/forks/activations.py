"""SeLu and its dropout."""

from __future__ import annotations

from pysolver.export.onnx.graph import Scope, emits
from pysolver.layers.forks import activations as layers


@emits("SeLu")
def selu(g: Scope, layer: layers.SeLu, x: str) -> str:
    return g.node("Selu", x)


@emits("SeLuDropout")
def selu_dropout(g: Scope, layer: layers.SeLuDropout, x: str) -> str:
    """As it is in TEST, whatever the phase."""
    return g.node("Identity", x)
