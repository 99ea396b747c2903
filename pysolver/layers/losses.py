"""Loss layers: bottom 0 against bottom 1, a scalar top. The net applies the loss weights."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pysolver.blob import Shape
from pysolver.layers.base import Layer, between, exactly, register
from pysolver.layers.indices import IndexCheck
from pysolver.logs import notices
from pysolver.proto import blobproto, caffe_pb2

_SMALLEST = 1.17549435e-38  # FLT_MIN: SoftmaxWithLoss takes no smaller probability
_LOG_THRESHOLD = 1e-20  # kLOG_THRESHOLD of the other logarithmic losses


class Loss(Layer):
    """What they share: two bottoms of the same first dimension, one scalar top, weight 1 unless told.

    Source: loss_layer.cpp.
    """

    bottoms = exactly(2)
    tops = exactly(1)
    is_loss = True
    no_gradient_bottoms = frozenset({1})

    def top_shapes(self, *bottoms: Shape) -> list[Shape]:
        if bottoms[0][:1] != bottoms[1][:1]:
            self.fail(
                f"The data and label should have the same first dimension: {list(bottoms[0])}, {list(bottoms[1])}"
            )
        return [()]


class _Passing(torch.autograd.Function):
    """Not `b + (a - b).detach()`: a difference of numbers far apart loses the value."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradient_of: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        return None, gradient


def passing(value: Tensor, gradient_of: Tensor) -> Tensor:
    """The value of the first with the gradient of the second; one shape."""
    return _Passing.apply(value, gradient_of)


