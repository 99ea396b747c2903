"""MarginInnerProduct of SphereFace without its margin (see pysolver.export.program)."""

from __future__ import annotations

from pysolver.export.torch import pieces
from pysolver.export.torch.source import Writer, writes
from pysolver.layers.forks import faces as layers


@writes("MarginInnerProduct")
def margin_inner_product(w: Writer, layer: layers.MarginInnerProduct, x: str) -> str:
    x = x if len(w.bottoms[0]) == 2 else f"{x}.flatten(1)"
    outputs, inputs = layer.blobs[0].shape
    return f"{w.module(f'{w.piece(pieces.UnitLinear)}({inputs}, {outputs})', ('weight', layer, 0))}({x})"
