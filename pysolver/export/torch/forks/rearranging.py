"""Permute of SSD, Reorg of YOLO, Flip."""

from __future__ import annotations

from pysolver.export.torch.source import Writer, writes
from pysolver.layers.forks import rearranging as layers


@writes("Permute", "Transpose")
def permute(w: Writer, layer: layers.Permute, x: str) -> str:
    return f"{x}.permute({', '.join(map(str, layer.order))})"


@writes("Reorg")
def reorg(w: Writer, layer: layers.Reorg, x: str) -> str:
    (items, channels, height, width), s = w.bottoms[0], layer.stride
    coarse = channels // s**2
    if layer.reverse:
        parts, order = (items, s, s, coarse, height, width), (0, 3, 4, 1, 5, 2)
    else:
        parts, order = (items, coarse, height, s, width, s), (0, 3, 5, 1, 2, 4)
    turned = f"{w.reshape(x, w.bottoms[0], parts)}.permute{order}"
    return w.reshape(turned, tuple(parts[i] for i in order), w.tops[0])


@writes("Reverse")
def reverse(w: Writer, layer: layers.Reverse, x: str) -> str:
    return f"{x}.flip({layer.along})"


@writes("Flip")
def flip(w: Writer, layer: layers.Flip, x: str) -> str:
    return f"{x}.flip({layer.axes})"
