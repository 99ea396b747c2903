"""Element-wise layers."""

from __future__ import annotations

from pysolver.export.torch.source import Writer, number, writes
from pysolver.layers import activations as layers


@writes("ReLU")
def relu(w: Writer, layer: layers.ReLU, x: str) -> str:
    return rectified(x, layer.slope)


def rectified(x: str, slope: float) -> str:
    return f"F.leaky_relu({x}, {number(slope)})" if slope else f"F.relu({x})"


@writes("PReLU")
def prelu(w: Writer, layer: layers.PReLU, x: str) -> str:
    return f"{w.module(f'nn.PReLU({layer.blobs[0].numel()})', ('weight', layer, 0))}({x})"


@writes("ELU")
def elu(w: Writer, layer: layers.ELU, x: str) -> str:
    return affine(f"F.elu({x}, {number(layer.alpha)})", layer.factor, 0)


@writes("Sigmoid")
def sigmoid(w: Writer, layer: layers.Sigmoid, x: str) -> str:
    return f"torch.sigmoid({x})"


@writes("TanH")
def tanh(w: Writer, layer: layers.TanH, x: str) -> str:
    return f"torch.tanh({x})"


@writes("Swish")
def swish(w: Writer, layer: layers.Swish, x: str) -> str:
    return f"F.silu({x})" if layer.beta == 1 else f"{x} * torch.sigmoid({number(layer.beta)} * {x})"


@writes("BNLL")
def bnll(w: Writer, layer: layers.BNLL, x: str) -> str:
    return f"torch.logaddexp({x}, torch.zeros_like({x}))"


@writes("AbsVal")
def absval(w: Writer, layer: layers.AbsVal, x: str) -> str:
    return f"{x}.abs()"


def affine(x: str, scale: float, shift: float) -> str:
    """scale * x + shift, without what does nothing."""
    x = x if scale == 1 else f"{number(scale)} * {x}"
    return x if shift == 0 else f"{x} + {number(shift)}"


@writes("Power")
def power(w: Writer, layer: layers.Power, x: str) -> str:
    if layer.power * layer.scale == 0:
        return f"torch.full_like({x}, {layer.shift**layer.power if layer.power else 1.0!r})"
    inner = affine(x, layer.scale, layer.shift)
    return inner if layer.power == 1 else f"({inner}).pow({number(layer.power)})"


@writes("Exp")
def exp(w: Writer, layer: layers.Exp, x: str) -> str:
    return f"torch.exp({affine(x, layer.scale, layer.shift)})"


@writes("Log")
def log(w: Writer, layer: layers.Log, x: str) -> str:
    return affine(f"torch.log({affine(x, layer.scale, layer.shift)})", layer.factor, 0)


@writes("Clip")
def clip(w: Writer, layer: layers.Clip, x: str) -> str:
    return f"{x}.clamp({number(layer.least)}, {number(layer.most)})"


@writes("Threshold")
def threshold(w: Writer, layer: layers.Threshold, x: str) -> str:
    return f"({x} > {number(layer.threshold)}).to({x}.dtype)"


@writes("Dropout")
def dropout(w: Writer, layer: layers.Dropout, x: str) -> str:
    if layer.factor != 1 or layer.param.dropout_param.sample_weights_test:
        w.cannot("torch's dropout scales in training and rests in testing; scale_train and sample_weights_test differ")
    return f"F.dropout({x}, {number(layer.ratio)}, self.training)"
