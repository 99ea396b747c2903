"""Data: batches from an LMDB or a LevelDB (src/caffe/layers/data_layer.cpp)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import Tensor

from pysolver.blob import Shape
from pysolver.context import Context
from pysolver.data.batch_source import BatchSource, to_device
from pysolver.data.database_records import DatabaseRecords
from pysolver.data.databases import LMDB, open_database, tell_opened
from pysolver.data.images import Colour
from pysolver.data.records import Store, stamp
from pysolver.data.source import between, register
from pysolver.data.transformer import Transformer
from pysolver.errors import CaffeError
from pysolver.logs import events as e
from pysolver.logs import notices
from pysolver.proto.caffe_pb2 import LayerParameter

_UNREAD = ("rand_skip", "force_encoded_color", "scale", "mean_file", "crop_size", "mirror")


@register("Data")
class Data(BatchSource):
    """Records in key order, for ever. In training, rank r of n takes the records k with k % n == r.

    Every record a run passes counts for k, across the end of the database, so batch i is made of known records.
    data_param.shuffle, of NVIDIA's and Intel's Caffe, or Cysu's shuffle_pool_size above 1: in another random order in
    each pass through the database.
    """

    tops = between(1, 2)
    deviations = "shuffle_pool_size shuffles all records, not a pool of some batches"

    def __init__(self, param: LayerParameter, context: Context) -> None:
        super().__init__(param, context)
        self._param = param.data_param
        self._is_shuffled = param.data_param.shuffle or param.data_param.shuffle_pool_size > 1
        self.check(bool(self._param.source), "data_param.source is missing: the folder of an LMDB or LevelDB")
        with self.about():
            self._database = open_database(self._param.source, self._param.backend)
        tell_opened(self._database, context.emit)

    def set_up(self) -> None:
        self.check(self._param.batch_size > 0, f"batch_size must be positive, not {self._param.batch_size}")
        for name in _UNREAD:
            if self._param.HasField(name):
                self.context.emit(notices.UnreadField(self.name, name))
        with self.about():
            self._transform = Transformer(self.param.transform_param, self.phase, self.context)
            self._store = self._open_store()
            self.records = self._store.size
            self.check_records(self.records)
            self._image_shape = self._transform.output_shape(self._store.shape)
        shape = self.top_shapes()[0]
        self.context.emit(notices.DataSize(",".join(map(str, shape))))

    def _open_store(self) -> Store:
        transform = self.param.transform_param
        if transform.force_color and transform.force_gray:
            raise CaffeError("transform_param: cannot set both force_color and force_gray")
        wanted = Colour.COLOR if transform.force_color else Colour.GRAY if transform.force_gray else Colour.AS_STORED
        records = DatabaseRecords(self._database, wanted, scattered=self._is_shuffled)
        if wanted is not Colour.AS_STORED and not records.is_encoded:
            self.context.emit(notices.ForcedColour())
        return Store(
            records.size,
            records.first,
            records.read,
            window=self._transform.smallest,
            cache_bytes=self.context.cache_bytes,
            pinned=self.context.device.type == "cuda",
            shelf=self.context.shelf if self._param.backend == LMDB else None,  # a LevelDB has several files
            origin=(stamp(Path(self._param.source) / "data.mdb"), wanted) if self._param.backend == LMDB else None,
        )

    def top_shapes(self) -> list[Shape]:
        batch = self._param.batch_size
        return [(batch, *self._image_shape), (batch,)][: len(self.param.top)]

    def make_batch(self, index: int) -> list[Tensor]:
        numbers = self.row_numbers(index, self._param.batch_size)
        self._log_restarts(numbers)
        with self.about():
            images, labels = self._store.fetch(self.places(numbers, self._store.size, self._is_shuffled))
            draws = self._transform.draw(lambda: self.generator("transform", index), len(images))
            tops = [self._transform(images, draws), to_device(labels, self.context.device)]
        return tops[: len(self.param.top)]

    def name_of(self, number: int) -> str:
        place = self.places(np.array([number]), self._store.size, self._is_shuffled)[0]
        return f"record {place}, counted from 0, of {self._param.source}"

    def _log_restarts(self, numbers: np.ndarray) -> None:
        """Caffe's line for each end of the database among the records that this batch reads or passes over."""
        first_passed = max(0, numbers[0] - self.ranks + 1)
        for _ in range((numbers[-1] + 1) // self._store.size - first_passed // self._store.size):
            self.context.emit(e.RestartingData())
