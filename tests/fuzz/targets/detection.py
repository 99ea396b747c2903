"""What a detector is trained on: annotated records, PASCAL VOC, and a list of image sizes."""

from __future__ import annotations

import contextlib
import io
import tarfile
from pathlib import Path
from typing import Any

from pysolver.component import create
from pysolver.context import Context
from pysolver.errors import CaffeError
from pysolver.proto import caffe_pb2
from pysolver.proto.text import parse_text
from tests.fuzz.mutation import mutate_bytes, mutate_text
from tests.fuzz.targets.databases import source, write_lmdb
from tests.fuzz.targets.pictures import pictures
from tests.fuzz.targets.target import folder_of, message, mutate_member, target

_AUGMENTATIONS = [
    "crop_size: 4 mirror: true",
    "resize_param { height: 6 width: 5 resize_mode: WARP } emit_constraint { emit_type: CENTER }",
    "resize_param { height: 6 width: 5 resize_mode: FIT_LARGE_SIZE_AND_PAD pad_value: 1 } mirror: true",
    "expand_param { prob: 1 max_expand_ratio: 2 } resize_param { height: 6 width: 5 }",
    "distort_param { brightness_prob: 1 brightness_delta: 9 hue_prob: 1 hue_delta: 9 } crop_size: 3",
]
_SAMPLER = """annotated_data_param { batch_sampler {
    sampler { min_scale: 0.3 min_aspect_ratio: 0.5 max_aspect_ratio: 2 }
    sample_constraint { min_jaccard_overlap: 0.1 } max_sample: 1 max_trials: 5 } }"""


def annotated_records() -> list[bytes]:
    made = []
    for picture in pictures()[:2]:
        record = caffe_pb2.AnnotatedDatum(type="BBOX", datum=caffe_pb2.Datum(data=picture, encoded=True, label=1))
        group = record.annotation_group.add(group_label=2)
        group.annotation.add(
            instance_id=0, bbox={"xmin": 0.1, "ymin": 0.2, "xmax": 0.6, "ymax": 0.9, "difficult": True}
        )
        group.annotation.add(instance_id=1, bbox={"xmin": 0.5, "ymin": 0, "xmax": 1, "ymax": 0.5})
        made.append(record.SerializeToString())
    return made


@target("annotated records", annotated_records, message(caffe_pb2.AnnotatedDatum))
def _annotated_data(data: bytes) -> None:
    with folder_of("db") as folder:
        write_lmdb(str(folder), [annotated_records()[len(data) % 2], data][len(data) % 2 :] + [data])
        transform = _AUGMENTATIONS[len(data) % len(_AUGMENTATIONS)]
        source(f'name: "d" type: "AnnotatedData" top: "x" top: "l" transform_param {{ {transform} }} {_SAMPLER} '
               'data_param { source: "db" batch_size: 2 backend: LMDB }')  # fmt: skip


_XML = b"""<annotation><folder>VOC2007</folder><size><width>10</width><height>12</height><depth>3</depth></size>
<object><name>dog</name><pose>Left</pose><truncated>1</truncated><difficult>0</difficult>
<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>8</xmax><ymax>9</ymax></bndbox></object>
<object><name>cat</name><difficult>1</difficult>
<bndbox><xmin>3.5</xmin><ymin>2</ymin><xmax>9</xmax><ymax>11</ymax></bndbox></object></annotation>
"""


@target("VOC annotation", lambda: [_XML], mutate_text)
def _voc_xml(data: bytes) -> None:
    from pysolver.data.prepare.voc import annotated

    annotated(data, "000001.xml")


def _voc_archives() -> list[bytes]:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for year, part in (("VOC2007", "trainval"), ("VOC2007", "test"), ("VOC2012", "trainval")):
            files = {f"ImageSets/Main/{part}.txt": b"1\n", "Annotations/1.xml": _XML, "JPEGImages/1.jpg": pictures()[1]}
            for name, content in files.items():
                member = tarfile.TarInfo(f"VOCdevkit/{year}/{name}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return [archive.getvalue()]


@target("VOC archive", _voc_archives, lambda rng, data, others: (
    mutate_member if rng.random() < 0.5 else mutate_bytes)(rng, data, others))  # fmt: skip
def _voc(data: bytes) -> None:
    from pysolver.data.prepare import voc

    with folder_of("in") as folder, folder_of("out") as out:
        (folder / "VOC.tar").write_bytes(data)
        voc.writer("in")(out / "train", out / "test", out / "labelmap.prototxt", out / "sizes.txt")


def _detections() -> Any:
    import torch

    found = torch.tensor([[0, 1, 0.9, 0, 0, 0.5, 0.5], [1, 1, 0.8, 0.1, 0, 1, 0.5]]).reshape(1, 1, 2, 7)
    objects = torch.tensor([[0, 1, 0, 0, 0, 0.5, 0.6, 0], [1, 1, 0, 0, 0, 1, 1, 1]]).reshape(1, 1, 2, 8)
    return found, objects


@target("image sizes", lambda: [b"a 10 12\nb 5 6\n"], mutate_text)
def _name_size_file(data: bytes) -> None:
    Path("sizes.txt").write_bytes(data)
    text = """name: "e" type: "DetectionEvaluate" bottom: "d" bottom: "g" top: "y"
        detection_evaluate_param { num_classes: 3 name_size_file: "sizes.txt" }"""
    layer = create(parse_text(text, caffe_pb2.LayerParameter), Context(seed=1))
    layer.set_up((1, 1, 2, 7), (1, 1, 2, 8))
    with contextlib.suppress(CaffeError):
        layer(*_detections())
