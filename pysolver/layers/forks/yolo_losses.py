"""What trains YOLO version 2 and 3 (Redmon and Farhadi, 2016 and 2018): RegionLoss, and Yolov3 of MobileNet-YOLO.

Both hand down a "delta" for every number of their map, and report the sum of its squares: the delta is no derivative
of the report, but what darknet trains with.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from pysolver.blob import Shape
from pysolver.errors import CaffeError
from pysolver.files import read_text
from pysolver.layers.base import register
from pysolver.layers.forks import boxes
from pysolver.layers.losses import Loss, passing


class Truth(NamedTuple):
    """An object: its class from 0 on, centre and size as fractions of the image."""

    label: int
    x: float
    y: float
    width: float
    height: float


def corners(boxes_: Tensor) -> Tensor:
    """(..., 4) of centre and size -> xmin, ymin, xmax, ymax."""
    half = boxes_[..., 2:] / 2
    return torch.cat([boxes_[..., :2] - half, boxes_[..., :2] + half], -1)


def overlap_of_sizes(sizes: Tensor, width: float, height: float) -> Tensor:
    """(A, 2) widths and heights -> (A): intersection over union with one more box of the same centre."""
    own = torch.tensor([width, height], dtype=sizes.dtype)
    shared = torch.minimum(sizes, own).prod(1)
    return shared / (sizes.prod(1) + own.prod() - shared)


def objects(label: Tensor, items: int) -> list[list[Truth]]:
    """The objects of each image.

    From rows of 8 (1, 1, G, 8) as AnnotatedData makes them, labels from 1 on; else from (N, R, 5) rows of label, x, y,
    width, height, up to the first one without a width.
    """
    found: list[list[Truth]] = [[] for _ in range(items)]
    if label.shape[-1] == 8:
        for image, kind, _, left, top, right, bottom, _ in label.reshape(-1, 8).tolist():
            if 0 <= image < items:
                found[int(image)].append(
                    Truth(int(kind) - 1, (left + right) / 2, (top + bottom) / 2, right - left, bottom - top)
                )
        return found
    for own, rows in zip(found, label.reshape(items, -1, 5).tolist(), strict=True):
        for row in rows:
            if not row[3]:
                break
            own.append(Truth(int(row[0]), *row[1:]))
    return found


class YoloLoss(Loss):
    """What both share: a map (N, num (5 + classes), H, W) of tx ty tw th to c_1.. for each box, objects as bottom 1."""

    deviations = "an object whose centre is outside the image, or whose class is unknown, is an error"
    boxes_a_place: int
    classes: int

    def top_shapes(self, values: Shape, label: Shape) -> list[Shape]:
        channels = self.boxes_a_place * (5 + self.classes)
        if len(values) != 4 or values[1] != channels:
            self.fail(f"needs a map (N, {self.boxes_a_place} x {5 + self.classes}, H, W), not {list(values)}")
        rows = math.prod(label)
        if label[-1:] != (8,) and (not values[0] or rows % (5 * values[0])):
            self.fail(f"needs labels (1, 1, G, 8) or (N, R, 5), not {list(label)}")
        return [()]

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        values = x.detach().cpu().reshape(len(x), self.boxes_a_place, 5 + self.classes, *x.shape[2:])
        with torch.no_grad():
            delta, loss = self.deltas(values, self._checked(objects(label.detach().cpu(), len(x))))
        delta = delta.reshape(x.shape).to(x)
        return passing(torch.as_tensor(loss).to(x), (x * delta).sum() / len(x))

    def deltas(self, values: Tensor, truths: list[list[Truth]]) -> tuple[Tensor, Tensor]:
        """What is handed down, times the number of images, and what is reported. values: (N, num, 5 + classes, H, W)"""
        raise NotImplementedError

    def _checked(self, truths: list[list[Truth]]) -> list[list[Truth]]:
        for one in (truth for image in truths for truth in image):
            if not (0 <= one.x < 1 and 0 <= one.y < 1):
                self.fail(f"an object with its centre at ({one.x:g}, {one.y:g}), outside the image")
            if not 0 <= one.label < self.classes:
                self.fail(f"an object of class {one.label}: there are {self.classes}, from 0 on")
        return truths

    def unanswered(self, found: Tensor, truths: list[list[Truth]], threshold: float) -> Tensor:
        """Which predicted boxes (N, num, H, W, 4), of centre and size, overlap no object by more than the threshold."""
        free = torch.ones(found.shape[:-1], dtype=torch.bool)
        for own, predicted, image in zip(free, corners(found), truths, strict=True):
            if image:
                real = corners(torch.tensor([one[1:] for one in image]))
                own[...] = (boxes.overlaps(predicted.reshape(-1, 4), real) <= threshold).all(1).reshape(own.shape)
        return free


@register("RegionLoss")
class RegionLoss(YoloLoss):
    """The loss of YOLO version 2 (region_loss_layer.cpp of MobileNet-YOLO, and of Intel).

    Delta of to, where no object is overlapped by more than thresh: noobject_scale s^2 (1 - s), s = logistic(to). For
    each object, in the place of its centre, the box whose size (bias_match: whose bias) fits best: tx and ty of
    coord_scale (s(t) - target) s'(t), tw and th of coord_scale (t - log(size side / bias)), to of object_scale
    (s - 1) s', classes of class_scale (softmax - truth). Without rescore coord_scale is times (2 - w h); with it the
    target of s is the overlap instead of 1. Objects as rows of 8: Intel's, which has no (2 - w h), holds the
    differences of the box between -1 and 1, to's is -2 object_scale (1 - s)^3 s', and the report is not divided by N.
    Gradient: delta / N. Errors: fewer than 2 num biases; softmax_tree; a map that is not square.
    """

    def set_up(self, values: Shape, label: Shape) -> None:
        p = self.p = self.param.region_loss_param
        self.boxes_a_place, self.classes = p.num, p.num_class
        self.check(len(p.biases) >= 2 * p.num, f"biases needs a width and a height for each of {p.num} boxes")
        self.check(not p.softmax_tree, "softmax_tree is not computed here")
        self.check(p.coords == 4, f"coords must be 4, not {p.coords}")
        self.biases = torch.tensor(list(p.biases)).reshape(-1, 2)[: p.num]
        self.is_intel = label[-1:] == (8,)
        self.class_map = self._class_map() if self.is_intel and p.class_map else []

    def _class_map(self) -> list[int]:
        try:
            return [int(line) for line in read_text(self.p.class_map).split()]
        except (CaffeError, ValueError) as error:
            self.fail(f"class_map: {error}")

    def _checked(self, truths: list[list[Truth]]) -> list[list[Truth]]:
        if self.class_map:
            limit = len(self.class_map)
            for one in (truth for image in truths for truth in image):
                self.check(0 <= one.label < limit, f"an object of class {one.label}: class_map has {limit} lines")
            truths = [[one._replace(label=self.class_map[one.label]) for one in image] for image in truths]
        return super()._checked(truths)

    def top_shapes(self, values: Shape, label: Shape) -> list[Shape]:
        super().top_shapes(values, label)
        self.check(values[2] == values[3], f"needs a square map, not {list(values)}")
        return [()]

    def deltas(self, values: Tensor, truths: list[list[Truth]]) -> tuple[Tensor, Tensor]:
        side, p = values.shape[-1], self.p
        score, likely = values[:, :, 4].sigmoid(), values[:, :, 5:].softmax(2)
        found = self._boxes(values, side)
        slope = score * (1 - score)
        delta = torch.zeros_like(values)
        delta[:, :, 4] = p.noobject_scale * score * slope * self.unanswered(found, truths, p.thresh)
        for image, one in ((image, one) for image, own in enumerate(truths) for one in own):
            i, j = int(one.x * side), int(one.y * side)
            sizes = self.biases / side if p.bias_match else found[image, :, j, i, 2:]
            n = int(overlap_of_sizes(sizes, one.width, one.height).argmax())
            at = (image, n, slice(None), j, i)
            overlap = boxes.overlaps(corners(found[image, n, j, i])[None], corners(torch.tensor([one[1:]])))[0, 0]
            target = torch.tensor([float(k == one.label) for k in range(self.classes)])
            here, bend = score[image, n, j, i], slope[image, n, j, i]
            delta[at][:4] = self._of_box(values[at][:4], one, (i, j), self.biases[n], side)
            delta[at][4] = p.object_scale * self._miss(here, overlap) * bend
            delta[at][5:] = p.class_scale * (likely[at] - target)
        return delta, delta.square().sum() / (1 if self.is_intel else len(values))

    def _boxes(self, values: Tensor, side: int) -> Tensor:
        """Centre and size of every predicted box, (N, num, H, W, 4)."""
        y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
        sizes = values[:, :, 2:4].exp() * self.biases[:, :, None, None]
        centres = torch.stack([x + values[:, :, 0].sigmoid(), y + values[:, :, 1].sigmoid()], -1)
        return torch.cat([centres, sizes.permute(0, 1, 3, 4, 2)], -1) / side

    def _of_box(self, t: Tensor, one: Truth, place: tuple[int, int], bias: Tensor, side: int) -> Tensor:
        target = torch.tensor([one.x * side - place[0], one.y * side - place[1], one.width * side, one.height * side])
        target[2:] = (target[2:] / bias).log()
        inside = torch.cat([t[:2].sigmoid(), t[2:]])
        bend = torch.cat([inside[:2] * (1 - inside[:2]), torch.ones(2)])
        miss = inside - target
        if self.is_intel:
            return self.p.coord_scale * miss.clamp(-1, 1) * bend
        return self.p.coord_scale * (1 if self.p.rescore else 2 - one.width * one.height) * miss * bend

    def _miss(self, score: Tensor, overlap: Tensor) -> Tensor:
        if self.is_intel:
            return -2 * (1 - score) ** 3
        return score - (overlap if self.p.rescore else 1)


@register("Yolov3")
class Yolov3(YoloLoss):
    """The loss of YOLO version 3 on one of its maps (yolov3_layer.cpp of MobileNet-YOLO).

    With s the logistic function: delta of to is s(to) where no object is overlapped by more than thresh. Each object
    is answered, in the place of its centre, by the box whose bias fits its size best, if it is one of mask, and by
    those of mask that overlap it by more than iou_thresh: tx, ty of coord_scale (2 - w h) (s(t) - target), tw, th of
    the same times (t - log(size side anchors_scale / bias)), to of s(to) - 1, classes of class_scale (s(c) - y), y the
    truth smoothed by label_smooth_eps; a second object in the same place adds its class to those of the first. Report:
    sum of delta^2 / N. Gradient: delta / N; with use_logic_gradient times s' but for tw and th, and to's of objects
    times object_scale.
    Errors: mask or biases too short; iou_loss other than MSE; use_focal_loss.
    """

    def set_up(self, values: Shape, label: Shape) -> None:
        p = self.p = self.param.yolov3_param
        self.boxes_a_place, self.classes = p.num, p.num_class
        self.check(p.iou_loss == p.MSE, f"iou_loss {p.IOU_LOSS.Name(p.iou_loss)} is not computed here, MSE is")
        self.check(not p.use_focal_loss, "use_focal_loss is not computed here")
        self.check(len(p.mask) >= p.num, f"mask needs {p.num} numbers")
        self.check(len(p.biases) > 2 * max(p.mask) + 1, "biases needs a width and a height for each number of mask")
        self.mask = list(p.mask)[: p.num]
        self.biases = torch.tensor(list(p.biases)).reshape(-1, 2)

    def deltas(self, values: Tensor, truths: list[list[Truth]]) -> tuple[Tensor, Tensor]:
        p, (height, width) = self.p, values.shape[-2:]
        seen = values.sigmoid()
        seen[:, :, 2:4] = values[:, :, 2:4]
        delta = torch.zeros_like(values)
        delta[:, :, 4] = seen[:, :, 4] * self.unanswered(self._boxes(seen), truths, p.thresh)
        bases = torch.tensor([width, height]) * p.anchors_scale
        for image, one in ((image, one) for image, own in enumerate(truths) for one in own):
            i, j = int(one.x * width), int(one.y * height)
            for n in self._answering(one, self.biases / bases):
                at = (image, n, slice(None), j, i)
                target = torch.tensor([one.x * width - i, one.y * height - j, one.width, one.height])
                target[2:] = (target[2:] * bases / self.biases[self.mask[n]]).log()
                scale = p.coord_scale * (2 - one.width * one.height)
                delta[at][:4] = scale * (seen[at][:4] - target)
                delta[at][4] = (seen[at][4] - 1) * (p.object_scale if p.use_logic_gradient else 1)
                self._of_class(delta[at][5:], seen[at][5:], one.label)
        loss = delta.square().sum() / len(values)
        if p.use_logic_gradient:
            bend = seen * (1 - seen)
            bend[:, :, 2:4] = 1
            delta = delta * bend
        return delta, loss

    def _boxes(self, seen: Tensor) -> Tensor:
        height, width = seen.shape[-2:]
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        sizes = seen[:, :, 2:4].exp() * self.biases[self.mask][:, :, None, None] / self.p.anchors_scale
        centres = torch.stack([x + seen[:, :, 0], y + seen[:, :, 1]], -1)
        return torch.cat([centres, sizes.permute(0, 1, 3, 4, 2)], -1) / torch.tensor([width, height] * 2)

    def _answering(self, one: Truth, sizes: Tensor) -> Iterator[int]:
        """Which boxes of the mask answer for an object, the best one first."""
        overlaps = overlap_of_sizes(sizes, one.width, one.height)
        best = int(overlaps.argmax())
        skipped = best
        if best in self.mask:
            # From here on the fork takes the place in the mask for the number of the bias, and so leaves out another.
            skipped = self.mask.index(best)
            yield skipped
        if self.p.iou_thresh < 1:
            for number in range(len(sizes)):
                if number in self.mask and number != skipped and overlaps[number] > self.p.iou_thresh:
                    yield self.mask.index(number)

    def _of_class(self, delta: Tensor, score: Tensor, label: int) -> None:
        """Write the deltas of the classes of one box."""
        smooth = self.p.label_smooth_eps
        truth = torch.zeros_like(score)
        truth[label] = 1
        miss = self.p.class_scale * (score - (truth * (1 - smooth) + 0.5 * smooth))
        if delta[label]:
            delta[label] = miss[label]
        else:
            delta[:] = miss
