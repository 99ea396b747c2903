"""InnerProduct and Embed."""

from __future__ import annotations

import math

from pysolver.export.onnx.activations import rectified
from pysolver.export.onnx.graph import Scope, emits
from pysolver.layers import dense as layers


@emits("InnerProduct")
def inner_product(g: Scope, layer: layers.InnerProduct, x: str, *_: str) -> str:
    before, after = g.bottoms[0], g.tops[0]
    rows = math.prod(before[: layer.first])
    if before != (rows, layer.inputs):
        if layer.first:
            x = g.node("Flatten", x, axis=layer.first)
        else:
            x = g.node("Reshape", x, g.indices([1, layer.inputs], "shape"))
    if len(g.bottoms) > 1:
        g.cannot("its weights come from a bottom")
    if layer.has_unit_rows:
        g.cannot("its weights are made of length 1 in each forward")
    weights = [g.blob(index) for index in range(len(layer.blobs))]
    y = g.node("Gemm", x, *weights, transB=int(not layer.transpose))
    if layer.param.inner_product_param.relu:
        y = rectified(g, y, layer.param.inner_product_param.negative_slope)
    return g.reshape(y, (rows, layer.outputs), after)


@emits("Embed")
def embed(g: Scope, layer: layers.Embed, x: str) -> str:
    y = g.node("Gather", g.blob(0), g.to_index(x), axis=0)
    return g.node("Add", y, g.blob(1)) if len(layer.blobs) > 1 else y
