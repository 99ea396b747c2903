"""Layers of Caffe's forks."""

from pysolver.export.torch.forks import detection, normalisation, resizing, small  # noqa: F401
