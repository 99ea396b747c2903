"""The first version of YOLO (Redmon et al., 2015) as caffe-yolo has it: its loss and its evaluation.

A map is (N, S S (C + 5 B)): C classes, B scores, then x, y, w, h of each of B boxes, each of them for S x S places.
A label is (N, 7 S S): difficult, whether there is an object, its class, each for S x S places, then its box place by
place: centre and size as fractions of the image.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pysolver.blob import Shape
from pysolver.layers.base import Layer, between
from pysolver.layers.forks import boxes
from pysolver.layers.forks.yolo_losses import corners
from pysolver.layers.losses import Loss, passing
from pysolver.proto.caffe_pb2 import DetectionLossParameter, EvalDetectionParameter

Settings = DetectionLossParameter | EvalDetectionParameter


class Map(NamedTuple):
    """What a net says: classes (N, C, S S), scores (N, B, S S), raw and whole boxes (N, B, 4, S S)."""

    classes: Tensor
    scores: Tensor
    raw: Tensor
    found: Tensor


class Labels(NamedTuple):
    """What is there: (N, S S) each, boxes (N, 4, S S)."""

    difficult: Tensor
    is_object: Tensor
    kind: Tensor
    box: Tensor


def check_shapes(layer: Layer, p: Settings, values: Shape, label: Shape) -> None:
    """Raises CaffeError for other shapes than these settings give."""
    places = p.side**2
    wanted = places * (p.num_class + 5 * p.num_object), places * 7
    given = tuple(torch.Size(shape[1:]).numel() for shape in (values, label))
    if given != wanted:
        layer.fail(f"needs {wanted[0]} numbers and {wanted[1]} labels for each image, not {given[0]} and {given[1]}")


def read(p: Settings, values: Tensor) -> Map:
    """constriant: x and y are within a place; sqrt: w and h are roots."""
    n, places = len(values), p.side**2
    classes, scores, raw = values.reshape(n, -1, places).split([p.num_class, p.num_object, 4 * p.num_object], 1)
    raw = raw.reshape(n, p.num_object, 4, places)
    middle, size = raw.split(2, 2)
    if p.constriant:
        middle = (middle + corner_of_places(p, values)) / p.side
    return Map(classes, scores, raw, torch.cat([middle, size**2 if p.sqrt else size], 2))


def corner_of_places(p: Settings, like: Tensor) -> Tensor:
    """(2, S S): column and row."""
    index = torch.arange(p.side**2, device=like.device)
    return torch.stack([index % p.side, index // p.side]).to(like.dtype)


def read_labels(p: Settings, layer: Layer, label: Tensor) -> Labels:
    """Raises CaffeError for an object of a class that is not there."""
    n, places = len(label), p.side**2
    head, box = label.reshape(n, -1).split([3 * places, 4 * places], 1)
    difficult, is_object, kind = head.reshape(n, 3, places).unbind(1)
    known = kind[is_object != 0]
    if len(known) and not (known.min() >= 0 and known.max() < p.num_class):
        layer.fail(
            f"an object of class {int(known.max() if known.max() > 0 else known.min())}: there are {p.num_class}"
        )
    return Labels(difficult == 1, is_object != 0, kind.long(), box.reshape(n, places, 4).transpose(1, 2))


class FirstYoloLoss(Loss):
    """caffe-yolo's DetectionLoss (detection_loss_layer.cpp), of a map and its labels.

    In a place with an object the box that overlaps it most answers, or if none does, the one nearest in its four
    numbers. Handed down, over N: noobject_scale s for each score s, for one that answers object_scale (s - overlap);
    in places with an object class_scale (c - truth), and of the box that answers coord_scale (b - truth), w and h as
    roots with sqrt, x and y in their place with constriant. Reported: the same squares, but for (s - 1)^2, over the
    number of objects, those of the other scores over their number.
    Errors: other shapes; a class that is not there.
    """

    deviations = "without any object the report is that of the scores; there it is not a number"

    def set_up(self, values: Shape, label: Shape) -> None:
        self.p = self.param.detection_loss_param

    def top_shapes(self, values: Shape, label: Shape) -> list[Shape]:
        check_shapes(self, self.p, values, label)
        return super().top_shapes(values, label)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        p, labels = self.p, read_labels(self.p, self, label.detach())
        with torch.no_grad():
            seen = read(p, x.detach())
            has, answers, overlap = self._answering(seen.found, labels)
            truth = torch.zeros_like(seen.classes).scatter_(1, labels.kind.clamp(min=0).unsqueeze(1), 1)
            by_class = (seen.classes - truth) * labels.is_object.unsqueeze(1)
            by_box = (seen.raw - self._wanted(labels.box)) * answers.unsqueeze(2)
            by_score = torch.where(
                answers, p.object_scale * (seen.scores - overlap.unsqueeze(1)), p.noobject_scale * seen.scores
            )
            delta = torch.cat([p.class_scale * by_class, by_score, p.coord_scale * by_box.flatten(1, 2)], 1)
            count = has.sum()
            found = (
                p.class_scale * by_class.square().sum()
                + p.coord_scale * by_box.square().sum()
                + p.object_scale * ((seen.scores - 1).square() * answers).sum()
            )
            others = p.noobject_scale * (seen.scores.square() * ~answers).sum()
            report = found / count.clamp(min=1) + others / (answers.numel() - count).clamp(min=1)
        return passing(report, (x * delta.reshape(x.shape)).sum() / len(x))

    def _answering(self, found: Tensor, labels: Labels) -> tuple[Tensor, Tensor, Tensor]:
        """Which places have an object (N, S S), which boxes answer (N, B, S S), and their overlap (N, S S)."""
        real = labels.box.unsqueeze(1)
        overlap = _overlaps(found, real)
        distance = (found - real).square().sum(2).sqrt()
        best = torch.where(overlap.amax(1) > 0, overlap.argmax(1), distance.argmin(1))
        answers = torch.zeros_like(overlap, dtype=torch.bool).scatter_(1, best.unsqueeze(1), True)
        return labels.is_object, answers & labels.is_object.unsqueeze(1), overlap.amax(1)

    def _wanted(self, real: Tensor) -> Tensor:
        middle, size = real.split(2, 1)
        if self.p.constriant:
            middle = middle * self.p.side - corner_of_places(self.p, real)
        return torch.cat([middle, size.clamp(min=0).sqrt() if self.p.sqrt else size], 1).unsqueeze(1)


def _overlaps(a: Tensor, b: Tensor) -> Tensor:
    """(N, A, 4, S) of centre and size, (N, 1, 4, S) -> (N, A, S): intersection over union."""
    low = torch.maximum(a[:, :, :2] - a[:, :, 2:] / 2, b[:, :, :2] - b[:, :, 2:] / 2)
    high = torch.minimum(a[:, :, :2] + a[:, :, 2:] / 2, b[:, :, :2] + b[:, :, 2:] / 2)
    sides = high - low
    shared = sides.prod(2)
    union = a[:, :, 2:].prod(2) + b[:, :, 2:].prod(2) - shared
    return torch.where((sides < 0).any(2) | (union == 0), 0, shared / union)


class FirstYoloEvaluation(Layer):
    """caffe-yolo's EvalDetection (eval_detection_layer.cpp): (N, classes + 4 S S B).

    The first numbers count the objects of each class that are not difficult; then, class after class by falling score
    (score_type), each box has four: class, score, and 1 for a true or a false positive: right if the object of its
    class that it overlaps most, by at least threshold, is not taken; neither if that is difficult. nms not below 0: of
    boxes that overlap so much, of any class, the best one. The rest is 0. A third
    bottom is not looked at. No gradient.
    Errors: other shapes; a class that is not there.
    """

    bottoms = between(2, 3)
    no_gradient_bottoms = frozenset({0, 1, 2})

    def set_up(self, values: Shape, label: Shape, *others: Shape) -> None:
        self.p = self.param.eval_detection_param

    def top_shapes(self, values: Shape, label: Shape, *others: Shape) -> list[Shape]:
        check_shapes(self, self.p, values, label)
        return [(values[0], self.p.num_class + 4 * self.p.side**2 * self.p.num_object)]

    @torch.no_grad()
    def forward(self, values: Tensor, label: Tensor, *others: Tensor) -> Tensor:
        p, labels = self.p, read_labels(self.p, self, label.cpu())
        seen = read(p, values.cpu())
        most, kind = seen.classes.max(1, keepdim=True)
        scores = {p.OBJ: seen.scores, p.PROB: most.expand_as(seen.scores), p.MULTIPLY: seen.scores * most}
        top = torch.zeros(self.top_shapes(tuple(values.shape), tuple(label.shape))[0])
        for image, row in enumerate(top):
            own = Labels(*(part[image] for part in labels))
            easy = own.kind[own.is_object & ~own.difficult]
            row[: p.num_class] = torch.bincount(easy, minlength=p.num_class)
            # Place by place, as there, which equal scores show.
            boxes_ = corners(seen.found[image].permute(2, 0, 1).reshape(-1, 4))
            kinds = kind[image].expand_as(seen.scores[image]).t().flatten()
            rows = self._judged(boxes_, scores[p.score_type][image].t().flatten(), kinds, own)
            row[p.num_class :][: len(rows) * 4] = torch.tensor(rows).flatten()
        return top.to(values)

    def _judged(self, found: Tensor, scores: Tensor, kinds: Tensor, own: Labels) -> list[list[float]]:
        order = scores.argsort(descending=True, stable=True)
        if self.p.nms >= 0:
            order = boxes.suppress(found, scores, boxes.just_below(self.p.nms))
        rows = []
        for kind in kinds[order].unique().tolist():
            mine = order[kinds[order] == kind]
            there = own.is_object & (own.kind == kind)
            overlaps = boxes.overlaps(found[mine], corners(own.box[:, there].t()))
            difficult, taken = own.difficult[there].tolist(), set()
            for score, overlap in zip(scores[mine].tolist(), overlaps, strict=True):
                best = int(overlap.argmax()) if len(overlap) else -1
                verdict = (0, 1)
                if best >= 0 and overlap[best] >= self.p.threshold:
                    verdict = (0, 0) if difficult[best] else (0, 1) if best in taken else (1, 0)
                    taken |= set() if difficult[best] else {best}
                rows.append([kind, score, *verdict])
        return rows
