"""What is left of losses in a deploy form: the probabilities."""

from __future__ import annotations

from pysolver.export.torch.source import Writer, writes
from pysolver.layers import losses as layers


@writes("SoftmaxWithLoss", "SoftmaxWithLossOHEM", "FocalLoss", "InfogainLoss")
def softmax(w: Writer, layer: layers.Classes, x: str) -> str:
    return f"torch.softmax({x}, {layer.class_axis})"


@writes("SigmoidCrossEntropyLoss")
def sigmoid(w: Writer, layer: layers.SigmoidCrossEntropyLoss, x: str) -> str:
    return f"torch.sigmoid({x})"
