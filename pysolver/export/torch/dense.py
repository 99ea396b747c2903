"""InnerProduct and Embed."""

from __future__ import annotations

from pysolver.export.torch.activations import rectified
from pysolver.export.torch.source import Writer, writes
from pysolver.layers import dense as layers


@writes("InnerProduct")
def inner_product(w: Writer, layer: layers.InnerProduct, x: str, *_: str) -> str:
    if len(w.bottoms) > 1:
        w.cannot("its weights come from a bottom")
    if layer.has_unit_rows:
        w.cannot("its weights are made of length 1 in each forward")
    flat = x if len(w.bottoms[0]) == layer.first + 1 else f"{x}.flatten({layer.first})"
    kind, owner = "transposed" if layer.transpose else "plain", w.owner(0)
    if owner is not None and owner.kind != kind:  # tied weights: the matrix of another layer, on its side
        bias = f", {_bias(w, layer)}" if len(layer.blobs) > 1 else ""
        y = f"F.linear({flat}, self.{owner.key}.t(){bias})"
    else:
        bindings = [("weight", layer, 0, kind), ("bias", layer, 1)][: len(layer.blobs)]
        options = "" if len(layer.blobs) > 1 else ", bias=False"
        y = f"{w.module(f'nn.Linear({layer.inputs}, {layer.outputs}{options})', *bindings)}({flat})"
    p = layer.param.inner_product_param
    return rectified(y, p.negative_slope) if p.relu else y


def _bias(w: Writer, layer: layers.InnerProduct | layers.Embed) -> str:
    return w.module(f"nn.Parameter(torch.zeros({layer.outputs}))", ("", layer, 1), name=f"{layer.name}_bias")


@writes("Embed")
def embed(w: Writer, layer: layers.Embed, x: str) -> str:
    rows = layer.blobs[0].shape[0]
    y = f"{w.module(f'nn.Embedding({rows}, {layer.outputs})', ('weight', layer, 0))}({x}.long())"
    if len(layer.blobs) == 1:
        return y
    return f"{y} + {_bias(w, layer)}"
