"""Normalize of SSD and of caffe-windows; BN of PSPNet and of SegNet."""

from __future__ import annotations

from pysolver.export.torch import pieces
from pysolver.export.torch.source import Writer, number, writes
from pysolver.layers.forks import normalisation as layers
from pysolver.layers.forks.normface import UnitVectors


@writes("Normalize")
def normalize(w: Writer, layer: layers.Normalize | UnitVectors, x: str) -> str:
    if isinstance(layer, UnitVectors):
        if layer.top_count > 1:
            w.cannot("the norms as a second top")
        square = f"({x}.square().sum(1, keepdim=True) + 1e-6).rsqrt()"
        return f"{x} * {square}" if layer.power == 2 else f"{x} / ({x}.abs().sum(1, keepdim=True) + 1e-6)"
    rank = len(w.bottoms[0])
    axes = tuple(range(1, rank)) if layer.across else 1
    shape = (layer.channels, *[1] * (rank - 2)) if layer.blobs[0].dim() else ()
    scale = w.parameter(0, shape)
    return f"{scale} * {x} * ({x}.square().sum({axes!r}, keepdim=True) + {number(layer.eps)}).rsqrt()"


@writes("BN")
def bn(w: Writer, layer: layers.BN, x: str) -> str:
    if layer.top_count > 1:
        w.cannot("the batch's mean and variance as tops")
    channels = w.bottoms[0][1]
    names = ("weight", "bias", "mean", "inverse_deviation")[: len(layer.blobs)]
    bindings = [(name, layer, i) for i, name in enumerate(names)]
    if layer.stored:
        return f"{w.module(f'{w.piece(pieces.FrozenBatchNorm)}({channels})', *bindings)}({x})"
    text = f"nn.BatchNorm{len(w.bottoms[0]) - 2}d({channels}, eps={number(layer.eps)}, track_running_stats=False)"
    return f"{w.module(text, *bindings[:2])}({x})"
