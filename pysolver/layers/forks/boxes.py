"""Boxes (xmin, ymin, xmax, ymax) as SSD uses them: overlap, coding against priors, suppression (bbox_util.cpp)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pysolver.proto import caffe_pb2

_CORNER, _CENTER_SIZE = (caffe_pb2.PriorBoxParameter.CodeType.Value(name) for name in ("CORNER", "CENTER_SIZE"))


def areas(boxes: Tensor, pixel: int = 0) -> Tensor:
    """(..., 4) -> (...): width * height, 0 for a box that is turned inside out. pixel 1: both ends belong to it."""
    width, height = (boxes[..., 2:] - boxes[..., :2]).unbind(-1)
    return torch.where((width < 0) | (height < 0), 0, (width + pixel) * (height + pixel))


def overlaps(a: Tensor, b: Tensor, pixel: int = 0) -> Tensor:
    """(A, 4), (B, 4) -> (A, B): intersection over union (Jaccard)."""
    low = torch.maximum(a[:, None, :2], b[None, :, :2])
    high = torch.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = (high - low + pixel).clamp(min=0).prod(-1)
    union = areas(a, pixel)[:, None] + areas(b, pixel)[None] - shared
    return torch.where(shared > 0, shared / union, 0)


def _centre_and_size(boxes: Tensor) -> tuple[Tensor, Tensor]:
    return (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]


class Priors(NamedTuple):
    """Prior boxes and how boxes are written relative to them.

    corners, variances: (P, 4). code: PriorBoxParameter.CodeType. variance_in_target: a prediction is the code itself;
    else it is the code divided by the variances.
    """

    corners: Tensor
    variances: Tensor
    code: int
    variance_in_target: bool

    def at(self, index: Tensor) -> Priors:
        """Some of them."""
        return self._replace(corners=self.corners[index], variances=self.variances[index])

    @property
    def factors(self) -> Tensor:
        """What makes a prediction comparable to `encode`."""
        return 1 / self.variances if self.variance_in_target else torch.ones_like(self.variances)

    def encode(self, boxes: Tensor) -> Tensor:
        """(P, 4) boxes -> their codes, divided by the variances."""
        centre, size = _centre_and_size(self.corners)
        if self.code == _CENTER_SIZE:
            own_centre, own_size = _centre_and_size(boxes)
            code = torch.cat([(own_centre - centre) / size, (own_size / size).log()], 1)
        else:
            code = boxes - self.corners
            if self.code != _CORNER:
                code = code / torch.cat([size, size], 1)
        return code / self.variances

    def decode(self, predictions: Tensor) -> Tensor:
        """(P, 4) predictions -> boxes."""
        code = predictions if self.variance_in_target else predictions * self.variances
        centre, size = _centre_and_size(self.corners)
        if self.code == _CENTER_SIZE:
            own_centre, half = code[:, :2] * size + centre, code[:, 2:].exp() * size / 2
            return torch.cat([own_centre - half, own_centre + half], 1)
        return self.corners + (code if self.code == _CORNER else code * torch.cat([size, size], 1))


def just_below(threshold: float) -> float:
    """For suppression where a number equal to the threshold counts as above it: the next smaller float32."""
    return float(torch.nextafter(torch.tensor(threshold), torch.tensor(-torch.inf)))


def suppress(
    boxes: Tensor,
    scores: Tensor,
    threshold: float,
    top_k: int = -1,
    eta: float = 1.0,
    overlap: Callable[[Tensor, Tensor], Tensor] = lambda box, others: overlaps(box[None], others)[0],
    most: int | None = None,
) -> Tensor:
    """Non-maximum suppression: indices of the boxes kept, best first, `most` at most.

    Of the top_k best (-1: all), a box stays if it overlaps none of those kept before by more than the threshold,
    which shrinks by eta with each box kept as long as it is above 0.5. Boxes (B, 4), scores (B); overlap: of a box (4)
    with others (B, 4).
    """
    order = scores.argsort(descending=True, stable=True)
    left = order[:top_k] if top_k > -1 else order
    worst = torch.zeros(len(left), dtype=boxes.dtype)  # largest overlap with a box kept so far
    kept: list[int] = []
    while len(left) and len(kept) != most:
        best, left, worst = left[0], left[1:], worst[1:]
        kept.append(int(best))
        worst = torch.maximum(worst, overlap(boxes[best], boxes[left]))
        if eta < 1 and threshold > 0.5:
            threshold *= eta
        stays = worst <= threshold
        left, worst = left[stays], worst[stays]
    return order.new_tensor(kept)


class Match(NamedTuple):
    """For every prior: the object it answers for (UNMATCHED, IGNORED), and its largest overlap with any."""

    objects: Tensor  # (P)
    overlaps: Tensor  # (P)


UNMATCHED, IGNORED = -1, -2


def match(found: Tensor, truth: Tensor, threshold: float, per_prediction: bool, inside_only: bool) -> Match:
    """Which object each box answers for. found (P, 4), truth (G, 4).

    The best pair first, each object takes the free box that it overlaps most; then, if per_prediction, each free box
    takes the object that it overlaps most, if by at least the threshold. inside_only ignores boxes that leave the
    image.
    """
    overlap = overlaps(found, truth)
    overlap = torch.where(overlap > 1e-6, overlap, 0)
    objects = torch.full((len(found),), UNMATCHED)
    if not len(truth):
        return Match(objects, overlap.new_zeros(len(found)))
    if inside_only:
        outside = ((found < 0) | (found > 1)).any(1)
        objects[outside] = IGNORED
        overlap[outside] = 0
    most, nearest = overlap.max(1)
    free = overlap.clone()
    for _ in range(len(truth)):
        box, thing = divmod(int(free.argmax()), len(truth))
        if free[box, thing] <= 0:
            break
        objects[box], most[box] = thing, overlap[box, thing]
        free[box], free[:, thing] = 0, 0
    if per_prediction:
        more = (objects == UNMATCHED) & (most >= threshold) & (most > 0)
        objects[more] = nearest[more]
    return Match(objects, most)
