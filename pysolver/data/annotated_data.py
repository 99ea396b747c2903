"""AnnotatedData of SSD: images with their objects from a database (annotated_data_layer.cpp; Liu et al., 2016)."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from google.protobuf.message import DecodeError
from torch import Tensor

from pysolver.blob import Shape
from pysolver.context import Context
from pysolver.cores import usable_cores
from pysolver.data import augmentation, datum, object_boxes
from pysolver.data.batch_source import BatchSource, to_device
from pysolver.data.database_records import Bytes, DatabaseRecords
from pysolver.data.databases import Database, open_database, tell_opened
from pysolver.data.images import Colour
from pysolver.data.source import between, register
from pysolver.data.transformer import Transformer
from pysolver.errors import CaffeError
from pysolver.logs import notices
from pysolver.proto import caffe_pb2
from pysolver.proto.caffe_pb2 import LayerParameter

_YOLO_ROWS = 300  # of objects, for each image
_BATCHES_OF_A_SIZE = 10


class Annotated(NamedTuple):
    """One record: its image (channels, height, width), its objects, and the label of a record without objects."""

    image: np.ndarray
    objects: object_boxes.Objects
    label: int
    has_objects: bool


class AnnotatedRecords(DatabaseRecords):
    """The records of a database of AnnotatedDatum."""

    def _message(self, value: Bytes) -> caffe_pb2.AnnotatedDatum:
        try:
            return caffe_pb2.AnnotatedDatum.FromString(value)  # type: ignore[arg-type]  # a memoryview will do
        except DecodeError:
            raise CaffeError(f"not an AnnotatedDatum ({len(value)} bytes)") from None

    def _datum(self, message: caffe_pb2.AnnotatedDatum) -> caffe_pb2.Datum:
        return message.datum

    def _record(self, name: str, message: caffe_pb2.AnnotatedDatum) -> Annotated:
        image = datum.pixels(message.datum, self._colour)
        return Annotated(image, object_boxes.objects_of(message), message.datum.label, message.HasField("type"))


@register("AnnotatedData")
class AnnotatedData(BatchSource):
    """Images and the objects on them, in key order: (N, C, H, W), and (1, 1, G, 8) rows of image, label, instance,
    xmin, ymin, xmax, ymax, difficult as fractions of the image; no object at all: one row of -1.

    Each image is distorted (distort_param), put on a larger canvas (expand_param), cut to one of the boxes that the
    batch samplers found (batch_sampler), resized, cropped and mirrored; its objects go with it, those dropped that
    emit_constraint does not let pass. Records without annotations give (N) labels. In training, rank r of n takes the
    records k with k % n == r. Of several resize_param one is drawn, by their prob, for each ten batches.

    yolo_data_type 1: (N, 1, 300, 5) rows of label from 0 on, x, y, width, height, then zeros; without batch samplers a
    part of the image, of no less than 1 - yolo_data_jitter, is seen; without train_diffcult difficult objects are left
    out. Source: annotated_data_layer.cpp, data_transformer.cpp, of SSD and of MobileNet-YOLO.
    """

    tops = between(1, 2)
    deviations = "between its steps SSD writes the image as JPEG; here the pixels are handed on"

    def __init__(self, param: LayerParameter, context: Context) -> None:
        super().__init__(param, context)
        self._param = param.data_param
        self.check(bool(self._param.source), "data_param.source is missing: the folder of an LMDB or LevelDB")
        with self.about():
            self._database: Database = open_database(self._param.source, self._param.backend)
        tell_opened(self._database, context.emit)
        self._pool = ThreadPoolExecutor(usable_cores(), "augment")

    def set_up(self) -> None:
        p, transform = self._param, self.param.transform_param
        self.check(p.batch_size > 0, f"batch_size must be positive, not {p.batch_size}")
        self._samplers = list(self.param.annotated_data_param.batch_sampler)
        for sampler in self._samplers:
            self._check_sampler(sampler.sampler)
        self._emit = transform.emit_constraint if transform.HasField("emit_constraint") else None
        self._is_yolo = self.param.annotated_data_param.yolo_data_type == 1
        with self.about():
            self._transforms = [Transformer(one, self.phase, self.context) for one in _one_by_one(transform)]
            sizes = [transform.resize_param, *transform.resize_param_again]
            self._odds = np.array([size.prob for size in sizes], float)
            self.check(
                len(sizes) == 1 or abs(self._odds.sum() - 1) < 1e-4,
                f"the prob of the {len(sizes)} resize_param must add up to 1, not {self._odds.sum():g}",
            )
            colour = Colour.GRAY if transform.force_gray else Colour.COLOR if transform.force_color else None
            self._records = AnnotatedRecords(self._database, colour or Colour.AS_STORED)
            first, self.records = self._records.first, self._records.size
            self.check_records(self.records)
            self._image_shape = self._transforms[0].output_shape(first.image.shape)
            self._has_objects = first.has_objects or self.param.annotated_data_param.HasField("anno_type")
            resize = transform.resize_param
            if transform.HasField("resize_param") and resize.resize_mode == resize.FIT_SMALL_SIZE:
                self.check(p.batch_size == 1, "FIT_SMALL_SIZE gives images of many sizes: batch_size must be 1")
        self._first_objects = max(1, len(first.objects.labels))
        shape = self.top_shapes()[0]
        self.context.emit(notices.AnnotatedSize(",".join(map(str, shape))))

    def _check_sampler(self, sampler: caffe_pb2.Sampler) -> None:
        low, high = sampler.min_scale, sampler.max_scale
        self.check(0 < low <= high <= 1, f"sampler: needs 0 < min_scale <= max_scale <= 1, not {low:g} and {high:g}")
        low, high = sampler.min_aspect_ratio, sampler.max_aspect_ratio
        self.check(0 < low <= high, f"sampler: needs 0 < min_aspect_ratio <= max_aspect_ratio, not {low:g}, {high:g}")

    def top_shapes(self) -> list[Shape]:
        batch = self._param.batch_size
        labels = (1, 1, self._first_objects, 8) if self._has_objects else (batch,)
        if self._is_yolo and self._has_objects:
            labels = (batch, 1, _YOLO_ROWS, 5)
        return [(batch, *self._image_shape), labels][: len(self.param.top)]

    def make_batch(self, index: int) -> list[Tensor]:
        numbers = self.row_numbers(index, self._param.batch_size)
        with self.about():
            records = self._records.read((numbers % self._records.size).tolist())
            seeds = self.generator("augment", index).integers(1 << 62, size=len(records))
            transform = self._transforms[0]
            if len(self._transforms) > 1:
                chances = self._odds / self._odds.sum()
                drawn = self.generator("resize", index // _BATCHES_OF_A_SIZE).choice(len(chances), p=chances)
                transform = self._transforms[drawn]
            ready = list(self._pool.map(partial(self._one, transform), records, seeds.tolist()))
            images = transform.finish(np.stack([image for image, _ in ready]))
        labels: Any = [record.label for record in records]
        if self._has_objects:
            labels = (self._yolo_rows if self._is_yolo else self._rows)([objects for _, objects in ready])
        return [images, to_device(np.array(labels, np.float32), self.context.device)][: len(self.param.top)]

    @staticmethod
    def _rows(found: list[object_boxes.Objects]) -> np.ndarray:
        rows = [
            np.column_stack([np.full(len(o.labels), i), o.labels, o.instances, o.corners, o.difficult])
            for i, o in enumerate(found)
        ]
        table = np.concatenate(rows)
        return (table if len(table) else np.full((1, 8), -1)).reshape(1, 1, -1, 8)

    def _yolo_rows(self, found: list[object_boxes.Objects]) -> np.ndarray:
        table = np.zeros((len(found), 1, _YOLO_ROWS, 5), np.float32)
        for rows, o in zip(table[:, 0], found, strict=True):
            low, high = o.corners[:, :2], o.corners[:, 2:]
            own = np.column_stack([o.labels - 1, (low + high) / 2, high - low])
            if not self.param.annotated_data_param.train_diffcult:
                own = own[o.difficult == 0]
            rows[: len(own)] = own[:_YOLO_ROWS]
        return table

    def _one(self, transform: Transformer, record: Annotated, seed: int) -> tuple[np.ndarray, object_boxes.Objects]:
        """One image, uint8 (C, H, W), ready but for mean and scale, and its objects."""
        generator, p = np.random.Generator(np.random.Philox(seed)), self.param.transform_param
        image, objects = np.ascontiguousarray(record.image.transpose(1, 2, 0)), record.objects
        if p.HasField("distort_param"):
            image = augmentation.distort(image, p.distort_param, generator)
        if p.HasField("expand_param"):
            image, view = augmentation.expand(image, p.expand_param, list(p.mean_value), generator)
            objects = object_boxes.seen_in(view, objects, self._emit)
        boxes = object_boxes.sample(self._samplers, objects, generator)
        if self._is_yolo and not self._samplers:
            jitter = self.param.annotated_data_param.yolo_data_jitter
            boxes = [object_boxes.jittered(jitter, transform.keeps_aspect, generator)]
        if boxes:
            view = np.clip(boxes[generator.integers(len(boxes))], 0, 1)
            image, objects = augmentation.crop(image, view), object_boxes.seen_in(view, objects, self._emit)
        if transform.resize is not None:
            objects = object_boxes.after_resize(objects, image.shape[:2], transform.resize)
        image = transform.prepare(image, generator)
        image, view, is_mirrored = transform.cut(image, generator)
        objects = object_boxes.seen_in(view, objects, self._emit)
        return image, object_boxes.mirrored(objects) if is_mirrored else objects


def _one_by_one(transform: caffe_pb2.TransformationParameter) -> Iterator[caffe_pb2.TransformationParameter]:
    """One transform_param for each of its resize_param."""
    plain = caffe_pb2.TransformationParameter()
    plain.CopyFrom(transform)
    del plain.resize_param_again[:]
    yield plain
    for size in transform.resize_param_again:
        other = caffe_pb2.TransformationParameter()
        other.CopyFrom(plain)
        other.resize_param.CopyFrom(size)
        yield other
