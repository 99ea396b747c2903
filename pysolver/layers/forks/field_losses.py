"""What MS-CNN (Cai et al., 2016) and Cascade R-CNN (Cai and Vasconcelos, 2018) train their proposals with.

At each place of a map stands a field, a box of one size around the middle of the place. The truth of a place is
(6): label, 0 for nothing; x and y of the middle, width and height of its object; the field's largest overlap with any.
All are in pixels of the input.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pysolver.blob import Shape
from pysolver.component import Component
from pysolver.context import Context
from pysolver.layers.base import Layer, between, exactly, register
from pysolver.layers.forks.cascade import code_scale
from pysolver.layers.forks.yolo_first import FirstYoloLoss
from pysolver.layers.losses import passing

_SMALLEST = 1.17549435e-38  # FLT_MIN: no smaller probability is taken
_SHORTEST = 2.0  # pixels of an object's side, at least


class OnFields(Layer):
    """What they share: scores (B, classes, H, W), codes (B, 4, H, W) and truth (B, 6, H, W).

    MS-CNN has one field, and scores and codes in one bottom; Cascade R-CNN has G, those of an image one after the other
    along axis 0. Errors: other shapes; cls_num not that of the scores; objectness with other than 2 classes.
    """

    is_opaque = True
    settings: str  # the field of the layer
    is_grouped: bool

    def set_up(self, *bottoms: Shape) -> None:
        p = self.p = getattr(self.param, self.settings)
        self.check(p.cls_num > 1 and (not p.objectness or p.cls_num == 2), "cls_num must be above 1; 2 for objectness")
        self.stride = p.stride if self.is_grouped else p.downsample_rate
        sizes = (list(p.field_w), list(p.field_h)) if self.is_grouped else ([p.field_w], [p.field_h])
        self.check(len(sizes[0]) == len(sizes[1]) > 0, "needs as many field_w as field_h, one at least")
        self.check(min(*sizes[0], *sizes[1], self.stride) > 0, "fields and strides must be positive")
        self.check(p.field_xyr > 0 and p.field_whr > 0, "field_xyr and field_whr must be positive")
        self.fields = torch.tensor(list(zip(*sizes, strict=True)), dtype=torch.float32)
        self.mean, self.std = code_scale(self)
        loss = self.param.loss_param
        self.ignore = loss.ignore_label if loss.HasField("ignore_label") else None

    def check_maps(self, *bottoms: Shape) -> None:
        first, truth, kinds = bottoms[0], bottoms[-1], self.p.cls_num
        wide = kinds if self.is_grouped else kinds + 4
        good = len(first) == len(truth) == 4 and first[1] == wide and truth == (first[0], 6, *first[2:])
        if self.is_grouped:
            good = good and bottoms[1] == (first[0], 4, *first[2:]) and first[0] % len(self.fields) == 0
        if not good:
            codes = f"(N {len(self.fields)}, 4, H, W) " if self.is_grouped else ""
            self.fail(
                f"needs (N {len(self.fields)}, {wide}, H, W), {codes}and (N {len(self.fields)}, 6, H, W), not "
                f"{', '.join(str(list(shape)) for shape in bottoms)}"
            )

    def maps(self, *bottoms: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scores, codes, truth."""
        first, truth, kinds = bottoms[0], bottoms[-1].detach(), self.p.cls_num
        return (first, bottoms[1], truth) if self.is_grouped else (first[:, :kinds], first[:, kinds:], truth)

    def sizes(self, like: Tensor) -> Tensor:
        """(B, 2, 1, 1): width and height of each map's field."""
        return self.fields.to(like).repeat(len(like) // len(self.fields), 1)[:, :, None, None]

    def middles(self, like: Tensor) -> Tensor:
        """(2, H, W): x and y of the middle of each place."""
        height, width = like.shape[2:]
        y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
        return torch.stack([x, y]).to(like) * self.stride

    def by_code(self, values: Tensor) -> Tensor:
        """(4) -> (4, 1, 1), to stand beside codes."""
        return values[:, None, None]

    def classes(self, truth: Tensor) -> tuple[Tensor, Tensor]:
        """(B, H, W) each: what a score should say, and whether the place counts at all."""
        label = truth[:, 0].long()
        counted = torch.ones_like(label, dtype=torch.bool) if self.ignore is None else label != self.ignore
        wanted = label.clamp(max=1) if self.p.objectness else label
        good = ((wanted >= 0) & (wanted < self.p.cls_num)) | ~counted
        self.check(bool(good.all()), f"a label is outside [0, {self.p.cls_num})")
        return wanted, counted


class FieldLoss(OnFields):
    """Class loss + lambda * code loss, and lambda * code loss, as (1, 1, 1, 2); only the first has a gradient.

    Class loss: -log p of the softmax at places with an object and at some without, times the weights, by their number.
    Code loss: smooth L1, or half the squares, of bounded codes less those of the object, at places with one, by four
    times their number; the gradient passes through the bounds. pos_neg_weighted: weights that give objects 1 /
    (1 + bg_multiple) of the class loss.
    """

    tops = exactly(1)
    is_loss = True
    bounds_codes = True

    def set_up(self, *bottoms: Shape) -> None:
        super().set_up(*bottoms)
        self.trade_off = getattr(self.p, "lambda")

    def top_shapes(self, *bottoms: Shape) -> list[Shape]:
        self.check_maps(*bottoms)
        return [(1, 1, 1, 2)]

    def forward(self, *bottoms: Tensor) -> Tensor:
        scores, codes, truth = self.maps(*bottoms)
        wanted, counted = self.classes(truth)
        log_p = F.log_softmax(scores, 1)
        with torch.no_grad():
            right, wrong = self.counted_places(wanted, truth, scores)
            weight = self._weights(right, wrong, truth)
        each = -log_p.gather(1, wanted.where(counted, 0)[:, None])[:, 0]
        each = passing(each.clamp(max=-math.log(_SMALLEST)), each) * weight
        counted_classes = (right | wrong) & counted
        by_class = each[counted_classes].sum() / max(int(counted_classes.sum()), 1)
        at = right & counted
        found = codes.movedim(1, -1)[at]
        bounded = passing(self._bounded(codes).movedim(1, -1)[at], found) if self.bounds_codes else found
        by_code = self._distance(bounded - self._targets(truth).movedim(1, -1)[at]).sum() / max(4 * len(found), 1)
        by_code = self.trade_off * by_code
        return torch.stack([by_class + by_code, by_code.detach()]).reshape(1, 1, 1, 2)

    def counted_places(self, wanted: Tensor, truth: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Masks (B, H, W) of the places with an object, and of those without, that count."""
        raise NotImplementedError

    def _weights(self, right: Tensor, wrong: Tensor, truth: Tensor) -> Tensor:
        weight = torch.ones_like(truth[:, 0])
        if not self.is_grouped and self.p.iou_weighted:
            weight = torch.where(right, truth[:, 5], weight)
        if self.p.pos_neg_weighted:
            share, count = 1 / (1 + self.p.bg_multiple), int(right.sum() + wrong.sum())
            rights, wrongs = weight[right].sum(), weight[wrong].sum()
            if rights:
                weight = torch.where(right, weight * share * count / rights, weight)
            if wrongs and (rights or self.is_grouped):
                weight = torch.where(wrong, weight * (1 - share) * count / wrongs, weight)
        return weight

    def _targets(self, truth: Tensor) -> Tensor:
        """(B, 4, H, W): the codes that would make the field the object."""
        size = self.sizes(truth)
        move = (truth[:, 1:3] - self.middles(truth)) / size
        grow = (truth[:, 3:5].clamp(min=_SHORTEST) / size).log()
        return (torch.cat([move, grow], 1) - self.by_code(self.mean.to(truth))) / self.by_code(self.std.to(truth))

    def _bounded(self, codes: Tensor) -> Tensor:
        """Moves within 1 / field_xyr, growth within field_whr; the scale is the mean of the two of each."""
        most = torch.tensor([1 / self.p.field_xyr] * 2 + [math.log(self.p.field_whr)] * 2)
        mean = self.mean.reshape(2, 2).mean(1).repeat_interleave(2)
        std = self.std.reshape(2, 2).prod(1).sqrt().repeat_interleave(2)
        low, high = (self.by_code(((bound - mean) / std).to(codes)) for bound in (-most, most))
        return torch.minimum(torch.maximum(codes, low), high)

    def _distance(self, difference: Tensor) -> Tensor:
        smooth = self.p.bbox_loss_type == "Smooth_L1" if self.is_grouped else self.p.bb_smooth
        if smooth:
            return F.smooth_l1_loss(difference, torch.zeros_like(difference), reduction="none")
        return difference.square() / 2


def _best(values: Tensor, count: int) -> Tensor:
    """Indices of the largest; of equal ones the last first."""
    return len(values) - 1 - values.flip(0).argsort(descending=True, stable=True)[:count]


@register("DetectionLoss")
class DetectionLoss(FieldLoss):
    """MS-CNN's loss of one kind of field: bottoms (N, cls_num + 4, H, W) and truth (N, 6, H, W)
    (detection_loss_layer.cpp); see FieldLoss.

    All places with an object count. Of those without that overlap by less than bg_threshold: sample_mode "random",
    bg_multiple times as many draws as there are objects, at least 4 (cls_num - 1); "bootstrap", for each class those
    with its highest scores, bg_multiple times its objects, at least 4; "mixture", both by half; else all. iou_weighted:
    an object weighs as much as it overlaps. Without cls_num: caffe-yolo's layer of this name, see FirstYoloLoss.
    Errors: see OnFields; a label outside the classes.
    """

    bottoms = exactly(2)
    no_gradient_bottoms = frozenset({1})
    settings = "detection_loss_param"
    is_grouped = False
    deviations = "drawn by torch's generator"

    @classmethod
    def chosen(cls, param: Any, context: Context) -> type[Component]:
        return DetectionLoss if param.detection_loss_param.HasField("cls_num") else FirstYoloLoss

    def counted_places(self, wanted: Tensor, truth: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        free = (truth[:, 0].long() == 0) & (truth[:, 5] < self.p.bg_threshold)
        mode = self.p.sample_mode
        if mode not in ("random", "bootstrap", "mixture"):
            return truth[:, 0].long() != 0, free
        wrong, ratio = torch.zeros_like(free), self.p.bg_multiple * (0.5 if mode == "mixture" else 1.0)
        images = zip(free.flatten(1), wanted.flatten(1), scores.flatten(2), wrong.view(len(free), -1), strict=True)
        for own_free, own_wanted, own_scores, drawn in images:
            if mode != "bootstrap":
                count = max(int(int((own_wanted != 0).sum()) * ratio), 4 * (self.p.cls_num - 1))
                at = torch.randint(len(own_free), (count,), device=own_free.device)
                drawn[at] = own_free[at]
            if mode != "random":
                eligible = own_free.nonzero().flatten()
                for kind in range(1, self.p.cls_num):
                    count = max(4, int(int((own_wanted == kind).sum()) * ratio))
                    drawn[eligible[_best(own_scores[kind][eligible], count)]] = True
        return truth[:, 0].long() != 0, wrong


@register("DetectionGroupLoss")
class DetectionGroupLoss(FieldLoss):
    """Cascade R-CNN's loss of a group of G fields: bottoms scores (N G, cls_num, H, W), codes (N G, 4, H, W), truth
    (N G, 6, H, W) (detection_group_loss_layer.cpp); see FieldLoss.

    Of each image batch_size places count, 1 / (1 + bg_multiple) of them with an object if there are so many, drawn at
    random; batch_size -1: all with one, and bg_multiple times as many without, at least min_num_neg. Without one means
    an overlap below bg_threshold; neg_mining_type "random" draws them, "bootstrap" takes those that look most like an
    object, "mixture" both by half. Codes are bounded if field_xyr and field_whr are given. Errors: see OnFields; a word
    that is not known; batch_size 0; a label outside the classes.
    """

    bottoms = exactly(3)
    no_gradient_bottoms = frozenset({2})
    settings = "detection_group_loss_param"
    is_grouped = True
    deviations = "drawn by torch's generator; the bottom's codes are not bounded in place"

    def set_up(self, *bottoms: Shape) -> None:
        super().set_up(*bottoms)
        p = self.p
        self.bounds_codes = p.HasField("field_xyr") and p.HasField("field_whr")
        for value, known in (
            (p.neg_mining_type, ("random", "bootstrap", "mixture")),
            (p.neg_ranking_type, ("conf_prob", "conf_loss")),  # one order: both fall with the probability of class 0
            (p.bbox_loss_type, ("Smooth_L1", "Euclidean_L2")),
        ):
            self.check(value in known, f'"{value}" is not known (known: {", ".join(known)})')
        self.check(p.batch_size == -1 or p.batch_size > 0, "batch_size must be positive, or -1 for all")

    def counted_places(self, wanted: Tensor, truth: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        label, group = truth[:, 0].long(), (-1, truth[0, 0].numel() * len(self.fields))
        has_object = (label > 0).reshape(group)
        free = ((label == 0) & (truth[:, 5] < self.p.bg_threshold)).reshape(group)
        likeness = -F.log_softmax(scores, 1)[:, 0].reshape(group)
        right, wrong = torch.zeros_like(has_object), torch.zeros_like(free)
        for image in range(len(right)):
            objects, others = (mask[image].nonzero().flatten() for mask in (has_object, free))
            if self.p.batch_size == -1:
                most, count = len(objects), max(len(objects) * self.p.bg_multiple, self.p.min_num_neg)
            else:
                most = min(int(self.p.batch_size / (1 + self.p.bg_multiple) + 0.5), len(objects))
                count = self.p.batch_size - most
            right[image, objects[torch.randperm(len(objects))[:most].to(objects)]] = True
            wrong[image, others[self._negatives(likeness[image, others], count)]] = True
        return right.reshape(label.shape), wrong.reshape(label.shape)

    def _negatives(self, likeness: Tensor, count: int) -> Tensor:
        if count >= len(likeness):
            return torch.arange(len(likeness), device=likeness.device)
        mode = self.p.neg_mining_type
        hard = {"random": 0, "bootstrap": count}.get(mode, int(count * 0.5 + 0.5))
        taken = _best(likeness, hard)
        left = torch.ones_like(likeness, dtype=torch.bool)
        left[taken] = False
        rest = left.nonzero().flatten()
        return torch.cat([taken, rest[torch.randperm(len(rest))[: count - hard].to(rest)]])


class FieldAccuracy(OnFields):
    """(1, 1, 1, 2): the share of places whose best class is right, and of those with an object; as a second top the
    mean overlap of boxes and objects. -1 for none.

    Places without an object that overlap one by bg_threshold or more do not count.
    """

    tops = between(1, 2)
    least_side: float  # of what two boxes share

    def top_shapes(self, *bottoms: Shape) -> list[Shape]:
        self.check_maps(*bottoms)
        shapes: list[Shape] = [(1, 1, 1, 2), (1, 1, 1, 1)]
        return shapes[: self.top_count]

    @torch.no_grad()
    def forward(self, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        scores, codes, truth = self.maps(*bottoms)
        wanted, counted = self.classes(truth)
        with_object = counted & (truth[:, 0].long() != 0)
        counted = counted & ((wanted != 0) | (truth[:, 5] < self.p.bg_threshold))
        hit = self._hits(scores, wanted.where(counted, 0))
        hit = hit.to(scores)
        shares = torch.stack([_mean(hit[counted]), _mean(hit[with_object])])
        tops = shares.reshape(1, 1, 1, 2), _mean(self._overlaps(codes, truth)[with_object]).reshape(1, 1, 1, 1)
        return tops if self.top_count > 1 else tops[0]

    def _hits(self, scores: Tensor, wanted: Tensor) -> Tensor:
        """Whether fewer than top_k classes are better; of equal ones MS-CNN's sorting has the later first."""
        own, index = scores.gather(1, wanted[:, None]), torch.arange(scores.shape[1], device=scores.device)
        earlier = index[:, None, None] < wanted[:, None] if self.is_grouped else index[:, None, None] > wanted[:, None]
        better = (scores > own) | ((scores == own) & earlier)
        return better.sum(1) < (1 if self.is_grouped else self.p.top_k)

    def _overlaps(self, codes: Tensor, truth: Tensor) -> Tensor:
        """(B, H, W)"""
        size = self.sizes(codes)
        moves = codes * self.by_code(self.std.to(codes)) + self.by_code(self.mean.to(codes))
        shift, grow = 1 / self.p.field_xyr, math.log(self.p.field_whr)
        middle = moves[:, :2].clamp(-shift, shift) * size + self.middles(codes)
        own, other = size * moves[:, 2:].clamp(-grow, grow).exp(), truth[:, 3:5]
        low = torch.maximum(middle - own / 2, truth[:, 1:3] - other / 2)
        sides = torch.minimum(middle + own / 2, truth[:, 1:3] + other / 2) - low
        meet = (sides > 0).all(1) & (sides >= self.least_side).all(1) & (other > 0).all(1)
        shared = torch.where(meet, sides.prod(1), 0)
        return shared / (own.prod(1) + other.prod(1) - shared)


def _mean(values: Tensor) -> Tensor:
    return values.mean() if len(values) else values.new_tensor(-1.0)


@register("DetectionAccuracy")
class DetectionAccuracy(FieldAccuracy):
    """MS-CNN's accuracy of one kind of field, from the bottoms of DetectionLoss (detection_accuracy_layer.cpp); see
    FieldAccuracy. A place is right if its class is among the top_k best. Errors: see OnFields; top_k above cls_num.
    """

    bottoms = exactly(2)
    no_gradient_bottoms = frozenset({0, 1})
    settings = "detection_accuracy_param"
    is_grouped = False
    least_side = 0.0

    def set_up(self, *bottoms: Shape) -> None:
        super().set_up(*bottoms)
        self.check(0 < self.p.top_k <= self.p.cls_num, f"top_k must be within 1 and cls_num, not {self.p.top_k}")


@register("DetectionGroupAccuracy")
class DetectionGroupAccuracy(FieldAccuracy):
    """Cascade R-CNN's accuracy of a group of fields, from the bottoms of DetectionGroupLoss
    (detection_group_accuracy_layer.cpp); see FieldAccuracy. Errors: see OnFields.
    """

    bottoms = exactly(3)
    no_gradient_bottoms = frozenset({0, 1, 2})
    settings = "detection_group_accuracy_param"
    is_grouped = True
    least_side = 1.0
