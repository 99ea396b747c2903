"""What the training data of MS-CNN and Cascade R-CNN share: a view around an object, and the truth of its places."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from pysolver.blob import Shape
from pysolver.context import Context
from pysolver.cores import usable_cores
from pysolver.data import images, place_truth
from pysolver.data.batch_source import BatchSource, to_device
from pysolver.data.place_truth import Grid, Rules, Truth, View, away
from pysolver.data.source import at_least
from pysolver.data.window_file import ObjectImage, read_object_file
from pysolver.errors import CaffeError
from pysolver.extras import require

_NOISE = 10  # pixels


class Scene(NamedTuple):
    """An image, uint8 (H, W, 3), with boxes in its pixels, the regions of no interest behind the objects."""

    image: np.ndarray
    boxes: np.ndarray

    def moved(self, factors: tuple[float, float] = (1, 1), shift: tuple[int, int] = (0, 0)) -> Scene:
        """Its boxes times (x, y) factors plus (x, y) pixels."""
        boxes = self.boxes * np.array(factors * 2, np.float32) + np.array(shift * 2, np.float32)
        return self._replace(boxes=boxes)

    def mirrored(self) -> Scene:
        x1, y1, x2, y2 = self.boxes.T
        width = self.image.shape[1]
        return Scene(np.ascontiguousarray(self.image[:, ::-1]), np.stack([width - x2, y1, width - x1, y2], 1))

    def resized(self, height: int, width: int) -> Scene:
        """In another size, the boxes as they are. CaffeError for one that no image may have."""
        if not height > 0 < width:
            raise CaffeError(f"an image of {self.image.shape[:2]} cannot be resized to {height} x {width}")
        images.check_size(height, width)
        return self._replace(image=require("cv2").resize(self.image, (width, height)))


class DetectionSource(BatchSource):
    """Images of a window file, each seen around one of its objects, and what the places of some grids should say."""

    tops = at_least(1)
    is_cascade: bool

    def __init__(self, param: Any, context: Context) -> None:
        super().__init__(param, context)
        self.p: Any = param.detection_data_param if self.is_cascade else param.image_gt_data_param
        self.t = param.transform_param
        self._pool = ThreadPoolExecutor(usable_cores(), "views")
        self._epoch = -1

    def set_up(self) -> None:
        p, t = self.p, self.t
        self.check(bool(p.source), "source is missing: a window file")
        self.check(p.batch_size > 0, f"batch_size must be positive, not {p.batch_size}")
        self.check(p.coord_num == 4, f"coord_num is 4, not {p.coord_num}")
        strides = list(p.stride if self.is_cascade else p.downsample_rate)
        fields = len(strides), len(p.field_h), len(p.field_w)
        self.check(len(set(fields)) == 1, f"needs as many strides as field_h and field_w, not {fields}")
        self._grids = [Grid(*sizes) for sizes in zip(strides, p.field_h, p.field_w, strict=True)]
        self.check(all(min(grid) > 0 for grid in self._grids), "strides, field_h and field_w must be positive")
        tops = 1 + len(self._grids) + p.output_gt_boxes
        self.check(self.top_count == tops, f"gives {tops} tops, not {self.top_count}: images, grids, objects if asked")
        self.check(len(t.mean_value) in (0, 1, 3), "Specify either 1 mean_value or as many as channels: 3")
        self.check(not (t.mean_file or t.crop_size), "of transform_param, mean_value, mirror and scale are read")
        self._rules = self.rules()
        self.check(self._rules.fg > 0, f"fg_threshold must be positive, not {self._rules.fg:g}")
        with self.about():
            self.images = self.listed(read_object_file(p.source, self.is_cascade))
            for image in self.images:
                self._check_objects(image)
            self.records = len(self.images)
            self.check_records(self.records)
            self.canvas = self.first_size(self.images[-1])
            images.check_size(*self.canvas)
        self._shapes(*self.canvas)

    def _check_objects(self, image: ObjectImage) -> None:
        for label, _, _, x1, y1, x2, y2 in image.objects:
            if label <= 0 or x2 < x1 or y2 < y1:
                box = f"({x1}, {y1}) to ({x2}, {y2})"
                raise CaffeError(
                    f"{self.p.source}: {image.path}: an object of class {label}, {box}: classes are positive"
                )

    def rules(self) -> Rules:
        """How places are judged."""
        raise NotImplementedError

    def listed(self, found: list[ObjectImage]) -> list[ObjectImage]:
        """The records of one pass."""
        return found

    def first_size(self, last: ObjectImage) -> tuple[int, int]:
        """(height, width) of the canvas before the first batch; if nothing says it, the file's last image, as there."""
        raise NotImplementedError

    def order(self, number: int) -> np.ndarray:
        """Of the records in pass `number`."""
        raise NotImplementedError

    def prepared(self, scene: Scene, generator: np.random.Generator, ratio: float) -> Scene:
        """The image before its view is chosen."""
        raise NotImplementedError

    def canvas_of(self, first: Scene, ratio: float) -> tuple[int, int]:
        """(height, width) that the net sees of a batch that begins with this image."""
        return self.canvas

    def factors(self, chosen: np.ndarray | None, generator: np.random.Generator) -> tuple[float, float]:
        """By how much (x, y) the view is enlarged, for the box of the object in its middle."""
        raise NotImplementedError

    def top_shapes(self) -> list[Shape]:
        return self._shapes(*self.canvas)

    def _shapes(self, height: int, width: int) -> list[Shape]:
        batch = self.p.batch_size
        grids = [(batch, 6, *grid.size(height, width)) for grid in self._grids]
        self.check(all(min(shape) > 0 for shape in grids), f"{height} x {width} pixels are too few for the strides")
        objects = [(1, 8 if self.is_cascade else 7, 1, 1)] if self.p.output_gt_boxes else []
        return [(batch, 3, height, width), *grids, *objects]

    def make_batch(self, index: int) -> list[Tensor]:
        records = [self._record(int(number)) for number in self.row_numbers(index, self.p.batch_size)]
        draws = self.generator("view", index)
        ratio = self.ratio(draws)
        generators = draws.spawn(len(records))
        with self.about():
            scenes = list(self._pool.map(partial(self._scene, ratio=ratio), records, generators))
            canvas = self.canvas_of(scenes[0], ratio)
            images.check_size(*canvas)
            self._shapes(*canvas)
            seen = list(self._pool.map(partial(self._seen, canvas), scenes, records, generators))
        pixels, maps, truths = zip(*seen, strict=True)
        tops = [np.stack(pixels), *(np.stack(parts) for parts in zip(*maps, strict=True))]
        if self.p.output_gt_boxes:
            tops.append(self._object_rows(records, truths))
        return [to_device(np.ascontiguousarray(top, np.float32), self.context.device) for top in tops]

    def name_of(self, number: int) -> str:
        return self._record(number).path

    def _record(self, number: int) -> ObjectImage:
        epoch, place = divmod(number, len(self.images))
        if self._epoch != epoch:
            self._epoch, self._order = epoch, self.order(epoch)
        return self.images[self._order[place]]

    def ratio(self, generator: np.random.Generator) -> float:
        """By which a batch's sizes differ."""
        return 1.0

    def _scene(self, record: ObjectImage, generator: np.random.Generator, ratio: float) -> Scene:
        try:
            image = images.read(self.p.root_folder + record.path, images.Colour.COLOR)
        except CaffeError as error:
            raise CaffeError(f"{self.p.source}: {error}") from None
        boxes = [row[3:] for row in record.objects] + record.regions
        scene = Scene(np.ascontiguousarray(image.transpose(1, 2, 0)), np.array(boxes, np.float32).reshape(-1, 4))
        return self.prepared(scene, generator, ratio)

    def _seen(
        self, canvas: tuple[int, int], scene: Scene, record: ObjectImage, generator: np.random.Generator
    ) -> tuple[np.ndarray, list[np.ndarray], Truth]:
        """The pixels (3, H, W) on the canvas, what its places should say, and the objects on it."""
        count = len(record.objects)
        chosen = scene.boxes[generator.integers(count)] if count else None
        centre = [
            float(np.float32(chosen[axis] + chosen[axis + 2]) / 2) if chosen is not None
            else generator.integers(side - wanted + 1) + wanted / 2 if side >= wanted else side / 2
            for axis, side, wanted in ((0, scene.image.shape[1], canvas[1]), (1, scene.image.shape[0], canvas[0]))
        ]  # fmt: skip
        factors = self.factors(chosen, generator)
        scene, centre = _enlarged(scene, factors, centre)
        places = [
            _placed(side, wanted, centre[axis] * factors[axis], int(generator.integers(-_NOISE, _NOISE)))
            for axis, side, wanted in ((0, scene.image.shape[1], canvas[1]), (1, scene.image.shape[0], canvas[0]))
        ]
        (left, x, columns), (top, y, rows) = places
        mean = np.array(list(self.t.mean_value) or [0], np.float32)
        part = scene.image[y : y + rows, x : x + columns].astype(np.float32)
        pixels = np.zeros((*canvas, 3), np.float32)
        pixels[top : top + rows, left : left + columns] = (part - mean) * np.float32(
            self.t.scale if self.is_cascade else self.p.scale
        )
        boxes = scene.moved(shift=(left - x, top - y)).boxes
        truth = self._truth(record, boxes[:count], boxes[count:], canvas)
        view = View(*canvas, top, left, rows, columns)
        return pixels.transpose(2, 0, 1), place_truth.at_places(truth, view, self._grids, self._rules), truth

    def _truth(self, record: ObjectImage, boxes: np.ndarray, regions: np.ndarray, canvas: tuple[int, int]) -> Truth:
        """Objects whose centre is not on the canvas, or smaller than wanted, are ignored."""
        flags = np.array([row[:2] for row in record.objects], int).reshape(-1, 2)
        middle, size = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2] + 1
        outside = ((middle < 0) | (middle >= np.array(canvas[::-1]))).any(1)
        small = (size < np.array([self.p.min_gt_width, self.p.min_gt_height], np.float32)).any(1)
        ignored = np.where(outside | small, 1, flags[:, 1])
        return Truth(flags[:, 0], ignored, boxes, regions)

    def _object_rows(self, records: list[ObjectImage], truths: tuple[Truth, ...]) -> np.ndarray:
        """(G, 7 or 8, 1, 1): image, box, label, ignored, and in Cascade R-CNN difficult."""
        rows = [
            (item, *box, label, ignored, *((record.objects[index][2],) if self.is_cascade else ()))
            for item, (record, truth) in enumerate(zip(records, truths, strict=True))
            for index, (label, ignored, box) in enumerate(zip(truth.labels, truth.ignored, truth.boxes, strict=True))
        ]
        if not rows:
            rows = [(-1,) * 8 if self.is_cascade else (0, 1, 1, 2, 2, 1, 1)]
        return np.array(rows, np.float32)[..., None, None]


