"""Images with a label for each pixel: ImageSegData of DeepLab, DenseImageData of SegNet and ENet."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from torch import Tensor

from pysolver.blob import Shape
from pysolver.context import Context
from pysolver.cores import usable_cores
from pysolver.data import images
from pysolver.data.batch_source import to_device
from pysolver.data.list_source import ListSource
from pysolver.data.source import between, exactly, register
from pysolver.data.transformer import read_mean
from pysolver.errors import CaffeError
from pysolver.extras import require
from pysolver.files import read_text
from pysolver.logs import notices
from pysolver.proto.caffe_pb2 import LayerParameter


class Pair(NamedTuple):
    """An image (height, width, channels) and the labels of its pixels (height, width), uint8."""

    image: np.ndarray
    labels: np.ndarray
    size: tuple[int, int]  # as it was read: height, width


class SegmentationData(ListSource):
    """What both share: a list of pairs, mean and scale."""

    line_form = "image labels"
    label_shape: Shape

    def __init__(self, param: LayerParameter, context: Context) -> None:
        super().__init__(param, context)
        self._pool = ThreadPoolExecutor(usable_cores(), "decode")

    def set_up(self) -> None:
        self.check_list()
        with self.about():
            self.open_list()
            self._mean = self._read_mean()
            first = self._one(self.first_line, np.random.default_rng(0))
        self._image_shape = first.image.transpose(2, 0, 1).shape
        self.label_shape = (1, *first.labels.shape)
        self.context.emit(notices.ImageSize(",".join(map(str, self.top_shapes()[0]))))

    def read_list(self, path: str) -> list[list[str]]:
        lines = [line.split() for line in read_text(path).split("\n") if line.strip()]
        if not lines:
            raise CaffeError(f"{path}: File is empty")
        return lines

    def _read_mean(self) -> np.ndarray:
        """(1, 1, channels), or that of an image (height, width, channels)."""
        t = self.param.transform_param
        if t.HasField("mean_file"):
            return read_mean(t.mean_file).transpose(1, 2, 0)
        return np.array(list(t.mean_value) or [0], np.float32).reshape(1, 1, -1)

    def top_shapes(self) -> list[Shape]:
        batch = self.list_param.batch_size
        return [(batch, *self._image_shape), (batch, *self.label_shape)]

    def make_batch(self, index: int) -> list[Tensor]:
        pairs = self._pairs(index)
        pixels = np.stack([pair.image for pair in pairs]).transpose(0, 3, 1, 2)
        labels = np.stack([pair.labels for pair in pairs])[:, None]
        sizes = np.minimum([pair.size for pair in pairs], pixels.shape[2:]).reshape(-1, 1, 1, 2)
        tops = [pixels, labels, sizes][: len(self.param.top)]
        return [to_device(np.ascontiguousarray(top, np.float32), self.context.device) for top in tops]

    def _pairs(self, index: int) -> list[Pair]:
        places = self.line_numbers(index)
        seeds = self.generator("transform", index).integers(1 << 62, size=len(places))
        with self.about():
            pairs = list(
                self._pool.map(lambda place, seed: self._one(place, np.random.default_rng(seed)), places, seeds)
            )
            if len({pair.image.shape for pair in pairs}) > 1:
                raise CaffeError("images of several sizes in one batch: set a crop, or new_height and new_width")
        return pairs

    def _one(self, place: int, generator: np.random.Generator) -> Pair:
        """The image on a line, as floats, and its labels."""
        name = f"{self.list_param.source}:{place + 1}"
        try:
            pair = self.read(self.lines[place])
            if pair.image.shape[:2] != pair.labels.shape and not self.labels_are_smaller:
                raise CaffeError(f"an image of {pair.image.shape[:2]} with labels of {pair.labels.shape}")
            return self.transform(pair, generator)
        except CaffeError as error:
            raise CaffeError(f"{name}: {error}") from None

    labels_are_smaller = False

    def read(self, words: list[str]) -> Pair:
        """The two files of a line."""
        raise NotImplementedError

    def transform(self, pair: Pair, generator: np.random.Generator) -> Pair:
        """What transform_param does to both alike; the image to float32."""
        raise NotImplementedError

    def load(self, path: str, is_color: bool, size: tuple[int, int]) -> np.ndarray:
        """An image (height, width, channels) in its size or, if it is not (0, 0), in this one, bilinearly."""
        colour = images.Colour.COLOR if is_color else images.Colour.GRAY
        return np.ascontiguousarray(images.read(self.list_param.root_folder + path, colour, *size).transpose(1, 2, 0))

    def centred(self, image: np.ndarray, top: int = 0, left: int = 0) -> np.ndarray:
        """(image - mean) * scale, the image being the part of the mean's that starts at (top, left)."""
        mean, (height, width) = self._mean, image.shape[:2]
        if mean.shape[:2] != (1, 1):
            mean = mean[top : top + height, left : left + width]
        if mean.shape[:2] not in ((1, 1), (height, width)) or mean.shape[2] not in (1, image.shape[2]):
            raise CaffeError(f"transform_param: a mean of {mean.shape} for an image of {image.shape}")
        return ((image.astype(np.float32) - mean) * np.float32(self.param.transform_param.scale)).astype(np.float32)


