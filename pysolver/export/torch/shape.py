"""Layers that only move numbers."""

from __future__ import annotations

from pysolver.export.torch.source import Writer, writes
from pysolver.layers import shape as layers


@writes("Concat")
def concat(w: Writer, layer: layers.Concat, *bottoms: str) -> str:
    return f"torch.cat([{', '.join(bottoms)}], {layer.along})" if len(bottoms) > 1 else bottoms[0]


@writes("Slice")
def slice_(w: Writer, layer: layers.Slice, x: str) -> str:
    parts = layer.parts(w.bottoms[0])
    return f"{x}.split({parts!r}, {layer.along})" if len(parts) > 1 else x


@writes("Flatten")
def flatten(w: Writer, layer: layers.Flatten, x: str) -> str:
    last = "" if layer.last % len(w.bottoms[0]) == len(w.bottoms[0]) - 1 else f", {layer.last}"
    return f"{x}.flatten({layer.first}{last})"


@writes("Reshape")
def reshape(w: Writer, layer: layers.Reshape, x: str) -> str:
    return w.reshape(x, w.bottoms[0], w.tops[0])


@writes("Tile")
def tile(w: Writer, layer: layers.Tile, x: str) -> str:
    return f"torch.cat([{x}] * {layer.tiles}, {layer.along})"


@writes("Crop")
def crop(w: Writer, layer: layers.Crop, x: str, reference: str) -> str:
    bottom, size = w.bottoms
    starts = {axis: start for axis, start in layer.starts(bottom, size).items() if size[axis] != bottom[axis]}
    if not starts:
        return x
    cuts = [f"{starts[axis]}:{starts[axis] + size[axis]}" if axis in starts else ":" for axis in range(len(bottom))]
    while cuts[-1] == ":":
        cuts.pop()
    return f"{x}[{', '.join(cuts)}]"


@writes("BatchReindex")
def batch_reindex(w: Writer, layer: layers.BatchReindex, x: str, index: str) -> str:
    return f"{x}[{index}.long()]"


@writes("Filter")
def filter_(w: Writer, layer: layers.Filter, *bottoms: str) -> tuple[str, ...]:
    *values, selector = bottoms
    return tuple(f"{x}[{selector}.flatten() != 0]" for x in values)