def _enlarged(scene: Scene, factors: tuple[float, float], centre: list[float]) -> tuple[Scene, list[float]]:
    """The image by (x, y) factors; if that is much, only the part around the centre. Also the centre before it."""
    if factors == (1, 1):
        return scene, centre
    if max(factors) > 1.5:
        offsets, sizes = [], []
        for axis in (0, 1):
            side = scene.image.shape[1 - axis]
            size = min(away(1.2 * side / factors[axis]), side)
            offsets.append(min(max(away(centre[axis] - size * 0.5), 0), side - size))
            sizes.append(size)
        (x, y), (columns, rows) = offsets, sizes
        scene = Scene(scene.image[y : y + rows, x : x + columns], scene.moved(shift=(-x, -y)).boxes)
        centre = [centre[0] - x, centre[1] - y]
    size = [away(float(np.float32(scene.image.shape[1 - axis]) * np.float32(factors[axis]))) for axis in (1, 0)]
    return scene.resized(*size).moved(factors), centre


def _placed(side: int, wanted: int, centre: float, noise: int) -> tuple[int, int, int]:
    """Where on the canvas the image begins, where in the image, and how much of it is seen, along one axis."""
    if side < wanted:
        return min(max(away((wanted - side) / 2) + noise, 0), wanted - side), 0, side
    return 0, min(max(away(centre) + noise - away(wanted / 2), 0), side - wanted), wanted
