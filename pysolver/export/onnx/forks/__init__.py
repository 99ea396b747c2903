"""Layers of Caffe's forks."""

from pysolver.export.onnx.forks import (  # noqa: F401
    detection,
    faces,
    mobile,
    normalisation,
    proposals,
    rearranging,
    resizing,
    rois,
    sampling,
    volumes,
    yolo,
)
