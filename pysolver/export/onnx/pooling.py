"""Pooling and SPP: Caffe's window rule as ONNX pads, so that no runtime's own rounding comes in.

Caffe rounds the number of windows up and drops one that would start behind the padding. ONNX pads each side on its
own: with as much behind as the last window needs, rounding down gives exactly Caffe's windows.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from pysolver.blob import Shape
from pysolver.export.onnx.graph import Scope, emits
from pysolver.layers import pooling as layers
from pysolver.layers.pooling import Window
from pysolver.proto import caffe_pb2

_P = caffe_pb2.PoolingParameter
_LEAST = -float(np.finfo(np.float32).max)


def _fit(g: Scope, x: str, shape: Shape, window: Window, outside: float) -> tuple[str, dict, list[int]]:
    """x, the attributes of a pooling node and its pads behind. A window that begins outside gets a Pad node."""
    left, right, top, bottom = window.margins(shape[2:])
    ends = [max(0, bottom), max(0, right)]
    attributes = {"kernel_shape": window.kernel, "strides": window.stride}
    if any(end >= kernel for end, kernel in zip(ends, window.kernel, strict=True)):
        x = g.pad(x, [0, 0, top, left], [0, 0, *ends], outside)
        return x, attributes, ends
    pads = [*window.pad, *ends]
    return x, {**attributes, "pads": pads if any(pads) else None}, ends


def _is_whole(window: Window, shape: Shape) -> bool:
    return window.kernel == tuple(shape[2:]) and not any(window.pad) and window.counts(shape[2:]) == (1, 1)


def _max(g: Scope, x: str, shape: Shape, window: Window, tops: int = 1) -> list[str]:
    if tops == 1 and _is_whole(window, shape):
        return [g.node("GlobalMaxPool", x)]
    fitted, attributes, _ = _fit(g, x, shape, window, _LEAST)
    if tops == 1:
        return [g.node("MaxPool", fitted, **attributes)]
    if fitted != x:
        g.cannot("the mask of a window that lies outside the image")
    y, index = g.nodes("MaxPool", 2, fitted, **attributes)
    return [y, g.to_float(g.node("Mod", index, g.indices(math.prod(shape[2:]), "plane")))]


def _average(g: Scope, x: str, shape: Shape, window: Window) -> str:
    if _is_whole(window, shape):
        return g.node("GlobalAveragePool", x)
    fitted, attributes, ends = _fit(g, x, shape, window, 0)
    if fitted == x and not any(window.pad):  # what lies behind the image does not count in Caffe either
        return g.node("AveragePool", fitted, **attributes, count_include_pad=0)
    y = g.node("AveragePool", fitted, **attributes, count_include_pad=1)
    if fitted == x and all(end <= pad for end, pad in zip(ends, window.pad, strict=True)):
        return y
    divisors = window.divisors(torch.empty(1, 1, *shape[2:])).numpy()  # padding counts, what lies behind it does not
    return g.node("Mul", y, g.constant(math.prod(window.kernel) / divisors, hint="correction"))


def _stochastic(g: Scope, x: str, shape: Shape, window: Window) -> str:
    """What it is in TEST: the sum of squares over the sum, 0 where that is not positive."""
    squares, sums = (_average(g, part, shape, window) for part in (g.node("Mul", x, x), x))
    zero = g.constant(0, hint="zero")
    positive = g.node("Greater", sums, zero)
    safe = g.node("Where", positive, sums, g.constant(1, hint="one"))
    return g.node("Where", positive, g.node("Div", squares, safe), zero)


def _pool(g: Scope, x: str, shape: Shape, method: int, window: Window) -> str:
    if method == _P.AVE:
        return _average(g, x, shape, window)
    if method == _P.STOCHASTIC:
        return _stochastic(g, x, shape, window)
    return _max(g, x, shape, window)[0]


@emits("Pooling")
def pooling(g: Scope, layer: layers.Pooling, x: str) -> str | tuple[str, ...]:
    shape = g.bottoms[0]
    window = layer.window_for(tuple(shape[2:]))
    if layer.top_count == 2:
        return tuple(_max(g, x, shape, window, 2))
    return _pool(g, x, shape, layer.method, window)


@emits("SPP")
def spp(g: Scope, layer: layers.SPP, x: str) -> str:
    shape = g.bottoms[0]
    levels = [_pool(g, x, shape, layer.method, window) for window in layer.windows(tuple(shape[2:]))]
    if layer.height == 1:
        return levels[0]
    return g.node("Concat", *(g.node("Flatten", level, axis=1) for level in levels), axis=1)
