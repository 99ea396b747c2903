"""PriorBox and DetectionOutput of SSD, in standard operators."""

from __future__ import annotations

import numpy as np
import torch

from pysolver.export.onnx.graph import Scope, emits
from pysolver.layers.forks import detection as layers
from pysolver.proto import caffe_pb2

_CORNER, _CENTER_SIZE = (caffe_pb2.PriorBoxParameter.CodeType.Value(name) for name in ("CORNER", "CENTER_SIZE"))
_LEAST = -float(np.finfo(np.float32).max)


@emits("PriorBox", "PriorBoxClustered")
def prior_box(g: Scope, layer: layers.PriorBox, *bottoms: str) -> str:
    """The boxes depend on shapes only: a constant."""
    return g.constant(layer(*(torch.empty(shape) for shape in g.bottoms)).numpy(), hint="boxes")


@emits("DetectionOutput")
def detection_output(
    g: Scope, layer: layers.DetectionOutput, locations: str, scores: str, priors: str, *images: str
) -> str:
    """Every pair of image and class goes through one NonMaxSuppression as an image of its own, best boxes first.

    (N, classes, K) places then hold a candidate each, in the order of the answer; a mask says which are kept.
    """
    p = layer.param.detection_output_param
    if p.nms_param.eta < 1:
        g.cannot("nms_param.eta below 1: NonMaxSuppression has a fixed threshold")
    count = g.bottoms[2][2] // 4
    labels = [label for label in range(layer.classes) if label != p.background_label_id]
    limit = p.nms_param.top_k if p.nms_param.HasField("top_k") and p.nms_param.top_k > -1 else count
    k = min(limit, count)

    boxes = _boxes(g, layer, locations, priors, count, labels)  # (N, classes, P, 4)
    by_class = _per_class(g, scores, count, layer.classes, 1, labels)  # (N, classes, P)
    best, order = g.nodes("TopK", 2, by_class, g.indices([k], "top_k"), axis=2)
    places = g.node("Unsqueeze", order, g.indices([3], "last_axis"))
    chosen = g.node("GatherElements", boxes, g.node("Expand", places, g.indices([1, 1, 1, 4], "box")), axis=2)

    least = p.confidence_threshold if p.HasField("confidence_threshold") else _LEAST
    straight = chosen
    if p.code_type != _CENTER_SIZE:  # a box that is turned inside out overlaps nothing; ONNX would turn it back
        low, high = g.split(chosen, [2, 2], 3)
        straight = g.node("Concat", low, g.node("Max", low, high), axis=3)
    width = len(labels) * k
    kept = suppress(g, straight, best, k, width, min(1.0, p.nms_param.nms_threshold), least)
    if -1 < p.keep_top_k < width:
        kept = _best_of_image(g, kept, best, p.keep_top_k, width)
    image, place = places_of(g, kept)
    label = g.node("Gather", g.constant(labels, hint="labels"), g.node("Div", place, g.indices(k, "per_class")), axis=0)
    return rows(g, kept, image, place, label, best, chosen, width)


def _per_class(g: Scope, x: str, count: int, classes: int, width: int, labels: list[int]) -> str:
    """(N, count * classes * width) -> (N, labels, count, width), without the last axis if width is 1."""
    shape = [0, count, classes, *([width] if width > 1 else [])]
    x = g.node("Reshape", x, g.indices(shape, "by_prior"))
    x = g.node("Transpose", x, perm=[0, 2, 1, *([3] if width > 1 else [])])
    return x if len(labels) == classes else g.node("Gather", x, g.indices(labels, "classes"), axis=1)


def _boxes(g: Scope, layer: layers.DetectionOutput, locations: str, priors: str, count: int, labels: list[int]) -> str:
    """The decoded boxes, (N, classes, P, 4) (boxes.Priors.decode)."""
    p = layer.param.detection_output_param
    if layer.location_classes == 1:
        code = g.node("Reshape", locations, g.indices([0, 1, count, 4], "shared"))
    else:
        code = _per_class(g, locations, count, layer.classes, 4, labels)
    known = g.node("Reshape", priors, g.indices([2, count, 4], "priors"))
    corners, variances = (g.node("Gather", known, g.indices(i, "row"), axis=0) for i in (0, 1))
    if not p.variance_encoded_in_target:
        code = g.node("Mul", code, variances)
    low, high = g.split(corners, [2, 2], 1)
    size = g.node("Sub", high, low)
    if p.code_type == _CENTER_SIZE:
        half = g.constant(0.5, hint="half")
        shift, growth = g.split(code, [2, 2], 3)
        centre = g.node("Add", g.node("Mul", shift, size), g.node("Mul", g.node("Add", low, high), half))
        reach = g.node("Mul", g.node("Mul", g.node("Exp", growth), size), half)
        found = g.node("Concat", g.node("Sub", centre, reach), g.node("Add", centre, reach), axis=3)
    else:
        step = code if p.code_type == _CORNER else g.node("Mul", code, g.node("Concat", size, size, axis=1))
        found = g.node("Add", corners, step)
    if layer.location_classes == 1:
        found = g.node("Expand", found, g.indices([1, len(labels), 1, 1], "every_class"))
    return found


