"""Layers of Caffe's forks."""

from pysolver.export.onnx.forks import (  # noqa: F401
    detection,
    mobile,
    normalisation,
    rearranging,
    resizing,
    rois,
    volumes,
    yolo,
)
