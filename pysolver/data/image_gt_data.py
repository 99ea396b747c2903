"""ImageGtData of MS-CNN (Cai et al., 2016)."""

from __future__ import annotations

import math

import numpy as np

from pysolver.data.detection_source import DetectionSource, Scene
from pysolver.data.place_truth import Rules, away
from pysolver.data.source import register
from pysolver.data.window_file import ObjectImage
from pysolver.errors import CaffeError


@register("ImageGtData")
class ImageGtData(DetectionSource):
    """Images and the truth of their places, for MS-CNN: (N, 3, H, W), for each downsample_rate (N, 6, h, w) of label,
    centre x, y, width, height, overlap; with output_gt_boxes (G, 7, 1, 1): image, x1, y1, x2, y2, label, ignored.

    An image becomes resize_height x resize_width; in half of the cases with do_multiple_scale it is enlarged so that
    one of its objects gets a size from min_scale to max_scale, half octaves apart, and a quarter of them another aspect
    (min_ to max_whaspect); then crop_height x crop_width are seen around an object (image_gt_data_layer.cpp).
    """

    is_cascade = False

    def rules(self) -> Rules:
        p = self.p
        scales = p.min_scale, p.max_scale
        self.check(len(p.downsample_rate) > 0, "downsample_rate is missing")
        self.check(not p.do_multiple_scale or 0 < scales[0] <= scales[1], f"needs 0 < min_scale <= max_scale: {scales}")
        self.check(not (p.mean_file or p.mirror), "image_gt_data_param: mean_file and mirror are not read")
        return Rules(is_cascade=False, fg=p.fg_threshold)

    def listed(self, found: list[ObjectImage]) -> list[ObjectImage]:
        repeat = self.p.fg_img_multiple
        times = [repeat if any(row[1] == 0 for row in image.objects) else 1 for image in found]
        if sum(times) > 100 * len(found) or not sum(times):
            raise CaffeError(f"fg_img_multiple must lie from 1 to 100, not {repeat}")
        return [image for image, count in zip(found, times, strict=True) for _ in range(count)]

    def first_size(self, last: ObjectImage) -> tuple[int, int]:
        p = self.p
        sides = [last.height, last.width]
        if self._is_resized:
            sides = [p.resize_height, p.resize_width]
        if p.HasField("crop_width") and p.HasField("crop_height"):
            crops = [p.crop_height, p.crop_width]
            self.check(all(map(int.__le__, crops, sides)), f"crop {crops} is larger than the images' {sides}")
            sides = [crop or side for crop, side in zip(crops, sides, strict=True)]
        self.check(min(sides) > 0, f"an image of {sides} pixels")
        return sides[0], sides[1]

    @property
    def _is_resized(self) -> bool:
        return self.p.HasField("resize_width") and self.p.HasField("resize_height")

    def order(self, number: int) -> np.ndarray:
        size = len(self.images)
        return self.permutation("shuffle", number, size) if self.p.shuffle else np.arange(size)

    def prepared(self, scene: Scene, generator: np.random.Generator, ratio: float) -> Scene:
        if self.t.mirror and generator.random() < 0.5:
            scene = scene.mirrored()
        if self._is_resized:
            height, width = scene.image.shape[:2]
            factors = self.p.resize_width / width, self.p.resize_height / height
            scene = scene.resized(self.p.resize_height, self.p.resize_width).moved(factors)
        return scene

    def factors(self, chosen: np.ndarray | None, generator: np.random.Generator) -> tuple[float, float]:
        p = self.p
        if not (p.do_multiple_scale and chosen is not None and generator.random() < 0.5):
            return 1, 1
        width, height = (float(side) for side in chosen[2:] - chosen[:2])
        octaves = np.arange(away(2 * math.log2(p.max_scale / p.min_scale) + 1)) / 2
        areas = (p.min_scale * 2**octaves) ** 2
        likeness = np.minimum(areas, width * height) / np.maximum(areas, width * height)
        factor = float(2 ** (octaves[generator.integers(len(octaves))] - octaves[likeness.argmax()]))
        if not (p.HasField("min_whaspect") and p.HasField("max_whaspect") and generator.random() < 0.5):
            return factor, factor
        steps = away((p.max_whaspect - p.min_whaspect) / 0.05)
        if steps <= 0:
            raise CaffeError(f"max_whaspect {p.max_whaspect:g} is not above min_whaspect {p.min_whaspect:g}")
        aspect, along_x = generator.integers(steps) * 0.05 + p.min_whaspect, generator.random() < 0.5
        if width <= 0 or height <= 0:
            return factor, factor
        change = aspect * height / width
        side = width * factor * change if along_x else height * factor / change
        if not 0.8 * p.min_scale <= side <= 1.2 * p.max_scale:
            return factor, factor
        return (factor * change, factor) if along_x else (factor, factor / change)
