"""Layers of Caffe's forks."""

from pysolver.export.onnx.forks import detection, mobile, normalisation, rearranging, resizing, rois  # noqa: F401
