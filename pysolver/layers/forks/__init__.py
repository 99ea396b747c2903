"""Layers that Caffe's forks added and that people's files contain."""

from __future__ import annotations

from pysolver.layers.forks import (  # noqa: F401
    activations,
    averages,
    cascade,
    cascade_targets,
    detection,
    edges,
    evaluation,
    faces,
    field_losses,
    meanfield,
    mobile,
    multibox,
    normalisation,
    normface,
    normface_losses,
    proposals,
    rearranging,
    region_losses,
    resizing,
    rois,
    sampling,
    sequences,
    volumes,
    yolo,
    yolo_first,
    yolo_losses,
)
