"""What transform_param does to a batch (src/caffe/data_transformer.cpp): crop, mirror, mean, scale."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor

from pysolver.blob import Shape
from pysolver.context import Context
from pysolver.data.batch_source import to_device
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
        self.crop_size: int = param.crop_size
        self._mean = self._read_mean(context)
        self.is_random = param.mirror or (self._is_training and self.crop_size > 0)

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
        if self.crop_size > min(height, width):
            raise CaffeError(
                f"transform_param: crop_size {self.crop_size} is larger than the image ({height} x {width})"
            )
        if self._mean is not None:
            self._check_mean(image)
        return (channels, self.crop_size, self.crop_size) if self.crop_size else image

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
        if not self.is_random:
            return None
        return Draws(*generator().integers(1 << 32, size=(3, count), dtype=np.uint32))

    def __call__(self, images: np.ndarray | Sequence[np.ndarray], draws: Draws | None = None) -> Tensor:
        """N images, uint8 or float32 in (C, H, W), to a float32 tensor (N, C, H, W) on the device.

        images: one array (N, C, H, W), or, if they are to be cropped, a list of images of several sizes.
        """
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

    def _offsets(self, images: np.ndarray | Sequence[np.ndarray], draws: Draws | None) -> tuple:
        """First row and first column of the window: numbers, or arrays (N,) if they differ between images."""
        if not self.crop_size:
            return 0, 0
        if isinstance(images, np.ndarray):
            height, width = images.shape[2:]
        else:
            height, width = np.array([image.shape[1:] for image in images]).T
        if self._is_training:
            return draws.top % (height - self.crop_size + 1), draws.left % (width - self.crop_size + 1)
        return (height - self.crop_size) // 2, (width - self.crop_size) // 2

    def _crop(self, images: np.ndarray | Sequence[np.ndarray], top, left) -> np.ndarray:
        size = self.crop_size
        if not size:
            return images
        if not isinstance(images, np.ndarray):
            corners = zip(images, top, left, strict=True)
            return np.stack([image[:, y : y + size, x : x + size] for image, y, x in corners])
        if self._is_training:
            return sliding_window_view(images, (size, size), (2, 3))[np.arange(len(images)), :, top, left]
        return images[:, :, top : top + size, left : left + size]

    def _mean_below(self, top, left, mirrored: np.ndarray, count: int) -> Tensor:
        """The mean at the original place of each pixel: its image is cropped and mirrored with the images."""
        mean, size = self._mean, self.crop_size
        if mean.shape[1:] == (1, 1):
            return mean
        if size and self._is_training:
            rows, columns = (to_device(offsets.astype(np.int64), self._device) for offsets in (top, left))
            mean = mean.unfold(1, size, 1).unfold(2, size, 1)[:, rows, columns].transpose(0, 1)
        elif size:
            mean = mean[:, top : top + size, left : left + size]
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
