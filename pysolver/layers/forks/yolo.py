"""Boxes from the maps of YOLO version 2 and 3 (Redmon and Farhadi, 2016 and 2018), and how good they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pysolver.blob import Shape
from pysolver.component import Component
from pysolver.context import Context
from pysolver.layers.base import Layer, at_least, between, register
from pysolver.layers.forks import boxes
from pysolver.layers.forks.yolo_first import FirstYoloEvaluation
from pysolver.layers.forks.yolo_losses import corners, objects


class YoloOutput(Layer):
    """The detections of a batch: what all versions share."""

    bottoms = at_least(1)
    least: float  # scores above it count
    nms_threshold: float

    def __init__(self, param, context) -> None:
        super().__init__(param, context)
        self.no_gradient_bottoms = frozenset(range(len(param.bottom)))

    @torch.no_grad()
    def forward(self, *maps: Tensor) -> Tensor:
        items = len(maps[0])
        found = [self.candidates(number, values.cpu()) for number, values in enumerate(maps)]
        places, scores = (torch.cat(parts, 1) for parts in zip(*found, strict=True))
        rows = [row for image in range(items) for row in self._of_image(image, places[image], scores[image])]
        if not rows:
            rows = [torch.tensor([[image, *[-1.0] * 6]]) for image in range(items)]
        return torch.cat(rows).reshape(1, 1, -1, 7).to(maps[0])

    def candidates(self, number: int, values: Tensor) -> tuple[Tensor, Tensor]:
        """All boxes of one map in the order place, box: corners (N, B, 4) and scores (N, B, classes)."""
        raise NotImplementedError

    def _of_image(self, image: int, places: Tensor, scores: Tensor) -> list[Tensor]:
        box, label = (scores > self.least).nonzero(as_tuple=True)
        if not len(box):
            return []
        kept = boxes.suppress(places[box], scores[box, label], boxes.just_below(self.nms_threshold))
        box, label = box[kept], label[kept]
        head = torch.stack([torch.full_like(label, image), label + 1], 1).to(scores.dtype)
        return [torch.cat([head, scores[box, label].unsqueeze(1), places[box]], 1)]


def read_map(values: Tensor, biases: Tensor, unit: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A map (N, A (5 + classes), H, W) as boxes in the order place, box.

    Centre and size as fractions of the image (N, H W A, 4), where biases (A, 2) are in `unit`s (width, height);
    objectness (N, H W A, 1), and what is written for each class (N, H W A, classes).
    """
    items, _, height, width = values.shape
    values = values.reshape(items, len(biases), -1, height, width).permute(0, 3, 4, 1, 2)
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    place = torch.stack([x, y], -1).unsqueeze(2)
    centre = (place + values[..., :2].sigmoid()) / torch.tensor([width, height])
    found = torch.cat([centre, values[..., 2:4].exp() * biases / unit], -1)
    flat = values.reshape(items, height * width * len(biases), -1)
    return found.reshape(items, -1, 4), flat[..., 4:5].sigmoid(), flat[..., 5:]


