"""EvalData: whole images with their objects, one after the other, to test detectors (Cascade R-CNN)."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from pysolver.blob import Shape
from pysolver.context import Context
from pysolver.data import images
from pysolver.data.batch_source import BatchSource, to_device
from pysolver.data.source import between, register
from pysolver.data.window_file import read_object_file
from pysolver.errors import CaffeError
from pysolver.extras import require

_STEP = 32  # sides are multiples of it


@register("EvalData")
class EvalData(BatchSource):
    """Images in the order of the file: (N, 3, H, W); objects (G, 8, 1, 1): image, x1, y1, x2, y2, label, ignore,
    difficult in the image's new pixels, none: one row of -1; new sizes (N, 2, 1, 1): height, width
    (eval_data_layer.cpp of Cascade R-CNN).

    An image becomes resize_height x resize_width; or its shorter side short_size, no side longer than long_size; each
    side then the nearest multiple of 32; less mean_value, times scale. Without a fixed size batch_size is 1.
    """

    tops = between(2, 3)

    def __init__(self, param: Any, context: Context) -> None:
        super().__init__(param, context)
        self.p, self.t = param.eval_data_param, param.transform_param
        self.fixed = (self.p.resize_height, self.p.resize_width)

    def set_up(self) -> None:
        p, t = self.p, self.t
        self.check(bool(p.source), "source is missing: a window file")
        self.check(p.batch_size > 0, f"batch_size must be positive, not {p.batch_size}")
        self.check(all(self.fixed) or p.batch_size == 1, "batch_size is 1 without resize_height and resize_width")
        self.check(bool(p.short_size) == bool(p.long_size), "short_size and long_size are given together")
        self.check(len(t.mean_value) in (0, 1, 3), "Specify either 1 mean_value or as many as channels: 3")
        self.check(not (t.mean_file or t.mirror or t.crop_size), "of transform_param, mean_value and scale are read")
        with self.about():
            self._images = read_object_file(p.source)
            self.records = len(self._images)
            self._shape = self._read(0)[0].shape

    def top_shapes(self) -> list[Shape]:
        batch = self.p.batch_size
        return [(batch, *self._shape), (1, 8, 1, 1), (batch, 2, 1, 1)][: self.top_count]

    def size(self, height: int, width: int) -> tuple[int, int]:
        """The new one of an image of this size."""
        if all(self.fixed):
            height, width = self.fixed
        elif self.p.short_size:
            factor = np.float32(self.p.short_size) / np.float32(min(height, width))
            height, width = (min(int(side * factor + 0.5), self.p.long_size) for side in (height, width))
        return tuple(max(int(side / _STEP + 0.5), 1) * _STEP for side in (height, width))  # type: ignore[return-value]

    def make_batch(self, index: int) -> list[Tensor]:
        places = self.row_numbers(index, self.p.batch_size) % len(self._images)
        with self.about():
            parts = [self._read(int(place)) for place in places]
        rows = [np.insert(objects, 0, item, 1) for item, (_, objects) in enumerate(parts)]
        objects = np.concatenate(rows) if any(len(row) for row in rows) else np.full((1, 8), -1, np.float32)
        sizes = np.array([pixels.shape[1:] for pixels, _ in parts], np.float32)
        tops = [np.stack([pixels for pixels, _ in parts]), objects.reshape(-1, 8, 1, 1), sizes.reshape(-1, 2, 1, 1)]
        device = self.context.device
        return [to_device(np.ascontiguousarray(top, np.float32), device) for top in tops[: self.top_count]]

    def _read(self, place: int) -> tuple[np.ndarray, np.ndarray]:
        """The pixels (3, H, W) and objects (G, 7: box, label, ignore, difficult) of one image."""
        path, objects = self._images[place].path, self._images[place].objects
        try:
            image = images.read(self.p.root_folder + path, images.Colour.COLOR)
        except CaffeError as error:
            raise CaffeError(f"{self.p.source}: # {place}: {error}") from None
        size = self.size(*image.shape[1:])
        images.check_size(*size)
        factor = np.array([size[1] / image.shape[2], size[0] / image.shape[1]] * 2, np.float32)
        if size != image.shape[1:]:
            image = images.to_planes(require("cv2").resize(image.transpose(1, 2, 0), size[::-1]))
        mean = np.array(list(self.t.mean_value) or [0], np.float32).reshape(-1, 1, 1)
        table = np.array(objects, np.float32).reshape(-1, 7)
        return (image - mean) * np.float32(self.t.scale), np.concatenate([table[:, 3:] * factor, table[:, :3]], 1)
