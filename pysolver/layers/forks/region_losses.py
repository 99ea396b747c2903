"""SmoothL1Loss of Fast R-CNN, and the online hard example mining of R-FCN (Shrivastava et al., 2016)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from pysolver.blob import Shape
from pysolver.layers.base import Layer, between, exactly, register
from pysolver.layers.losses import DistanceLoss, Loss, SoftmaxWithLoss, normalisation_mode, normaliser
from pysolver.proto import caffe_pb2


@register("SmoothL1Loss")
class SmoothL1Loss(Loss):
    """sum of w_out f(w_in (a - b)) / N (Fast R-CNN, SSD: smooth_L1_loss_layer.cpp).

    f(d) = (sigma d)^2 / 2 where |d| < 1 / sigma^2, else |d| - 1 / (2 sigma^2). Bottoms a, b, and, if given, w_in and
    w_out, all of one shape; gradients to a and b, the weights get zeros. A second top, of Cascade R-CNN, is the loss of
    each place, (N, 1, H, W). Errors: other shapes.
    """

    bottoms = between(2, 4)
    tops = between(1, 2)
    no_gradient_bottoms = frozenset()

    def set_up(self, *bottoms: Shape) -> None:
        self.sigma = self.param.smooth_l1_loss_param.sigma
        self.check(self.sigma > 0, f"sigma must be positive, not {self.sigma:g}")

    def top_shapes(self, *bottoms: Shape) -> list[Shape]:
        super().top_shapes(*bottoms)
        for other in bottoms[1:]:
            if torch.Size(other[1:]).numel() != torch.Size(bottoms[0][1:]).numel():
                self.fail(f"the bottoms must have one shape, not {list(bottoms[0])} and {list(other)}")
        return [(), _places(bottoms[0])][: max(1, self.top_count)]

    def forward(self, a: Tensor, b: Tensor, *weights: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        difference = a - b.reshape(a.shape)
        if weights:
            difference = difference * weights[0].detach().reshape(a.shape)
        each = F.smooth_l1_loss(difference, torch.zeros_like(difference), reduction="none", beta=self.sigma**-2)
        if len(weights) > 1:
            each = each * weights[1].detach().reshape(a.shape)
        loss = each.sum() / a.shape[0]
        return (loss, _by_place(each)) if self.top_count == 2 else loss


def _places(shape: Shape) -> Shape:
    """(N, C, H, W) -> (N, 1, H, W), missing axes 1."""
    return (shape[0], 1, *shape[2:], *[1] * (4 - len(shape)))


def _by_place(each: Tensor) -> Tensor:
    """The sums over axis 1, for others to read."""
    return each.detach().sum(1).reshape(_places(tuple(each.shape)))


@register("SmoothL1LossOHEM")
class SmoothL1LossOHEM(Loss):
    """sum of f(w (a - b)) / normaliser over (N, C, H, W), f as SmoothL1Loss with sigma 1 (R-FCN,
    smooth_L1_loss_ohem_layer.cpp).

    Bottoms a, b and, if given, w; gradients to a and b, the weights get zeros. A second top is the loss of each place,
    (N, 1, H, W). Normaliser: loss_param, where every place counts as valid. Errors: other shapes.
    """

    bottoms = between(2, 3)
    tops = between(1, 2)
    no_gradient_bottoms = frozenset()

    def set_up(self, *bottoms: Shape) -> None:
        self.mode = normalisation_mode(self, caffe_pb2.LossParameter.VALID)

    def top_shapes(self, *bottoms: Shape) -> list[Shape]:
        super().top_shapes(*bottoms)
        first = bottoms[0]
        for other in bottoms[1:]:
            if math.prod(other) != math.prod(first):
                self.fail(f"the bottoms must have one shape, not {list(first)} and {list(other)}")
        return [(), _places(first)][: max(1, self.top_count)]

    def forward(self, a: Tensor, b: Tensor, *weights: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        difference = a - b.reshape(a.shape)
        if weights:
            difference = difference * weights[0].detach().reshape(a.shape)
        each = F.smooth_l1_loss(difference, torch.zeros_like(difference), reduction="none")
        fixed = self.param.loss_param.pre_fixed_normalizer
        loss = each.sum() / normaliser(self.mode, a.shape[0], math.prod(a.shape[2:]), None, fixed)
        return (loss, _by_place(each)) if self.top_count == 2 else loss


@register("SoftmaxWithLossOHEM")
class SoftmaxWithLossOHEM(SoftmaxWithLoss):
    """SoftmaxWithLoss, under R-FCN's name (softmax_loss_ohem_layer.cpp)."""


