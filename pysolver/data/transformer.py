"""What transform_param does to a batch (src/caffe/data_transformer.cpp): crop, mirror, mean, scale; before these,
of Intel, a random size or part, of SSD, resize and noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor

from pysolver.blob import Shape
from pysolver.context import Context
from pysolver.data import augmentation, object_boxes
from pysolver.data.batch_source import to_device
from pysolver.data.images import to_planes
from pysolver.data.records import format_shape
from pysolver.errors import CaffeError
from pysolver.logs import notices
from pysolver.proto import caffe_pb2
from pysolver.proto.blobproto import read_array


class Draws(NamedTuple):
    """One random number an image for each decision, independent of the image's size. uint32, shape (N,)."""

    mirror: np.ndarray
    top: np.ndarray
    left: np.ndarray


class Transformer:
    """Raw images to float batches: (pixel - mean) * scale of a window of the image, perhaps mirrored.

    Pixels stay bytes until they are on the device: the windows are cut and mirrored on the host, which only moves the
    bytes needed, and all arithmetic is done for the whole batch where it will be used.
    """

    def __init__(self, param: caffe_pb2.TransformationParameter, phase: int, context: Context) -> None:
        self._param = param
        self._device = context.device
        self._is_training = phase == caffe_pb2.TRAIN
        size = param.crop_size
        sides = param.crop_h or param.crop_height, param.crop_w or param.crop_width  # SSD's and Cysu's
        self.crop: Shape | None = (size, size) if size else sides if all(sides) else None
        self.resize = param.resize_param if param.HasField("resize_param") else None
        self._noise = param.noise_param if param.HasField("noise_param") else None
        if self.resize:
            augmentation.check_resize(self.resize)
        self._resizes_at_random = param.HasField("random_resize_param") or param.HasField("random_aspect_ratio_param")
        if self._resizes_at_random:
            self._check_random()
        self.prepares = bool(self.resize or self._noise or self._resizes_at_random)
        self._mean = self._read_mean(context)
        self.is_random = param.mirror or (self._is_training and self.crop is not None)

    @property
    def smallest(self) -> Sequence[int] | None:
        """Height and width that images of one batch must have if they may differ in them; None: they may not."""
        return (1, 1) if self.resize or self._resizes_at_random else self.crop

    @property
    def keeps_aspect(self) -> bool:
        """Whether resizing pads instead of distorting."""
        return self.resize is not None and self.resize.resize_mode == self.resize.FIT_LARGE_SIZE_AND_PAD

    def _check_random(self) -> None:
        p = self._param
        for name in ("random_resize_param", "random_aspect_ratio_param"):
            if p.HasField(name) and not p.crop_size:
                raise CaffeError(f"transform_param: {name} needs a crop_size")
            if p.HasField(name) and p.HasField("mean_file"):
                raise CaffeError(f"transform_param: {name} and mean_file do not go together: give mean_value")
        area = p.random_aspect_ratio_param
        if not 0 < area.min_area_ratio <= area.max_area_ratio or not 0 < area.aspect_ratio_change <= 1:
            raise CaffeError(
                "transform_param: random_aspect_ratio_param needs 0 < min_area_ratio <= max_area_ratio and "
                "0 < aspect_ratio_change <= 1"
            )

    def _read_mean(self, context: Context) -> Tensor | None:
        """(C, H, W) from mean_file, (C or 1, 1, 1) from mean_value."""
        param = self._param
        if param.HasField("mean_file"):
            if param.mean_value:
                raise CaffeError("transform_param: Cannot specify mean_file and mean_value at the same time")
            context.emit(notices.LoadingMean(param.mean_file))
            return to_device(read_mean(param.mean_file), self._device)
        if param.mean_value:
            return torch.tensor(list(param.mean_value), device=self._device).reshape(-1, 1, 1)
        return None

    def output_shape(self, image: Shape) -> Shape:
        """(C, H, W) after the transformation of (C, H, W). Raises CaffeError if they do not fit together."""
        channels, height, width = image
        if self.resize:
            height, width = object_boxes.resized((height, width), self.resize)
        elif self._resizes_at_random:
            height, width = self.crop  # where an image is too small, its own batch says so
        if self.crop and (self.crop[0] > height or self.crop[1] > width):
            size = self._param.crop_size or f"{self.crop[0]} x {self.crop[1]}"
            raise CaffeError(f"transform_param: crop_size {size} is larger than the image ({height} x {width})")
        if self._mean is not None:
            self._check_mean((channels, height, width))
        return (channels, *(self.crop or (height, width)))

    def _check_mean(self, image: Shape) -> None:
        mean = tuple(self._mean.shape)
        if self._param.HasField("mean_file"):
            if mean != tuple(image):
                raise CaffeError(
                    f"transform_param: mean_file {self._param.mean_file} has the shape {format_shape(mean)}, "
                    f"the uncropped image {format_shape(image)} (channels x height x width)"
                )
        elif mean[0] not in (1, image[0]):
            raise CaffeError(
                f"transform_param: Specify either 1 mean_value or as many as channels: {image[0]}, not {mean[0]}"
            )

    def draw(self, generator: Callable[[], np.random.Generator], count: int) -> Draws | None:
        """The random decisions for `count` images; the generator is only made if there are any."""
        if not self.is_random and not self.prepares:
            return None
        return Draws(*generator().integers(1 << 32, size=(3, count), dtype=np.uint32))

    def __call__(self, images: np.ndarray | Sequence[np.ndarray], draws: Draws | None = None) -> Tensor:
        """N images, uint8 or float32 in (C, H, W), to a float32 tensor (N, C, H, W) on the device.

        images: one array (N, C, H, W), or, if they are to be cropped, a list of images of several sizes.
        """
        if self.prepares:
            images = self._prepared(images, draws)
        self._check_sizes(images)
        top, left = self._offsets(images, draws)
        mirrored = np.flatnonzero(draws.mirror % 2) if draws is not None and self._param.mirror else np.array([], int)
        pixels = self._crop(images, top, left)
        if len(mirrored):
            is_ours = pixels is not images and pixels.flags.owndata
            pixels = pixels if is_ours else pixels.copy()
            pixels[mirrored] = pixels[mirrored][..., ::-1]
        value = to_device(pixels, self._device).to(torch.float32, copy=True, memory_format=torch.contiguous_format)
        if self._mean is not None:
            value -= self._mean_below(top, left, mirrored, len(pixels))
        if self._param.scale != 1:
            value *= self._param.scale
        return value

    def _prepared(
        self, images: np.ndarray | Sequence[np.ndarray], draws: Draws | None
    ) -> np.ndarray | list[np.ndarray]:
        done = []
        for image, *numbers in zip(images, *(part.tolist() for part in draws), strict=True):
            generator = np.random.default_rng(numbers)
            done.append(to_planes(self.prepare(np.ascontiguousarray(image.transpose(1, 2, 0)), generator)))
        return np.stack(done) if len({image.shape for image in done}) == 1 else done

    # ---- one image (height, width, channels) after the other, for sources whose images have objects on them --------

    def prepare(self, image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """random_resize_param or random_aspect_ratio_param; resize_param; noise_param."""
        p = self._param
        if p.HasField("random_resize_param"):
            image = augmentation.random_size(image, p.random_resize_param, generator)
        elif self._resizes_at_random:
            image = augmentation.random_aspect(image, p.random_aspect_ratio_param, p.crop_size, generator)
        if self.resize:
            image = augmentation.resize(image, self.resize, generator)
        return augmentation.noise(image, self._noise, generator) if self._noise else image

    def cut(self, image: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray, bool]:
        """Crop and mirror: the image as (C, H, W), the crop as a box in fractions of the image, whether mirrored."""
        (height, width), view = image.shape[:2], object_boxes.WHOLE
        if self.crop:
            rows, columns = self.crop
            if rows > height or columns > width:
                raise CaffeError(f"transform_param: a crop of {rows} x {columns} from an image of {height} x {width}")
            top, left = (height - rows) // 2, (width - columns) // 2
            if self._is_training:
                top, left = (int(generator.integers(n + 1)) for n in (height - rows, width - columns))
            image = image[top : top + rows, left : left + columns]
            view = np.array([left / width, top / height, (left + columns) / width, (top + rows) / height], np.float32)
        is_mirrored = bool(self._param.mirror and generator.integers(2))
        planes = to_planes(np.ascontiguousarray(image))
        return planes[:, :, ::-1] if is_mirrored else planes, view, is_mirrored

    def finish(self, images: np.ndarray) -> Tensor:
        """Cut images (N, C, H, W) to floats on the device: minus the mean, times the scale."""
        value = to_device(images, self._device).to(torch.float32, copy=True)
        if self._mean is not None:
            if tuple(self._mean.shape[1:]) not in ((1, 1), tuple(value.shape[2:])):
                raise CaffeError(
                    f"transform_param: mean_file {self._param.mean_file} is of {format_shape(self._mean.shape[1:])}, "
                    f"the images are of {format_shape(value.shape[2:])}"
                )
            value -= self._mean
        return value * self._param.scale if self._param.scale != 1 else value

    def _check_sizes(self, images: np.ndarray | Sequence[np.ndarray]) -> None:
        shapes = [images.shape[1:]] if isinstance(images, np.ndarray) else [image.shape for image in images]
        for shape in shapes if self.crop else []:
            if shape[1] < self.crop[0] or shape[2] < self.crop[1]:
                crop = format_shape(self.crop)
                raise CaffeError(f"an image of {format_shape(shape)} is smaller than the crop, {crop}")

    def _offsets(self, images: np.ndarray | Sequence[np.ndarray], draws: Draws | None) -> tuple:
        """First row and first column of the window: numbers, or arrays (N,) if they differ between images."""
        if not self.crop:
            return 0, 0
        if isinstance(images, np.ndarray):
            height, width = images.shape[2:]
        else:
            height, width = np.array([image.shape[1:] for image in images]).T
        if self._is_training:
            return draws.top % (height - self.crop[0] + 1), draws.left % (width - self.crop[1] + 1)
        return (height - self.crop[0]) // 2, (width - self.crop[1]) // 2

    def _crop(self, images: np.ndarray | Sequence[np.ndarray], top, left) -> np.ndarray:
        if not self.crop:
            return images  # type: ignore[return-value]  # one array: of several sizes only to be cropped
        rows, columns = self.crop
        if not isinstance(images, np.ndarray):
            corners = zip(images, top, left, strict=True)
            return np.stack([image[:, y : y + rows, x : x + columns] for image, y, x in corners])
        if self._is_training:
            return sliding_window_view(images, self.crop, (2, 3))[np.arange(len(images)), :, top, left]
        return images[:, :, top : top + rows, left : left + columns]

    def _mean_below(self, top, left, mirrored: np.ndarray, count: int) -> Tensor:
        """The mean at the original place of each pixel: its image is cropped and mirrored with the images."""
        mean, size = self._mean, self.crop
        if mean.shape[1:] == (1, 1):
            return mean
        if size and self._is_training:
            rows, columns = (to_device(offsets.astype(np.int64), self._device) for offsets in (top, left))
            mean = mean.unfold(1, size[0], 1).unfold(2, size[1], 1)[:, rows, columns].transpose(0, 1)
        elif size:
            mean = mean[:, top : top + size[0], left : left + size[1]]
        if len(mirrored):
            mean = mean.expand(count, *mean.shape[-3:]).contiguous()
            places = to_device(mirrored, self._device)
            mean[places] = mean[places].flip(3)
        return mean


def read_mean(path: str) -> np.ndarray:
    """The mean image of a .binaryproto as float32 (C, H, W): stored so, or as 1 x C x H x W."""
    mean = read_array(path)
    if mean.ndim == 4 and mean.shape[0] == 1:
        mean = mean[0]
    if mean.ndim != 3:
        raise CaffeError(
            f"{path}: a mean image has the shape 1 x channels x height x width, not {format_shape(mean.shape)}"
        )
    return np.ascontiguousarray(mean, dtype=np.float32)
