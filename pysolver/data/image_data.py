"""ImageData: batches from image files named in a list (src/caffe/layers/image_data_layer.cpp)."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from torch import Tensor

from pysolver.blob import Shape
from pysolver.context import Context
from pysolver.cores import usable_cores
from pysolver.data import images
from pysolver.data.batch_source import BatchSource, to_device
from pysolver.data.image_lists import read_image_list
from pysolver.data.records import Record, Store, stamp
from pysolver.data.source import exactly, register
from pysolver.data.transformer import Transformer
from pysolver.errors import CaffeError
from pysolver.logs import notices
from pysolver.proto.caffe_pb2 import LayerParameter


@register("ImageData")
class ImageData(BatchSource):
    """The images of a list in its order, or shuffled anew in each epoch.

    In training, rank r of n takes the images k with k % n == r; Caffe's ranks all read all of them.
    """

    tops = exactly(2)

    def __init__(self, param: LayerParameter, context: Context) -> None:
        super().__init__(param, context)
        self._param = param.image_data_param
        self._colour = images.Colour.COLOR if self._param.is_color else images.Colour.GRAY
        self._pool: ThreadPoolExecutor | None = None

    def set_up(self) -> None:
        param = self._param
        self.check(param.batch_size > 0, f"batch_size must be positive, not {param.batch_size}")
        self.check(
            (param.new_height > 0) == (param.new_width > 0),
            f"new_height and new_width must be set at the same time, not {param.new_height} and {param.new_width}",
        )
        self.check(bool(param.source), "image_data_param.source is missing: a file with a line `path label` an image")
        with self.about():
            self._open_list()
            self._transform = Transformer(self.param.transform_param, self.phase, self.context)
            first = self.read(self._places(np.array([0])).tolist())[0]
            self._store = Store(
                len(self._lines),
                first,
                self.read,
                window=self._transform.smallest,
                cache_bytes=self.context.cache_bytes,
                pinned=self.context.device.type == "cuda",
                shelf=self.context.shelf,
                origin=(stamp(param.source), param.root_folder, param.new_height, param.new_width, param.is_color),
            )
            self._image_shape = self._transform.output_shape(first.image.shape)
        self.context.emit(notices.ImageSize(",".join(map(str, self.top_shapes()[0]))))

    def _open_list(self) -> None:
        param = self._param
        self.context.emit(notices.OpeningImageList(param.source))
        self._lines = read_image_list(param.source, self.context.emit)
        if param.shuffle:
            self.context.emit(notices.ShufflingImages())
        self.context.emit(notices.ListedImages(len(self._lines)))
        self.records = len(self._lines)
        self.check_records(self.records)
        if param.rand_skip:
            self.context.emit(notices.SkippingImages(self._skipped()))
            if self._skipped() >= len(self._lines):
                raise CaffeError(f"Not enough points to skip: rand_skip is {param.rand_skip}")

    def _skipped(self) -> int:
        if not self._param.rand_skip:
            return 0
        return int(self.generator("skip", 0, rank=0).integers(self._param.rand_skip))

    def top_shapes(self) -> list[Shape]:
        batch = self._param.batch_size
        return [(batch, *self._image_shape), (batch,)]

    def make_batch(self, index: int) -> list[Tensor]:
        batch = self._param.batch_size
        with self.about():
            pixels, labels = self._store.fetch(self._places(self.row_numbers(index, batch)))
            draws = self._transform.draw(lambda: self.generator("transform", index), batch)
            return [self._transform(pixels, draws), to_device(labels, self.context.device)]

    def name_of(self, number: int) -> str:
        place = self._places(np.array([number]))[0]
        return f"{self._param.source}:{place + 1}: {self._lines[place][0]}"

    def _places(self, numbers: np.ndarray) -> np.ndarray:
        """Lines of the list for running numbers of images."""
        numbers = numbers + self._skipped()
        epochs, places = np.divmod(numbers, len(self._lines))
        if self._param.shuffle:
            for epoch in np.unique(epochs):
                now = epochs == epoch
                places[now] = self.permutation("shuffle", int(epoch), len(self._lines))[places[now]]
        return places

    def read(self, places: Sequence[int]) -> list[Record]:
        """The images on these lines, decoded and resized. Raises CaffeError naming the line and the file."""
        if len(places) == 1:
            return [self._read_one(places[0])]
        self._pool = self._pool or ThreadPoolExecutor(usable_cores(), "decode")
        return list(self._pool.map(self._read_one, places))

    def _read_one(self, place: int) -> Record:
        param, (path, label) = self._param, self._lines[place]
        name = f"{param.source}:{place + 1}"
        try:
            image = images.read(param.root_folder + path, self._colour, param.new_height, param.new_width)
        except CaffeError as error:
            folder = param.root_folder
            hint = f"; root_folder '{folder}' is put in front as it is" if folder and folder[-1] != "/" else ""
            raise CaffeError(f"{name}: {error}{hint}") from None
        return Record(f"{name}: {param.root_folder}{path}", image, label)
