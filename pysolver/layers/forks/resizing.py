"""Interp of DeepLab and PSPNet, Upsample of SegNet and of YOLO nets."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pysolver.blob import Shape
from pysolver.layers.base import Layer, between, register
from pysolver.layers.indices import IndexCheck


@register("Interp")
class Interp(Layer):
    """Bilinear resizing of (N, C, H, W), corners on corners (DeepLab, PSPNet: interp_layer.cpp).

    First pad_beg and pad_end, both <= 0, cut rows and columns off; a side then has n. The top has height x width; or
    the second bottom's size; or, by shrink_factor s, (n - 1) / s + 1, and then, by zoom_factor z, n + (n - 1)(z - 1).
    Errors: a positive pad; factors below 1; an empty result.
    """

    bottoms = between(1, 2)
    no_gradient_bottoms = frozenset({1})

    def set_up(self, bottom: Shape, reference: Shape | None = None) -> None:
        p = self.param.interp_param
        self.pads = (p.pad_beg, p.pad_end)
        self.check(max(self.pads) <= 0, "Only supports non-positive padding (cropping) for now")
        self.zoom, self.shrink = p.zoom_factor, p.shrink_factor
        self.check(min(self.zoom, self.shrink) >= 1, "zoom_factor and shrink_factor must be positive")
        by_factor = p.HasField("zoom_factor") or p.HasField("shrink_factor")
        self.fixed = (p.height, p.width) if p.height and p.width and not by_factor else None

    def size(self, bottom: Shape, reference: Shape | None) -> Shape:
        """Height and width of the top."""
        if reference is not None:
            return reference[2:]
        if self.fixed is not None:
            return self.fixed
        shrunk = [(n + sum(self.pads) - 1) // self.shrink + 1 for n in bottom[2:]]
        return tuple([n + (n - 1) * (self.zoom - 1) for n in shrunk])

    def top_shapes(self, bottom: Shape, reference: Shape | None = None) -> list[Shape]:
        self.check(len(bottom) == 4, f"needs a bottom (N, C, H, W), not {list(bottom)}")
        size = self.size(bottom, reference)
        if min(size) < 1 or min(bottom[2:]) + sum(self.pads) < 1:
            self.fail(f"nothing is left of a bottom {list(bottom)}: height and width should be positive")
        return [(*bottom[:2], *size)]

    def forward(self, x: Tensor, reference: Tensor | None = None) -> Tensor:
        size = self.size(tuple(x.shape), None if reference is None else tuple(reference.shape))
        if any(self.pads):
            x = F.pad(x, self.pads * 2)
        return F.interpolate(x, size, mode="bilinear", align_corners=True)


@register("Unpooling")
class Unpooling(Layer):
    """Each value of (N, C, H, W) at the place in a larger plane that the second bottom, a mask of MAX pooling, names;
    or, with one bottom, at the first place of its window; the rest is 0 (DeconvNet, unpooling_layer.cpp).

    The plane is unpool_size x unpool_size, unpool_h x unpool_w, or, of n, the larger of (n - 1) stride + kernel and
    n stride + 1. Errors: unpool AVE or TILE; a pad; a mask of another shape; an index outside the plane.
    """

    bottoms = between(1, 2)
    no_gradient_bottoms = frozenset({1})
    allows_in_place = False

    def set_up(self, bottom: Shape, mask: Shape | None = None) -> None:
        p = self.param.unpooling_param
        self.check(p.unpool == p.MAX, "only MAX is computed here, whose gradient is the derivative")
        self.check(not (p.pad or p.pad_h or p.pad_w), "currently, only zero padding is allowed.")
        self.kernel, self.stride, self.fixed = (
            tuple(getattr(p, f"{what}_{axis}") if p.HasField(f"{what}_{axis}") else getattr(p, square) for axis in "hw")
            for what, square in (("kernel", "kernel_size"), ("stride", "stride"), ("unpool", "unpool_size"))
        )
        self.check(min(self.kernel) > 0, "Filter dimensions cannot be zero.")
        self.check(min(self.stride) > 0, "the stride must be positive")
        self.places = IndexCheck(self, 0, "mask index", "places")

    def top_shapes(self, bottom: Shape, mask: Shape | None = None) -> list[Shape]:
        self.check(len(bottom) == 4, f"needs a bottom (N, C, H, W), not {list(bottom)}")
        if mask is not None and mask != bottom:
            self.fail(f"the mask {list(mask)} must have the shape of the bottom {list(bottom)}")
        axes = zip(bottom[2:], self.kernel, self.stride, self.fixed, strict=True)
        return [(*bottom[:2], *(fixed or max((n - 1) * step + k, n * step + 1) for n, k, step, fixed in axes))]

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        (top,) = self.top_shapes(tuple(x.shape))
        if mask is None:
            rows, columns = (
                (torch.arange(n, device=x.device) * step).clamp(max=size - 1)
                for n, step, size in zip(x.shape[2:], self.stride, top[2:], strict=True)
            )
            index = (rows[:, None] * top[3] + columns).expand(x.shape)
        else:
            self.places.limit = top[2] * top[3]
            index = self.places(mask)
        plane = torch.zeros(*top[:2], top[2] * top[3], dtype=x.dtype, device=x.device)
        return plane.scatter(2, index.flatten(2), x.flatten(2)).reshape(top)


@register("Upsample")
class Upsample(Layer):
    """Larger planes of (N, C, H, W).

    Two bottoms (SegNet, upsample_layer.cpp): each value goes to the place in the plane that the second bottom, a mask
    of MAX pooling, names; the rest is 0. The plane is upsample_h x upsample_w, or scale times the bottom, less one
    row with pad_out_h, less one column with pad_out_w. One bottom (YOLO nets): each value becomes scale x scale.
    Errors: a mask of another shape; an index outside the plane.
    """

    bottoms = between(1, 2)
    no_gradient_bottoms = frozenset({1})

    def set_up(self, bottom: Shape, mask: Shape | None = None) -> None:
        p = self.param.upsample_param
        self.check(p.HasField("scale_h") == p.HasField("scale_w"), "scale_h and scale_w are given together")
        self.check(p.HasField("upsample_h") == p.HasField("upsample_w"), "upsample_h and upsample_w are given together")
        self.scale = (p.scale_h, p.scale_w) if p.HasField("scale_h") else (p.scale, p.scale)
        self.check(min(self.scale) > 0, "the scale must be positive")
        self.fixed = (p.upsample_h, p.upsample_w) if p.HasField("upsample_h") else None
        self.cut = (p.pad_out_h, p.pad_out_w)
        self.places = IndexCheck(self, 0, "mask index", "places")

    def top_shapes(self, bottom: Shape, mask: Shape | None = None) -> list[Shape]:
        self.check(len(bottom) == 4, f"needs a bottom (N, C, H, W), not {list(bottom)}")
        if mask is not None and mask != bottom:
            self.fail(f"the mask {list(mask)} must have the shape of the bottom {list(bottom)}")
        if self.fixed is not None:
            return [(*bottom[:2], *self.fixed)]
        return [(*bottom[:2], *(n * s - c for n, s, c in zip(bottom[2:], self.scale, self.cut, strict=True)))]

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        (top,) = self.top_shapes(tuple(x.shape))
        if mask is None:
            return x.repeat_interleave(self.scale[0], 2).repeat_interleave(self.scale[1], 3)[:, :, : top[2], : top[3]]
        self.places.limit = top[2] * top[3]
        plane = torch.zeros(*top[:2], self.places.limit, dtype=x.dtype, device=x.device)
        return plane.scatter(2, self.places(mask).flatten(2), x.flatten(2)).reshape(top)
