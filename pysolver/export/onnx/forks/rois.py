"""ROIPooling of Fast R-CNN and PSROIPooling of R-FCN."""

from __future__ import annotations

import numpy as np

from pysolver.export.onnx.graph import Scope, emits
from pysolver.layers.forks import rois as layers


@emits("ROIPooling")
def roi_pooling(g: Scope, layer: layers.ROIPooling, x: str, regions: str) -> str:
    regions = g.reshape(regions, g.bottoms[1], (g.bottoms[1][0], 5))
    if layer.param.roi_pooling_param.pad_ratio:
        image, first, last = g.split(regions, [1, 2, 2], 1)
        size = g.node("Add", g.node("Sub", last, first), g.constant(1, hint="last_cell"))
        more = g.node("Mul", size, g.constant(layer.param.roi_pooling_param.pad_ratio, hint="pad_ratio"))
        regions = g.node("Concat", image, g.node("Sub", first, more), g.node("Add", last, more), axis=1)
    return g.node("MaxRoiPool", x, regions, pooled_shape=[layer.height, layer.width], spatial_scale=layer.scale)


@emits("PSROIPooling")
def psroi_pooling(g: Scope, layer: layers.PSROIPooling, x: str, regions: str) -> str:
    """A product of matrices for each bin: (regions, places of all images) by (places, output_dim)."""
    (_, _, height, width), size = g.bottoms[0], layer.group
    regions = g.reshape(regions, g.bottoms[1], (g.bottoms[1][0], 5))
    image, corners = g.split(regions, [1, 4], 1)
    first = g.constant([0, 0, 1, 1], hint="last_cell")
    corners = g.node("Mul", g.node("Add", _round(g, corners), first), g.constant(layer.scale, hint="spatial_scale"))
    left, top, right, bottom = g.split(corners, [1] * 4, 1)
    rows = _shares(g, top, bottom, size, height)  # (R, g, H)
    columns = _shares(g, left, right, size, width)

    count = g.cut(g.node("Shape", x), [0], [1], [0])
    images = g.node("OneHot", g.to_index(image), count, g.constant([0, 1], hint="off_on"), axis=-1)  # (R, 1, N)
    shares = [
        g.node("Unsqueeze", g.node("Transpose", part, perm=[1, 0, 2]), g.indices(axes, "axes"))  # (g, g, R, N, H, W)
        for part, axes in ((rows, [1, 3, 5]), (columns, [0, 3, 4]), (images, [1, 4, 5]))
    ]
    weights = g.node("Mul", g.node("Mul", shares[0], shares[1]), shares[2])
    weights = g.node("Reshape", weights, g.indices([0, 0, 0, -1], "places"))

    maps = g.node("Reshape", x, g.indices([0, layer.outputs, size, size, height * width], "maps"))
    maps = g.node("Transpose", maps, perm=[2, 3, 0, 4, 1])
    maps = g.node("Reshape", maps, g.indices([0, 0, -1, layer.outputs], "of_bin"))
    return g.node("Transpose", g.node("MatMul", weights, maps), perm=[2, 3, 0, 1])


def _round(g: Scope, x: str) -> str:
    """Halves away from zero."""
    whole = g.node("Floor", g.node("Add", g.node("Abs", x), g.constant(0.5, hint="half")))
    return g.node("Mul", g.node("Sign", x), whole)


def _shares(g: Scope, start: str, end: str, count: int, limit: int) -> str:
    """(R, 1) ends of an axis -> (R, count, limit): 1 / size on the cells of each bin, else 0."""
    length = g.node("Max", g.node("Sub", end, start), g.constant(0.1, hint="least"))
    size = g.node("Div", length, g.constant(count, hint="bins"))
    zero, most = g.constant(0, hint="zero"), g.constant(limit, hint="limit")
    edges = []
    for op, steps in (("Floor", np.arange(count)), ("Ceil", np.arange(1, count + 1))):
        edge = g.node("Add", g.node("Mul", size, g.constant(steps[None], hint="steps")), start)
        edge = g.node("Clip", g.node(op, edge), zero, most)
        edges.append(g.node("Unsqueeze", edge, g.indices([2], "cell_axis")))
    low, high = edges
    cells = g.constant(np.arange(limit), hint="cells")
    outside = g.node("Or", g.node("Less", cells, low), g.node("GreaterOrEqual", cells, high))
    share = g.node("Div", g.constant(1, hint="one"), g.node("Max", g.node("Sub", high, low), g.constant(1, hint="one")))
    return g.node("Where", outside, zero, share)
