"""PriorBox and DetectionOutput of SSD (Liu et al., 2016)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pysolver.blob import Shape
from pysolver.layers.base import Layer, between, register
from pysolver.layers.forks import boxes
from pysolver.layers.forks.result_files import ResultFiles, in_pixels, result_files
from pysolver.logs import notices


@register("PriorBox")
class PriorBox(Layer):
    """The default boxes of a feature map: (1, 2, H W priors 4), first the corners, then the variances.

    Bottoms: the feature map and, unless img_size or img_h and img_w are given, the image. Around the middle
    ((x + offset) step_w, (y + offset) step_h) of each place, for each min_size s: a square of s, with max_size m a
    square of sqrt(s m), and s sqrt(r) x s / sqrt(r) for each aspect_ratio r and, with flip, 1 / r; as fractions of
    the image, clipped to it with `clip`. Source: prior_box_layer.cpp. No gradient.
    Errors: no min_size; max_size not one for each and larger; sizes, steps or variances that are not positive.
    """

    bottoms = between(1, 2)
    no_gradient_bottoms = frozenset({0, 1})

    def set_up(self, features: Shape, image: Shape | None = None) -> None:
        p = self.param.prior_box_param
        self.check_sizes()
        self.check(len(p.variance) in (0, 1, 4), f"Must and only provide 4 variance, or one, not {len(p.variance)}")
        self.check(all(value > 0 for value in p.variance), "variance must be positive")
        self.image = self._pair("img_size", "img_h", "img_w")
        self.step = self._pair("step", "step_h", "step_w")
        self.check(self.image is not None or image is not None, "needs img_size, or the image as second bottom")
        self.sizes = self._sizes()

    def check_sizes(self) -> None:
        p = self.param.prior_box_param
        self.check(len(p.min_size) > 0, "must provide min_size.")
        self.check(min(p.min_size) > 0, "min_size must be positive.")
        self.check(len(p.max_size) in (0, len(p.min_size)), "needs no max_size or one for each min_size")
        for low, high in zip(p.min_size, p.max_size):
            self.check(high > low, f"max_size must be greater than min_size, not {high:g} with {low:g}")

    def _pair(self, both: str, height: str, width: str) -> tuple[float, float] | None:
        """(height, width) from one field or two, None if unset."""
        p = self.param.prior_box_param
        if p.HasField(height) or p.HasField(width):
            self.check(not p.HasField(both), f"Either {both} or {height}/{width} should be specified; not both.")
            values = getattr(p, height), getattr(p, width)
        elif p.HasField(both):
            values = getattr(p, both), getattr(p, both)
        else:
            return None
        self.check(min(values) > 0, f"{both}, {height} and {width} should be larger than 0.")
        return values

    def _sizes(self) -> list[tuple[float, float]]:
        """(width, height) in pixels of the boxes around one place, in order."""
        p = self.param.prior_box_param
        ratios = [1.0]
        for ratio in p.aspect_ratio:
            if all(abs(ratio - known) >= 1e-6 for known in ratios):
                ratios += [ratio, 1 / ratio] if p.flip else [ratio]
        sizes: list[tuple[float, float]] = []
        for index, low in enumerate(int(size) for size in p.min_size):
            sizes.append((low, low))
            if p.max_size:
                sizes.append((math.sqrt(low * int(p.max_size[index])),) * 2)
            sizes += [(low * math.sqrt(ratio), low / math.sqrt(ratio)) for ratio in ratios[1:]]
        return sizes

    def top_shapes(self, features: Shape, image: Shape | None = None) -> list[Shape]:
        if len(features) != 4 or (not self.image and (image is None or len(image) != 4)):
            self.fail(
                f"needs bottoms (N, C, H, W), the second one for its size, not {list(features)} and {list(image or ())}"
            )
        return [(1, 2, features[2] * features[3] * len(self.sizes) * 4)]

    @torch.no_grad()
    def forward(self, features: Tensor, image: Tensor | None = None) -> Tensor:
        p, (rows, columns) = self.param.prior_box_param, features.shape[2:]
        height, width = self.image or image.shape[2:]
        step_h, step_w = self.step or (height / rows, width / columns)
        like: dict[str, Any] = {"device": features.device, "dtype": features.dtype}
        y = (torch.arange(rows, **like) + p.offset) * step_h
        x = (torch.arange(columns, **like) + p.offset) * step_w
        middle = torch.stack([x.expand(rows, -1), y.unsqueeze(1).expand(-1, columns)], -1).unsqueeze(2)
        half = torch.tensor(self.sizes, **like) / 2
        corners = torch.cat([middle - half, middle + half], -1) / torch.tensor([width, height] * 2, **like)
        if p.clip:
            corners = corners.clamp(0, 1)
        given = list(p.variance) or [0.1]
        variances = torch.tensor(given * (4 // len(given)), **like).expand_as(corners)
        return torch.stack([corners.flatten(), variances.flatten()]).unsqueeze(0)


@register("PriorBoxClustered")
class PriorBoxClustered(PriorBox):
    """PriorBox with boxes of width x height pixels, pair by pair, and no other (OpenVINO's PriorBoxClustered-1).

    Errors: as PriorBox; no width, or not a height for each.
    """

    def check_sizes(self) -> None:
        p = self.param.prior_box_param
        self.check(len(p.width) == len(p.height) > 0, "needs a height for each width, and at least one")
        self.check(min(*p.width, *p.height) > 0, "width and height must be positive")

    def _sizes(self) -> list[tuple[float, float]]:
        p = self.param.prior_box_param
        return list(zip(p.width, p.height, strict=True))


@register("DetectionOutput")
class DetectionOutput(Layer):
    """The detections of a batch: (1, 1, K, 7) rows of image, label, score, xmin, ymin, xmax, ymax.

    Bottoms: locations (N, priors 4), or (N, priors classes 4) without share_location; scores (N, priors classes);
    priors of PriorBox; a fourth bottom, the images for `visualize`, is not looked at. For each class but the
    background: scores above confidence_threshold, non-maximum
    suppression by nms_param; then the best keep_top_k of the image. Rows by image, label, falling score; nothing
    found: N rows of -1 that name the image. save_output_param writes them to files, see ResultFiles. No gradient.
    Source: detection_output_layer.cpp.
    Errors: num_classes missing; predictions that do not match the priors; nms_threshold below 0; eta outside (0, 1].
    """

    bottoms = between(3, 4)
    no_gradient_bottoms = frozenset({0, 1, 2, 3})
    deviations = "visualize is not carried out; result files are written whole or not at all"

    def set_up(self, locations: Shape, scores: Shape, priors: Shape, images: Shape | None = None) -> None:
        p = self.param.detection_output_param
        self.check(p.HasField("num_classes"), "Must specify num_classes")
        self.check(p.nms_param.nms_threshold >= 0, "nms_threshold must be non negative.")
        self.check(0 < p.nms_param.eta <= 1, "eta must lie in (0, 1]")
        self.classes = p.num_classes
        self.location_classes = 1 if p.share_location else p.num_classes
        self.files = result_files(p.save_output_param, self, p.background_label_id)
        if p.visualize:
            self.context.emit(notices.NotShown(self.name))

    def top_shapes(self, locations: Shape, scores: Shape, priors: Shape, images: Shape | None = None) -> list[Shape]:
        check_predictions(self, locations, scores, priors, self.classes, self.location_classes)
        return [(1, 1, 1, 7)]

    @torch.no_grad()
    def forward(self, locations: Tensor, scores: Tensor, priors: Tensor, images: Tensor | None = None) -> Tensor:
        p = self.param.detection_output_param
        corners, variances = priors.cpu().reshape(2, -1, 4)
        known = boxes.Priors(corners, variances, p.code_type, p.variance_encoded_in_target)
        items = len(locations)
        locations_by_class = locations.cpu().reshape(items, -1, self.location_classes, 4).transpose(1, 2)
        scores_by_class = scores.cpu().reshape(items, -1, self.classes).transpose(1, 2)
        rows = []
        for i in range(items):
            found = [known.decode(predictions) for predictions in locations_by_class[i]]
            own = self._of_image(i, found, scores_by_class[i])
            rows += [own] if len(own) else []
            if self.files is not None:
                self._save(self.files, own.numpy())
        if not rows:
            self.context.emit(notices.NothingDetected())
            rows = [locations.new_tensor([[i, *[-1] * 6]]).cpu() for i in range(items)]
        return torch.cat(rows).reshape(1, 1, -1, 7).to(locations.device)

    def _save(self, files: ResultFiles, rows: np.ndarray) -> None:
        p = self.param.detection_output_param.save_output_param
        resize = p.resize_param if p.HasField("resize_param") else None
        files.add(rows[:, 1], rows[:, 2], in_pixels(rows[:, 3:], files.size, resize))

    def _of_image(self, image: int, found: list[Tensor], scores: Tensor) -> Tensor:
        """Rows of one image, class by class. found: (priors, 4) a location class, scores (classes, priors)."""
        p = self.param.detection_output_param
        least = p.confidence_threshold if p.HasField("confidence_threshold") else -math.inf
        top_k = p.nms_param.top_k if p.nms_param.HasField("top_k") else -1
        parts = []
        for label in range(self.classes):
            if label == p.background_label_id:
                continue
            candidates = (scores[label] > least).nonzero().flatten()
            own = found[0 if p.share_location else label][candidates]
            kept = boxes.suppress(own, scores[label][candidates], p.nms_param.nms_threshold, top_k, p.nms_param.eta)
            head = torch.tensor([image, label], dtype=own.dtype).expand(len(kept), 2)
            parts.append(torch.cat([head, scores[label][candidates[kept]].unsqueeze(1), own[kept]], 1))
        rows = torch.cat(parts) if parts else scores.new_zeros(0, 7)
        if -1 < p.keep_top_k < len(rows):
            best = rows[:, 2].argsort(descending=True, stable=True)[: p.keep_top_k]
            rows = rows[best.sort().values]
        return rows


def check_predictions(
    layer: Layer, locations: Shape, scores: Shape, priors: Shape, classes: int, location_classes: int
) -> None:
    """Errors unless locations (N, P location_classes 4) and scores (N, P classes) fit priors (1, 2, P 4)."""
    count = priors[2] // 4 if len(priors) > 2 else 0
    if locations[0] != scores[0]:
        layer.fail(f"locations {list(locations)} and scores {list(scores)} are of different batches")
    if torch.Size(locations[1:]).numel() != count * location_classes * 4:
        layer.fail(f"Number of priors ({count}) must match number of location predictions {list(locations)}.")
    if torch.Size(scores[1:]).numel() != count * classes:
        layer.fail(f"Number of priors ({count}) must match number of confidence predictions {list(scores)}.")
