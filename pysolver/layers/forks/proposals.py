"""Region proposals of Faster R-CNN (Ren et al., 2015): Proposal, and the Python layers of py-faster-rcnn.

A box is (x1, y1, x2, y2) in pixels, both ends belonging to it.
"""

from __future__ import annotations

import ast
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pysolver.blob import Shape
from pysolver.layers.base import Layer, between, exactly, register
from pysolver.layers.forks import boxes
from pysolver.layers.python_layer import python_class
from pysolver.logs import notices


def anchors(base: int, ratios: list[float], scales: list[float]) -> Tensor:
    """(ratios * scales, 4): the window (0, 0, base - 1, base - 1) in other shapes, then other sizes, same centre."""
    rows = []
    for ratio in ratios:
        width = np.round(np.sqrt(base * base / ratio))
        height = np.round(width * ratio)
        for scale in scales:
            half = (np.array([width, height]) * scale - 1) / 2
            centre = (base - 1) / 2
            rows.append([*(centre - half), *(centre + half)])
    return torch.tensor(np.array(rows), dtype=torch.float32)


def everywhere(reference: Tensor, height: int, width: int, stride: int) -> Tensor:
    """(height * width * A, 4): the anchors at each place of a map, by row, column, anchor."""
    y, x = torch.meshgrid(torch.arange(height) * stride, torch.arange(width) * stride, indexing="ij")
    shifts = torch.stack([x, y, x, y], -1).reshape(-1, 1, 4)
    return (reference + shifts).reshape(-1, 4)


def centre_and_size(places: Tensor) -> tuple[Tensor, Tensor]:
    """Of boxes (B, 4), (B, 2) each."""
    size = places[:, 2:] - places[:, :2] + 1
    return places[:, :2] + size / 2, size


def moved(places: Tensor, codes: Tensor) -> Tensor:
    """Boxes (B, 4) moved by dx dy (of their size) and enlarged by e^dw e^dh."""
    centre, size = centre_and_size(places)
    centre, half = codes[:, :2] * size + centre, codes[:, 2:].exp() * size / 2
    return torch.cat([centre - half, centre + half], 1)


def codes(places: Tensor, targets: Tensor) -> Tensor:
    """What `moved` needs to make the targets of the boxes."""
    centre, size = centre_and_size(places)
    other_centre, other_size = centre_and_size(targets)
    return torch.cat([(other_centre - centre) / size, (other_size / size).log()], 1)


def _overlap(box: Tensor, others: Tensor) -> Tensor:
    return boxes.overlaps(box[None], others, pixel=1)[0]


