"""Convolution, Deconvolution, Im2col."""

from __future__ import annotations

import math

from pysolver.export.torch.activations import rectified
from pysolver.export.torch.source import Writer, writes
from pysolver.layers import convolution as layers


def short(values: tuple[int, ...]) -> str:
    """`3` for equal sides, else `(3, 5)`."""
    return str(values[0]) if len(set(values)) == 1 else repr(tuple(values))


def _options(layer: layers.Spatial) -> str:
    options = {"stride": layer.stride, "padding": layer.pad, "dilation": layer.dilation}
    defaults = {"stride": 1, "padding": 0, "dilation": 1}
    text = [f"{name}={short(v)}" for name, v in options.items() if set(v) != {defaults[name]}]
    return "".join(f", {part}" for part in text)


def _weighted(w: Writer, layer: layers.Weighted, cls: str, bottoms: tuple[str, ...]) -> tuple[str, ...]:
    if not 1 <= layer.spatial <= 3:
        w.cannot(f"torch has no convolution over {layer.spatial} axes")
    group = "" if layer.group == 1 else f", groups={layer.group}"
    bias = "" if len(layer.blobs) > 1 else ", bias=False"
    sizes = f"{layer.channels}, {layer.outputs}, {short(layer.kernel)}"
    text = f"nn.{cls}{layer.spatial}d({sizes}{_options(layer)}{group}{bias})"
    bindings = [(name, layer, i) for i, name in enumerate(("weight", "bias")[: len(layer.blobs)])]
    module = w.module(text, *bindings)
    tops = []
    for x, before, after in zip(bottoms, w.bottoms, w.tops, strict=True):
        c = layer.channel_axis
        if cls == "Conv":
            x = _completed(layer, x, before[c + 1 :])
        if c != 1:
            x = f"{x}.reshape({', '.join(['-1', *map(str, before[c:])])})"
        y = f"{module}({x})"
        if layer.param.convolution_param.relu:
            y = rectified(y, layer.param.convolution_param.negative_slope)
        tops.append(y if c == 1 else f"{y}.reshape({', '.join(['-1', *map(str, after[1:])])})")
    return tuple(tops)


def _completed(layer: layers.Spatial, x: str, sizes: tuple[int, ...]) -> str:
    """x with zeros behind an axis that is too short for the one window that C's division grants it."""
    missing = [
        max(0, dilation * (kernel - 1) + 1 - size - 2 * pad)
        for size, pad, kernel, dilation in zip(sizes, layer.pad, layer.kernel, layer.dilation, strict=True)
    ]
    pads = [value for end in reversed(missing) for value in (0, end)]
    return f"F.pad({x}, {pads!r})" if any(missing) else x


@writes("Convolution", "ConvolutionDepthwise", "DepthwiseConvolution")
def convolution(w: Writer, layer: layers.Convolution, *bottoms: str) -> tuple[str, ...]:
    return _weighted(w, layer, "Conv", bottoms)


@writes("Deconvolution")
def deconvolution(w: Writer, layer: layers.Deconvolution, *bottoms: str) -> tuple[str, ...]:
    return _weighted(w, layer, "ConvTranspose", bottoms)


@writes("Im2col")
def im2col(w: Writer, layer: layers.Im2col, x: str) -> str:
    if layer.spatial != 2 or layer.channel_axis != 1:
        w.cannot("torch unfolds (N, C, H, W) only")
    x = _completed(layer, x, w.bottoms[0][2:])
    y = f"F.unfold({x}, {short(layer.kernel)}{_options(layer)})"
    return f"{y}.reshape({', '.join(['-1', str(layer.channels * math.prod(layer.kernel)), *map(str, w.tops[0][2:])])})"
