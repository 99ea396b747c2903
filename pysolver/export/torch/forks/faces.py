"""MarginInnerProduct and LargeMarginInnerProduct without their margins (see pysolver.export.program)."""

from __future__ import annotations

from pysolver.export.torch import pieces
from pysolver.export.torch.source import Writer, writes
from pysolver.layers.forks import faces as layers


@writes("MarginInnerProduct")
def margin_inner_product(w: Writer, layer: layers.MarginInnerProduct, x: str) -> str:
    x = x if len(w.bottoms[0]) == 2 else f"{x}.flatten(1)"
    outputs, inputs = layer.blobs[0].shape
    return f"{w.module(f'{w.piece(pieces.UnitLinear)}({inputs}, {outputs})', ('weight', layer, 0))}({x})"


@writes("LargeMarginInnerProduct")
def large_margin_inner_product(w: Writer, layer: layers.LargeMarginInnerProduct, x: str) -> str:
    x = x if len(w.bottoms[0]) == 2 else f"{x}.flatten(1)"
    outputs, inputs = layer.blobs[0].shape
    return f"{w.module(f'nn.Linear({inputs}, {outputs}, bias=False)', ('weight', layer, 0))}({x})"
