"""Interp of DeepLab and PSPNet, Upsample of SegNet and of YOLO nets."""

from __future__ import annotations

from pysolver.export.onnx.graph import Scope, emits
from pysolver.layers.forks import resizing as layers


@emits("Interp")
def interp(g: Scope, layer: layers.Interp, x: str, reference: str | None = None) -> str:
    bottom, top = g.bottoms[0], g.tops[0]
    begin, end = layer.pads
    if begin or end:
        x = g.cut(x, [-begin, -begin], [size + end for size in bottom[2:]], [2, 3])
    how = {"mode": "linear", "coordinate_transformation_mode": "align_corners"}
    if g.graph.opset >= 18:
        return g.node("Resize", x, "", "", g.indices(top[2:], "size"), axes=[2, 3], **how)
    return g.node("Resize", x, "", "", g.indices(top, "size"), **how)


@emits("Upsample")
def upsample(g: Scope, layer: layers.Upsample, x: str, mask: str | None = None) -> str:
    bottom, top = g.bottoms[0], g.tops[0]
    if mask is None:
        scales = g.constant([1, 1, *layer.scale], hint="scales")
        how = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        y = g.node("Resize", x, "", scales, mode="nearest", **how)
        whole = tuple(size * scale for size, scale in zip(bottom[2:], layer.scale, strict=True))
        return y if whole == top[2:] else g.cut(y, [0, 0], top[2:], [2, 3])
    places = top[2] * top[3]
    planes = g.cut(g.node("Shape", x), [0], [2], [0])
    zeros = g.node("ConstantOfShape", g.node("Concat", planes, g.indices([places], "places"), axis=0))
    flat = (*bottom[:2], bottom[2] * bottom[3])
    index = g.to_index(g.reshape(mask, bottom, flat))
    y = g.node("ScatterElements", zeros, index, g.reshape(x, bottom, flat), axis=2)
    return g.reshape(y, (*bottom[:2], places), top)
