"""DetectionEvaluate of SSD: which detections are right, for the mean average precision."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from pysolver.blob import Shape
from pysolver.component import Component
from pysolver.context import Context
from pysolver.layers.base import Layer, exactly, register
from pysolver.layers.forks import boxes
from pysolver.layers.forks.result_files import read_sizes

_MOST = 1 << 16  # classes: each has a row in every output


@register("DetectionEvaluate")
class DetectionEvaluate(Layer):
    """Rows of 5: for each class but the background -1, class, number of objects, -1, -1; then for each detection its
    image, label, score, and whether it is a true or a false positive (detection_evaluate_layer.cpp).

    Bottoms: detections (1, 1, D, 7) of DetectionOutput, objects (1, 1, G, 8). By falling score, a detection takes the
    object of its class that it overlaps most: right if by at least overlap_threshold and not taken before; without
    evaluate_difficult_gt an object marked as difficult makes it neither. name_size_file (lines: name, height, width):
    overlaps are those of pixels, image after image with detections. No gradient.
    Errors: num_classes missing; overlap_threshold not positive; no such file; other shapes; the background among them.
    """

    bottoms = exactly(2)
    no_gradient_bottoms = frozenset({0, 1})

    @classmethod
    def chosen(cls, param: Any, context: Context) -> type[Component]:
        return DetectionEvaluate if len(param.bottom) != 3 else EvaluateInPixels

    def set_up(self, detections: Shape, truth: Shape) -> None:
        p = self.p = self.param.detection_evaluate_param
        self.check(p.HasField("num_classes"), "Must provide num_classes.")
        self.check(0 < p.num_classes <= _MOST, f"num_classes must be from 1 to {_MOST}, not {p.num_classes}")
        self.check(p.overlap_threshold > 0, "overlap_threshold must be positive")
        self.classes = [label for label in range(p.num_classes) if label != p.background_label_id]
        self.sizes: list[list[float]] = []
        if p.HasField("name_size_file"):
            with self.about("Failed to open name size file"):
                self.sizes = [size for _, *size in read_sizes(p.name_size_file, float)]
        self.images_seen = 0

    def top_shapes(self, detections: Shape, truth: Shape) -> list[Shape]:
        if detections[:2] != (1, 1) or detections[-1] != 7 or truth[:2] != (1, 1) or truth[-1] != 8:
            self.fail(f"needs bottoms (1, 1, D, 7) and (1, 1, G, 8), not {list(detections)} and {list(truth)}")
        return [(1, 1, len(self.classes) + detections[2], 5)]

    @torch.no_grad()
    def forward(self, detections: Tensor, truth: Tensor) -> Tensor:
        found, objects = (rows.cpu().reshape(-1, rows.shape[-1]) for rows in (detections, truth))
        top = torch.zeros(len(self.classes) + len(found), 5)
        found, objects = found[found[:, 0].long() != -1], objects[objects[:, 0].long() != -1]
        images = found[:, 0].long().unique().tolist()
        found = found[found[:, 1].long() != -1]  # an image of which nothing is found has one such row
        for known in (found, objects):
            if (known[:, 1].long() == self.p.background_label_id).any():
                self.fail("Found background label in the detection results or in the dataset.")
        counted = objects if self.p.evaluate_difficult_gt else objects[objects[:, 7] == 0]
        rows = [torch.tensor([-1.0, c, (counted[:, 1].long() == c).sum(), -1, -1]) for c in self.classes]
        for image in images:
            own, scale = found[found[:, 0].long() == image], self._scale(image)
            for label in own[:, 1].long().unique().tolist():
                candidates = own[own[:, 1].long() == label]
                targets = objects[(objects[:, 0].long() == image) & (objects[:, 1].long() == label)]
                rows += self._judge(candidates, targets, scale)
        top[: len(rows)] = torch.stack(rows)
        return top.reshape(1, 1, -1, 5).to(detections.device)

    def _scale(self, image: int) -> Tensor | None:
        """From fractions to pixels of the next image, which is this one of the batch; None without sizes."""
        if not self.sizes:
            return None
        height, width = self.sizes[self.images_seen % len(self.sizes)]
        self.images_seen += 1
        return torch.tensor([width, height, width, height])

    def _judge(self, found: Tensor, objects: Tensor, scale: Tensor | None) -> list[Tensor]:
        """The rows of the detections of one class in one image."""
        if len(objects):
            found = found[found[:, 2].argsort(descending=True, stable=True)]
        overlap = boxes.overlaps(found[:, 3:7], objects[:, 3:7])
        if scale is not None:
            overlap = boxes.overlaps(found[:, 3:7] * scale, objects[:, 3:7] * scale, pixel=1)
        taken, rows = set(), []
        for detection, row in zip(found, overlap, strict=True):
            best = int(row.argmax()) if len(row) else -1
            verdict = (0.0, 1.0)
            if best >= 0 and row[best] >= self.p.overlap_threshold:
                if not self.p.evaluate_difficult_gt and objects[best, 7]:
                    verdict = (0.0, 0.0)
                elif best not in taken:
                    verdict = (1.0, 0.0)
                    taken.add(best)
            rows.append(torch.cat([detection[:3], torch.tensor(verdict)]))
        return rows


class EvaluateInPixels(DetectionEvaluate):
    """Cascade R-CNN's DetectionEvaluate: detections (D, 7) of FrcnnOutput, objects (G, 8) of EvalData, and the input's
    height and width (N, 2), whose pixels the boxes are in. name_size_file is needed: the overlaps are those in the
    image's own pixels. For the rest, see DetectionEvaluate.
    """

    bottoms = exactly(3)
    no_gradient_bottoms = frozenset({0, 1, 2})
    shown: Tensor  # (N, 2)

    def set_up(self, detections: Shape, truth: Shape, shown: Shape) -> None:  # type: ignore[override]
        super().set_up(detections, truth)
        self.check(bool(self.sizes), "needs a name_size_file")

    def top_shapes(self, detections: Shape, truth: Shape, shown: Shape) -> list[Shape]:  # type: ignore[override]
        widths = [math.prod(shape[1:]) for shape in (detections, truth, shown)]
        if widths != [7, 8, 2]:
            self.fail(f"needs bottoms (D, 7), (G, 8) and (N, 2), not {list(detections)}, {list(truth)}, {list(shown)}")
        return [(1, 1, len(self.classes) + detections[0], 5)]

    @torch.no_grad()
    def forward(self, detections: Tensor, truth: Tensor, shown: Tensor) -> Tensor:  # type: ignore[override]
        self.shown = shown.cpu().reshape(-1, 2)
        found, objects = detections.reshape(-1, 7)[:, [0, 5, 6, 1, 2, 3, 4]], truth.reshape(-1, 8)
        return super().forward(found, objects[:, [0, 5, 6, 1, 2, 3, 4, 7]])

    def _scale(self, image: int) -> Tensor:
        scale = super()._scale(image)
        self.check(image < len(self.shown), f"image {image} of a batch of {len(self.shown)}")
        return scale / self.shown[image].flip(0).repeat(2)


@register("SegAccuracy")
class SegAccuracy(Layer):
    """Of the pixels whose label is not in ignore_label: the part that is right; the mean, over classes that occur, of
    the part of each that is found; the mean over all of intersection over union (DeepLab's seg_accuracy_layer.cpp).

    A class that nobody sees or names has the intersection over union 1. Bottoms: scores (N, C, H, W), labels
    (N, 1, H, W). Top: (1, 1, 1, 3). With reset: false, of all forwards so far.
    No gradient. Errors: other shapes; a label outside the classes that is not ignored.
    """

    bottoms = exactly(2)
    no_gradient_bottoms = frozenset({0, 1})
    deviations = "of equal scores the first class counts"

    def set_up(self, scores: Shape, labels: Shape) -> None:
        self.counts = torch.zeros(scores[1], scores[1], dtype=torch.double)  # label, prediction

    def top_shapes(self, scores: Shape, labels: Shape) -> list[Shape]:
        if len(scores) != 4 or labels != (scores[0], 1, *scores[2:]):
            self.fail(f"needs scores (N, C, H, W) and labels (N, 1, H, W), not {list(scores)} and {list(labels)}")
        return [(1, 1, 1, 3)]

    @torch.no_grad()
    def forward(self, scores: Tensor, labels: Tensor) -> Tensor:
        p, classes = self.param.seg_accuracy_param, scores.shape[1]
        found, real = scores.argmax(1).flatten().cpu(), labels.flatten().long().cpu()
        counted = ~torch.isin(real, torch.tensor(list(p.ignore_label), dtype=torch.long))
        found, real = found[counted], real[counted]
        if len(real) and not (real.min() >= 0 and real.max() < classes):
            self.fail(f"Unexpected label {int(real.max() if real.max() >= classes else real.min())}")
        now = torch.bincount(real * classes + found, minlength=classes**2).reshape(classes, classes).double()
        self.counts = now if p.reset else self.counts + now
        right, each, predicted = self.counts.diag(), self.counts.sum(1), self.counts.sum(0)
        occurs, union = each > 0, each + predicted - right
        whole = right.sum() / each.sum().clamp(min=1)
        recall = (right[occurs] / each[occurs]).sum() / occurs.sum().clamp(min=1)
        overlap = torch.where(union == right, 1.0, right / union.clamp(min=1)).mean()
        return torch.stack([whole, recall, overlap]).reshape(1, 1, 1, 3).to(scores)