class Classes(Loss):
    """What losses over a class axis share: `axis`, and one label for each place outside it.

    (outer, classes, inner): the axes before, the class axis, the axes after. Errors: number of labels not
    outer * inner; a label outside [0, classes) that is not ignore_label.
    """

    class_axis: int

    def read_loss_param(self, bottom: Shape, axis: int) -> None:
        p = self.param.loss_param
        self.class_axis = self.axis(axis, bottom)
        self.ignore = p.ignore_label if p.HasField("ignore_label") else None
        self.labels = IndexCheck(self, bottom[self.class_axis], "label", "classes", self.ignore)

    def top_shapes(self, *bottoms: Shape) -> list[Shape]:
        data, label = bottoms[:2]
        super().top_shapes(*bottoms)
        places = math.prod(data) // max(data[self.class_axis], 1)
        if math.prod(label) != places:
            self.fail(
                f"Number of labels must match number of predictions: the scores {list(data)} with the classes on axis "
                f"{self.class_axis} need {places} labels, not {list(label)}"
            )
        self.labels.limit = data[self.class_axis]
        return [()]

    def by_class(self, x: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """x as (outer, classes, inner), the labels as (outer, inner), checked."""
        outer, inner = math.prod(x.shape[: self.class_axis]), math.prod(x.shape[self.class_axis + 1 :])
        return x.reshape(outer, x.shape[self.class_axis], inner), self.labels(label).reshape(outer, inner)


class LabelledItems(Loss):
    """What losses with one label an item share. Errors: not one label an item; a label outside the classes."""

    deviations = "a label outside the classes is an error"

    def set_up(self, data: Shape, label: Shape) -> None:
        self.labels = IndexCheck(self, math.prod(data[1:]), "label", "classes")

    def top_shapes(self, data: Shape, label: Shape) -> list[Shape]:
        if math.prod(label[1:]) != 1:
            self.fail(f"needs one label an item, not {list(label)}")
        return super().top_shapes(data, label)


def normaliser(mode: int, outer: int, inner: int, valid: Tensor | None, fixed: float = 1) -> Tensor | float:
    """What a loss is divided by, at least 1 (SoftmaxWithLossLayer::get_normalizer).

    valid: which places count; None: all. FULL: outer * inner; VALID: those that count; BATCH_SIZE: outer; NONE: 1;
    PRE_FIXED, of R-FCN: pre_fixed_normalizer, here `fixed`.
    """
    if mode == caffe_pb2.LossParameter.PRE_FIXED:
        return max(1, fixed)
    if mode == caffe_pb2.LossParameter.VALID and valid is not None:
        return valid.sum().clamp(min=1)
    full = mode in (caffe_pb2.LossParameter.FULL, caffe_pb2.LossParameter.VALID)
    return max(1, outer * inner if full else outer if mode == caffe_pb2.LossParameter.BATCH_SIZE else 1)


def normalisation_mode(layer: Layer, default: int) -> int:
    """loss_param's normalization; else its old `normalize` (true VALID, false BATCH_SIZE); else the default."""
    p = layer.param.loss_param
    if p.HasField("normalization") or not p.HasField("normalize"):
        return p.normalization if p.HasField("normalization") else default
    return p.VALID if p.normalize else p.BATCH_SIZE


@register("SoftmaxWithLoss")
class SoftmaxWithLoss(Classes):
    """-sum of log(max(p[label], FLT_MIN)) over labels that count / normaliser, p = softmax (softmax_loss_layer.cpp).

    Bottoms: scores, labels; the classes are on softmax_param.axis. dx = (p - onehot) / normaliser, also below FLT_MIN.
    A second top is p; a third, of R-FCN and Cascade R-CNN, the loss of each place, of the labels' shape, 0 where the
    label is ignored. weight_by_label_freqs, of SegNet: a label's term counts class_weighting[label] times, the
    normaliser stays. Errors: see Classes; class_weighting not one number a class.
    """

    tops = between(1, 3)
    deviations = "a second top (the probabilities) works; a label outside the classes is an error"

    def set_up(self, data: Shape, label: Shape) -> None:
        self.context.emit(notices.MakingLayer(self.name))  # the softmax inside
        self.read_loss_param(data, self.param.softmax_param.axis)
        self.mode = normalisation_mode(self, caffe_pb2.LossParameter.VALID)
        p, classes = self.param.loss_param, data[self.class_axis]
        self.class_weights = list(p.class_weighting) if p.weight_by_label_freqs else []
        self.check(
            not p.weight_by_label_freqs or len(self.class_weights) == classes,
            f"class_weighting needs a number for each of {classes} classes, not {len(self.class_weights)}",
        )

    def top_shapes(self, data: Shape, label: Shape) -> list[Shape]:
        super().top_shapes(data, label)
        return [(), data, label][: max(1, self.top_count)]

    def forward(self, x: Tensor, label: Tensor) -> Tensor | tuple[Tensor, ...]:
        each, log_p, index, valid = self.losses(x, label)
        loss = each.sum() / self.divisor(index, valid)
        if self.top_count < 2:
            return loss
        return (loss, log_p.exp().reshape(x.shape), each.detach().reshape(label.shape))[: self.top_count]

    def losses(self, x: Tensor, label: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """The loss of each place, log p, the labels and which of them count (None: all)."""
        scores, index = self.by_class(x, label)
        log_p = F.log_softmax(scores, 1)
        ignore = -100 if self.ignore is None else self.ignore
        each = F.nll_loss(log_p, index, ignore_index=ignore, reduction="none")
        each = passing(each.clamp(max=-math.log(_SMALLEST)), each)
        if self.class_weights:
            each = each * each.new_tensor(self.class_weights)[index.clamp(0, len(self.class_weights) - 1)]
        return each, log_p, index, None if self.ignore is None else index != self.ignore

    def divisor(self, index: Tensor, valid: Tensor | None) -> Tensor | float:
        outer, inner = index.shape
        return normaliser(self.mode, outer, inner, valid, self.param.loss_param.pre_fixed_normalizer)


@register("MultinomialLogisticLoss")
class MultinomialLogisticLoss(LabelledItems):
    """-sum log(max(p[label], 1e-20)) / N over probabilities p (N, classes) (multinomial_logistic_loss_layer.cpp).

    dp[label] = -1 / (N max(p, 1e-20)). Errors: labels not (N), or not 1 an item; a label outside the classes.
    """

    def forward(self, p: Tensor, label: Tensor) -> Tensor:
        chosen = p.flatten(1).gather(1, self.labels(label).reshape(-1, 1))
        return -passing(chosen.clamp(min=_LOG_THRESHOLD), chosen).log().sum() / p.shape[0]


@register("InfogainLoss")
class InfogainLoss(Classes):
    """-sum of H[label, l] log(max(p_l, 1e-20)) over classes, labels that count / normaliser (infogain_loss_layer.cpp).

    p = softmax over infogain_loss_param.axis. H (classes, classes) is bottom 2, or the BlobProto file `source`.
    dx = (p_l sum_k H[label, k] - H[label, l]) / normaliser. A second top is p.
    Errors: see Classes; H missing or of another size; the old `normalize`.
    """

    bottoms = between(2, 3)
    tops = between(1, 2)
    no_gradient_bottoms = frozenset({1, 2})
    deviations = "a label outside the classes is an error"
    matrix: Tensor  # of `source`

    def set_up(self, data: Shape, label: Shape, infogain: Shape | None = None) -> None:
        p = self.param.infogain_loss_param
        self.context.emit(notices.MakingLayer(self.name))  # the softmax inside
        self.check(not self.param.loss_param.HasField("normalize"), 'normalize is deprecated. use "normalization"')
        self.read_loss_param(data, p.axis)
        self.mode = self.param.loss_param.normalization
        if infogain is None:
            self.check(p.HasField("source"), "Infogain matrix source must be specified.")
            self.check(Path(p.source).is_file(), f"File not found: {p.source}")
            matrix = blobproto.read_array(p.source)
            self.check_matrix(matrix.shape, data)
            self.register_buffer(
                "matrix", torch.from_numpy(matrix).reshape(data[self.class_axis], -1), persistent=False
            )

    def check_matrix(self, matrix: Shape, data: Shape) -> None:
        classes = data[self.class_axis]
        if math.prod(matrix) != classes**2:
            self.fail(
                f"the infogain matrix must have {classes} x {classes} numbers for {classes} classes, not {list(matrix)}"
            )

    def top_shapes(self, data: Shape, label: Shape, infogain: Shape | None = None) -> list[Shape]:
        super().top_shapes(data, label)
        if infogain is not None:
            self.check_matrix(infogain, data)
        return [(), data][: max(1, self.top_count)]

    def forward(self, x: Tensor, label: Tensor, infogain: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        scores, index = self.by_class(x, label)
        matrix = (self.matrix if infogain is None else infogain.detach().reshape(scores.shape[1], -1)).to(x.dtype)
        valid = None if self.ignore is None else index != self.ignore
        rows = matrix[index if valid is None else index.where(valid, 0)].movedim(2, 1)
        if valid is not None:
            rows = rows * valid.unsqueeze(1)
        log_p = F.log_softmax(scores, 1)
        each = rows * passing(log_p.clamp(min=math.log(_LOG_THRESHOLD)), log_p)
        outer, inner = index.shape
        loss = -each.sum() / normaliser(self.mode, outer, inner, valid, self.param.loss_param.pre_fixed_normalizer)
        return (loss, log_p.exp().reshape(x.shape)) if self.top_count == 2 else loss


@register("SigmoidCrossEntropyLoss")
class SigmoidCrossEntropyLoss(Loss):
    """-sum of t log(s) + (1 - t) log(1 - s) / normaliser, s = sigmoid(x) (sigmoid_cross_entropy_loss_layer.cpp).

    Targets t of the bottom's count, in [0, 1]. The default normalisation is BATCH_SIZE: the first dimension.
    dx = (s - t) / normaliser, 0 where trunc(t) is ignore_label. A third bottom, of MNC, has a weight for each term, and
    their sum is the normaliser, whatever the mode. Errors: different counts.
    """

    bottoms = between(2, 3)
    no_gradient_bottoms = frozenset({1, 2})

    def set_up(self, *bottoms: Shape) -> None:
        p = self.param.loss_param
        self.ignore = p.ignore_label if p.HasField("ignore_label") else None
        self.mode = normalisation_mode(self, caffe_pb2.LossParameter.BATCH_SIZE)

    def top_shapes(self, *bottoms: Shape) -> list[Shape]:
        if len({math.prod(bottom) for bottom in bottoms}) > 1:
            self.fail(f"inputs must have the same count, not {' and '.join(str(list(bottom)) for bottom in bottoms)}")
        return super().top_shapes(*bottoms)

    def forward(self, x: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
        target = target.detach().reshape(x.shape)
        each = F.binary_cross_entropy_with_logits(x, target, reduction="none")
        valid = None if self.ignore is None else target.long() != self.ignore
        if valid is not None:
            each = each.masked_fill(~valid, 0)
        if weights is not None:
            total = weights.detach().sum()
            return (each * weights.detach().reshape(x.shape)).sum() / torch.where(total > 0, total, 1)
        fixed = self.param.loss_param.pre_fixed_normalizer
        return each.sum() / normaliser(self.mode, x.shape[0], math.prod(x.shape[1:]), valid, fixed)


class DistanceLoss(Loss):
    """Two bottoms of the same count an item, else an error; gradients go to both."""

    no_gradient_bottoms = frozenset()

    def top_shapes(self, a: Shape, b: Shape) -> list[Shape]:
        if math.prod(a[1:]) != math.prod(b[1:]):
            self.fail(f"Inputs must have the same dimension, not {list(a)} and {list(b)}")
        return super().top_shapes(a, b)


@register("EuclideanLoss")
class EuclideanLoss(DistanceLoss):
    """sum of (a - b)^2 / (2 N), with gradients to both bottoms (euclidean_loss_layer.cpp).

    Errors: bottoms with different counts an item.
    """

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return F.mse_loss(a, b.reshape(a.shape), reduction="sum") / (2 * a.shape[0])


@register("HingeLoss")
class HingeLoss(LabelledItems):
    """One against all: m = max(0, 1 - s x), s = 1 at the label, else -1; sum of m (L1) or m^2 (L2) / N.

    Source: hinge_loss_layer.cpp. Errors: not one label an item; a label outside the classes.
    """

    def set_up(self, data: Shape, label: Shape) -> None:
        super().set_up(data, label)
        self.squared = self.param.hinge_loss_param.norm == caffe_pb2.HingeLossParameter.L2

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        x = x.flatten(1)
        sign = torch.full_like(x, -1).scatter(1, self.labels(label).reshape(-1, 1), 1)
        margin = F.relu(1 - sign * x)
        return (margin.square() if self.squared else margin).sum() / x.shape[0]


@register("ContrastiveLoss")
class ContrastiveLoss(Loss):
    """Similar pairs (trunc(y) not 0): d^2, others max(margin - d, 0)^2; sum / (2 N) (contrastive_loss_layer.cpp).

    Bottoms a, b (N, C), y (N); d^2 = sum over C of (a - b)^2. legacy_version: max(margin - d^2, 0) instead.
    Caffe's gradient of the others divides by d + 1e-4, not by d. Errors: other shapes.
    """

    bottoms = exactly(3)
    no_gradient_bottoms = frozenset({2})

    def set_up(self, a: Shape, b: Shape, y: Shape) -> None:
        p = self.param.contrastive_loss_param
        self.margin, self.legacy = p.margin, p.legacy_version

    def top_shapes(self, a: Shape, b: Shape, y: Shape) -> list[Shape]:
        super().top_shapes(a, b)
        if math.prod(a[2:]) != 1 or math.prod(b[2:]) != 1 or a[1:2] != b[1:2]:
            self.fail(f"needs bottoms (N, C), (N, C), not {list(a)}, {list(b)}")
        if y[:1] != a[:1] or math.prod(y[1:]) != 1:
            self.fail(f"needs one similarity label a pair, not {list(y)} for {list(a)}")
        return [()]

    def forward(self, a: Tensor, b: Tensor, y: Tensor) -> Tensor:
        half_square = (a - b.reshape(a.shape)).flatten(1).square().sum(1) / 2
        square = 2 * half_square.detach()
        distance = square.sqrt()
        hinge = F.relu(self.margin - (square if self.legacy else distance))
        similar = y.detach().flatten().trunc() != 0
        value = torch.where(similar, square, hinge if self.legacy else hinge.square()).sum()
        slope = -(hinge > 0).to(a.dtype) if self.legacy else -hinge / (distance + 1e-4)
        pull = torch.where(similar, 1, slope)  # d loss / d half_square, as Caffe has it
        return passing(value / 2, (pull * half_square).sum()) / a.shape[0]
