"""Accuracy: how often the label is among the best scores."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pysolver.blob import Shape
from pysolver.layers.base import Layer, between, exactly, register
from pysolver.layers.indices import IndexCheck
from pysolver.logs import notices


@register("Accuracy")
class Accuracy(Layer):
    """The part of the labels that are among the top_k scores (accuracy_layer.cpp).

    A place counts as right if fewer than top_k other classes score at least as high as the label's: ties are wrong.
    Labels equal to ignore_label do not count; without any the result is 0. Second top: the same for each class (C).
    min_is_better, of NormFace: the scores are distances, and the smallest are the best.
    No gradient. Errors: top_k above the number of classes; number of labels not outer * inner; a label outside.
    """

    bottoms = exactly(2)
    tops = between(1, 2)
    no_gradient_bottoms = frozenset({0, 1})
    deviations = "a label outside the classes is an error; a NaN score counts as right, with a warning"

    def set_up(self, data: Shape, label: Shape) -> None:
        p = self.param.accuracy_param
        self.class_axis, self.top_k = self.axis(p.axis, data), p.top_k
        self.ignore = p.ignore_label if p.HasField("ignore_label") else None
        self.labels = IndexCheck(self, data[self.class_axis], "label", "classes", self.ignore)
        self.has_warned = False

    def top_shapes(self, data: Shape, label: Shape) -> list[Shape]:
        classes = data[self.class_axis]
        if self.top_k > classes:
            self.fail(f"top_k must be less than or equal to the number of classes ({classes}), not {self.top_k}")
        if math.prod(label) * classes != math.prod(data):
            self.fail(f"Number of labels must match number of predictions: {list(label)} for the scores {list(data)}")
        self.labels.limit = classes
        return [(), (classes,)][: self.top_count]

    @torch.no_grad()
    def forward(self, x: Tensor, label: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        outer, classes = math.prod(x.shape[: self.class_axis]), x.shape[self.class_axis]
        x = x.reshape(outer, classes, math.prod(x.shape[self.class_axis + 1 :]))
        x = -x if self.param.accuracy_param.min_is_better else x
        index = self.labels(label).reshape(outer, 1, x.shape[2])
        valid = torch.ones_like(index, dtype=torch.bool) if self.ignore is None else index != self.ignore
        index = index.where(valid, 0)
        score = x.gather(1, index)
        self._warn_of_nan(score)
        right = (((x >= score).sum(1, keepdim=True) - 1) < self.top_k) & valid
        accuracy = right.sum() / valid.sum().clamp(min=1).to(x.dtype)
        if self.top_count < 2:
            return accuracy
        hits, counts = (
            x.new_zeros(classes).index_add_(0, index.flatten(), flags.flatten().to(x.dtype)) for flags in (right, valid)
        )
        return accuracy, hits / counts.clamp(min=1)

    def _warn_of_nan(self, score: Tensor) -> None:
        """A diverged net would shine with accuracy 1."""
        if torch.compiler.is_compiling() or self.has_warned or score.device.type != "cpu":
            return
        if score.isnan().any():
            self.has_warned = True
            self.context.emit(notices.NanScores(self.name))
