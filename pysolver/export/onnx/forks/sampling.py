"""MaskPooling and MaskResize of MNC."""

from __future__ import annotations

import numpy as np

from pysolver.export.onnx.graph import Scope, emits
from pysolver.layers.forks import sampling as layers


@emits("MaskPooling")
def mask_pooling(g: Scope, layer: layers.MaskPooling, x: str, mask: str) -> str:
    return g.node("Mul", x, mask)


@emits("MaskResize")
def mask_resize(g: Scope, layer: layers.MaskResize, x: str) -> str:
    """Rows and columns are sums of two each: products of matrices."""
    rows, columns = (_shares(length, size) for length, size in zip(g.bottoms[0][2:], layer.size, strict=True))
    y = g.node("MatMul", g.constant(rows, hint="rows"), x)
    return g.node("MatMul", y, g.constant(columns.T, hint="columns"))


def _shares(length: int, size: int) -> np.ndarray:
    """(size, length): what each cell gives to each place."""
    place = np.arange(size)[:, None] * (length / size)
    inside = place <= length - 0.5
    return np.clip(1 - abs(place.clip(0, length - 1) - np.arange(length)), 0, 1) * inside
