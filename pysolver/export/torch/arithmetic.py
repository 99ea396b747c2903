"""Eltwise, Reduction, Softmax, ArgMax."""

from __future__ import annotations

import math
from functools import reduce

from pysolver.export.torch.source import Writer, number, writes
from pysolver.layers import arithmetic as layers
from pysolver.proto import caffe_pb2


@writes("Eltwise")
def eltwise(w: Writer, layer: layers.Eltwise, *bottoms: str) -> str:
    p = caffe_pb2.EltwiseParameter
    if layer.operation == p.MAX:
        return reduce(lambda a, b: f"torch.maximum({a}, {b})", bottoms)
    if layer.operation == p.PROD:
        return " * ".join(bottoms)
    coeffs = layer.coeffs or [1] * len(bottoms)
    return " + ".join(x if coeff == 1 else f"{number(coeff)} * {x}" for x, coeff in zip(bottoms, coeffs, strict=True))


@writes("Reduction")
def reduction(w: Writer, layer: layers.Reduction, x: str) -> str:
    p, first = caffe_pb2.ReductionParameter, layer.first % len(w.bottoms[0])
    flat = x if first == len(w.bottoms[0]) - 1 else f"{x}.flatten({first})"
    forms = {
        p.SUM: f"{flat}.sum(-1)",
        p.ASUM: f"{flat}.abs().sum(-1)",
        p.SUMSQ: f"{flat}.square().sum(-1)",
        p.MEAN: f"{flat}.mean(-1)",
    }
    y = forms[layer.operation]
    return y if layer.coeff == 1 else f"{number(layer.coeff)} * {y}"


@writes("Softmax")
def softmax(w: Writer, layer: layers.Softmax, x: str) -> str:
    return f"torch.softmax({x}, {layer.along})"


@writes("ArgMax")
def argmax(w: Writer, layer: layers.ArgMax, x: str) -> str:
    """Of equal numbers Caffe takes the last, so look from behind."""
    axis = 1 if layer.along is None else layer.along
    shape = w.bottoms[0] if layer.along is not None else (w.bottoms[0][0], math.prod(w.bottoms[0][1:]))
    x = x if layer.along is not None else f"{x}.flatten(1)"
    size, k = shape[axis], layer.top_k
    found = f"{x}.flip({axis}).sort(dim={axis}, descending=True, stable=True)"
    places = f"({size - 1} - {found}.indices.narrow({axis}, 0, {k})).to({x}.dtype)"
    values = f"{found}.values.narrow({axis}, 0, {k})"
    if layer.along is not None:
        return values if layer.with_values else places
    both = f"torch.stack([{places}, {values}], 1)" if layer.with_values else places
    return f"{both}.reshape({', '.join(['-1', *map(str, w.tops[0][1:])])})"
