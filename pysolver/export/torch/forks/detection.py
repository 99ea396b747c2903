"""PriorBox; what needs torchvision."""

from __future__ import annotations

import torch

from pysolver.export.torch.source import Writer, refuse, writes
from pysolver.layers.forks import detection as layers


@writes("PriorBox", "PriorBoxClustered")
def prior_box(w: Writer, layer: layers.PriorBox, *bottoms: str) -> str:
    """The boxes depend on shapes only: a constant."""
    return w.constant(layer(*(torch.empty(shape) for shape in w.bottoms)))


for kind in ("DetectionOutput", "YoloDetectionOutput", "Yolov3DetectionOutput", "Proposal"):
    refuse(kind, "torch has no non-maximum suppression (torchvision does); ONNX has: export to .onnx")
refuse("ROIPooling", "torch has no pooling of regions (torchvision does); ONNX has: export to .onnx")
refuse("PSROIPooling", "torch has no pooling of regions (torchvision does); ONNX can say it: export to .onnx")
