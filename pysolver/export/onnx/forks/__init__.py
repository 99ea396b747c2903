"""Layers of Caffe's forks."""

from pysolver.export.onnx.forks import (  # noqa: F401
    activations,
    detection,
    faces,
    mobile,
    normalisation,
    normface,
    proposals,
    rearranging,
    resizing,
    rois,
    sampling,
    volumes,
    yolo,
)
