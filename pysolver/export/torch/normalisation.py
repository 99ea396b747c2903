"""LRN, BatchNorm (with the Scale behind it, if there is one), MVN."""

from __future__ import annotations

from typing import Any

from pysolver.export.torch import pieces
from pysolver.export.torch.source import Writer, number, swallowed_by, writes
from pysolver.layers import normalisation as layers


@writes("LRN")
def lrn(w: Writer, layer: layers.LRN, x: str) -> str:
    if layer.across:
        text = f"nn.LocalResponseNorm({layer.size}, {number(layer.alpha)}, {number(layer.beta)}, {number(layer.k)})"
    else:
        text = f"{w.piece(pieces.LRNWithinChannel)}({layer.size}, {number(layer.alpha)}, {number(layer.beta)})"
    return f"{w.module(text)}({x})"


@writes("BatchNorm")
def batch_norm(w: Writer, layer: layers.BatchNorm, x: str) -> str:
    kind = {2: "1d", 3: "1d", 4: "2d", 5: "3d"}.get(len(w.bottoms[0]))
    if kind is None:
        w.cannot(f"torch has no batch normalisation of {len(w.bottoms[0])} axes")
    options = [f"eps={number(layer.eps)}"]
    bindings: list[Any] = []
    following = swallowed_by(w)
    stored = "statistic"
    if layer.is_nvidia:
        bindings += [("weight", layer, 3), ("bias", layer, 4)]
        stored = "plain"
    elif following is None:
        options.append("affine=False")
    else:
        bindings += [("weight", following.layer, 0), ("bias", following.layer, 1)]
    if layer.use_global:
        options.append(f"momentum={round(1 - float(number(layer.fraction)), 9)!r}")
        bindings += [(f"running_{name}", layer, i, stored) for i, name in enumerate(("mean", "var"))]
    else:
        options.append("track_running_stats=False")
    module = w.module(f"nn.BatchNorm{kind}({w.bottoms[0][1]}, {', '.join(options)})", *bindings)
    return f"{module}({x})"


@writes("MVN")
def mvn(w: Writer, layer: layers.MVN, x: str) -> str:
    x = w.reshape(x, w.bottoms[0], w.tops[0])
    mean = f"{x}.mean({layer.dims!r}, keepdim=True)"
    if not layer.with_variance:
        return f"{x} - {mean}"
    return f"({x} - {mean}) / ({x}.std({layer.dims!r}, correction=0, keepdim=True) + {number(layer.eps)})"