def suppress(g: Scope, boxes: str, best: str, k: int, width: int, threshold: float, least: float) -> str:
    """Which candidates stay: (N, width) of 0 and 1. boxes (N, groups, k, 4), best scores (N, groups, k), those on top
    first; a group has a suppression of its own; width = groups * k."""
    pairs = g.node(
        "NonMaxSuppression",
        g.node("Reshape", boxes, g.indices([-1, k, 4], "pairs")),
        g.node("Reshape", best, g.indices([-1, 1, k], "pair_scores")),
        g.indices(k, "most"),
        g.constant(threshold, hint="nms_threshold"),
        g.constant(least, hint="confidence_threshold"),
    )
    places = g.node("Gather", pairs, g.indices([0, 2], "pair_and_box"), axis=1)
    flat = g.node("Reshape", best, g.indices([-1, k], "flat"))
    nothing = g.node("Mul", flat, g.constant(0, hint="zero"))
    one = g.constant([1], hint="one")
    ones = g.node("Expand", one, g.node("Slice", g.node("Shape", places), *(g.indices([i], "edge") for i in (0, 1))))
    kept = g.node("ScatterND", nothing, places, ones)
    return g.node("Reshape", kept, g.indices([-1, width], "by_image"))


def _best_of_image(g: Scope, kept: str, best: str, keep: int, count: int) -> str:
    """Of those kept, the `keep` best of each image."""
    flat = g.node("Reshape", best, g.indices([-1, count], "by_image"))
    is_kept = g.node("Greater", kept, g.constant(0, hint="zero"))
    ranked = g.node("Where", is_kept, flat, g.constant(_LEAST, hint="least"))
    _, places = g.nodes("TopK", 2, ranked, g.indices([keep], "keep_top_k"), axis=1)
    zeros = g.node("Mul", kept, g.constant(0, hint="zero"))
    marks = g.node("Add", g.to_float(g.node("Mul", places, g.indices(0, "zero_index"))), g.constant(1, hint="one"))
    return g.node("Mul", kept, g.node("ScatterElements", zeros, places, marks, axis=1))


def places_of(g: Scope, kept: str) -> tuple[str, str]:
    """The image and the place of every candidate kept, (K) each."""
    found = g.node("NonZero", kept)
    image, place = (g.node("Gather", found, g.indices(i, "row"), axis=0) for i in (0, 1))
    return image, place


def rows(g: Scope, kept: str, image: str, place: str, label: str, best: str, boxes: str, width: int) -> str:
    """(1, 1, K, 7): image, label, score, box of every candidate kept; if there is none, a row of -1 an image."""
    pairs = g.node("Concat", *(g.node("Unsqueeze", part, g.indices([1], "column")) for part in (image, place)), axis=1)
    score = g.node("GatherND", g.node("Reshape", best, g.indices([0, width], "scores")), pairs)
    box = g.node("GatherND", g.node("Reshape", boxes, g.indices([0, width, 4], "boxes")), pairs)
    column = g.indices([1], "column")
    head = [g.node("Unsqueeze", part, column) for part in (g.to_float(image), label, score)]
    found = g.node("Concat", *head, box, axis=1)

    zero = g.constant(0, hint="zero")
    of_image = g.reduce("ReduceSum", kept, [1], keep=False)
    of_batch = g.node("Add", g.node("Mul", of_image, zero), g.reduce("ReduceSum", kept, [0, 1], keep=False))
    number = g.node("NonZero", g.node("Add", of_image, g.constant(1, hint="one")))  # 0, 1, ... as (1, N)
    number = g.to_float(g.node("Transpose", number, perm=[1, 0]))
    blank = g.node("Add", g.node("Mul", number, zero), g.constant([[-1] * 6], hint="blank"))
    nobody = g.node("Concat", number, blank, axis=1)
    instead = g.node("Compress", nobody, g.node("Less", of_batch, g.constant(0.5, hint="half")), axis=0)
    g.varying(2)
    return g.node("Reshape", g.node("Concat", found, instead, axis=0), g.indices([1, 1, -1, 7], "rows"))
