"""YoloDetectionOutput and Yolov3DetectionOutput of MobileNet-YOLO, in standard operators.

Candidates of an image, best first, go through one NonMaxSuppression; for version 3 every pair of box and class is one,
for version 2 every box with its best class.
"""

from __future__ import annotations

import numpy as np

from pysolver.export.onnx.forks.detection import places_of, rows, suppress
from pysolver.export.onnx.graph import Scope, emits
from pysolver.layers.forks import yolo as layers


@emits("YoloDetectionOutput")
def yolo_detection_output(g: Scope, layer: layers.YoloDetectionOutput, *maps: str) -> str:
    p, found = layer.p, []
    biases = layer.biases.numpy()
    for (_, _, height, width), x in zip(g.bottoms, maps, strict=True):
        corners, is_object, classes = _read(g, biases / np.float32([width, height]), p.num_classes, x, height, width)
        likely = g.node("Softmax", classes, axis=2)
        score = g.node("Mul", g.reduce("ReduceMax", likely, [2], keep=False), _without_last(g, is_object))
        found.append((corners, score, g.node("ArgMax", likely, axis=2, keepdims=0)))
    corners, scores, labels = (_join(g, parts) for parts in zip(*found, strict=True))  # (N, P, 4), (N, P), (N, P)
    best, order = _ranked(g, scores, count := _boxes(g, p.num_box))
    label = g.to_float(g.node("GatherElements", labels, order, axis=1))
    least = np.nextafter(np.float32(p.confidence_threshold), np.float32(-1))  # which is enough itself
    return _answer(g, corners, best, order, label, count, p.nms_threshold, least)


@emits("Yolov3DetectionOutput")
def yolov3_detection_output(g: Scope, layer: layers.Yolov3DetectionOutput, *maps: str) -> str:
    p, found = layer.p, []
    for number, ((_, _, height, width), x) in enumerate(zip(g.bottoms, maps, strict=True)):
        chosen = list(p.mask)[number * layer.group : number * layer.group + p.num_box]
        biases = np.array(p.biases, np.float32).reshape(-1, 2)[chosen]
        sizes = biases / np.float32([width, height]) / np.float32(p.anchors_scale[number])
        corners, is_object, classes = _read(g, sizes, p.num_classes, x, height, width)
        found.append((corners, g.node("Mul", g.node("Sigmoid", classes), is_object)))
    corners, scores = (_join(g, parts) for parts in zip(*found, strict=True))  # (N, P, 4), (N, P, classes)
    width = p.num_classes * _boxes(g, p.num_box)
    best, order = _ranked(g, g.node("Reshape", scores, g.indices([0, width], "flat")), width)
    classes = g.indices(p.num_classes, "classes")
    label = g.to_float(g.node("Mod", order, classes))
    box = g.node("Div", order, classes)
    return _answer(g, corners, best, box, label, width, p.nms_threshold, p.confidence_threshold)


def _boxes(g: Scope, per_place: int) -> int:
    return per_place * sum(height * width for _, _, height, width in g.bottoms)


def _join(g: Scope, parts: tuple[str, ...]) -> str:
    return g.node("Concat", *parts, axis=1) if len(parts) > 1 else parts[0]


def _without_last(g: Scope, x: str) -> str:
    return g.node("Squeeze", x, g.indices([2], "last_axis"))


def _ranked(g: Scope, scores: str, count: int) -> tuple[str, str]:
    """Scores (N, count) best first, and where they stood."""
    best, order = g.nodes("TopK", 2, scores, g.indices([count], "all"), axis=1)
    return best, order


def _answer(g: Scope, corners: str, best: str, box: str, label: str, width: int, overlap: float, least: float) -> str:
    """The rows. corners (N, P, 4); of the candidates, best first, (N, width) each: scores, boxes, labels from 0 on."""
    place = g.node("Expand", g.node("Unsqueeze", box, g.indices([2], "last_axis")), g.indices([1, 1, 4], "box"))
    boxes = g.node("GatherElements", corners, place, axis=1)
    threshold = np.nextafter(np.float32(overlap), np.float32(-1))  # an overlap of nms_threshold is too much
    kept = suppress(g, boxes, best, width, width, threshold, least)
    image, place = places_of(g, kept)
    label = g.node("Add", label, g.constant(1, hint="first_label"))
    pairs = g.node("Concat", *(g.node("Unsqueeze", part, g.indices([1], "column")) for part in (image, place)), axis=1)
    return rows(g, kept, image, place, g.node("GatherND", label, pairs), best, boxes, width)


def _read(g: Scope, sizes: np.ndarray, classes: int, x: str, height: int, width: int) -> tuple[str, str, str]:
    """A map's boxes, in the order place, box: corners (N, B, 4), objectness (N, B, 1), what is written for the classes.

    sizes: (boxes of a place, 2), parts of the image at e^0.
    """
    boxes = len(sizes)
    count = height * width * boxes
    x = g.node("Reshape", x, g.indices([0, boxes, 5 + classes, height * width], "by_box"))
    x = g.node("Transpose", x, perm=[0, 3, 1, 2])
    x = g.node("Reshape", x, g.indices([0, count, 5 + classes], "candidates"))
    shift, growth, is_object, likely = g.split(x, [2, 2, 1, classes], 2)
    places = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).reshape(-1, 2).repeat(boxes, 0)
    reach = np.tile(sizes / 2, (height * width, 1))
    size = g.constant([width, height], hint="size")
    centre = g.node("Div", g.node("Add", g.node("Sigmoid", shift), g.constant(places, hint="places")), size)
    half = g.node("Mul", g.node("Exp", growth), g.constant(reach, hint="reach"))
    corners = g.node("Concat", g.node("Sub", centre, half), g.node("Add", centre, half), axis=2)
    return corners, g.node("Sigmoid", is_object), likely
