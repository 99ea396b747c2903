"""Parameter, a learned blob without bottoms; Python, which nobody else can run."""

from __future__ import annotations

from pysolver.export.onnx.graph import Scope, emits, refuse
from pysolver.layers.base import Layer


@emits("Parameter")
def parameter(g: Scope, layer: Layer) -> str:
    return g.blob(0)


refuse("Python", "it runs Python code, which no other runtime has")