@register("BoxAnnotatorOHEM")
class BoxAnnotatorOHEM(Layer):
    """Labels and loss weights of the roi_per_img regions of each image that cost most, of all others ignore_label and 0
    (R-FCN, box_annotator_ohem_layer.cu).

    Bottoms: regions (R, 5, H, W), whose first number is the image; loss and labels (R, 1, H, W); loss weights
    (R, C, H, W). Tops: labels, loss weights. No gradient. Errors: roi_per_img 0; other shapes.
    """

    bottoms = exactly(4)
    tops = exactly(2)
    no_gradient_bottoms = frozenset({0, 1, 2, 3})
    deviations = "of regions that cost the same, the first ones are taken"

    def set_up(self, regions: Shape, loss: Shape, labels: Shape, weights: Shape) -> None:
        self.check(self.param.box_annotator_ohem_param.roi_per_img > 0, "roi_per_img must be positive")

    def top_shapes(self, regions: Shape, loss: Shape, labels: Shape, weights: Shape) -> list[Shape]:
        regions, loss, labels, weights = (
            (*shape, *[1] * (4 - len(shape))) for shape in (regions, loss, labels, weights)
        )
        places = (regions[0], 1, *regions[2:])
        if regions[1] != 5 or loss != places or labels != places or (weights[0], 1, *weights[2:]) != places:
            self.fail(
                f"needs regions (R, 5, H, W), loss and labels (R, 1, H, W) and weights (R, C, H, W), not "
                f"{list(regions)}, {list(loss)}, {list(labels)} and {list(weights)}"
            )
        return [places, weights]

    @torch.no_grad()
    def forward(self, regions: Tensor, loss: Tensor, labels: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        p = self.param.box_annotator_ohem_param
        shapes = self.top_shapes(*(tuple(bottom.shape) for bottom in (regions, loss, labels, weights)))
        images = regions.reshape(shapes[0][0], 5, -1)[:, 0].flatten().long()
        order = loss.flatten().argsort(descending=True, stable=True)
        chosen = torch.zeros_like(images, dtype=torch.bool)
        for image in images.unique():
            chosen[order[images[order] == image][: p.roi_per_img]] = True
        chosen = chosen.reshape(shapes[0])
        kept = torch.where(
            chosen, labels.reshape(shapes[0]), torch.full_like(labels, p.ignore_label).reshape(shapes[0])
        )
        return kept, weights.reshape(shapes[1]) * chosen


@register("L1Loss")
class L1Loss(DistanceLoss):
    """sum of |a - b| / N, with gradients to both bottoms, 0 where they are equal (NVIDIA's l1_loss_layer.cpp)."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return (a - b.reshape(a.shape)).abs().sum() / a.shape[0]


@register("FocalLoss")
class FocalLoss(SoftmaxWithLoss):
    """-sum of alpha (1 - p)^gamma log(max(p, FLT_MIN)) over labels that count / normaliser, p the softmax at the label
    (Lin et al., 2017; focal_loss_layer.cpp of zimenglan-sysu-512 and of frcnn).

    For the rest, see SoftmaxWithLoss. Errors: as there; gamma below 0, alpha not above.
    """

    deviations = "caffe-windows' 1 + p, and sciencefans' sigmoid, are other losses of this name"

    def set_up(self, data: Shape, label: Shape) -> None:
        super().set_up(data, label)
        p = self.param.focal_loss_param
        self.check(p.gamma >= 0, "gamma must be larger than or equal to zero")
        self.check(p.alpha > 0, "alpha must be larger than zero")

    def losses(self, x: Tensor, label: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        each, log_p, index, valid = super().losses(x, label)
        p = self.param.focal_loss_param
        own = log_p.gather(1, index.clamp(0, log_p.shape[1] - 1).unsqueeze(1)).squeeze(1)
        rest = -torch.expm1(own)  # 1 - p
        return p.alpha * rest.clamp(min=1e-10) ** p.gamma * each, log_p, index, valid
