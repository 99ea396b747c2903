"""ImageData: batches from image files named in a list (src/caffe/layers/image_data_layer.cpp)."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from torch import Tensor

from pysolver.blob import Shape
from pysolver.context import Context
from pysolver.cores import usable_cores
from pysolver.data import images
from pysolver.data.batch_source import to_device
from pysolver.data.image_lists import read_image_list
from pysolver.data.list_source import ListSource
from pysolver.data.records import Record, Store, stamp
from pysolver.data.source import exactly, register
from pysolver.data.transformer import Transformer
from pysolver.errors import CaffeError
from pysolver.logs import notices
from pysolver.proto.caffe_pb2 import LayerParameter


@register("ImageData")
class ImageData(ListSource):
    """The images of a list in its order, or shuffled anew in each epoch."""

    tops = exactly(2)

    def __init__(self, param: LayerParameter, context: Context) -> None:
        super().__init__(param, context)
        self._colour = images.Colour.COLOR if self.list_param.is_color else images.Colour.GRAY
        self._pool: ThreadPoolExecutor | None = None

    def set_up(self) -> None:
        param = self.list_param
        self.check_list()
        with self.about():
            self.open_list()
            self._transform = Transformer(self.param.transform_param, self.phase, self.context)
            first = self.read([self.first_line])[0]
            self._store = Store(
                len(self.lines),
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

    def read_list(self, path: str) -> list[tuple[str, int]]:
        return read_image_list(path, self.context.emit)

    def top_shapes(self) -> list[Shape]:
        batch = self.list_param.batch_size
        return [(batch, *self._image_shape), (batch,)]

    def make_batch(self, index: int) -> list[Tensor]:
        with self.about():
            pixels, labels = self._store.fetch(self.line_numbers(index))
            draws = self._transform.draw(lambda: self.generator("transform", index), len(pixels))
            return [self._transform(pixels, draws), to_device(labels, self.context.device)]

    def read(self, places: Sequence[int]) -> list[Record]:
        """The images on these lines, decoded and resized. Raises CaffeError naming the line and the file."""
        if len(places) == 1:
            return [self._read_one(places[0])]
        self._pool = self._pool or ThreadPoolExecutor(usable_cores(), "decode")
        return list(self._pool.map(self._read_one, places))

    def _read_one(self, place: int) -> Record:
        param, (path, label) = self.list_param, self.lines[place]
        name = f"{param.source}:{place + 1}"
        try:
            image = images.read(param.root_folder + path, self._colour, param.new_height, param.new_width)
        except CaffeError as error:
            folder = param.root_folder
            hint = f"; root_folder '{folder}' is put in front as it is" if folder and folder[-1] != "/" else ""
            raise CaffeError(f"{name}: {error}{hint}") from None
        return Record(f"{name}: {param.root_folder}{path}", image, label)
