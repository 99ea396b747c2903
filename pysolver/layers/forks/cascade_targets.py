"""What the regions of MS-CNN (Cai et al., 2016) and Cascade R-CNN (Cai and Vasconcelos, 2018) learn.

A region is (image, x1, y1, x2, y2) in pixels of the input, both ends belonging to it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pysolver.blob import Shape
from pysolver.layers.base import Layer, at_least, between, exactly, register
from pysolver.layers.forks import boxes
from pysolver.layers.forks.cascade import Coded
from pysolver.layers.forks.proposals import codes, sample

_LEAST = 32  # pixels of a side of a region made up


@register("ProposalTarget")
class ProposalTarget(Coded):
    """Regions drawn from proposals (R, 5), which objects (G, 7 or 8: image, box, label, ignored) join by append_gtbox
    (proposal_target_layer.cpp of MS-CNN and Cascade R-CNN).

    Of batch_size (-1: all) regions fg_fraction overlap an object of their image by fg_thr, unless the one that they
    overlap most is to be ignored; the others overlap by bg_thr_lw to bg_thr_hg, then, by pickup_discard, less; what is
    missing is made up at random: MS-CNN (7 numbers an object) fills the batch, Cascade R-CNN (8) needs one region.
    Tops: regions (K, 5), labels (K), codes of the objects, less bbox_mean, by bbox_std, where the label stands, inside
    and outside weights, 1 there if the overlap is within bbox_thr_lw and bbox_thr_hg, (K, 4 cls_num) each, or (K, 8)
    without cls_aware; objects (K, 6: label, box, overlap), zeros for none; and as a seventh the regions' weights (K):
    the overlap by iou_weighted, else 1, such that those with objects have fg_fraction of the sum.
    Errors: other shapes; fg_thr below bg_thr_hg; a region or object of an image from num_img_per_batch on; a label
    outside the classes; img_width or img_height below 33 where regions are made up.
    """

    bottoms = exactly(2)
    tops = between(6, 7)
    deviations = "drawn by torch's generator"

    def set_up(self, proposals: Shape, objects: Shape) -> None:
        super().set_up(proposals, objects)
        p = self.p = self.param.proposal_target_param
        self.check(p.batch_size == -1 or p.batch_size > 0, "batch_size must be positive, or -1 for all")
        self.check(p.fg_thr >= p.bg_thr_hg, "fg_thr must not be below bg_thr_hg")
        self.check(p.cls_num > 1, "cls_num must be above 1")
        self.slots = p.cls_num if self.param.bbox_reg_param.cls_aware else 2

    def top_shapes(self, proposals: Shape, objects: Shape) -> list[Shape]:
        widths = math.prod(proposals[1:]), math.prod(objects[1:])
        if widths[0] != 5 or widths[1] not in (7, 8):
            self.fail(f"needs proposals (R, 5) and objects (G, 7 or 8), not {list(proposals)} and {list(objects)}")
        count = max(proposals[0], 1) if self.p.batch_size == -1 else self.p.batch_size
        shapes: list[Shape] = [(count, wide, 1, 1) for wide in (5, 1, *[4 * self.slots] * 3, 6, 1)]
        return shapes[: self.top_count]

    @torch.no_grad()
    def forward(self, proposals: Tensor, objects: Tensor) -> tuple[Tensor, ...]:
        p, real = self.p, objects.cpu().float().flatten(1)
        real = real[real[:, 0] != -1]
        regions = proposals.cpu().float().reshape(-1, 5)
        regions = torch.cat([regions, real[:, :5]]) if p.append_gtbox else regions
        images = torch.cat([regions[:, 0], real[:, 0]])
        self.check(bool((images < p.num_img_per_batch).all()), f"an image is not below {p.num_img_per_batch}")
        most, nearest = self._nearest(regions, real)
        right, wrong = self._drawn(most, real[nearest, 6] != 0 if len(real) else torch.zeros(len(most)) > 0)
        made_up = self._made_up(len(right) + len(wrong), real)
        chosen = torch.cat([regions[right], regions[wrong], made_up])
        labels = torch.zeros(len(chosen))
        labels[: len(right)] = real[nearest[right], 5]
        kinds = labels[: len(right)].long()
        self.check(bool(((kinds > 0) & (kinds < p.cls_num)).all()), f"an object's label is outside [1, {p.cls_num})")
        matched = torch.zeros(len(chosen), 6)
        matched[: len(right)] = torch.cat([real[nearest[right]][:, [5, 1, 2, 3, 4]], most[right, None]], 1)
        targets, inside = torch.zeros(len(chosen), self.slots, 4), torch.zeros(len(chosen), self.slots, 4)
        own = torch.arange(len(right)), kinds.clamp(max=self.slots - 1)
        targets[own] = (codes(regions[right, 1:], real[nearest[right], 1:5]) - self.mean) / self.std
        within = (most[right] >= p.bbox_thr_lw) & (most[right] <= p.bbox_thr_hg)
        inside[own] = within.float()[:, None].expand(-1, 4)
        tops = chosen, labels, targets, inside, inside.clone(), matched, self._weights(matched)
        return tuple(top.reshape(len(chosen), -1, 1, 1).to(proposals) for top in tops[: self.top_count])

    def _nearest(self, regions: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """Of each region the largest overlap with an object of its image, and which; 0 for none."""
        if not len(real):
            return torch.zeros(len(regions)), torch.zeros(len(regions), dtype=torch.long)
        overlaps = boxes.overlaps(regions[:, 1:], real[:, 1:5], pixel=1)
        most, nearest = overlaps.masked_fill(regions[:, :1] != real[:, 0], -1).max(1)
        return most.clamp(min=0), nearest

    def _drawn(self, most: Tensor, is_ignored: Tensor) -> tuple[Tensor, Tensor]:
        """Indices of regions with an object and of those without."""
        p = self.p
        like = (most >= p.fg_thr) & ~is_ignored
        unlike = (most < p.fg_thr) & (most >= p.bg_thr_lw) & (most < p.bg_thr_hg)
        count = p.batch_size if p.batch_size > 0 else int(like.sum() + unlike.sum())
        right = sample(like, int(p.fg_fraction * count + 0.5) if p.batch_size > 0 else count)
        wrong = sample(unlike, count - len(right))
        if p.pickup_discard:
            rest = ((most < p.fg_thr) & ~unlike).nonzero().flatten()
            wrong = torch.cat([wrong, rest[: count - len(right) - len(wrong)]])
        return right, wrong

    def _made_up(self, count: int, real: Tensor) -> Tensor:
        """(B, 5): regions without an object, as many as are missing."""
        p = self.p
        found: list[Tensor] = []
        wanted = p.batch_size if real.shape[1] == 7 and p.batch_size > 0 else 1
        while len(found) < wanted - count:
            self.check(min(p.img_width, p.img_height) > _LEAST, "regions are missing: needs img_width and img_height")
            image = int(torch.randint(p.num_img_per_batch, ()))
            first = [int(torch.randint(side - _LEAST, ())) for side in (p.img_width, p.img_height)]
            size = [
                max(_LEAST, int(torch.randint(side - at, ())))
                for side, at in zip((p.img_width, p.img_height), first, strict=True)
            ]
            last = [at + side - 1 for at, side in zip(first, size, strict=True)]
            region = torch.tensor([[image, *first, *last]], dtype=torch.float32)
            if float(self._nearest(region, real)[0]) < p.fg_thr:
                found.append(region)
        return torch.cat(found) if found else torch.zeros(0, 5)

    def _weights(self, matched: Tensor) -> Tensor:
        is_right = matched[:, 0] > 0
        weight = torch.where(is_right, matched[:, 5], 1.0) if self.p.iou_weighted else torch.ones(len(matched))
        rights, wrongs = weight[is_right].sum(), weight[~is_right].sum()
        if not rights:
            return weight
        share = torch.where(is_right, self.p.fg_fraction / rights, (1 - self.p.fg_fraction) / wrongs)
        return weight * share * len(matched)


@register("HardMining")
class HardMining(Layer):
    """Those rows of all bottoms but the first that cost most, by bottom 0 (R), in their order (Cascade R-CNN's
    hard_mining_layer.cpp).

    Of each of num_image images (bottom 1, R x 5: image and box) the num_roi_per_image dearest, then the dearest of the
    others, num_image num_roi_per_image in all, or R. No gradient. Errors: other shapes; a bottom too few for the tops;
    an image outside the batch.
    """

    is_opaque = True
    bottoms = at_least(2)
    tops = at_least(1)
    no_gradient_bottoms = frozenset(range(64))

    def set_up(self, *bottoms: Shape) -> None:
        p = self.p = self.param.hard_mining_param
        self.check(len(bottoms) == self.top_count + 1, f"{len(bottoms)} bottoms need {len(bottoms) - 1} tops")
        self.check(p.num_roi_per_image > 0 and p.num_image > 0, "num_roi_per_image and num_image must be positive")

    def top_shapes(self, *bottoms: Shape) -> list[Shape]:
        count = math.prod(bottoms[0])
        self.check(math.prod(bottoms[1][1:]) == 5, f"needs regions (R, 5), not {list(bottoms[1])}")
        self.check(all(shape[0] == count for shape in bottoms), "the bottoms must be of as many regions")
        return [(min(count, self.p.num_image * self.p.num_roi_per_image), *shape[1:]) for shape in bottoms[1:]]

    @torch.no_grad()
    def forward(self, costs: Tensor, *bottoms: Tensor) -> tuple[Tensor, ...]:
        p, images = self.p, bottoms[0].reshape(len(bottoms[0]), 5)[:, 0].long()
        self.check(bool(((images >= 0) & (images < p.num_image)).all()), f"an image is outside [0, {p.num_image})")
        dearest = costs.flatten().argsort(descending=True, stable=True)
        own = [dearest[images[dearest] == image] for image in range(p.num_image)]
        first = torch.cat([rows[: p.num_roi_per_image] for rows in own])
        later = torch.cat([rows[p.num_roi_per_image :] for rows in own])
        later = later[costs.flatten()[later].argsort(descending=True, stable=True)]
        kept = torch.cat([first, later])[: p.num_image * p.num_roi_per_image].sort().values
        return tuple(bottom[kept] for bottom in bottoms)
