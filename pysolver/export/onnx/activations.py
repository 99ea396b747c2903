"""Element-wise layers."""

from __future__ import annotations

from pysolver.export.onnx.graph import Scope, emits
from pysolver.layers import activations as layers


@emits("ReLU")
def relu(g: Scope, layer: layers.ReLU, x: str) -> str:
    return rectified(g, x, layer.slope)


def rectified(g: Scope, x: str, slope: float) -> str:
    return g.node("LeakyRelu", x, alpha=slope) if slope else g.node("Relu", x)


@emits("PReLU")
def prelu(g: Scope, layer: layers.PReLU, x: str) -> str:
    slopes = layer.blobs[0]
    shape = (slopes.numel(), *[1] * (len(g.bottoms[0]) - 2)) if slopes.dim() else (1,)
    return g.node("PRelu", x, g.blob(0, shape))


@emits("ELU")
def elu(g: Scope, layer: layers.ELU, x: str) -> str:
    return affine(g, g.node("Elu", x, alpha=layer.alpha), layer.factor, 0)


@emits("Sigmoid")
def sigmoid(g: Scope, layer: layers.Sigmoid, x: str) -> str:
    return g.node("Sigmoid", x)


@emits("TanH")
def tanh(g: Scope, layer: layers.TanH, x: str) -> str:
    return g.node("Tanh", x)


@emits("Swish")
def swish(g: Scope, layer: layers.Swish, x: str) -> str:
    inner = x if layer.beta == 1 else g.node("Mul", x, g.constant(layer.beta, hint="beta"))
    return g.node("Mul", x, g.node("Sigmoid", inner))


@emits("BNLL")
def bnll(g: Scope, layer: layers.BNLL, x: str) -> str:
    return g.node("Softplus", x)


@emits("AbsVal")
def absval(g: Scope, layer: layers.AbsVal, x: str) -> str:
    return g.node("Abs", x)


def affine(g: Scope, x: str, scale: float, shift: float) -> str:
    """scale * x + shift in as few nodes as it takes."""
    x = x if scale == 1 else g.node("Mul", x, g.constant(scale, hint="scale"))
    return x if shift == 0 else g.node("Add", x, g.constant(shift, hint="shift"))


@emits("Power")
def power(g: Scope, layer: layers.Power, x: str) -> str:
    if layer.power * layer.scale == 0:
        value = layer.shift**layer.power if layer.power else 1.0
        return affine(g, g.node("Mul", x, g.constant(0, hint="scale")), 1, value)
    x = affine(g, x, layer.scale, layer.shift)
    return x if layer.power == 1 else g.node("Pow", x, g.constant(layer.power, hint="power"))


@emits("Exp")
def exp(g: Scope, layer: layers.Exp, x: str) -> str:
    return g.node("Exp", affine(g, x, layer.scale, layer.shift))


@emits("Log")
def log(g: Scope, layer: layers.Log, x: str) -> str:
    return affine(g, g.node("Log", affine(g, x, layer.scale, layer.shift)), layer.factor, 0)


@emits("Clip")
def clip(g: Scope, layer: layers.Clip, x: str) -> str:
    return g.node("Clip", x, g.constant(layer.least, hint="min"), g.constant(layer.most, hint="max"))


@emits("Threshold")
def threshold(g: Scope, layer: layers.Threshold, x: str) -> str:
    return g.to_float(g.node("Greater", x, g.constant(layer.threshold, hint="threshold")))


@emits("Dropout")
def dropout(g: Scope, layer: layers.Dropout, x: str) -> str:
    """As it is in TEST, whatever the phase: ONNX's Dropout does nothing unless told to train."""
    if layer.param.dropout_param.sample_weights_test:
        g.cannot("sample_weights_test: it drops at random in TEST")
    if layer.factor != 1:
        return affine(g, x, layer.factor, 0)
    return g.node("Dropout", x, g.constant(layer.ratio, hint="ratio"))
