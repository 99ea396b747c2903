"""What a detector's map should say at each of its places: MS-CNN (image_gt_data_layer.cpp), Cascade R-CNN
(detection_data_layer.cpp)."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np


class Grid(NamedTuple):
    """A map of the net: its places lie `stride` pixels apart, and each looks for objects of a field's size."""

    stride: int
    field_height: int
    field_width: int

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Of the map over an image."""
        return away(height / self.stride), away(width / self.stride)


class Rules(NamedTuple):
    """Cascade R-CNN: corners belong to a box, a place that an object claims is judged before its region.

    fg: how much an object must overlap a place's field. region: the part of a field that regions of no interest may
    cover. pickup: with how much an object that no place found still gets one. margin, inside: where the field of a
    place must lie: not further outside the image than this part of its half, or with this part in it.
    """

    is_cascade: bool
    fg: float
    region: float = 0.4
    pickup: float = 0.2
    margin: float | None = None
    inside: float | None = None


class View(NamedTuple):
    """Where the image lies on the canvas (height, width) that the net sees."""

    height: int
    width: int
    top: int
    left: int
    rows: int
    columns: int


class Truth(NamedTuple):
    """The objects in the canvas's pixels. labels, ignored: (G); boxes: (G, 4); regions: (R, 4)."""

    labels: np.ndarray
    ignored: np.ndarray
    boxes: np.ndarray
    regions: np.ndarray


def away(value: float) -> int:
    """C's round(): halves away from zero."""
    return math.floor(abs(value) + 0.5) * (1 if value >= 0 else -1)


def at_places(truth: Truth, view: View, grids: list[Grid], rules: Rules) -> list[np.ndarray]:
    """For each grid (6, H, W): label, centre x, y, width, height, and how far some object overlaps the place's field.

    Label 0 is the background; with an overlap above the threshold it is ignored, as where the overlap is 1: outside the
    image and in regions. An object that no place found gets that of its centre on the grid that fits it best.
    """
    maps, best = [], np.zeros(len(truth.boxes), np.float32)
    best_grid, found = np.zeros(len(truth.boxes), int), np.zeros(len(truth.boxes), bool)
    for number, grid in enumerate(grids):
        places = _Places(grid, view, rules)
        most, match = np.zeros(places.usable.shape, np.float32), np.full(places.usable.shape, -1)
        covered = sum((places.share(box, "field") for box in truth.regions), np.zeros_like(most))
        if not rules.is_cascade:
            places.usable &= covered < rules.region
        for index, box in enumerate(truth.boxes):
            overlap = places.share(box, "union")
            closer = overlap > most
            most[closer], match[closer] = overlap[closer], index
            own = overlap[places.usable].max(initial=0)
            if own > best[index]:
                best[index], best_grid[index] = own, number
        is_found = places.usable & (most > rules.fg)
        values = np.zeros((6, *most.shape), np.float32)
        values[:5, is_found] = _rows(truth, rules)[match[is_found]].T
        values[5] = np.where(places.usable, most, 1)
        if rules.is_cascade:
            values[5, places.usable & ~is_found & (covered >= rules.region)] = 1
        found[match[is_found]] = True
        maps.append(values)
    if grids:
        missed = np.flatnonzero(~found & (truth.ignored == 0) & (best >= np.float32(rules.pickup)))
        for lost, row in zip(missed, _rows(truth, rules)[missed], strict=True):
            number = int(best_grid[lost])
            _pick_up(maps[number], grids[number].stride, row, best[lost] if rules.is_cascade else None)
    return maps


def _pick_up(values: np.ndarray, stride: int, row: np.ndarray, overlap: float | None) -> None:
    """Write an object's row into the place of its centre, unless another object has that."""
    y, x = (min(max(math.floor(row[axis] / stride), 0), values.shape[3 - axis] - 1) for axis in (2, 1))
    if values[0, y, x] <= 0:
        values[:5, y, x] = row
        if overlap is not None:
            values[5, y, x] = overlap


def _rows(truth: Truth, rules: Rules) -> np.ndarray:
    """(G, 5): label, 0 if ignored, centre and size."""
    low, high = truth.boxes[:, :2], truth.boxes[:, 2:]
    label = np.where(truth.ignored == 0, truth.labels, 0)[:, None]
    return np.concatenate([label, (low + high) / 2, high - low + np.float32(rules.is_cascade)], 1, dtype=np.float32)


class _Places:
    """The fields of a grid's places, and which places say anything at all."""

    def __init__(self, grid: Grid, view: View, rules: Rules) -> None:
        self.pixel = np.float32(rules.is_cascade)
        size = grid.size(view.height, view.width)
        sides = (grid.field_height, view.top, view.rows), (grid.field_width, view.left, view.columns)
        seen, self.low, self.high = [], [], []
        for count, (field, offset, length) in zip(size, sides, strict=True):
            first, number = away(offset / grid.stride), away(length / grid.stride)
            places, middle = np.arange(count), (np.arange(count) + 0.5) * grid.stride
            low, high = (middle - field / 2).astype(np.float32), (middle + field / 2).astype(np.float32)
            good = (places >= first) & (places < first + number)
            if rules.margin is not None:
                margin = rules.margin * field / 2
                good &= (low >= offset - margin) & (high < offset + length + margin)
            seen.append(good)
            self.low.append(low)
            self.high.append(high)
        self.usable = seen[0][:, None] & seen[1]
        if rules.margin is None and rules.inside is not None:
            box = np.array([view.left, view.top, view.left + view.columns, view.top + view.rows], np.float32)
            self.usable &= self.share(box, "field") >= np.float32(rules.inside)

    def share(self, box: np.ndarray, of: str) -> np.ndarray:
        """(H, W): what a box and each field have in common, of the field, or of their union."""
        rows, columns = (self._common(box, axis) for axis in (0, 1))
        shared = rows[:, None] * columns
        area = (self.high[0] - self.low[0] + self.pixel)[:, None] * (self.high[1] - self.low[1] + self.pixel)
        sides = box[2:] - box[:2]
        if (sides < 0).any() or not (sides + self.pixel).all():
            return np.zeros_like(area)
        return shared / (area if of == "field" else area + (sides + self.pixel).prod() - shared)

    def _common(self, box: np.ndarray, axis: int) -> np.ndarray:
        """In rows (axis 0) or columns. In Cascade R-CNN boxes that touch share a column of pixels, but no row."""
        gap = np.minimum(self.high[axis], box[3 - axis]) - np.maximum(self.low[axis], box[1 - axis])
        return np.where(gap >= 0 if axis else gap > 0, gap + self.pixel, 0)