def _flipped(pair: Pair) -> Pair:
    return pair._replace(image=pair.image[:, ::-1], labels=pair.labels[:, ::-1])


@register("ImageSegData")
class ImageSegData(SegmentationData):
    """Images and labels: (N, C, H, W), (N, 1, H, W), and (N, 1, 1, 2): height and width of each image, no more than
    the blob's (DeepLab v2's image_seg_data_layer.cpp).

    A line is `image labels` (label_type PIXEL), `image number` (IMAGE: all pixels), or `image` (NONE: ignore_label).
    Both are scaled by one of scale_factors, labels to the nearest; padded below and to the right to the crop, the image
    with mean_value, the labels with ignore_label; cropped, in training at random, else the middle; mirrored.
    """

    tops = between(2, 3)

    def __init__(self, param: LayerParameter, context: Context) -> None:
        super().__init__(param, context)
        t = param.transform_param
        self._crop = (t.crop_size, t.crop_size) if t.crop_size else (t.crop_height, t.crop_width)
        self.check(all(self._crop) or not any(self._crop), "needs both crop_height and crop_width, or crop_size")
        self.check(not t.HasField("mean_file"), "ImageSegDataLayer does not support mean file")
        ignored = self.list_param.ignore_label
        self.check(0 <= ignored <= 255, f"ignore_label must be in 0..255, not {ignored}: labels are bytes")
        self.check(all(0 < factor < math.inf for factor in t.scale_factors), "scale_factors must be positive")
        with self.about():
            images.check_size(*self._crop)

    def top_shapes(self) -> list[Shape]:
        shapes = [*super().top_shapes(), (self.list_param.batch_size, 1, 1, 2)]
        return shapes[: len(self.param.top)]

    def read(self, words: list[str]) -> Pair:
        p = self.list_param
        size = (p.new_height, p.new_width)
        image = self.load(words[0], p.is_color, size)
        if p.label_type == p.PIXEL:
            if len(words) < 2:
                raise CaffeError("needs `image labels`")
            return Pair(image, self.load(words[1], False, size)[:, :, 0], image.shape[:2])
        try:
            number = int(words[1]) if p.label_type == p.IMAGE else p.ignore_label
        except (IndexError, ValueError):
            raise CaffeError("needs `image number`") from None
        if not 0 <= number <= 255:
            raise CaffeError(f"the label {str(number)[:20]} is not in 0..255: labels are bytes")
        return Pair(image, np.full(image.shape[:2], number, np.uint8), image.shape[:2])

    def transform(self, pair: Pair, generator: np.random.Generator) -> Pair:
        cv2, t = require("cv2"), self.param.transform_param
        image, labels, size_read = pair
        factor = float(t.scale_factors[generator.integers(len(t.scale_factors))]) if t.scale_factors else 1
        if factor != 1:
            size = max(int(image.shape[1] * factor), 1), max(int(image.shape[0] * factor), 1)
            images.check_size(*size)
            image = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR).reshape(*size[::-1], -1)
            labels = cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST)
        pixels = self.centred(image)
        if all(self._crop):
            below, right = (max(most - now, 0) for most, now in zip(self._crop, labels.shape))
            pixels = np.pad(pixels, ((0, below), (0, right), (0, 0)))  # the mean is 0 now
            labels = np.pad(labels, ((0, below), (0, right)), constant_values=self.list_param.ignore_label)
            room = [now - crop for now, crop in zip(labels.shape, self._crop)]
            top, left = (generator.integers(n + 1) for n in room) if self.is_training else (n // 2 for n in room)
            pixels = pixels[top : top + self._crop[0], left : left + self._crop[1]]
            labels = labels[top : top + self._crop[0], left : left + self._crop[1]]
        done = Pair(pixels, labels, size_read)
        return _flipped(done) if t.mirror and generator.integers(2) else done


@register("DenseImageData")
class DenseImageData(SegmentationData):
    """Images and labels: (N, C, H, W) and (N, 1, H, W), from lines `image labels` (SegNet's
    dense_image_data_layer.cpp).

    Both are resized to new_height x new_width, labels to the nearest and, in ENet's Caffe, smaller by
    label_divide_factor; with mirror, mirrored at random; a crop of crop_height x crop_width lies at random in both
    phases, as there. mean and scale are of the image only. Errors: transform_param with mirror or crop_size.
    """

    list_field = "dense_image_data_param"
    tops = exactly(2)

    def __init__(self, param: LayerParameter, context: Context) -> None:
        super().__init__(param, context)
        p = self.list_param
        self.labels_are_smaller = p.label_divide_factor > 1
        self.check(p.label_divide_factor > 0, "label_divide_factor must be positive")
        sides = [side for side in (p.new_height, p.new_width) if side]
        self.check(p.label_divide_factor <= min(sides, default=1 << 32), "label_divide_factor leaves nothing")
        self.check(
            (p.crop_height > 0) == (p.crop_width > 0),
            f"crop_height and crop_width must be set at the same time, not {p.crop_height} and {p.crop_width}",
        )
        self.check(not (self.labels_are_smaller and p.crop_height), "label_divide_factor and a crop do not go together")
        self.check(
            not self.labels_are_smaller or p.new_height > 0, "label_divide_factor needs new_height and new_width"
        )
        t = param.transform_param
        self.check(
            not t.mirror and not t.crop_size,
            "transform_param.mirror and crop_size would part image and labels: use dense_image_data_param's",
        )

    def read(self, words: list[str]) -> Pair:
        p, cv2 = self.list_param, require("cv2")
        if len(words) < 2:
            raise CaffeError("needs `image labels`")
        image, labels = self.load(words[0], p.is_color, (p.new_height, p.new_width)), self.load(words[1], False, (0, 0))
        labels = labels[:, :, 0]
        if p.new_height:
            size = p.new_width // p.label_divide_factor, p.new_height // p.label_divide_factor
            labels = cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST)
        return Pair(image, labels, image.shape[:2])

    def transform(self, pair: Pair, generator: np.random.Generator) -> Pair:
        p = self.list_param
        if p.mirror and generator.integers(2):
            pair = _flipped(pair)
        image, labels, top, left = pair.image, pair.labels, 0, 0
        if p.crop_height:
            room = image.shape[0] - p.crop_height, image.shape[1] - p.crop_width
            if min(room) < 0:
                raise CaffeError(f"a crop of {p.crop_height} x {p.crop_width} from an image of {image.shape[:2]}")
            top, left = (int(generator.integers(n + 1)) for n in room)
            image = image[top : top + p.crop_height, left : left + p.crop_width]
            labels = labels[top : top + p.crop_height, left : left + p.crop_width]
        return Pair(self.centred(image, top, left), labels, pair.size)
