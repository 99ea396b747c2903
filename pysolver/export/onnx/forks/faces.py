"""MarginInnerProduct and LargeMarginInnerProduct without their margins (see pysolver.export.program)."""

from __future__ import annotations

from pysolver.export.onnx.graph import Scope, emits
from pysolver.export.program import array_of
from pysolver.layers.forks import faces as layers


@emits("MarginInnerProduct")
def margin_inner_product(g: Scope, layer: layers.MarginInnerProduct, x: str) -> str:
    x = x if len(g.bottoms[0]) == 2 else g.node("Flatten", x, axis=1)
    return g.node("Gemm", x, g.constant(array_of(layer.unit_rows()).numpy(), hint="0"), transB=1)


@emits("LargeMarginInnerProduct")
def large_margin_inner_product(g: Scope, layer: layers.LargeMarginInnerProduct, x: str) -> str:
    x = x if len(g.bottoms[0]) == 2 else g.node("Flatten", x, axis=1)
    return g.node("Gemm", x, g.blob(0), transB=1)
