"""What is left of losses in a deploy form: the probabilities (see pysolver.export.program.HEADS)."""

from __future__ import annotations

from pysolver.export.onnx.graph import Scope, emits
from pysolver.layers import losses as layers


@emits("SoftmaxWithLoss", "SoftmaxWithLossOHEM", "FocalLoss", "InfogainLoss")
def softmax(g: Scope, layer: layers.Classes, x: str) -> str:
    return g.node("Softmax", x, axis=layer.class_axis)


@emits("SigmoidCrossEntropyLoss")
def sigmoid(g: Scope, layer: layers.SigmoidCrossEntropyLoss, x: str) -> str:
    return g.node("Sigmoid", x)
