"""Pooling of regions: Fast R-CNN, R-FCN, LocNet. A region is (image index, x1, y1, x2, y2) in image pixels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pysolver.blob import Shape
from pysolver.layers.base import Layer, exactly, register
from pysolver.layers.indices import IndexCheck


class Regions(Layer):
    """What they share: bottoms (N, C, H, W) and regions (R, 5) without gradient. Errors: other shapes, an image
    index outside [0, N)."""

    numbers = 5  # of a region
    bottoms = exactly(2)
    no_gradient_bottoms = frozenset({1})

    def set_up(self, features: Shape, regions: Shape) -> None:
        self.images = IndexCheck(self, features[0], "image index", "images")

    def check_bottoms(self, features: Shape, regions: Shape) -> None:
        if len(features) != 4 or torch.Size(regions[1:]).numel() != self.numbers:
            self.fail(f"needs bottoms (N, C, H, W) and (R, {self.numbers}), not {list(features)} and {list(regions)}")

    def images_of(self, x: Tensor, regions: Tensor) -> Tensor:
        self.images.limit = x.shape[0]
        return self.images(regions[:, 0])


def round_half_away(x: Tensor) -> Tensor:
    """C's round: halves away from zero."""
    return x.sign() * (x.abs() + 0.5).floor()


def padded(corners: Tensor, ratio: float) -> Tensor:
    """(R, 4) enlarged by `ratio` of width and height (x2 - x1 + 1) on each side."""
    size = corners[:, 2:] - corners[:, :2] + 1
    return corners + torch.cat([-size, size], 1) * ratio if ratio else corners


def _bins(start: Tensor, length: Tensor, count: int, limit: int) -> tuple[Tensor, Tensor]:
    """First and behind-last cells, (R, count) each, of `count` bins over [start, start + length), clipped to limit."""
    size = length / count
    steps = torch.arange(count, device=start.device, dtype=start.dtype)
    first = (steps * size.unsqueeze(1) + start.unsqueeze(1)).floor()
    last = ((steps + 1) * size.unsqueeze(1) + start.unsqueeze(1)).ceil()
    return first.clamp(0, limit).long(), last.clamp(0, limit).long()


class PooledRegions(Regions):
    """Those that make pooled_h x pooled_w values of a region, (R, C, pooled_h, pooled_w). settings: the field of the
    layer that says how. Errors: see Regions; pooled_h or pooled_w 0.
    """

    settings = "roi_pooling_param"

    def set_up(self, features: Shape, regions: Shape) -> None:
        super().set_up(features, regions)
        p = getattr(self.param, self.settings)
        self.check(p.pooled_h > 0 and p.pooled_w > 0, "pooled_h and pooled_w must be > 0")
        self.height, self.width, self.scale = p.pooled_h, p.pooled_w, p.spatial_scale

    def top_shapes(self, features: Shape, regions: Shape) -> list[Shape]:
        self.check_bottoms(features, regions)
        return [(regions[0], features[1], self.height, self.width)]


class BinMaxima(PooledRegions):
    """Those that take the maximum of each of pooled_h x pooled_w bins of cells; 0 for an empty bin.

    A bin goes from floor(i size) to ceil((i + 1) size), clipped to the image. The first of equal maxima wins.
    """

    def cells(self, regions: Tensor) -> Tensor:
        """(R, 4): first and last column and row of cells, as left, top, right, bottom."""
        raise NotImplementedError

    def holes(self, regions: Tensor) -> Tensor | None:
        """(R, 4): the cells strictly within are left out."""
        return None

    def forward(self, x: Tensor, regions: Tensor) -> Tensor:
        regions = regions.detach().flatten(1)
        winners = self._winners(x.detach(), regions)
        y = x.reshape(-1).take(winners.clamp(min=0))
        return y.masked_fill(winners < 0, 0)

    def _winners(self, x: Tensor, regions: Tensor) -> Tensor:
        """Index into x of the maximum of every bin, (R, C, pooled_h, pooled_w); -1 for empty ones."""
        images = self.images_of(x, regions)
        left, top, right, bottom = self.cells(regions).unbind(1)
        # _bins adds the start before it rounds; the start is whole, so that is the same
        rows = _bins(top, (bottom - top + 1).clamp(min=1), self.height, x.shape[2])
        columns = _bins(left, (right - left + 1).clamp(min=1), self.width, x.shape[3])
        planes = torch.arange(x.shape[0] * x.shape[1], device=x.device).reshape(x.shape[:2]) * x[0, 0].numel()
        holes = self.holes(regions)
        found = [
            self._in_region(x[image], [part[i] for part in (*rows, *columns)], None if holes is None else holes[i])
            for i, image in enumerate(images.tolist())
        ]
        winners = torch.stack(found) if found else x.new_zeros(0, x.shape[1], self.height, self.width).long()
        return torch.where(winners < 0, -1, winners + planes[images][:, :, None, None])

    def _in_region(self, image: Tensor, bounds: list[Tensor], hole: Tensor | None) -> Tensor:
        """Index h * W + w of the maximum of each bin of one region, -1 for empty ones."""
        top, bottom, left, right = bounds
        row = top[:, None] + torch.arange(int((bottom - top).max().clamp(min=1)), device=image.device)
        column = left[:, None] + torch.arange(int((right - left).max().clamp(min=1)), device=image.device)
        inside = (row < bottom[:, None])[:, None, :, None] & (column < right[:, None])[None, :, None, :]
        if hole is not None:
            in_rows, in_columns = (row > hole[1]) & (row < hole[3]), (column > hole[0]) & (column < hole[2])
            inside = inside & ~(in_rows[:, None, :, None] & in_columns[None, :, None, :])
        cells = row[:, None, :, None] * image.shape[2] + column[None, :, None, :]
        inside, cells = inside.flatten(2), cells.flatten(2)
        values = image.flatten(1)[:, cells.where(inside, 0)].masked_fill(~inside, -torch.inf)
        best = values.argmax(3, keepdim=True)
        chosen = cells.expand(values.shape).gather(3, best).squeeze(3)
        return torch.where(inside.any(2), chosen, -1)


