"""WindowData: batches of boxes cut out of images (src/caffe/layers/window_data_layer.cpp, the R-CNN sampler)."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pysolver.blob import Shape
from pysolver.context import Context
from pysolver.cores import usable_cores
from pysolver.data import images
from pysolver.data.batch_source import BatchSource, to_device
from pysolver.data.place_truth import away
from pysolver.data.source import exactly, register
from pysolver.data.transformer import read_mean
from pysolver.data.window_file import Window, read_window_file
from pysolver.errors import CaffeError
from pysolver.extras import require
from pysolver.logs import notices
from pysolver.proto.caffe_pb2 import LayerParameter, WindowDataParameter


@register("WindowData")
class WindowData(BatchSource):
    """Random background windows, then random foreground windows, each warped to crop_size x crop_size."""

    tops = exactly(2)
    deviations = "scale may stand in window_data_param or in transform_param; the former wins."

    def __init__(self, param: LayerParameter, context: Context) -> None:
        super().__init__(param, context)
        self._param, self._transform = param.window_data_param, param.transform_param
        self._size: int = param.transform_param.crop_size
        self._files: dict[str, bytes] = {}  # cache_images
        self._pool = ThreadPoolExecutor(usable_cores(), "decode")

    def set_up(self) -> None:
        param = self._param
        self.check(param.batch_size > 0, f"batch_size must be positive, not {param.batch_size}")
        self.check(self._size > 0, "transform_param.crop_size must be positive: the size that windows are warped to")
        self.check(param.crop_mode in ("warp", "square"), f"crop_mode must be warp or square, not '{param.crop_mode}'")
        self.check(
            2 * param.context_pad < self._size,
            f"context_pad {param.context_pad} leaves nothing of crop_size {self._size}",
        )
        self._foregrounds = int(np.float32(param.batch_size) * np.float32(param.fg_fraction))
        self.check(0 <= self._foregrounds <= param.batch_size, f"fg_fraction {param.fg_fraction:g} is not in 0..1")
        self._log_parameters()
        with self.about():
            require("cv2")
            images.check_size(self._size, self._size)
            self._read_windows()
            self._mean = self._read_mean()
        self._scale = param.scale if param.HasField("scale") else self._transform.scale
        self.context.emit(notices.WindowSize(",".join(map(str, self.top_shapes()[0]))))

    def _log_parameters(self) -> None:
        param = self._param
        self.context.emit(
            notices.Windows(
                param.fg_threshold, param.bg_threshold, param.fg_fraction, int(param.cache_images), param.root_folder
            )
        )

    def _read_windows(self) -> None:
        """Sort the windows into foreground (its class) and background (class 0); those between are dropped."""
        param = self._param
        self._images, windows = read_window_file(param.source)
        self._foreground, self._background = [], []
        for window in windows:
            if window.overlap >= param.fg_threshold:
                if window.label <= 0:
                    raise CaffeError(
                        f"{param.source}: a foreground window (overlap {window.overlap:g}) of class {window.label}: "
                        "classes are positive, 0 is the background"
                    )
                self._foreground.append(window)
            elif window.overlap < param.bg_threshold:
                self._background.append(window._replace(label=0, overlap=0.0))
        for name, wanted, found in (
            ("foreground", self._foregrounds, self._foreground),
            ("background", param.batch_size - self._foregrounds, self._background),
        ):
            if wanted and not found:
                raise CaffeError(f"{param.source}: no {name} window, but each batch takes {wanted}")
        self._log_windows()

    def _log_windows(self) -> None:
        for image in self._images[::100]:
            size = image.channels, image.height, image.width
            self.context.emit(notices.WindowImage(image.index, image.path, *size, image.windows))
        self.context.emit(notices.WindowImages(len(self._images)))
        samples = Counter(window.label for window in self._foreground + self._background)
        for label, count in sorted(samples.items()):
            self.context.emit(notices.WindowClass(label, count))
        self.context.emit(notices.WindowPadding(self._param.context_pad))
        self.context.emit(notices.WindowCrop(self._param.crop_mode))

    def _read_mean(self) -> Tensor | None:
        """(3, crop, crop) from the middle of mean_file, (3 or 1, 1, 1) from mean_value."""
        transform = self._transform
        if transform.HasField("mean_file"):
            if transform.mean_value:
                raise CaffeError("transform_param: Cannot specify mean_file and mean_value at the same time")
            mean = read_mean(transform.mean_file)
            offset = (mean.shape[2] - self._size) // 2
            if mean.shape[0] != 3 or min(mean.shape[1:]) < self._size + offset:
                raise CaffeError(f"{transform.mean_file}: of shape {mean.shape}, too small for crop_size {self._size}")
            window = slice(offset, offset + self._size)
            return to_device(np.ascontiguousarray(mean[:, window, window]), self.context.device)
        if transform.mean_value:
            if len(transform.mean_value) not in (1, 3):
                raise CaffeError("transform_param: Specify either 1 mean_value or as many as channels: 3")
            return torch.tensor(list(transform.mean_value), device=self.context.device).reshape(-1, 1, 1)
        return None

    def top_shapes(self) -> list[Shape]:
        batch = self._param.batch_size
        return [(batch, 3, self._size, self._size), (batch,)]

    def make_batch(self, index: int) -> list[Tensor]:
        batch = self._param.batch_size
        draws, mirrors = self.generator("windows", index).integers(1 << 32, size=(2, batch), dtype=np.uint32).tolist()
        is_background = [place < batch - self._foregrounds for place in range(batch)]
        pools = [self._background if back else self._foreground for back in is_background]
        windows = [pool[draw % len(pool)] for pool, draw in zip(pools, draws)]
        mirrored = [self._transform.mirror and draw % 2 == 1 for draw in mirrors]
        with self.about():
            cut = list(self._pool.map(self._cut, windows, mirrored))
        pixels, covered = (to_device(np.stack(part), self.context.device) for part in zip(*cut))
        value = pixels.float()
        if self._mean is not None:
            value -= self._mean
        labels = np.array([window.label for window in windows], np.float32)
        return [value * self._scale * covered[:, None], to_device(labels, self.context.device)]

    def _cut(self, window: Window, mirrored: bool) -> tuple[np.ndarray, np.ndarray]:
        """The warped window as bytes (3, crop, crop), and which of its pixels come from the image (crop, crop)."""
        cv2 = require("cv2")
        image = self._image(window)
        place = fit_window(window, image.shape[:2], self._size, self._param, mirrored)
        roi = image[place.y1 : place.y2 + 1, place.x1 : place.x2 + 1]
        pixels = np.zeros((3, self._size, self._size), np.uint8)
        covered = np.zeros((self._size, self._size), bool)
        if place.height > 0 and place.width > 0:
            warped = cv2.resize(roi, (place.width, place.height), interpolation=cv2.INTER_LINEAR)
            warped = warped[:, ::-1] if mirrored else warped
            rows, columns = slice(place.top, place.top + place.height), slice(place.left, place.left + place.width)
            pixels[:, rows, columns] = warped.transpose(2, 0, 1)
            covered[rows, columns] = True
        return pixels, covered

    def _image(self, window: Window) -> np.ndarray:
        """The window's image, B, G, R in (height, width, 3)."""
        path = self._param.root_folder + self._images[window.image].path
        file = self._files.get(path) or images.load(path)
        if self._param.cache_images:
            self._files[path] = file
        try:
            image = images.decode(file, images.Colour.COLOR).transpose(1, 2, 0)
        except CaffeError as error:
            raise CaffeError(f"Could not load {path}: {error}") from None
        if not (0 <= window.x1 <= window.x2 < image.shape[1] and 0 <= window.y1 <= window.y2 < image.shape[0]):
            corners = f"({window.x1}, {window.y1}) to ({window.x2}, {window.y2})"
            raise CaffeError(f"{path}: a window from {corners} in an image of {image.shape[1]} x {image.shape[0]}")
        return np.ascontiguousarray(image)


