"""Proposals and detections of MS-CNN (Cai et al., 2016) and Cascade R-CNN (Cai and Vasconcelos, 2018).

A box is (x1, y1, x2, y2) in pixels of the input.
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import torch
from torch import Tensor

from pysolver.blob import Shape
from pysolver.layers.base import Layer, at_least, between, exactly, register
from pysolver.layers.forks.boxes import suppress
from pysolver.layers.forks.proposals import centre_and_size
from pysolver.layers.forks.result_files import result_files
from pysolver.proto.caffe_pb2 import BoxGroupOutputParameter, BoxOutputParameter


def overlap(box: Tensor, boxes: Tensor, mode: str, pixel: int = 1) -> Tensor:
    """(4) and (B, 4) -> (B): the intersection over the union (IOU), the smaller (IOMU) or the first (IOFU).

    pixel 1: both ends belong to a box. 0 for a box that is turned inside out.
    """
    low, high = torch.maximum(box[:2], boxes[:, :2]), torch.minimum(box[2:], boxes[:, 2:])
    meet = (high[:, 0] >= low[:, 0]) & (high[:, 1] > low[:, 1])
    shared = torch.where(meet, (high - low + pixel).prod(1), 0)
    own, others = (box[2:] - box[:2] + pixel).prod(), (boxes[:, 2:] - boxes[:, :2] + pixel).prod(1)
    whole = {"IOMU": torch.minimum(own, others), "IOFU": own}.get(mode, own + others - shared)
    real = (box[2:] >= box[:2]).all() & (boxes[:, 2:] >= boxes[:, :2]).all(1) & (whole > 0)
    return torch.where(real, shared / whole, 0)


def code_scale(layer: Layer) -> tuple[Tensor, Tensor]:
    """bbox_mean and bbox_std of bbox_reg_param, (4) each; 0 and 1 if one is missing. Errors: others than 4; std 0."""
    p = layer.param.bbox_reg_param
    mean, std = list(p.bbox_mean), list(p.bbox_std)
    if not mean or not std:
        mean, std = [0.0] * 4, [1.0] * 4
    layer.check(len(mean) == len(std) == 4, "bbox_mean and bbox_std need four numbers each")
    layer.check(min(std) > 0, "bbox_std must be positive")
    return torch.tensor(mean), torch.tensor(std)


class Coded(Layer):
    """Layers that read bbox_reg_param: a code times bbox_std plus bbox_mean is the move of a box. No gradient."""

    is_opaque = True
    no_gradient_bottoms = frozenset(range(64))

    def set_up(self, *bottoms: Shape) -> None:
        self.mean, self.std = code_scale(self)

    def moves(self, codes: Tensor) -> Tensor:
        """(..., 4) as they are meant."""
        return codes * self.std.to(codes) + self.mean.to(codes)

    def moved(self, places: Tensor, codes: Tensor) -> Tensor:
        """Boxes (B, 4) and codes (B, K, 4) -> (B, K, 4)."""
        size = centre_and_size(places)[1]
        middle, moves = (places[:, :2] + places[:, 2:]) / 2, self.moves(codes)
        own = size[:, None] * moves[..., 2:].exp()
        first = moves[..., :2] * size[:, None] + middle[:, None] - (own - 1) / 2
        return torch.cat([first, first + own - 1], -1)


@register("DecodeBBox")
class DecodeBBox(Coded):
    """The boxes (R, 5: image, box) that codes (R, 8), of which the last four count, make of boxes (R, 5)
    (decode_bbox_layer.cpp).

    In TRAIN boxes that are turned inside out leave, and with a third bottom (R, ..., overlap with the object) those
    whose overlap is gt_iou_thr or more. Errors: other shapes; a third bottom in TEST; no box left.
    """

    bottoms = between(2, 3)

    def top_shapes(self, codes: Shape, places: Shape, matched: Shape | None = None) -> list[Shape]:
        good = math.prod(codes[1:]) == 8 and math.prod(places[1:]) == 5 and codes[0] == places[0]
        self.check(good, f"needs codes (R, 8) and boxes (R, 5), not {list(codes)} and {list(places)}")
        if matched is not None:
            self.check(matched[0] == codes[0], f"bottom 2 is of {matched[0]} boxes, not {codes[0]}")
            self.check(self.is_training, "a third bottom is for TRAIN")
        return [(places[0], 5, 1, 1)]

    @torch.no_grad()
    def forward(self, codes: Tensor, places: Tensor, matched: Tensor | None = None) -> Tensor:
        rows = places.reshape(-1, 5)
        found = self.moved(rows[:, 1:], codes.reshape(-1, 2, 4)[:, 1:])[:, 0]
        stay = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
        if self.is_training:
            stay = (found[:, :2] <= found[:, 2:]).all(1)
            if matched is not None:
                stay &= matched.reshape(len(rows), -1)[:, -1] < self.param.decode_bbox_param.gt_iou_thr
        self.check(bool(stay.any()), "no box is left")
        return torch.cat([rows[:, :1], found], 1)[stay].reshape(-1, 5, 1, 1)


class Proposer(Coded):
    """What BoxOutput and BoxGroupOutput share: of all places of all maps, what is likely, clipped, large enough and not
    suppressed: (R, 5) rows of image and box and, as a second top, (R, 6) with the score. Nothing found: one row
    0, 1, 1, 10, 10, and zeros.
    """

    bottoms = at_least(1)
    tops = between(1, 2)
    p: BoxOutputParameter | BoxGroupOutputParameter

    def top_shapes(self, *bottoms: Shape) -> list[Shape]:
        shapes: list[Shape] = [(1, 5, 1, 1), (1, 6, 1, 1)]
        return shapes[: self.top_count]

    def bounded(self, moves: Tensor, field: Tensor, stride: float) -> tuple[Tensor, Tensor]:
        """Corner and size, (..., H, W, 2) each, of moves (..., H, W, 4) of fields (..., 1, 1, 2: width, height)."""
        height, width = moves.shape[-3:-1]
        shift, grow = 1 / self.p.field_xyr, math.log(self.p.field_whr)
        x, y = torch.arange(width) + 0.5, torch.arange(height) + 0.5
        middle = torch.stack([x.expand(height, -1), y[:, None].expand(-1, width)], -1) * stride
        size = field * moves[..., 2:].clamp(-grow, grow).exp()
        return moves[..., :2].clamp(-shift, shift) * field + middle - size / 2, size

    def tops_of(self, found: list[tuple[Tensor, Tensor]], like: Tensor, pixel: int) -> Tensor | tuple[Tensor, ...]:
        """The tops of candidates, (B, 4) boxes and (B) scores an image."""
        p, rows = self.p, []
        for image, (places, scores) in enumerate(found):
            by = partial(overlap, mode=p.nms_type, pixel=pixel)
            kept = suppress(places, scores, p.iou_thr, p.max_nms_num or -1, overlap=by, most=p.max_post_nms_num or None)
            head = torch.full((len(kept), 1), float(image))
            rows.append(torch.cat([head, places[kept], scores[kept, None]], 1))
        every = torch.cat(rows)
        first, second = every[:, :5], every
        if not len(every):
            first, second = torch.tensor([[0.0, 1, 1, 10, 10]]), torch.zeros(1, 6)
        tops = first.reshape(-1, 5, 1, 1).to(like), second.reshape(-1, 6, 1, 1).to(like)
        return tops if self.top_count > 1 else tops[0]


@register("BoxOutput")
class BoxOutput(Proposer):
    """MS-CNN's proposals (box_output_layer.cpp): from maps (N, classes + 4, H, W), one bottom for each of field_w,
    field_h and downsample_rate; see Proposer.

    Score: the best class's number less that of class 0, at least fg_thr. The box is a field around the middle of its
    place, moved and grown by the codes, which field_xyr and field_whr bound; x2 = x1 + width. Errors: other numbers of
    bottoms; maps of several batches.
    """

    p: BoxOutputParameter

    def set_up(self, *bottoms: Shape) -> None:
        super().set_up(*bottoms)
        p = self.p = self.param.box_output_param
        counts = (len(p.field_w), len(p.field_h), len(p.downsample_rate))
        self.check(
            counts == (len(bottoms),) * 3,
            f"{len(bottoms)} bottoms need as many field_w, field_h and downsample_rate, not {list(counts)}",
        )

    def top_shapes(self, *bottoms: Shape) -> list[Shape]:
        for shape in bottoms:
            if len(shape) != 4 or shape[1] < 6 or shape[0] != bottoms[0][0]:
                self.fail(f"needs maps (N, classes + 4, H, W) of one batch, not {list(shape)}")
        return super().top_shapes(*bottoms)

    @torch.no_grad()
    def forward(self, *maps: Tensor) -> Tensor | tuple[Tensor, ...]:
        p, places, scores = self.p, [], []
        for k, x in enumerate(maps):
            by_place = x.cpu().float().permute(0, 2, 3, 1)
            stride, field = p.downsample_rate[k], torch.tensor([float(p.field_w[k]), p.field_h[k]])
            corner, size = self.bounded(self.moves(by_place[..., -4:]), field, stride)
            corner = corner.clamp(min=0)
            edge = torch.tensor([x.shape[3] * stride, x.shape[2] * stride])
            size = torch.minimum(size, edge - corner)
            places.append(torch.cat([corner, corner + size], -1).flatten(1, 2))
            own = by_place[..., 1:-4].amax(-1) - by_place[..., 0]
            good = (own >= p.fg_thr) & (size >= p.min_size).all(-1)
            scores.append(torch.where(good, own, -torch.inf).flatten(1))
        every = zip(torch.cat(places, 1), torch.cat(scores, 1), strict=True)
        return self.tops_of([(box[score > -torch.inf], score[score > -torch.inf]) for box, score in every], maps[0], 0)


@register("BoxGroupOutput")
class BoxGroupOutput(Proposer):
    """Cascade R-CNN's proposals (box_group_output_layer.cpp): from pairs of bottoms, probabilities (N G, classes, H, W)
    and codes (N G, 4, H, W), with a box_group_param of G fields each; see Proposer.

    Score: 1 less the probability of class 0, at least fg_thr. The box is a field around the middle of its place, moved
    and grown by the codes, which field_xyr and field_whr bound; both ends belong to it. Errors: an odd number of
    bottoms; other shapes.
    """

    p: BoxGroupOutputParameter

    bottoms = at_least(2)

    def set_up(self, *bottoms: Shape) -> None:
        super().set_up(*bottoms)
        p = self.p = self.param.box_group_output_param
        groups = p.box_group_param
        self.check(len(bottoms) == 2 * len(groups), f"{len(bottoms)} bottoms need half as many box_group_param")
        self.check(all(len(group.field_w) == len(group.field_h) > 0 for group in groups), "field_w and field_h differ")
        self.check(all(group.stride > 0 for group in groups), "stride must be positive")

    def top_shapes(self, *bottoms: Shape) -> list[Shape]:
        for scores, codes, group in zip(bottoms[::2], bottoms[1::2], self.p.box_group_param, strict=True):
            fields = len(group.field_w)
            good = len(scores) == len(codes) == 4 and codes == (scores[0], 4, *scores[2:]) and not scores[0] % fields
            self.check(
                good, f"needs (N {fields}, classes, H, W) and (N {fields}, 4, H, W), not {list(scores)}, {list(codes)}"
            )
        return super().top_shapes(*bottoms)

    @torch.no_grad()
    def forward(self, *maps: Tensor) -> Tensor | tuple[Tensor, ...]:
        p, places, scores = self.p, [], []
        for prob, codes, group in zip(maps[::2], maps[1::2], p.box_group_param, strict=True):
            height, width = prob.shape[2:]
            field = torch.tensor([list(map(float, group.field_w)), list(map(float, group.field_h))]).T[:, None, None]
            by_field = codes.cpu().float().permute(0, 2, 3, 1).unflatten(0, (-1, len(field)))
            corner, size = self.bounded(self.moves(by_field), field, group.stride)
            edge = torch.tensor([width * group.stride, height * group.stride])
            first, last = corner.clamp(min=0), torch.minimum(corner + size - 1, edge)
            places.append(torch.cat([first, last], -1).flatten(1, 3))
            own = 1 - prob.cpu().float()[:, 0].unflatten(0, (-1, len(field)))
            good = (own >= p.fg_thr) & (last - first + 1 >= p.min_size).all(-1)
            scores.append(torch.where(good, own, -torch.inf).flatten(1))
        every = zip(torch.cat(places, 1), torch.cat(scores, 1), strict=True)
        return self.tops_of([(box[score > -torch.inf], score[score > -torch.inf]) for box, score in every], maps[0], 1)


@register("ScaleRoute")
class ScaleRoute(Layer):
    """The rows of all bottoms whose region (bottom 0, R x 5) has low_scale <= sqrt(area) < high_scale; if none has, the
    one nearest to the geometric mean of the two (Cascade R-CNN's scale_route_layer.cpp).

    Without gradient. Errors: regions not (R, 5); bottoms of other lengths; a top for each bottom.
    """

    is_opaque = True
    bottoms = at_least(1)
    tops = at_least(1)
    no_gradient_bottoms = frozenset(range(64))

    def set_up(self, *bottoms: Shape) -> None:
        p = self.param.scale_route_param
        self.check(self.top_count == len(bottoms), f"needs a top for each of {len(bottoms)} bottoms")
        self.low = p.low_scale if p.HasField("low_scale") else 0.0
        self.high = p.high_scale if p.HasField("high_scale") else math.inf
        bounds = [v for v in (self.low, self.high) if 0 < v < math.inf]
        self.middle = math.sqrt(bounds[0] * bounds[-1]) if bounds else 256.0
        self.check(self.low <= self.high and self.middle > 0, "low_scale must not be above high_scale")

    def top_shapes(self, *bottoms: Shape) -> list[Shape]:
        self.check(math.prod(bottoms[0][1:]) == 5, f"needs regions (R, 5), not {list(bottoms[0])}")
        self.check(all(shape[0] == bottoms[0][0] for shape in bottoms), "the bottoms must be of as many regions")
        return [(1, *shape[1:]) for shape in bottoms]

    @torch.no_grad()
    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        size = centre_and_size(bottoms[0].reshape(-1, 5)[:, 1:])[1].clamp(min=0)
        scale = size.prod(1).sqrt()
        chosen = ((scale >= self.low) & (scale < self.high)).nonzero().flatten()
        if not len(chosen):
            chosen = (scale / self.middle).log2().abs().argmin()[None]
        return tuple(bottom[chosen] for bottom in bottoms)


@register("FrcnnOutput")
class FrcnnOutput(Coded):
    """The detections of one image (Cascade R-CNN's frcnn_output_layer.cpp): rows of image, box, label, score, the first
    of them 0 and -1.

    Bottoms: probabilities (R, classes), codes (R, 4 classes), or (R, 8) without cls_aware, regions (R, 5 or 6), the
    input's (1, 2: height, width). For each class but 0: probabilities from conf_thr on, clipped to the input,
    suppressed by iou_thr and nms_type; then the max_det_num best. save_output_param: see ResultFiles. Errors: other
    shapes.
    """

    bottoms = exactly(4)

    def set_up(self, *bottoms: Shape) -> None:
        super().set_up(*bottoms)
        self.p, self.is_aware = self.param.frcnn_output_param, self.param.bbox_reg_param.cls_aware
        self.files = result_files(self.p.save_output_param, self, 0)

    def top_shapes(self, prob: Shape, codes: Shape, regions: Shape, size: Shape) -> list[Shape]:
        width = 4 * math.prod(prob[1:]) if self.is_aware else 8
        good = prob[0] == codes[0] == regions[0] and math.prod(codes[1:]) == width
        if not good or math.prod(regions[1:]) not in (5, 6) or math.prod(size) != 2:
            shapes = ", ".join(str(list(shape)) for shape in (prob, codes, regions, size))
            self.fail(f"needs (R, classes), (R, {width}), (R, 5) and (1, 2), not {shapes}")
        return [(1, 7, 1, 1)]

    @torch.no_grad()
    def forward(self, prob: Tensor, codes: Tensor, regions: Tensor, size: Tensor) -> Tensor:
        p, scores, rows = self.p, prob.cpu().float().flatten(1), regions.cpu().float().flatten(1)
        self.check(not rows[:, 0].any(), "takes a batch of one image")
        places = self.moved(rows[:, 1:5], codes.cpu().float().reshape(len(rows), -1, 4))
        height, width = size.flatten().tolist()
        edge = torch.tensor([width, height])
        places = torch.cat([places[..., :2].clamp(min=0), torch.minimum(places[..., 2:], edge)], -1)
        found = []
        for label in range(1, scores.shape[1]):
            good = (scores[:, label] >= p.conf_thr).nonzero().flatten()
            own, score = places[good, label if self.is_aware else 1], scores[good, label]
            kept = suppress(own, score, p.iou_thr, overlap=partial(overlap, mode=p.nms_type))
            found.append(torch.cat([own[kept], torch.full((len(kept), 1), float(label)), score[kept, None]], 1))
        every = torch.cat(found) if found else torch.zeros(0, 6)
        if 0 < p.max_det_num < len(every):
            best = every[:, 5].argsort(descending=True, stable=True)[: p.max_det_num]
            every = every[best.sort().values]
        if self.files is not None:
            own_height, own_width = self.files.size
            ratio = np.array([own_width / width, own_height / height] * 2)
            self.files.add(every[:, 4].numpy(), every[:, 5].numpy(), every[:, :4].numpy() * ratio)
        tops = torch.cat([torch.tensor([[0.0, *[-1] * 6]]), torch.cat([torch.zeros(len(every), 1), every], 1)])
        return tops.reshape(-1, 7, 1, 1).to(prob)


@register("BboxAccuracy")
class BboxAccuracy(Coded):
    """The mean overlap of boxes with their objects, after and, as a second top, before the codes move them
    (bbox_accuracy_layer.cpp of MS-CNN and Cascade R-CNN).

    Bottoms: codes (R, 4 classes), or (R, 8) without cls_aware, regions (R, 5), objects (R, 6: label, box, overlap).
    Those with label 0 and those that overlap by more than 0.975 do not count; none left: -1.
    Errors: other shapes; a label without codes.
    """

    bottoms = exactly(3)
    tops = between(1, 2)

    def top_shapes(self, codes: Shape, regions: Shape, objects: Shape) -> list[Shape]:
        widths = [math.prod(shape[1:]) for shape in (codes, regions, objects)]
        good = codes[0] == regions[0] == objects[0] and not widths[0] % 4 and widths[1] == 5 and widths[2] >= 6
        if not good or (not self.param.bbox_reg_param.cls_aware and widths[0] != 8):
            self.fail(f"needs (R, 4 K), (R, 5) and (R, 6), not {list(codes)}, {list(regions)} and {list(objects)}")
        return [(1, 1, 1, 1)] * self.top_count

    @torch.no_grad()
    def forward(self, codes: Tensor, regions: Tensor, objects: Tensor) -> Tensor | tuple[Tensor, ...]:
        found, rows, real = (part.cpu().float().flatten(1) for part in (codes, regions, objects))
        counted = ((real[:, 0] > 0) & (real[:, -1] <= 0.975)).nonzero().flatten()
        label = real[counted, 0].long()
        label = label if self.param.bbox_reg_param.cls_aware else label.clamp(max=1)
        self.check(not len(label) or int(label.max()) < found.shape[1] // 4, "a label has no codes")
        own = found[counted].reshape(len(counted), found.shape[1] // 4, 4)[torch.arange(len(counted)), label]
        after = self.moved(rows[counted, 1:5], own[:, None])[:, 0]
        tops = []
        for boxes in (after, rows[counted, 1:5])[: self.top_count]:
            each = [overlap(box, boxes[i : i + 1], "IOU") for i, box in enumerate(real[counted, 1:5])]
            mean = torch.cat(each).mean() if each else torch.tensor(-1.0)
            tops.append(mean.reshape(1, 1, 1, 1).to(codes))
        return tuple(tops) if self.top_count > 1 else tops[0]