@register("ROIPooling")
class ROIPooling(BinMaxima):
    """The maximum of each of pooled_h x pooled_w bins of a region, (R, C, pooled_h, pooled_w) (roi_pooling_layer.cpp).

    A region is enlarged by pad_ratio (MS-CNN) of its width and height on each side; corners times spatial_scale are
    rounded, both ends belong to it, it has at least one cell; see BinMaxima. Errors: see PooledRegions.
    """

    def cells(self, regions: Tensor) -> Tensor:
        return round_half_away(padded(regions[:, 1:], self.param.roi_pooling_param.pad_ratio) * self.scale)


@register("RegionPooling")
class RegionPooling(BinMaxima):
    """ROIPooling of rings: (R, 9) has a second box, what lies within it is left out (region_pooling_layer.cpp of
    LocNet, Gidaris and Komodakis, 2016).

    Both boxes begin at floor((x1 + 1 + offset) spatial_scale + 0.5) and end at ceil((x2 + 1 - offset) spatial_scale -
    0.5), which belongs to them; turned inside out, at half the sum of the two. Cells on the inner box's edge count.
    Values below 0 give 0, without gradient. See BinMaxima. Errors: see PooledRegions.
    """

    settings = "region_pooling_param"
    numbers = 9

    def forward(self, x: Tensor, regions: Tensor) -> Tensor:
        return F.relu(super().forward(x, regions))

    def cells(self, regions: Tensor) -> Tensor:
        return self._box(regions[:, 1:5])

    def holes(self, regions: Tensor) -> Tensor:
        return self._box(regions[:, 5:])

    def _box(self, corners: Tensor) -> Tensor:
        offset = self.param.region_pooling_param.offset
        first = ((corners[:, :2] + 1 + offset) * self.scale + 0.5).floor()
        last = ((corners[:, 2:] + 1 - offset) * self.scale - 0.5).ceil()
        middle = ((first + last) / 2).trunc()
        return torch.cat([torch.where(first > last, middle, first), torch.where(first > last, middle, last)], 1)


@register("PSROIPooling")
class PSROIPooling(Regions):
    """Position-sensitive: bin (i, j) of channel d is the mean over the bin of channel (d g + i) g + j, g = group_size.

    Bottom channels output_dim g^2, top (R, output_dim, g, g) (R-FCN, psroi_pooling_layer.cu). A region reaches from
    round(x1) scale to (round(x2) + 1) scale, at least 0.1 wide; bins as in ROIPooling; an empty one gives 0.
    Errors: see Regions; channels that do not match.
    """

    deviations = "also runs on the CPU"

    def set_up(self, features: Shape, regions: Shape) -> None:
        super().set_up(features, regions)
        p = self.param.psroi_pooling_param
        self.check(p.output_dim > 0 and p.group_size > 0, "output_dim and group_size must be > 0")
        self.outputs, self.group, self.scale = p.output_dim, p.group_size, p.spatial_scale

    def top_shapes(self, features: Shape, regions: Shape) -> list[Shape]:
        self.check_bottoms(features, regions)
        if features[1] != self.outputs * self.group**2:
            self.fail(
                f"input channel number does not match layer parameters: output_dim * group_size^2 = "
                f"{self.outputs * self.group**2}, the bottom is {list(features)}"
            )
        return [(regions[0], self.outputs, self.group, self.group)]

    def forward(self, x: Tensor, regions: Tensor) -> Tensor:
        regions = regions.detach().flatten(1)
        images = self.images_of(x, regions)
        left, top, right, bottom = (
            (round_half_away(regions[:, 1:]) + regions.new_tensor([0, 0, 1, 1])) * self.scale
        ).unbind(1)
        rows = _shares(*_bins(top, (bottom - top).clamp(min=0.1), self.group, x.shape[2]), x.shape[2])
        columns = _shares(*_bins(left, (right - left).clamp(min=0.1), self.group, x.shape[3]), x.shape[3])
        maps = x.unflatten(1, (self.outputs, self.group, self.group))
        y = x.new_zeros(len(regions), self.outputs, self.group, self.group)
        for image in range(x.shape[0]):
            mine = (images == image).nonzero().flatten()
            means = torch.einsum("dijhw,rih,rjw->rdij", maps[image], rows[mine].to(x.dtype), columns[mine].to(x.dtype))
            y = y.index_copy(0, mine, means)
        return y


def _shares(first: Tensor, last: Tensor, length: int) -> Tensor:
    """(R, bins, length): 1 / size on the cells of each bin, else 0."""
    cells = torch.arange(length, device=first.device)
    inside = (cells >= first.unsqueeze(2)) & (cells < last.unsqueeze(2))
    return inside / (last - first).clamp(min=1).unsqueeze(2)