@register("Yolov3DetectionOutput")
class Yolov3DetectionOutput(YoloOutput):
    """The detections of a batch: (1, 1, K, 7) rows of image, label from 1 on, score, xmin, ymin, xmax, ymax.

    Bottoms: mask_group_num maps (N, num_box (5 + classes), H, W). A place (h, w) of map t gives for each of its boxes
    with the numbers tx ty tw th to c_1.. the centre ((w + s(tx)) / W, (h + s(ty)) / H), the size
    (e^tw bias_w / (W scale_t), e^th bias_h / (H scale_t)) and for each class the score s(to) s(c_i); s is the logistic
    function, the bias that of mask[t num_box + i], scale_t anchors_scale[t]. Scores above confidence_threshold, best
    first, stay if they overlap no better one, of any class, by nms_threshold or more. Nothing found: N rows of -1 that
    name the image. Source: yolov3_detection_output_layer.cpp. No gradient.
    Errors: num_classes missing; mask, biases or anchors_scale too short; maps of other channels.
    """

    deviations = "each image of a batch has its own number and its own suppression; gaussian_box is refused"

    def set_up(self, *maps: Shape) -> None:
        p = self.p = self.param.yolov3_detection_output_param
        self.check(p.HasField("num_classes"), "Must specify num_classes")
        self.check(not p.gaussian_box, "gaussian_box is not computed here")
        self.check(len(maps) == p.mask_group_num, f"needs mask_group_num ({p.mask_group_num}) bottoms, not {len(maps)}")
        self.group = len(p.mask) // p.mask_group_num
        self.check(self.group >= p.num_box, f"mask needs {p.num_box} numbers for each bottom")
        self.check(len(p.biases) > 2 * max(p.mask) + 1, "biases needs a width and a height for each number of mask")
        self.check(len(p.anchors_scale) >= len(maps), "anchors_scale needs a number for each bottom")
        self.least, self.nms_threshold = p.confidence_threshold, p.nms_threshold

    def top_shapes(self, *maps: Shape) -> list[Shape]:
        _check_maps(self, maps, self.p.num_box, self.p.num_classes)
        return [(1, 1, 1, 7)]

    def candidates(self, number: int, values: Tensor) -> tuple[Tensor, Tensor]:
        p, (height, width) = self.p, values.shape[2:]
        chosen = list(p.mask)[number * self.group : number * self.group + p.num_box]
        biases = torch.tensor(list(p.biases)).reshape(-1, 2)[chosen]
        found, score, likely = read_map(values, biases, torch.tensor([width, height]) * p.anchors_scale[number])
        return corners(found), score * likely.sigmoid()


@register("YoloDetectionOutput")
class YoloDetectionOutput(YoloOutput):
    """The detections of a batch from the maps of YOLO version 2 (yolo_detection_output_layer.cpp of MobileNet-YOLO).

    As Yolov3DetectionOutput, but the classes are a softmax of which only the best counts, biases are in places of the
    map, and a score of confidence_threshold is enough. One or two maps, read alike. Top: (1, 1, K, 7).
    Errors: num_classes missing; fewer than 2 num_box biases; maps of other channels.
    """

    bottoms = between(1, 2)
    deviations = "each image of a batch has its own number and its own suppression"

    def set_up(self, *maps: Shape) -> None:
        p = self.p = self.param.yolo_detection_output_param
        self.check(p.HasField("num_classes"), "Must specify num_classes")
        self.check(len(p.biases) >= 2 * p.num_box, "biases needs a width and a height for each of num_box")
        self.biases = torch.tensor(list(p.biases)).reshape(-1, 2)[: p.num_box]
        self.least, self.nms_threshold = boxes.just_below(p.confidence_threshold), p.nms_threshold

    def top_shapes(self, *maps: Shape) -> list[Shape]:
        _check_maps(self, maps, self.p.num_box, self.p.num_classes)
        return [(1, 1, 1, 7)]

    def candidates(self, number: int, values: Tensor) -> tuple[Tensor, Tensor]:
        found, score, likely = read_map(values, self.biases, torch.tensor([values.shape[3], values.shape[2]]))
        likely = likely.softmax(2)
        best = torch.zeros_like(likely).scatter_(2, likely.argmax(2, keepdim=True), 1)
        return corners(found), torch.where(best > 0, score * likely, -math.inf)


_SMALLEST = 0.005  # boxes below it are not judged; darknet's number


