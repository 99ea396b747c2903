"""InnerDistance and ChannelScale of NormFace."""

from __future__ import annotations

from pysolver.export.onnx.graph import Scope, emits
from pysolver.layers.forks import normface as layers


@emits("InnerDistance")
def inner_distance(g: Scope, layer: layers.InnerDistance, x: str, weights: str | None = None) -> str:
    if layer.has_unit_rows:
        g.cannot("its weights are made of length 1 in each forward")
    items = g.node("Unsqueeze", g.node("Flatten", x, axis=1), g.indices([1], "row"))
    rows = g.blob(0) if weights is None else g.node("Flatten", weights, axis=1)
    away = g.node("Sub", items, rows)
    return g.reduce("ReduceSumSquare" if layer.power == 2 else "ReduceL1", away, [2], keep=False)


@emits("ChannelScale")
def channel_scale(g: Scope, layer: layers.ChannelScale, x: str, scale: str) -> str:
    if not layer.p.do_forward:
        return x
    shape = g.bottoms[0]
    return g.node("Mul", x, g.reshape(scale, g.bottoms[1], (shape[0], 1, *shape[2:])))
