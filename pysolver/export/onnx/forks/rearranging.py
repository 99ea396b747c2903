"""Permute of SSD, Reorg of YOLO, Flip, Gather."""

from __future__ import annotations

import numpy as np

from pysolver.export.onnx.graph import Scope, emits
from pysolver.layers.forks import rearranging as layers


@emits("Permute", "Transpose")
def permute(g: Scope, layer: layers.Permute, x: str) -> str:
    return g.node("Transpose", x, perm=layer.order)


@emits("Reorg")
def reorg(g: Scope, layer: layers.Reorg, x: str) -> str:
    (items, channels, height, width), s = g.bottoms[0], layer.stride
    coarse = channels // s**2
    if layer.reverse:
        parts, order = (items, s, s, coarse, height, width), [0, 3, 4, 1, 5, 2]
    else:
        parts, order = (items, coarse, height, s, width, s), [0, 3, 5, 1, 2, 4]
    y = g.node("Transpose", g.reshape(x, g.bottoms[0], parts), perm=order)
    return g.reshape(y, tuple(parts[i] for i in order), g.tops[0])


@emits("Flip")
def flip(g: Scope, layer: layers.Flip, x: str) -> str:
    return _turned(g, x, layer.axes) if layer.axes else x


@emits("Gather")
def gather(g: Scope, layer: layers.Gather, *bottoms: str) -> tuple[str, ...] | str:
    return bottoms if len(bottoms) > 1 else bottoms[0]


@emits("Reverse")
def reverse(g: Scope, layer: layers.Reverse, x: str) -> str:
    return _turned(g, x, [layer.along])


def _turned(g: Scope, x: str, axes: list[int]) -> str:
    last, before_first = [-1] * len(axes), [np.iinfo(np.int64).min] * len(axes)
    named = (("last", last), ("before_first", before_first), ("axes", axes), ("steps", last))
    return g.node("Slice", x, *(g.indices(values, hint) for hint, values in named))
