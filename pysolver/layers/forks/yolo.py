"""Yolov3DetectionOutput of MobileNet-YOLO: boxes from the maps of YOLO version 3 (Redmon and Farhadi, 2018)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pysolver.blob import Shape
from pysolver.layers.base import Layer, at_least, register
from pysolver.layers.forks import boxes


@register("Yolov3DetectionOutput")
class Yolov3DetectionOutput(Layer):
    """The detections of a batch: (1, 1, K, 7) rows of image, label from 1 on, score, xmin, ymin, xmax, ymax.

    Bottoms: mask_group_num maps (N, num_box (5 + classes), H, W). A place (h, w) of map t gives for each of its boxes
    with the numbers tx ty tw th to c_1.. the centre ((w + s(tx)) / W, (h + s(ty)) / H), the size
    (e^tw bias_w / (W scale_t), e^th bias_h / (H scale_t)) and for each class the score s(to) s(c_i); s is the logistic
    function, the bias that of mask[t num_box + i], scale_t anchors_scale[t]. Scores above confidence_threshold, best
    first, stay if they overlap no better one, of any class, by nms_threshold or more. Nothing found: N rows of -1 that
    name the image. Source: yolov3_detection_output_layer.cpp. No gradient.
    Errors: num_classes missing; mask, biases or anchors_scale too short; maps of other channels.
    """

    bottoms = at_least(1)
    deviations = "each image of a batch has its own number and its own suppression; gaussian_box is refused"

    def __init__(self, param, context) -> None:
        super().__init__(param, context)
        self.no_gradient_bottoms = frozenset(range(len(param.bottom)))

    def set_up(self, *maps: Shape) -> None:
        p = self.p = self.param.yolov3_detection_output_param
        self.check(p.HasField("num_classes"), "Must specify num_classes")
        self.check(not p.gaussian_box, "gaussian_box is not computed here")
        self.check(len(maps) == p.mask_group_num, f"needs mask_group_num ({p.mask_group_num}) bottoms, not {len(maps)}")
        self.group = len(p.mask) // p.mask_group_num
        self.check(self.group >= p.num_box, f"mask needs {p.num_box} numbers for each bottom")
        self.check(len(p.biases) > 2 * max(p.mask) + 1, "biases needs a width and a height for each number of mask")
        self.check(len(p.anchors_scale) >= len(maps), "anchors_scale needs a number for each bottom")

    def top_shapes(self, *maps: Shape) -> list[Shape]:
        for shape in maps:
            if len(shape) != 4 or shape[1] != self.p.num_box * (5 + self.p.num_classes):
                self.fail(f"needs maps (N, {self.p.num_box} x {5 + self.p.num_classes}, H, W), not {list(shape)}")
        return [(1, 1, 1, 7)]

    @torch.no_grad()
    def forward(self, *maps: Tensor) -> Tensor:
        items = len(maps[0])
        found = [self._candidates(number, values.cpu()) for number, values in enumerate(maps)]
        corners, scores = (torch.cat(parts, 1) for parts in zip(*found, strict=True))
        rows = [row for image in range(items) for row in self._of_image(image, corners[image], scores[image])]
        if not rows:
            rows = [torch.tensor([[image, *[-1.0] * 6]]) for image in range(items)]
        return torch.cat(rows).reshape(1, 1, -1, 7).to(maps[0])

    def _candidates(self, number: int, values: Tensor) -> tuple[Tensor, Tensor]:
        """All boxes of one map in the order place, box: corners (N, B, 4) and scores (N, B, classes)."""
        p, (items, _, height, width) = self.p, values.shape
        values = values.reshape(items, p.num_box, -1, height, width).permute(0, 3, 4, 1, 2).flatten(1, 3)
        places, reach = self.grid(number, (height, width))
        centre = (places + values[..., :2].sigmoid()) / torch.tensor([width, height])
        half = values[..., 2:4].exp() * reach
        scores = values[..., 5:].sigmoid() * values[..., 4:5].sigmoid()
        return torch.cat([centre - half, centre + half], -1), scores

    def grid(self, number: int, size: Shape) -> tuple[Tensor, Tensor]:
        """For all boxes of one map, in the order place, box: the place (w, h) and half the size at e^0, (B, 2) each."""
        p, (height, width) = self.p, size
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        places = torch.stack([x, y], -1).flatten(0, 1).repeat_interleave(p.num_box, 0)
        chosen = list(p.mask)[number * self.group : number * self.group + p.num_box]
        biases = torch.tensor(list(p.biases)).reshape(-1, 2)[chosen]
        reach = biases / (torch.tensor([width, height]) * p.anchors_scale[number]) / 2
        return places, reach.repeat(height * width, 1)

    def _of_image(self, image: int, corners: Tensor, scores: Tensor) -> list[Tensor]:
        box, label = (scores > self.p.confidence_threshold).nonzero(as_tuple=True)
        if not len(box):
            return []
        threshold = math.nextafter(self.p.nms_threshold, -math.inf)  # an overlap of nms_threshold is too much
        kept = boxes.suppress(corners[box], scores[box, label], threshold)
        box, label = box[kept], label[kept]
        head = torch.stack([torch.full_like(label, image), label + 1], 1).to(scores.dtype)
        return [torch.cat([head, scores[box, label].unsqueeze(1), corners[box]], 1)]
