"""The data layers of forks: what a net says of them, and their lists."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pysolver.component import naming_layers
from pysolver.errors import CaffeError
from pysolver.proto import caffe_pb2
from pysolver.proto.text import parse_text, to_text
from tests.fuzz.mutation import mutate_text
from tests.fuzz.targets.databases import source, write_lmdb
from tests.fuzz.targets.detection import annotated_records
from tests.fuzz.targets.pictures import write_pictures
from tests.fuzz.targets.target import prototxt, target

_OBJECTS = b"# 0\n0.png\n3 12 10\n2\n1 0 0 1 1 8 9\n2 1 0 0 0 5 5\n1\n2 2 3 3\n# 1\n1.jpg\n3 12 10\n0\n0\n"
LISTS = {
    "clips.txt": b"clip 0 1\nclip 2 3\n",
    "counts.txt": b"clip 8 1\nclip 6 0\n",
    "videos.txt": b"clip.avi 0 1\nclip.avi 3 2\n",
    "pairs.txt": b"0.png 0.png\n1.jpg 0.png\n",
    "kinds.txt": b"0.png 1\n1.jpg 200\n",
    "objects.txt": _OBJECTS,
    "mscnn.txt": _OBJECTS.replace(b"1 0 0 1 1 8 9", b"1 0 1 1 8 9").replace(b"2 1 0 0 0 5 5", b"2 1 0 0 5 5"),
}
_SEG = "crop_height: 8 crop_width: 8 scale_factors: 0.5 scale_factors: 2 mirror: true"
_SNIPPETS = "crop_size: 6 fix_crop: true multi_scale: true scale_ratios: 1 scale_ratios: 0.75 max_distort: 1"
LAYERS = {
    'type: "VideoData" video_data_param { source: "clips.txt" batch_size: 2 new_length: 3 use_image: true }': "",
    'type: "VideoData" video_data_param { source: "counts.txt" batch_size: 2 new_length: 2 use_image: true '
    "use_temporal_jitter: true sampling_rate: 2 }": "crop_size: 8 mirror: true mean_value: 3",
    'type: "VideoData" video_data_param { source: "videos.txt" batch_size: 2 new_length: 3 new_height: 6 '
    "new_width: 5 }": "scale: 0.5",
    'type: "VideoData" video_data_param { source: "counts.txt" batch_size: 2 num_segments: 2 new_length: 1 '
    'name_pattern: "%06d.jpg" }': _SNIPPETS,
    'type: "ImageSegData" top: "s" image_data_param { source: "pairs.txt" batch_size: 2 label_type: PIXEL }': _SEG,
    'type: "ImageSegData" image_data_param { source: "kinds.txt" batch_size: 2 label_type: IMAGE ignore_label: 9 }': (
        "crop_size: 20"
    ),
    'type: "DenseImageData" dense_image_data_param { source: "pairs.txt" batch_size: 2 new_height: 8 new_width: 6 '
    "mirror: true label_divide_factor: 2 }": "mean_value: 3",
    'type: "EvalData" top: "s" eval_data_param { source: "objects.txt" batch_size: 1 short_size: 32 long_size: 64 }': (
        "mean_value: 7"
    ),
    'type: "DetectionData" top: "s" detection_data_param { source: "objects.txt" batch_size: 2 short_size: 32 '
    "long_size: 64 stride: 8 field_h: 16 field_w: 9 output_gt_boxes: true min_scale: 4 max_scale: 40 "
    "multiscale_prob: 1 min_whaspect: 0.5 max_whaspect: 2 template_ratio: 1 template_ratio: 2 "
    'anchor_ignore_margin_ratio: 0.5 shuffle: "random_mix_aspect" }': "mirror: true mean_value: 3",
    'type: "ImageGtData" top: "s" image_gt_data_param { source: "mscnn.txt" batch_size: 2 resize_width: 40 '
    "resize_height: 48 crop_width: 32 crop_height: 32 downsample_rate: 8 field_h: 16 field_w: 9 output_gt_boxes: true "
    "do_multiple_scale: true min_scale: 8 max_scale: 32 min_whaspect: 0.5 max_whaspect: 2 fg_img_multiple: 2 }": (
        "mirror: true"
    ),
    'type: "AnnotatedData" data_param { source: "db" batch_size: 2 backend: LMDB } annotated_data_param { '
    "batch_sampler { sampler { min_scale: 0.3 } max_trials: 5 } }": "resize_param { height: 9 width: 8 } "
    "expand_param { prob: 1 max_expand_ratio: 2 } distort_param { hue_prob: 1 hue_delta: 9 } "
    "noise_param { hist_eq: true saltpepper: true saltpepper_param { fraction: 0.1 value: 3 } jpeg: 50 }",
    'type: "ImageData" image_data_param { source: "kinds.txt" batch_size: 2 }': "crop_size: 6 "
    "random_aspect_ratio_param { min_area_ratio: 0.5 max_area_ratio: 1 aspect_ratio_change: 0.75 max_attempt: 5 }",
}
# What a net may ask for, and gets: time and memory.
_MANY = {"batch_size", "new_length", "num_segments", "max_trials", "max_attempt", "max_sample", "sampling_rate",
         "max_sampling_rate", "num_of_labels", "prefetch"}  # fmt: skip


def _write_files() -> None:
    if not Path("db").exists():
        write_pictures()
        Path("clip").mkdir()
        frames = np.random.default_rng(1).integers(0, 256, (9, 12, 10, 3), np.uint8)
        video = cv2.VideoWriter("clip.avi", cv2.VideoWriter.fourcc(*"MJPG"), 5, (10, 12))
        for number, frame in enumerate(frames):
            cv2.imwrite(f"clip/{number:06d}.jpg", frame)
            video.write(frame)
        video.release()
        Path("db").mkdir()
        write_lmdb("db", annotated_records())
    for name, content in LISTS.items():
        Path(name).write_bytes(content)


def _layers() -> list[bytes]:
    return [f'name: "d" top: "x" top: "l" {text} transform_param {{ {t} }}'.encode() for text, t in LAYERS.items()]


def _modest(message: Any) -> None:
    for field, value in message.ListFields():
        if field.message_type:
            for inner in value if field.is_repeated else [value]:
                _modest(inner)
        elif field.name in _MANY and not field.is_repeated:
            setattr(message, field.name, value % 8)
        elif not field.is_repeated and isinstance(value, int) and 500 < value < 100_000:  # a side in pixels
            setattr(message, field.name, value % 500)


@target("data layers", _layers, prototxt(caffe_pb2.LayerParameter))
def _data_layers(data: bytes) -> None:
    _write_files()
    param = parse_text(data.decode("utf-8", "surrogateescape"), caffe_pb2.LayerParameter)
    _modest(param)
    if param.type in _types():
        with naming_layers():
            source(to_text(param))


def _types() -> set[str]:
    """Those that read files; other layers are no sources."""
    return {parse_text(layer.decode(), caffe_pb2.LayerParameter).type for layer in _layers()}


def _changed_list(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """The name of the list, and its changed content."""
    name, _, content = data.partition(b"\n")
    return name + b"\n" + mutate_text(rng, content, [other.partition(b"\n")[2] for other in others])


@target("lists of data layers", lambda: [f"{name}\n".encode() + text for name, text in LISTS.items()], _changed_list)
def _lists(data: bytes) -> None:
    _write_files()
    name, _, content = data.partition(b"\n")
    Path(name.decode()).write_bytes(content)
    error = None
    for text in _layers():
        if b'"%s"' % name in text:
            try:
                with naming_layers():
                    source(text.decode())
            except CaffeError as given:
                error = given
    if error:
        raise error
