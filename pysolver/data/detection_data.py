"""DetectionData of Cascade R-CNN (Cai and Vasconcelos, 2018)."""

from __future__ import annotations

import math
from collections import deque

import numpy as np

from pysolver.data import augmentation
from pysolver.data.detection_source import DetectionSource, Scene
from pysolver.data.place_truth import Rules, away
from pysolver.data.source import register
from pysolver.data.window_file import ObjectImage

_SHORT_STEP = 32  # of a side that template_ratio changes


@register("DetectionData")
class DetectionData(DetectionSource):
    """Images and the truth of their places, for Cascade R-CNN: (N, 3, H, W), for each stride (N, 6, h, w) of label,
    centre x, y, width, height, overlap; with output_gt_boxes (G, 8, 1, 1): image, x1, y1, x2, y2, label, ignored,
    difficult.

    An image is distorted (distort_param), resized (resize_height x resize_width; by resize_ratio; or its shorter side
    to short_size), in multiscale_prob of the cases enlarged (so that an object gets min_scale to max_scale, or by
    low_scale_ratio to high_scale_ratio; by another aspect), and seen around an object on a canvas of crop_height x
    crop_width, of short_size x long_size as the batch's first image lies or stands, or of that image's size
    (detection_data_layer.cpp).
    """

    is_cascade = True

    def rules(self) -> Rules:
        p = self.p
        ways = [
            self._has("resize_width", "resize_height"),
            p.HasField("resize_ratio"),
            self._has("short_size", "long_size"),
        ]
        self.check(sum(ways) < 2, "one of resize_width and resize_height, resize_ratio, short_size and long_size")
        self.check(
            not (self._has("crop_width", "crop_height") and self._has("crop_short_size", "crop_long_size")),
            "either crop_width and crop_height or crop_short_size and crop_long_size",
        )
        for short, long in ((p.short_size, p.long_size), (p.crop_short_size, p.crop_long_size)):
            self.check(
                not (short or long) or 0 < short < long, f"a short side of {short} needs a longer one, not {long}"
            )
        self.check(
            not (self._has("min_scale", "max_scale") and self._has("low_scale_ratio", "high_scale_ratio")),
            "either min_scale and max_scale or low_scale_ratio and high_scale_ratio",
        )
        for low, high in (
            ("min_scale", "max_scale"),
            ("low_scale_ratio", "high_scale_ratio"),
            ("min_whaspect", "max_whaspect"),
        ):
            bounds = getattr(p, low), getattr(p, high)
            self.check(not self._has(low, high) or 0 < bounds[0] <= bounds[1] < math.inf, f"needs 0 < {low} <= {high}")
        self.check(
            all(0 < ratio < math.inf for ratio in [*p.template_ratio, p.resize_ratio or 1]), "ratios are positive"
        )
        shuffles = ("random", "random_aspect", "random_mix_aspect")
        self.check(p.shuffle in shuffles, f"shuffle is one of {', '.join(shuffles)}, not '{p.shuffle}'")
        self.check(p.mix_group_size > 0, "mix_group_size must be positive")
        return Rules(
            True,
            p.fg_threshold,
            p.ignore_fg_threshold,
            p.pickup_iou_thr,
            p.anchor_ignore_margin_ratio if p.HasField("anchor_ignore_margin_ratio") else None,
            p.anchor_ignore_iou_thr if p.HasField("anchor_ignore_iou_thr") else None,
        )

    def _has(self, *names: str) -> bool:
        return all(self.p.HasField(name) for name in names)

    def first_size(self, last: ObjectImage) -> tuple[int, int]:
        p, sides = self.p, (last.height, last.width)
        if self._has("resize_width", "resize_height"):
            sides = p.resize_height, p.resize_width
        elif p.HasField("resize_ratio"):
            sides = away(last.height * p.resize_ratio), away(last.width * p.resize_ratio)
        elif self._has("short_size", "long_size"):
            sides = p.long_size, p.short_size
        if self._has("crop_width", "crop_height"):
            sides = p.crop_height, p.crop_width
        elif self._has("crop_short_size", "crop_long_size"):
            sides = p.crop_long_size, p.crop_short_size
        self.check(min(sides) > 0, f"an image of {sides} pixels")
        return sides

    def order(self, number: int) -> np.ndarray:
        size = len(self.images)
        if not self.p.HasField("shuffle"):
            return np.arange(size)
        order = self.permutation("shuffle", number, size)
        if self.p.shuffle == "random":
            return order
        stands = np.array([image.height >= image.width for image in self.images])[order]
        groups = [order[stands], order[~stands]]
        if self.generator("groups", number, rank=0).random() < 0.5:
            groups.reverse()
        return np.concatenate(groups) if self.p.shuffle == "random_aspect" else _mixed(groups, self.p.mix_group_size)

    def ratio(self, generator: np.random.Generator) -> float:
        ratios = list(self.p.template_ratio)
        return ratios[generator.integers(len(ratios))] if ratios else 1.0

    def prepared(self, scene: Scene, generator: np.random.Generator, ratio: float) -> Scene:
        p = self.p
        if p.HasField("distort_param"):
            scene = scene._replace(image=augmentation.distort(scene.image, p.distort_param, generator))
        if self.t.mirror and generator.random() < 0.5:
            scene = scene.mirrored()
        height, width = scene.image.shape[:2]
        sides = height, width
        if self._has("resize_width", "resize_height"):
            sides = p.resize_height, p.resize_width
        elif p.HasField("resize_ratio"):
            sides = away(height * p.resize_ratio), away(width * p.resize_ratio)
        elif self._has("short_size", "long_size"):
            factor = np.float32(_stepped(p.short_size, ratio)) / np.float32(min(height, width))
            sides = away(float(height * factor)), away(float(width * factor))
        if sides == (height, width):
            return scene
        return scene.resized(*sides).moved((sides[1] / width, sides[0] / height))

    def canvas_of(self, first: Scene, ratio: float) -> tuple[int, int]:
        p = self.p
        if self._has("crop_width", "crop_height") or self._has("resize_width", "resize_height"):
            return self.canvas
        height, width = first.image.shape[:2]
        if self._has("crop_short_size", "crop_long_size"):
            sides = p.crop_long_size, p.crop_short_size
        elif self._has("short_size", "long_size"):
            sides = _stepped(p.long_size, ratio), _stepped(p.short_size, ratio)
        else:
            return height, width
        return sides if height >= width else sides[::-1]

    def factors(self, chosen: np.ndarray | None, generator: np.random.Generator) -> tuple[float, float]:
        p = self.p
        by_ratio, by_size = self._has("low_scale_ratio", "high_scale_ratio"), self._has("min_scale", "max_scale")
        if not (by_ratio or by_size) or generator.random() >= p.multiscale_prob:
            return 1, 1
        low, high = (p.low_scale_ratio, p.high_scale_ratio) if by_ratio else (2, 2)  # without an object, as there
        if by_size and chosen is not None:
            own = math.sqrt(float((chosen[2:] - chosen[:2] + 1).prod()))
            low, high = p.min_scale / own, p.max_scale / own
        factor = _between(low, high, generator)
        root = 1.0
        if self._has("min_whaspect", "max_whaspect"):
            root = math.sqrt(_between(p.min_whaspect, p.max_whaspect, generator))
        return factor * root, factor / root


def _between(low: float, high: float, generator: np.random.Generator) -> float:
    """As likely in each octave."""
    return 2 ** generator.uniform(math.log2(low), math.log2(high))


def _stepped(side: int, ratio: float) -> int:
    return away(side * ratio / _SHORT_STEP) * _SHORT_STEP


def _mixed(groups: list[np.ndarray], count: int) -> np.ndarray:
    """In turns so many of each group, until one is used up; then the rest of the other."""
    left, order = [deque(group.tolist()) for group in groups], list[int]()
    while all(left):
        order.append(left[len(order) // count % 2].popleft())
    return np.array([*order, *left[0], *left[1]])
