"""ROIPooling of Fast R-CNN."""

from __future__ import annotations

from pysolver.export.onnx.graph import Scope, emits, refuse
from pysolver.layers.forks import rois as layers


@emits("ROIPooling")
def roi_pooling(g: Scope, layer: layers.ROIPooling, x: str, regions: str) -> str:
    regions = g.reshape(regions, g.bottoms[1], (g.bottoms[1][0], 5))
    return g.node("MaxRoiPool", x, regions, pooled_shape=[layer.height, layer.width], spatial_scale=layer.scale)


refuse("PSROIPooling", "ONNX has no pooling of regions whose bins have channels of their own")