@register("EvalDetection")
class EvalDetection(Layer):
    """How right the boxes of a YOLO version 2 map are: (N, classes + 4 boxes) (Intel's eval_detection_layer.cpp).

    The first numbers count the objects of each class; then, class after class by falling score, each box that
    suppression across classes (nms) leaves and whose score (score_type) is at least 0.005 has four: class, score, and
    1 for a true or a false positive: right if the object of its class that it overlaps most, by at least threshold, is
    not taken; neither if it overlaps none so much. The rest is 0. Bottoms: the map (N, A (5 + classes), S, S), objects
    (1, 1, G, 8), labels from 1 on; others are not looked at. A negative nms leaves no box. No gradient.
    Errors: a map of another side; fewer than 2 num_object biases; a label outside the classes.
    """

    bottoms = between(2, 3)
    no_gradient_bottoms = frozenset({0, 1, 2})

    @classmethod
    def chosen(cls, param: Any, context: Context) -> type[Component]:
        return EvalDetection if param.eval_detection_param.biases else FirstYoloEvaluation

    def set_up(self, values: Shape, label: Shape, *others: Shape) -> None:
        p = self.p = self.param.eval_detection_param
        self.check(len(p.biases) >= 2 * p.num_object, "biases needs a width and a height for each of num_object")
        self.biases = torch.tensor(list(p.biases)).reshape(-1, 2)[: p.num_object]

    def top_shapes(self, values: Shape, label: Shape, *others: Shape) -> list[Shape]:
        p = self.p
        _check_maps(self, [values], p.num_object, p.num_class)
        self.check(values[2:] == (p.side, p.side), f"needs a map of {p.side} x {p.side}, not {list(values)}")
        self.check(label[-1:] == (8,), f"needs labels (1, 1, G, 8), not {list(label)}")
        return [(values[0], p.num_class + p.side**2 * p.num_object * 4)]

    @torch.no_grad()
    def forward(self, values: Tensor, label: Tensor, *others: Tensor) -> Tensor:
        found, score, likely = read_map(values.cpu(), self.biases, torch.tensor([self.p.side, self.p.side]))
        most, kind = likely.softmax(2).max(2)
        by = {self.p.OBJ: score[..., 0], self.p.PROB: most, self.p.MULTIPLY: score[..., 0] * most}
        scores = by[self.p.score_type]
        top = torch.zeros(self.top_shapes(tuple(values.shape), tuple(label.shape))[0])
        for row, own, *rest in zip(top, objects(label.cpu(), len(values)), corners(found), scores, kind):
            for one in own:
                self.check(0 <= one.label < self.p.num_class, f"an object of class {one.label + 1}")
                row[one.label] += 1
            judged = self._judged(own, *rest)
            row[self.p.num_class :][: judged.numel()] = judged.flatten()
        return top.to(values)

    def _judged(self, own: list, found: Tensor, scores: Tensor, kind: Tensor) -> Tensor:
        """Rows of class, score, true, false for the boxes of one image."""
        kept = (
            boxes.suppress(found, scores, boxes.just_below(self.p.nms))
            if self.p.nms >= 0
            else torch.zeros(0, dtype=torch.long)
        )
        kept = kept[scores[kept] >= _SMALLEST]
        rows = []
        for label in kind[kept].unique().tolist():
            mine = kept[kind[kept] == label]
            real = [one[1:] for one in own if one.label == label]
            free = [True] * len(real)
            overlaps = boxes.overlaps(found[mine], corners(torch.tensor(real))) if real else None
            for number, score in enumerate(scores[mine].tolist()):
                right, wrong = False, overlaps is None
                if overlaps is not None and overlaps[number].max() >= self.p.threshold:
                    nearest = int(overlaps[number].argmax())
                    right, wrong = free[nearest], not free[nearest]
                    free[nearest] = False
                rows.append([label, score, right, wrong])
        return torch.tensor(rows, dtype=torch.float32)


def _check_maps(layer: Layer, maps: Sequence[Shape], boxes_a_place: int, classes: int) -> None:
    for shape in maps:
        if len(shape) != 4 or shape[1] != boxes_a_place * (5 + classes):
            layer.fail(f"needs maps (N, {boxes_a_place} x {5 + classes}, H, W), not {list(shape)}")
