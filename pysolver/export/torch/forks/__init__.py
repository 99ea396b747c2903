"""Layers of Caffe's forks."""

from pysolver.export.torch.forks import (  # noqa: F401
    detection,
    faces,
    mobile,
    normalisation,
    rearranging,
    resizing,
    volumes,
)
