"""Proposal of Faster R-CNN, in standard operators."""

from __future__ import annotations

import math

from pysolver.export.onnx.graph import Scope, emits
from pysolver.layers.forks import proposals as layers


@emits("Proposal")
def proposal(g: Scope, layer: layers.Proposal, scores: str, codes: str, image: str) -> tuple[str, ...]:
    _, found, height, width = g.bottoms[0]
    total = found // 2 * height * width
    before, after = layer.limits
    by_place = g.node("Transpose", g.split(scores, [found // 2] * 2, 1)[1], perm=[0, 2, 3, 1])
    own = g.node("Reshape", by_place, g.indices([total], "all"))
    image = g.reshape(image, g.bottoms[2], (math.prod(g.bottoms[2]),))
    places = _places(g, layer, codes, image, total)
    own = g.node("Mul", own, g.to_float(_is_large(g, layer, places, image)))

    best, order = g.nodes("TopK", 2, own, g.indices([min(before, total)], "pre_nms_topn"), axis=0)
    places = g.node("Gather", places, order, axis=0)
    whole = g.node("Add", places, g.constant([0, 0, 1, 1], hint="last_pixel"))  # both ends belong to a box
    kept = g.node(
        "NonMaxSuppression",
        g.node("Unsqueeze", whole, g.indices([0], "image")),
        g.node("Unsqueeze", best, g.indices([0, 1], "image_and_class")),
        g.indices(after, "post_nms_topn"),
        g.constant(min(1.0, layer.threshold), hint="nms_thresh"),
    )
    kept = g.node("Gather", kept, g.indices(2, "box"), axis=1)
    g.varying(0)
    rois = g.pad(g.node("Gather", places, kept, axis=0), [0, 1], [0, 0])
    if layer.top_count == 1:
        return (rois,)
    return rois, g.node("Unsqueeze", g.node("Gather", best, kept, axis=0), g.indices([1], "column"))


def _places(g: Scope, layer: layers.Proposal, codes: str, image: str, total: int) -> str:
    """The anchors moved by their codes and clipped to the image, (total, 4)."""
    by_place = g.node("Transpose", codes, perm=[0, 2, 3, 1])
    shift, growth = g.split(g.node("Reshape", by_place, g.indices([total, 4], "codes")), [2, 2], 1)
    height, width = g.bottoms[0][2:]
    anchors = layers.everywhere(layer.reference, height, width, layer.stride)
    middle, size = (part.numpy() for part in layers.centre_and_size(anchors))
    centre = g.node("Add", g.node("Mul", shift, g.constant(size, hint="size")), g.constant(middle, hint="centre"))
    half = g.node("Mul", g.node("Exp", growth), g.constant(size / 2, hint="half"))
    places = g.node("Concat", g.node("Sub", centre, half), g.node("Add", centre, half), axis=1)
    ends = g.node("Gather", image, g.indices([1, 0, 1, 0], "width_height"), axis=0)
    places = g.node("Min", places, g.node("Sub", ends, g.constant(1, hint="one")))
    return g.node("Max", places, g.constant(0, hint="zero"))


def _is_large(g: Scope, layer: layers.Proposal, places: str, image: str) -> str:
    """Whether both sides of a box have min_size pixels of the image before it was scaled, (total)."""
    scales = [3, 2] if math.prod(g.bottoms[2]) > 3 else [2, 2]  # of x and y
    scale = g.node("Gather", image, g.indices(scales, "scales"), axis=0)
    least = g.node("Mul", scale, g.constant(layer.least, hint="min_size"))
    low, high = g.split(places, [2, 2], 1)
    sides = g.node("Add", g.node("Sub", high, low), g.constant(1, hint="one"))
    small = g.to_float(g.node("Less", sides, least))
    return g.node("Equal", g.reduce("ReduceMax", small, [1], keep=False), g.constant(0, hint="zero"))
