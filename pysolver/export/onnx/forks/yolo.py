"""Yolov3DetectionOutput of MobileNet-YOLO, in standard operators."""

from __future__ import annotations

import numpy as np

from pysolver.export.onnx.forks.detection import places_of, rows, suppress
from pysolver.export.onnx.graph import Scope, emits
from pysolver.layers.forks import yolo as layers


@emits("Yolov3DetectionOutput")
def yolov3_detection_output(g: Scope, layer: layers.Yolov3DetectionOutput, *maps: str) -> str:
    """Every pair of box and class is a candidate; those of an image go through one NonMaxSuppression, best first."""
    p = layer.p
    found = [_candidates(g, layer, number, x) for number, x in enumerate(maps)]
    corners, scores = (_join(g, parts) for parts in zip(*found, strict=True))  # (N, P, 4), (N, P, classes)
    width = p.num_classes * p.num_box * sum(height * width for _, _, height, width in g.bottoms)
    flat = g.node("Reshape", scores, g.indices([0, width], "flat"))
    best, order = g.nodes("TopK", 2, flat, g.indices([width], "all"), axis=1)
    classes = g.indices(p.num_classes, "classes")
    box = g.node("Unsqueeze", g.node("Div", order, classes), g.indices([2], "last_axis"))
    boxes = g.node("GatherElements", corners, g.node("Expand", box, g.indices([1, 1, 4], "box")), axis=1)
    threshold = np.nextafter(np.float32(p.nms_threshold), np.float32(-1))  # an overlap of nms_threshold is too much
    kept = suppress(g, boxes, best, width, width, threshold, p.confidence_threshold)
    image, place = places_of(g, kept)
    labels = g.node("Add", g.to_float(g.node("Mod", order, classes)), g.constant(1, hint="first_label"))
    pairs = g.node("Concat", *(g.node("Unsqueeze", part, g.indices([1], "column")) for part in (image, place)), axis=1)
    return rows(g, kept, image, place, g.node("GatherND", labels, pairs), best, boxes, width)


def _join(g: Scope, parts: tuple[str, ...]) -> str:
    return g.node("Concat", *parts, axis=1) if len(parts) > 1 else parts[0]


def _candidates(g: Scope, layer: layers.Yolov3DetectionOutput, number: int, x: str) -> tuple[str, str]:
    """The corners (N, B, 4) and scores (N, B, classes) of one map, B in the order place, box."""
    p, (_, _, height, width) = layer.p, g.bottoms[number]
    count = height * width * p.num_box
    x = g.node("Reshape", x, g.indices([0, p.num_box, 5 + p.num_classes, height * width], "by_box"))
    x = g.node("Transpose", x, perm=[0, 3, 1, 2])
    x = g.node("Reshape", x, g.indices([0, count, 5 + p.num_classes], "candidates"))
    shift, growth, is_object, classes = g.split(x, [2, 2, 1, p.num_classes], 2)
    places, reach = _grid(layer, number, height, width)
    size = g.constant([width, height], hint="size")
    centre = g.node("Div", g.node("Add", g.node("Sigmoid", shift), g.constant(places, hint="places")), size)
    half = g.node("Mul", g.node("Exp", growth), g.constant(reach, hint="reach"))
    corners = g.node("Concat", g.node("Sub", centre, half), g.node("Add", centre, half), axis=2)
    return corners, g.node("Mul", g.node("Sigmoid", classes), g.node("Sigmoid", is_object))


def _grid(layer: layers.Yolov3DetectionOutput, number: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """For all boxes of a map, in the order place, box: the place (w, h) and half the size at e^0, (B, 2) each."""
    p = layer.p
    places = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).reshape(-1, 2)
    chosen = list(p.mask)[number * layer.group : number * layer.group + p.num_box]
    biases = np.array(p.biases, np.float32).reshape(-1, 2)[chosen]
    reach = biases / np.float32([width, height]) / np.float32(p.anchors_scale[number]) / 2
    return places.repeat(p.num_box, 0), np.tile(reach, (height * width, 1))
