"""Where batches come from: importing this package registers every source as a layer."""

from __future__ import annotations

from pysolver.data import (  # noqa: F401
    annotated_data,
    data_layer,
    detection_data,
    eval_data,
    hdf5_data,
    image_data,
    image_gt_data,
    inputs,
    memory_data,
    segmentation_data,
    video_data,
    window_data,
)
