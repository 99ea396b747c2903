"""What is read between the cells of a map: ROIAlign of Cascade R-CNN, ROIWarping, MaskPooling and MaskResize of MNC."""

from __future__ import annotations

import torch
from torch import Tensor

from pysolver.blob import Shape
from pysolver.layers.base import Layer, exactly, register
from pysolver.layers.forks.rois import PooledRegions, padded, round_half_away


def bilinear(x: Tensor, images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """(R, C, h, w): for each of R regions the image `images[r]` of x (N, C, H, W) at rows (R, h) and columns (R, w).

    Up to half a cell outside the map its edge is read, beyond that 0. Differentiable by x, rows and columns.
    """
    height, width = x.shape[2:]
    parts = []
    for place, length in ((rows, height), (columns, width)):
        inside = (place >= -0.5) & (place <= length - 0.5)
        place = place.clamp(0, length - 1)
        low = place.detach().floor()
        share = place - low
        low = low.long()
        parts.append((low, (low + 1).clamp(max=length - 1), (1 - share) * inside, share * inside))
    (top, bottom, upper, lower), (left, right, west, east) = parts
    planes = x.transpose(0, 1).flatten(1)
    total = planes.new_zeros(())
    for row, by_row in ((top, upper), (bottom, lower)):
        for column, by_column in ((left, west), (right, east)):
            cells = (images[:, None, None] * height + row[:, :, None]) * width + column[:, None, :]
            values = planes.index_select(1, cells.flatten()).unflatten(1, cells.shape)
            total = total + values * (by_row[:, :, None] * by_column[:, None, :]).to(x.dtype)
    return total.transpose(0, 1)


@register("ROIAlign")
class ROIAlign(PooledRegions):
    """A region's map at (pooled_h + 1) x (pooled_w + 1) places, from corner to corner (roi_align_layer.cpp of
    Cascade R-CNN and MS-CNN; an AVE Pooling behind it makes pooled_h x pooled_w of them).

    The region, enlarged by pad_ratio of its width and height (x2 - x1 + 1) on each side, times spatial_scale, less
    half a cell; read bilinearly, see `bilinear`. A region turned inside out gives 0.
    Errors: see PooledRegions.
    """

    deviations = (
        "frcnn's ROIAlign, which reads the middle of bins, is another layer: bi_type and is_multi_interpolate are "
        "refused; an image index outside the batch is an error"
    )

    def set_up(self, features: Shape, regions: Shape) -> None:
        super().set_up(features, regions)
        for name in ("bi_type", "is_multi_interpolate"):
            given = self.param.roi_pooling_param.HasField(name)
            self.check(not given, f"{name} is of frcnn's ROIAlign, which is another layer and not here")

    def top_shapes(self, features: Shape, regions: Shape) -> list[Shape]:
        return [(*shape[:2], shape[2] + 1, shape[3] + 1) for shape in super().top_shapes(features, regions)]

    def forward(self, x: Tensor, regions: Tensor) -> Tensor:
        regions = regions.detach().flatten(1)
        corners = padded(regions[:, 1:], self.param.roi_pooling_param.pad_ratio)
        left, top, right, bottom = (corners * self.scale - 0.5).unbind(1)
        rows = _steps(top, bottom, self.height, self.height + 1)
        columns = _steps(left, right, self.width, self.width + 1)
        y = bilinear(x, self.images_of(x, regions), rows, columns)
        return y.masked_fill(((bottom <= top) | (right <= left))[:, None, None, None], 0)


def _steps(start: Tensor, end: Tensor, parts: int, count: int) -> Tensor:
    """(R, count): start, and on by (end - start) / parts each."""
    return start[:, None] + torch.arange(count, device=start.device) * ((end - start) / parts)[:, None]


@register("ROIWarping")
class ROIWarping(PooledRegions):
    """A region's map at pooled_h x pooled_w places, with gradients to the region's corners (MNC's
    roi_warping_layer.cu; Dai et al., 2016).

    Corners times spatial_scale are rounded; place i of n is start + i (end - start) / n, read bilinearly, see
    `bilinear`. The gradient to the corners is as without the rounding. Errors: see PooledRegions.
    """

    settings = "roi_warping_param"
    no_gradient_bottoms = frozenset()
    deviations = (
        "exact gradients: MNC's leave out some of the last bins and the last row and column, and count a region one "
        "cell longer backward than forward; also runs on the CPU"
    )

    def forward(self, x: Tensor, regions: Tensor) -> Tensor:
        regions = regions.flatten(1)
        corners = regions[:, 1:] * self.scale
        left, top, right, bottom = (corners + (round_half_away(corners) - corners).detach()).unbind(1)
        rows = _steps(top, torch.maximum(top, bottom), self.height, self.height)
        columns = _steps(left, torch.maximum(left, right), self.width, self.width)
        return bilinear(x, self.images_of(x, regions.detach()), rows, columns)


@register("MaskPooling")
class MaskPooling(Layer):
    """y = x * mask: features (N, C, H, W), masks (N, 1, H, W), gradients to both (MNC's mask_pooling_layer.cu).

    Errors: other shapes.
    """

    bottoms = exactly(2)
    deviations = "also runs on the CPU"

    def top_shapes(self, features: Shape, masks: Shape) -> list[Shape]:
        if len(features) != 4 or masks != (features[0], 1, *features[2:]):
            self.fail(f"needs features (N, C, H, W) and masks (N, 1, H, W), not {list(features)} and {list(masks)}")
        return [features]

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return x * mask


@register("MaskResize")
class MaskResize(Layer):
    """Masks (N, C, H, W) at output_height x output_width: row i is read at i H / output_height, see `bilinear` (MNC's
    mask_resize_layer.cu). Errors: another number of axes; an output_height or output_width of 0.
    """

    deviations = "exact gradients: MNC's leave out places when the mask grows; also runs on the CPU"

    def set_up(self, bottom: Shape) -> None:
        p = self.param.mask_resize_param
        self.check(p.output_height > 0 and p.output_width > 0, "output_height and output_width must be > 0")
        self.size = (p.output_height, p.output_width)

    def top_shapes(self, bottom: Shape) -> list[Shape]:
        self.check(len(bottom) == 4, f"needs a bottom (N, C, H, W), not {list(bottom)}")
        return [(*bottom[:2], *self.size)]

    def forward(self, x: Tensor) -> Tensor:
        zeros = x.new_zeros(x.shape[0])
        rows, columns = (
            _steps(zeros, zeros + length, size, size) for length, size in zip(x.shape[2:], self.size, strict=True)
        )
        return bilinear(x, torch.arange(x.shape[0], device=x.device), rows, columns)
