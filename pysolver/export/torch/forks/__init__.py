"""Layers of Caffe's forks."""

from pysolver.export.torch.forks import detection, mobile, normalisation, rearranging, resizing  # noqa: F401
