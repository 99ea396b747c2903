"""Layers of Caffe's forks."""

from pysolver.export.onnx.forks import detection, normalisation, resizing, rois, small  # noqa: F401
