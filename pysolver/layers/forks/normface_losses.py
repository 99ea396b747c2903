"""GeneralContrastiveLoss and GeneralTripletLoss of NormFace (Wang et al., 2017): of the distances between items and
classes. Both hand down what their Caffe does, which is no derivative everywhere."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pysolver.blob import Shape
from pysolver.layers.base import between, register
from pysolver.layers.indices import IndexCheck
from pysolver.layers.losses import Loss, passing


class OfDistances(Loss):
    """What both share: bottoms distances (N, classes...) and labels (N); tops the loss, a mean over items, and, if
    asked for, two means (2) without a gradient. Errors: a label outside the classes; one class.
    """

    tops = between(1, 2)
    deviations = "a label outside the classes is an error"

    def set_up(self, data: Shape, label: Shape) -> None:
        classes = math.prod(data[1:])
        self.check(classes > 1, "needs more than one class")
        self.labels = IndexCheck(self, classes, "label", "classes")

    def top_shapes(self, *bottoms: Shape) -> list[Shape]:
        data, label = bottoms
        self.check(math.prod(label) == data[0], f"needs one label an item, not {list(label)} for {list(data)}")
        return [(), (2,)][: self.top_count]

    def tops_of(
        self, x: Tensor, terms: Tensor, slopes: Tensor, near: Tensor, far: Tensor
    ) -> Tensor | tuple[Tensor, Tensor]:
        """The loss of these terms, (N, classes), with these slopes as gradients; near (N, 1) and far (N, classes)."""
        loss = passing(terms.abs().sum() / len(x), (slopes * x).sum() / len(x))
        if self.top_count == 1:
            return loss
        return loss, torch.stack([near.sum(), far.sum() / (x.shape[1] - 1)]) / len(x)


@register("GeneralContrastiveLoss")
class GeneralContrastiveLoss(OfDistances):
    """sum of positive_weight p + negative_weight n over classes / N (general_constrastive_loss_layer.cpp).

    p, at the label, is the distance less positive_margin, from 0 to positive_outlier_thresh; n, elsewhere, is
    negative_margin less the distance, at least 0. positive_first: no n for an item whose p is of a distance above
    positive_upper_bound. Gradients: the weights, where the distance is between positive_margin and
    positive_outlier_thresh (or above positive_upper_bound with positive_first), and below negative_margin. The two
    means: p, n. Bottoms, tops and errors: see OfDistances. `square` is not read, as there.
    """

    def forward(self, x: Tensor, label: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        p, index, x = self.param.general_contrastive_loss_param, self.labels(label).reshape(-1, 1), x.flatten(1)
        d = x.detach()
        own = d.gather(1, index)
        near = (own - p.positive_margin).clamp(0, p.positive_outlier_thresh)
        far = (p.negative_margin - d).clamp(min=0).scatter(1, index, 0)
        pulled = (own > p.positive_margin) & (own < p.positive_outlier_thresh)
        pushed = (d < p.negative_margin).to(d.dtype).scatter(1, index, 0)
        counted = far
        if p.positive_first:
            late = own > p.positive_upper_bound
            pulled, pushed, counted = pulled | late, pushed.masked_fill(late, 0), far.masked_fill(late, 0)
        terms = (counted * p.negative_weight).scatter(1, index, near * p.positive_weight)
        slopes = (-p.negative_weight * pushed).scatter(1, index, p.positive_weight * pulled.to(d.dtype))
        return self.tops_of(x, terms, slopes, near, far)


@register("GeneralTripletLoss")
class GeneralTripletLoss(OfDistances):
    """sum of negative_weight max(0, margin + distance to the label - distance) over other classes / N
    (general_triplet_loss_layer.cpp).

    hardest_only: of each item only the largest of them, the first of equal ones. positive_first: none of an item whose
    distance to the label is above positive_upper_bound. Gradients: -negative_weight to each distance that counts, and
    positive_weight, once, to the label's: always with add_center_loss, else if any counts or positive_first put them
    off. The two means: the distances to the label, and to others. Bottoms, tops and errors: see OfDistances.
    """

    def forward(self, x: Tensor, label: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        p, index, x = self.param.general_triplet_loss_param, self.labels(label).reshape(-1, 1), x.flatten(1)
        d = x.detach()
        own = d.gather(1, index)
        late = (own > p.positive_upper_bound) if p.positive_first else torch.zeros_like(own, dtype=torch.bool)
        short = (own + p.margin - d).clamp(min=0).scatter(1, index, 0).masked_fill(late, 0)
        if p.hardest_only:
            worst = short.argmax(1, keepdim=True)
            short = torch.zeros_like(short).scatter(1, worst, short.gather(1, worst))
        counts = (short > 0).to(d.dtype)
        pulled = counts.any(1, keepdim=True) | late | p.add_center_loss
        slopes = (-p.negative_weight * counts).scatter(1, index, p.positive_weight * pulled.to(d.dtype))
        return self.tops_of(x, short * p.negative_weight, slopes, own, d.scatter(1, index, 0))
