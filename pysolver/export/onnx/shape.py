"""Layers that only move numbers."""

from __future__ import annotations

import onnx

from pysolver.export.onnx.graph import Scope, emits
from pysolver.layers import shape as layers


@emits("Concat")
def concat(g: Scope, layer: layers.Concat, *bottoms: str) -> str:
    return g.node("Concat", *bottoms, axis=layer.axis(layer.along, g.bottoms[0])) if len(bottoms) > 1 else bottoms[0]


@emits("Slice")
def slice_(g: Scope, layer: layers.Slice, x: str) -> tuple[str, ...]:
    parts = layer.parts(g.bottoms[0])
    return tuple(g.split(x, parts, layer.axis(layer.along, g.bottoms[0]))) if len(parts) > 1 else (x,)


@emits("Flatten")
def flatten(g: Scope, layer: layers.Flatten, x: str) -> str:
    rank = len(g.bottoms[0])
    if (layer.first % rank, layer.last % rank) == (1, rank - 1) and rank > 2:
        return g.node("Flatten", x, axis=1)
    return g.reshape(x, g.bottoms[0], g.tops[0])


@emits("Reshape")
def reshape(g: Scope, layer: layers.Reshape, x: str) -> str:
    return g.reshape(x, g.bottoms[0], g.tops[0])


@emits("Tile")
def tile(g: Scope, layer: layers.Tile, x: str) -> str:
    repeats = [1] * len(g.bottoms[0])
    repeats[layer.axis(layer.along, g.bottoms[0])] = layer.tiles
    return g.node("Tile", x, g.indices(repeats, "repeats"))


@emits("Crop", "AutoCrop")
def crop(g: Scope, layer: layers.Crop, x: str, reference: str) -> str:
    bottom, size = g.bottoms
    starts = {axis: start for axis, start in layer.starts(bottom, size).items() if size[axis] != bottom[axis]}
    if not starts:
        return x
    ends = [start + size[axis] for axis, start in starts.items()]
    return g.cut(x, list(starts.values()), ends, list(starts))


@emits("BatchReindex")
def batch_reindex(g: Scope, layer: layers.BatchReindex, x: str, index: str) -> str:
    return g.node("Gather", x, g.to_index(index), axis=0)


@emits("Filter")
def filter_(g: Scope, layer: layers.Filter, *bottoms: str) -> tuple[str, ...]:
    *values, selector = bottoms
    count = g.bottoms[-1][0]
    chosen = g.node("Cast", g.reshape(selector, g.bottoms[-1], (count,)), to=onnx.TensorProto.BOOL)
    g.varying(0)
    return tuple(g.node("Compress", x, chosen, axis=0) for x in values)
