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


def _fit(g: Scope, x: str, shape: Shape, window: Window) -> tuple[str, dict]:
    """x and the attributes of a MaxPool node. A window that begins outside gets a Pad node."""
    left, right, top, bottom = window.margins(shape[2:])
    ends = [max(0, bottom), max(0, right)]
    attributes = {"kernel_shape": window.kernel, "strides": window.stride}
    if any(end >= kernel for end, kernel in zip(ends, window.kernel, strict=True)):
        return g.pad(x, [0, 0, top, left], [0, 0, *ends], _LEAST), attributes
    pads = [*window.pad, *ends]
    return x, {**attributes, "pads": pads if any(pads) else None}


def _is_whole(window: Window, shape: Shape) -> bool:
    return window.kernel == tuple(shape[2:]) and not any(window.pad) and window.counts(shape[2:]) == (1, 1)


def _max(g: Scope, x: str, shape: Shape, window: Window, tops: int = 1) -> list[str]:
    if tops == 1 and _is_whole(window, shape):
        return [g.node("GlobalMaxPool", x)]
    fitted, attributes = _fit(g, x, shape, window)
    if tops == 1:
        return [g.node("MaxPool", fitted, **attributes)]
    if fitted != x:
        g.cannot("the mask of a window that lies outside the image")
    y, index = g.nodes("MaxPool", 2, fitted, **attributes)
    return [y, g.to_float(g.node("Mod", index, g.indices(math.prod(shape[2:]), "plane")))]


def _average(g: Scope, x: str, shape: Shape, window: Window) -> str:
    """Padding counts, what lies behind it does not: a Pad node, then pads that ONNX does not count.

    count_include_pad would save the node, but OpenCV does not look at it.
    """
    if _is_whole(window, shape):
        return g.node("GlobalAveragePool", x)
    _, right, _, bottom = window.margins(shape[2:])
    ends = [max(0, bottom), max(0, right)]
    if any(window.pad):
        inner = [min(end, pad) for end, pad in zip(ends, window.pad, strict=True)]
        x = g.pad(x, [0, 0, *window.pad], [0, 0, *inner])
    beyond = [max(0, end - pad) for end, pad in zip(ends, window.pad, strict=True)]
    sizes = {"kernel_shape": window.kernel, "strides": window.stride}
    if all(more < kernel for more, kernel in zip(beyond, window.kernel, strict=True)):
        return g.node("AveragePool", x, **sizes, pads=[0, 0, *beyond] if any(beyond) else None)
    y = g.node("AveragePool", g.pad(x, [0] * 4, [0, 0, *beyond]), **sizes)
    divisors = window.divisors(torch.empty(1, 1, *shape[2:])).numpy()
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
