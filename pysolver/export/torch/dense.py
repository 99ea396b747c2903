"""InnerProduct and Embed."""

from __future__ import annotations

from pysolver.export.torch.activations import rectified
from pysolver.export.torch.source import Writer, writes
from pysolver.layers import dense as layers


@writes("InnerProduct")
def inner_product(w: Writer, layer: layers.InnerProduct, x: str) -> str:
    bias = "" if len(layer.blobs) > 1 else ", bias=False"
    weight = ("weight", layer, 0, "transposed") if layer.transpose else ("weight", layer, 0)
    bindings = [weight, ("bias", layer, 1)][: len(layer.blobs)]
    module = w.module(f"nn.Linear({layer.inputs}, {layer.outputs}{bias})", *bindings)
    flat = x if len(w.bottoms[0]) == layer.first + 1 else f"{x}.flatten({layer.first})"
    p = layer.param.inner_product_param
    return rectified(f"{module}({flat})", p.negative_slope) if p.relu else f"{module}({flat})"


@writes("Embed")
def embed(w: Writer, layer: layers.Embed, x: str) -> str:
    rows = layer.blobs[0].shape[0]
    y = f"{w.module(f'nn.Embedding({rows}, {layer.outputs})', ('weight', layer, 0))}({x}.long())"
    if len(layer.blobs) == 1:
        return y
    return f"{y} + {w.module(f'nn.Parameter(torch.zeros({layer.outputs}))', ('', layer, 1), name=f'{layer.name}_bias')}"
