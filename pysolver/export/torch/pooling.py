"""Pooling and SPP."""

from __future__ import annotations

import numpy as np

from pysolver.blob import Shape
from pysolver.export.torch import pieces
from pysolver.export.torch.convolution import short
from pysolver.export.torch.source import Writer, writes
from pysolver.layers import pooling as layers
from pysolver.layers.pooling import Window
from pysolver.proto import caffe_pb2

_P = caffe_pb2.PoolingParameter
_LEAST = -float(np.finfo(np.float32).max)


def _arguments(window: Window, size: Shape) -> str:
    """kernel[, stride][, padding][, ceil_mode=True] as torch's pooling modules take them."""
    rounded_down = window._replace(ceil=False).counts(size)
    parts = [short(window.kernel)]
    parts += [] if window.stride == window.kernel else [f"stride={short(window.stride)}"]
    parts += [f"padding={short(window.pad)}"] if any(window.pad) else []
    parts += [] if rounded_down == window.counts(size) else ["ceil_mode=True"]
    return ", ".join(parts)


def _module(w: Writer, method: int, window: Window, size: Shape, options: str = "", name: str = "") -> str:
    if method == _P.STOCHASTIC:
        w.cannot("torch has no stochastic pooling")
    margins = tuple(window.margins(size))
    if method == _P.MAX and window.suits_torch(size):
        return w.module(f"nn.MaxPool2d({_arguments(window, size)}{options})", name=name)
    if method == _P.MAX:
        if options:
            w.cannot("its mask is of windows that torch does not have")
        pool = f"nn.MaxPool2d({short(window.kernel)}, stride={short(window.stride)})"
        return w.module(f"nn.Sequential(nn.ConstantPad2d({margins!r}, {_LEAST!r}), {pool})", name=name)
    if window.suits_torch(size):
        return w.module(f"nn.AvgPool2d({_arguments(window, size)})", name=name)
    places = (*size, *window.counts(size))
    arguments = f"{tuple(window.kernel)!r}, {tuple(window.stride)!r}, {margins!r}, {places!r}"
    return w.module(f"{w.piece(pieces.PaddedAvgPool2d)}({arguments})", name=name)


@writes("Pooling")
def pooling(w: Writer, layer: layers.Pooling, x: str) -> str | tuple[str, ...]:
    size = tuple(w.bottoms[0][2:])
    if layer.is_global and layer.method != _P.STOCHASTIC:
        kind = "Avg" if layer.method == _P.AVE else "Max"
        return f"{w.module(f'nn.Adaptive{kind}Pool2d(1)')}({x})"
    if layer.top_count == 2:  # places as floats, as all of Caffe's blobs
        module = _module(w, layer.method, layer.window, size, ", return_indices=True")
        return f"(part.to({x}.dtype) for part in {module}({x}))"
    return f"{_module(w, layer.method, layer.window, size)}({x})"


@writes("SPP")
def spp(w: Writer, layer: layers.SPP, x: str) -> str:
    size = tuple(w.bottoms[0][2:])
    levels = [
        f"{_module(w, layer.method, window, size, name=f'{layer.name}_{i}')}({x})"
        for i, window in enumerate(layer.windows(size))
    ]
    if layer.height == 1:
        return levels[0]
    return f"torch.cat([{', '.join(f'{level}.flatten(1)' for level in levels)}], 1)"