class Proposals(Layer):
    """What both kinds share: scores (1, 2 A, H, W), codes (1, 4 A, H, W) and the image (1, 3: height, width, scale)."""

    is_opaque = True
    bottoms = exactly(3)
    tops = between(1, 2)
    no_gradient_bottoms = frozenset({0, 1, 2})
    reference: Tensor
    stride: int
    limits: tuple[int, int]  # before and after suppression
    threshold: float
    least: float  # smallest side, in pixels of the image before it was scaled

    def top_shapes(self, scores: Shape, found: Shape, image: Shape) -> list[Shape]:
        count = len(self.reference)
        good = len(scores) == len(found) == 4 and scores[0] == 1 and scores[1] == 2 * count and found[1] == 4 * count
        if not good or scores[2:] != found[2:] or len(image) < 2 or image[1] < 3:
            self.fail(
                f"{count} anchors need scores (1, {2 * count}, H, W), boxes (1, {4 * count}, H, W) and an image "
                f"(1, 3), not {list(scores)}, {list(found)} and {list(image)}"
            )
        tops: list[Shape] = [(1, 5), (1, 1)]
        return tops[: self.top_count]

    @torch.no_grad()
    def forward(self, scores: Tensor, found: Tensor, image: Tensor) -> tuple[Tensor, ...]:
        _, count, height, width = scores.shape
        image_height, image_width, scale, *scale_x = image.reshape(-1)[:4].tolist()
        own = scores[0, count // 2 :].cpu().float().permute(1, 2, 0).flatten()
        by_place = found[0].cpu().float().permute(1, 2, 0).reshape(-1, 4)
        places = moved(everywhere(self.reference, height, width, self.stride), by_place)
        edge = torch.tensor([image_width, image_height, image_width, image_height]) - 1
        places = torch.minimum(places, edge).clamp(min=0)
        least = self.least * torch.tensor([*(scale_x or [scale]), scale])
        places, own = self._without_small(places, own, (places[:, 2:] - places[:, :2] + 1 >= least).all(1))
        before, after = self.limits
        kept = boxes.suppress(places, own, self.threshold, before, overlap=_overlap, most=after)
        rois = torch.cat([torch.zeros(len(kept), 1), places[kept]], 1)
        return tuple(top.to(scores) for top in (rois, own[kept, None])[: self.top_count])

    def _without_small(self, places: Tensor, scores: Tensor, is_large: Tensor) -> tuple[Tensor, Tensor]:
        return places[is_large], scores[is_large]


@register("Proposal")
class Proposal(Proposals):
    """The likeliest boxes of a region proposal net: (R, 5) rows of 0, x1, y1, x2, y2 and (R, 1) scores.

    Each place of the map has A anchors, of all ratios and scales; their codes move them, clipped to the image; those
    with a side below min_size (times the image's scale, which may be two: of y and x) have the score 0; of the
    pre_nms_topn best, suppression by nms_thresh leaves post_nms_topn at most. The scores are the second half of bottom
    0's channels. No gradient. Source: proposal_layer.cpp of PVANet's Caffe. Errors: other shapes; no ratio or scale.
    """

    def _without_small(self, places: Tensor, scores: Tensor, is_large: Tensor) -> tuple[Tensor, Tensor]:
        return places, scores * is_large

    def set_up(self, scores: Shape, found: Shape, image: Shape) -> None:
        p = self.param.proposal_param
        self.check(bool(p.ratio and p.scale), "needs at least one ratio and one scale")
        self.reference, self.stride = anchors(p.base_size, list(p.ratio), list(p.scale)), p.feat_stride
        self.limits, self.threshold, self.least = (p.pre_nms_topn, p.post_nms_topn), p.nms_thresh, p.min_size


# py-faster-rcnn keeps these in fast_rcnn/config.py, with those of experiments/cfgs/faster_rcnn_end2end.yml; a training
# script may change them, and then brings its own layers too.
_RPN_TRAIN, _RPN_TEST = (12000, 2000), (6000, 300)
_RPN_OVERLAP, _RPN_SMALLEST = 0.7, 16
_RPN_BATCH, _RPN_RIGHT, _RPN_LIKE, _RPN_UNLIKE = 256, 0.5, 0.7, 0.3
_BATCH, _RIGHT, _LIKE = 128, 0.25, 0.5
_DEVIATIONS = torch.tensor([0.1, 0.1, 0.2, 0.2])


def settings(layer: Layer) -> dict[str, Any]:
    """The param_str of a Python layer: what YAML there says, as far as py-faster-rcnn uses it."""
    text = layer.param.python_param.param_str.replace("!!python/tuple", "").strip()
    lines = [line.strip().rstrip(",") for line in text.splitlines() if line.strip()]
    text = text if text.startswith("{") else "{" + ", ".join(lines) + "}"
    try:
        return dict(ast.literal_eval(text))
    except (ValueError, SyntaxError, TypeError):
        layer.fail(f"param_str is not understood: {layer.param.python_param.param_str!r}")


def _number(layer: Layer, name: str) -> int:
    value = settings(layer).get(name)
    if not isinstance(value, int) or value <= 0:
        layer.fail(f"param_str needs '{name}', a positive integer, not {value!r}")
    return value


def _reference(layer: Layer) -> Tensor:
    given = settings(layer)
    ratios, scales = given.get("ratios", (0.5, 1, 2)), given.get("scales", (8, 16, 32))
    for numbers in (ratios, scales):
        good = isinstance(numbers, (list, tuple)) and numbers
        if not good or not all(isinstance(number, (int, float)) and number > 0 for number in numbers):
            layer.fail(f"param_str needs lists of positive ratios and scales, not {ratios} and {scales}")
    return anchors(16, list(ratios), list(scales))


def _tell(layer: Layer) -> None:
    p = layer.param.python_param
    layer.context.emit(notices.OwnPythonLayer(layer.name, f"{p.module}.{p.layer}"))


@python_class("rpn.proposal_layer", "ProposalLayer")
class ProposalLayer(Proposals):
    """As Proposal, with the numbers of py-faster-rcnn's configuration (lib/rpn/proposal_layer.py)."""

    def set_up(self, scores: Shape, found: Shape, image: Shape) -> None:
        _tell(self)
        self.reference, self.stride = _reference(self), _number(self, "feat_stride")
        self.limits = _RPN_TRAIN if self.is_training else _RPN_TEST
        self.threshold, self.least = _RPN_OVERLAP, _RPN_SMALLEST


def sample(where: Tensor, count: int) -> Tensor:
    """At most `count` of the indices where a mask is true, drawn at random."""
    found = where.nonzero().flatten()
    return found if len(found) <= count else found[torch.randperm(len(found))[:count]]


@python_class("rpn.anchor_target_layer", "AnchorTargetLayer")
class AnchorTargetLayer(Layer):
    """What a region proposal net learns from one image (py-faster-rcnn's lib/rpn/anchor_target_layer.py).

    Bottoms: scores (1, 2 A, H, W), objects (G, 5: x1, y1, x2, y2, label), image (1, 3), and what else there is. An
    anchor inside the image is right if no other overlaps some object more, or if it overlaps one by 0.7; wrong if it
    overlaps all by less than 0.3. Of those, 256 are drawn, at most half of them right. Tops: labels (1, 1, A H, W),
    1, 0, or -1 for not drawn; targets, inside weights (1 where right) and outside weights (1 / drawn), (1, 4 A, H, W).
    No gradient. Errors: other shapes.
    """

    bottoms = between(3, 4)
    tops = exactly(4)
    no_gradient_bottoms = frozenset({0, 1, 2, 3})
    deviations = "drawn by torch's generator, not numpy's"

    def set_up(self, scores: Shape, objects: Shape, image: Shape, *others: Shape) -> None:
        _tell(self)
        self.reference, self.stride = _reference(self), _number(self, "feat_stride")
        border = settings(self).get("allowed_border", 0)
        self.border = float(border) if isinstance(border, (int, float)) else self.fail("allowed_border: no number")

    def top_shapes(self, scores: Shape, objects: Shape, image: Shape, *others: Shape) -> list[Shape]:
        count = len(self.reference)
        if len(scores) != 4 or scores[0] != 1 or objects[1:2] != (5,) or len(image) < 2 or image[1] < 3:
            self.fail(
                f"needs scores (1, C, H, W), objects (G, 5) and an image (1, 3), "
                f"not {list(scores)}, {list(objects)} and {list(image)}"
            )
        height, width = scores[2:]
        return [(1, 1, count * height, width), *[(1, 4 * count, height, width)] * 3]

    @torch.no_grad()
    def forward(self, scores: Tensor, objects: Tensor, image: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        height, width = scores.shape[2:]
        real = objects.cpu().float().reshape(-1, 5)[:, :4]
        image_height, image_width = image.reshape(-1)[:2].tolist()
        places = everywhere(self.reference, height, width, self.stride)
        far = torch.tensor([image_width, image_height]) + self.border
        inside = ((places[:, :2] >= -self.border) & (places[:, 2:] < far)).all(1).nonzero().flatten()
        self.check(len(inside) > 0, f"no anchor lies inside the image of {image_width:g} x {image_height:g}")
        overlaps = boxes.overlaps(places[inside], real, pixel=1)
        most, nearest = overlaps.max(1)
        labels = torch.where(most < _RPN_UNLIKE, 0.0, -1.0)
        labels[(overlaps == overlaps.max(0).values).any(1) | (most >= _RPN_LIKE)] = 1
        right = sample(labels == 1, int(_RPN_RIGHT * _RPN_BATCH))
        wrong = sample(labels == 0, _RPN_BATCH - len(right))
        drawn = torch.cat([right, wrong])
        label = torch.full((len(places),), -1.0)
        targets, within, outside = (torch.zeros(len(places), 4) for _ in range(3))
        label[inside[right]], label[inside[wrong]] = 1, 0
        targets[inside] = codes(places[inside], real[nearest])
        within[inside[right]], outside[inside[drawn]] = 1, 1 / max(len(drawn), 1)
        label = label.reshape(height, width, -1).permute(2, 0, 1).reshape(1, 1, -1, width)
        maps = [rows.reshape(1, height, width, -1).permute(0, 3, 1, 2) for rows in (targets, within, outside)]
        return tuple(top.contiguous().to(scores) for top in (label, *maps))


@python_class("rpn.proposal_target_layer", "ProposalTargetLayer")
class ProposalTargetLayer(Layer):
    """What the second stage learns from proposals (py-faster-rcnn's lib/rpn/proposal_target_layer.py, end to end).

    Bottoms: proposals (R, 5) of image 0, objects (G, 5: x1, y1, x2, y2, label), which count as proposals too. 128 are
    drawn, a quarter of them such that overlap an object by half, the rest such that do not. Tops, with two more axes of
    1 as in R-FCN: the regions (K, 5), their labels (K, 1), and (K, 4 classes) each: the codes of the object, divided by
    (0.1, 0.1, 0.2, 0.2), where its class stands; inside weights, 1 there; outside weights, the same. No gradient.
    Errors: other shapes; a class that is not there.
    """

    bottoms = exactly(2)
    tops = exactly(5)
    no_gradient_bottoms = frozenset({0, 1})
    deviations = "drawn by torch's generator, not numpy's; R-FCN's online mining keeps all regions, this draws 128"

    def set_up(self, proposals: Shape, objects: Shape) -> None:
        _tell(self)
        self.classes = _number(self, "num_classes")

    def top_shapes(self, proposals: Shape, objects: Shape) -> list[Shape]:
        if proposals[1:2] != (5,) or objects[1:2] != (5,):
            self.fail(f"needs proposals (R, 5) and objects (G, 5), not {list(proposals)} and {list(objects)}")
        return [(1, 5, 1, 1), (1, 1, 1, 1), *[(1, 4 * self.classes, 1, 1)] * 3]

    @torch.no_grad()
    def forward(self, proposals: Tensor, objects: Tensor) -> tuple[Tensor, ...]:
        given, real = proposals.cpu().float().reshape(-1, 5), objects.cpu().float().reshape(-1, 5)
        self.check(bool((given[:, 0] == 0).all()), "Only single item batches are supported")
        regions = torch.cat([given[:, 1:], real[:, :4]])
        most, nearest = boxes.overlaps(regions, real[:, :4], pixel=1).max(1)
        right = sample(most >= _LIKE, round(_RIGHT * _BATCH))
        wrong = sample(most < _LIKE, _BATCH - len(right))
        drawn = torch.cat([right, wrong])
        labels = real[nearest[drawn], 4]
        labels[len(right) :] = 0
        limit = "num_classes" if self.classes > 2 else "num_classes (2: any object)"
        kinds = labels.long().clamp(max=1) if self.classes == 2 else labels.long()
        self.check(bool(((kinds >= 0) & (kinds < self.classes)).all()), f"an object's class is not below {limit}")
        targets, within = torch.zeros(len(drawn), self.classes, 4), torch.zeros(len(drawn), self.classes, 4)
        own = torch.arange(len(right)), kinds[: len(right)]
        found = codes(regions[right], real[nearest[right], :4]) / _DEVIATIONS
        at_object = own[1] > 0
        targets[own[0][at_object], own[1][at_object]] = found[at_object]
        within[own[0][at_object], own[1][at_object]] = 1
        rois = torch.cat([torch.zeros(len(drawn), 1), regions[drawn]], 1)
        tops = rois, labels, targets.flatten(1), within.flatten(1), within.flatten(1).clone()
        return tuple(top.reshape(len(drawn), -1, 1, 1).to(proposals) for top in tops)
