"""Eltwise, Reduction, Softmax, ArgMax."""

from __future__ import annotations

import math

from pysolver.export.onnx.graph import Scope, emits
from pysolver.layers import arithmetic as layers
from pysolver.proto import caffe_pb2


@emits("Eltwise")
def eltwise(g: Scope, layer: layers.Eltwise, *bottoms: str) -> str:
    p = caffe_pb2.EltwiseParameter
    if layer.operation == p.MAX:
        return g.node("Max", *bottoms)
    if layer.operation == p.PROD:
        y = bottoms[0]
        for x in bottoms[1:]:
            y = g.node("Mul", y, x)
        return y
    coeffs = layer.coeffs or [1] * len(bottoms)
    terms = [
        x if coeff == 1 else g.node("Mul", x, g.constant(coeff, hint="coeff"))
        for x, coeff in zip(bottoms, coeffs, strict=True)
    ]
    return g.node("Add" if len(terms) == 2 else "Sum", *terms)


@emits("Reduction")
def reduction(g: Scope, layer: layers.Reduction, x: str) -> str:
    p, rank = caffe_pb2.ReductionParameter, len(g.bottoms[0])
    op = {p.SUM: "ReduceSum", p.ASUM: "ReduceL1", p.SUMSQ: "ReduceSumSquare", p.MEAN: "ReduceMean"}[layer.operation]
    y = g.reduce(op, x, range(layer.first % rank, rank), keep=False)
    return y if layer.coeff == 1 else g.node("Mul", y, g.constant(layer.coeff, hint="coeff"))


@emits("Softmax")
def softmax(g: Scope, layer: layers.Softmax, x: str) -> str:
    return g.node("Softmax", x, axis=layer.along)


@emits("ArgMax")
def argmax(g: Scope, layer: layers.ArgMax, x: str) -> str:
    shape, axis = g.bottoms[0], layer.along
    if axis is None:
        flat = (shape[0], math.prod(shape[1:]))
        x, shape, axis = g.reshape(x, shape, flat), flat, 1
    axis %= len(shape)
    if layer.top_k == 1 and not layer.with_values:
        y = g.to_float(g.node("ArgMax", x, axis=axis, keepdims=1, select_last_index=1))
        return g.reshape(y, (*shape[:axis], 1, *shape[axis + 1 :]), g.tops[0])
    size = shape[axis]  # of equal ones ONNX takes the first, Caffe the last: look from behind
    names = (g.indices([v], h) for v, h in ((-1, "last"), (-(2**63) + 1, "before_first"), (axis, "axis"), (-1, "back")))
    values, places = g.nodes("TopK", 2, g.node("Slice", x, *names), g.indices([layer.top_k], "top_k"), axis=axis)
    if layer.along is not None and layer.with_values:
        return values
    places = g.to_float(g.node("Sub", g.indices(size - 1, "largest"), places))
    if layer.along is not None:
        return places
    rows: tuple[int, ...] = (shape[0], 1, layer.top_k)
    if layer.with_values:
        parts = [g.reshape(part, (shape[0], layer.top_k), rows) for part in (places, values)]
        places, rows = g.node("Concat", *parts, axis=1), (shape[0], 2, layer.top_k)
    else:
        rows = (shape[0], layer.top_k)
    return g.reshape(places, rows, g.tops[0])