class Placement(NamedTuple):
    """Where a window is read from (corners included) and where its warped pixels go in the crop."""

    x1: int
    y1: int
    x2: int
    y2: int
    top: int
    left: int
    height: int
    width: int


def fit_window(
    window: Window, image: tuple[int, int], size: int, param: WindowDataParameter, mirrored: bool
) -> Placement:
    """Scale a window about its centre so that context_pad pixels of the crop lie around it, and clip it to the image.

    image: (height, width). What lies outside the image stays empty in the crop, on the side where it is.
    """
    x1, y1, x2, y2 = window.x1, window.y1, window.x2, window.y2
    square = param.crop_mode == "square"
    if param.context_pad == 0 and not square:
        return Placement(x1, y1, x2, y2, 0, 0, size, size)
    half_height, half_width = (y2 - y1 + 1) / 2, (x2 - x1 + 1) / 2
    centre_x, centre_y = x1 + half_width, y1 + half_height
    if square:
        half_height = half_width = max(half_height, half_width)
    context = size / (size - 2 * param.context_pad)
    x1, x2 = away(centre_x - half_width * context), away(centre_x + half_width * context)
    y1, y2 = away(centre_y - half_height * context), away(centre_y + half_height * context)
    scale_y, scale_x = size / (y2 - y1 + 1), size / (x2 - x1 + 1)
    above, below = max(0, -y1), max(0, y2 - image[0] + 1)
    before, behind = max(0, -x1), max(0, x2 - image[1] + 1)
    x1, y1, x2, y2 = x1 + before, y1 + above, x2 - behind, y2 - below
    top, left = away(above * scale_y), away((behind if mirrored else before) * scale_x)
    height = min(away((y2 - y1 + 1) * scale_y), size - top)
    width = min(away((x2 - x1 + 1) * scale_x), size - left)
    return Placement(x1, y1, x2, y2, top, left, height, width)
