"""ReLU6 and ShuffleChannel of mobile nets, Axpy of squeeze-and-excitation nets."""

from __future__ import annotations

from pysolver.export.torch.source import Writer, number, writes
from pysolver.layers.forks import mobile as layers


@writes("ReLU6")
def relu6(w: Writer, layer: layers.ReLU6, x: str) -> str:
    return f"F.leaky_relu({x}, {number(layer.slope)}).clamp(max=6)" if layer.slope else f"F.relu6({x})"


@writes("Axpy")
def axpy(w: Writer, layer: layers.Axpy, a: str, x: str, b: str) -> str:
    factors, planes = w.bottoms[:2]
    return f"{w.reshape(a, factors, (*factors[:2], *[1] * (len(planes) - 2)))} * {x} + {b}"


@writes("ShuffleChannel")
def shuffle_channel(w: Writer, layer: layers.ShuffleChannel, x: str) -> str:
    return f"{x}.unflatten(1, ({layer.group}, -1)).transpose(1, 2).flatten(1, 2)"
