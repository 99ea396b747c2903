"""Permute of SSD, Transpose and Reverse of CTPN, Reorg of YOLO: the same numbers in another order."""

from __future__ import annotations

from torch import Tensor

from pysolver.blob import Shape
from pysolver.layers.base import Layer, at_least, register
from pysolver.layers.shape import Crop


@register("Permute")
class Permute(Layer):
    """The axes in the order `order`; those that it does not name follow in theirs (SSD, permute_layer.cpp).

    Errors: an axis named twice or beyond the bottom's.
    """

    allows_in_place = False

    def order_of(self, bottom: Shape) -> list[int]:
        return list(self.param.permute_param.order)

    def set_up(self, bottom: Shape) -> None:
        order = self.order_of(bottom)
        for axis in order:
            self.check(axis < len(bottom), f"order {order} names axis {axis}, the bottom {list(bottom)} has none")
        self.check(len(set(order)) == len(order), f"there are duplicate orders in {order}")
        self.order = order + [axis for axis in range(len(bottom)) if axis not in order]

    def top_shapes(self, bottom: Shape) -> list[Shape]:
        self.check(len(bottom) == len(self.order), f"the number of axes changed, the bottom is {list(bottom)}")
        return [tuple(bottom[axis] for axis in self.order)]

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(self.order).contiguous()


@register("Transpose")
class Transpose(Permute):
    """The axes in the order `dim`, which names them all (CTPN, transpose_layer.cpp). Errors: see Permute."""

    def order_of(self, bottom: Shape) -> list[int]:
        order = list(self.param.transpose_param.dim)
        self.check(len(order) == len(bottom), f"dim {order} must name each axis of {list(bottom)}")
        self.check(min(order, default=0) >= 0, f"dim {order} has a negative axis")
        return order


@register("Reverse")
class Reverse(Layer):
    """The bottom from end to start along `axis` (CTPN, reverse_layer.cpp). Errors: an axis that is not there."""

    allows_in_place = False

    def set_up(self, bottom: Shape) -> None:
        self.along = self.param.reverse_param.axis
        self.check(0 <= self.along < len(bottom), f"axis {self.along} is none of {list(bottom)}")

    def top_shapes(self, bottom: Shape) -> list[Shape]:
        return [bottom]

    def forward(self, x: Tensor) -> Tensor:
        return x.flip(self.along)


@register("Reorg")
class Reorg(Layer):
    """A plane taken apart into stride x stride coarser ones, (N, C s^2, H / s, W / s), as darknet does it
    (MobileNet-YOLO, Intel: reorg_layer.cpp).

    With reverse it is put together: channel (a s + b) C / s^2 + c of (N, C, H, W) becomes the places (s h + a, s w + b)
    of channel c of (N, C / s^2, s H, s W). Without, the inverse of that on a blob of this shape, whose flat result is
    then read as (N, C s^2, H / s, W / s): not the inverse on planes, but darknet's published weights are made for it.
    Errors: stride missing or 0; C, or without reverse also H and W, not divisible.
    """

    allows_in_place = False

    def set_up(self, bottom: Shape) -> None:
        p = self.param.reorg_param
        self.check(p.stride > 0, "needs a positive stride")
        self.stride, self.reverse = p.stride, p.reverse

    def top_shapes(self, bottom: Shape) -> list[Shape]:
        self.check(len(bottom) == 4, f"needs a bottom of 4 axes, not {list(bottom)}")
        (items, channels, height, width), s = bottom, self.stride
        divisible = channels % s**2 == 0 and (self.reverse or (height % s == 0 and width % s == 0))
        self.check(divisible, f"a bottom {list(bottom)} cannot be taken apart by stride {s}")
        if self.reverse:
            return [(items, channels // s**2, height * s, width * s)]
        return [(items, channels * s**2, height // s, width // s)]

    def forward(self, x: Tensor) -> Tensor:
        (top,) = self.top_shapes(tuple(x.shape))
        (items, channels, height, width), s = x.shape, self.stride
        coarse = channels // s**2
        if self.reverse:
            parts = x.reshape(items, s, s, coarse, height, width).permute(0, 3, 4, 1, 5, 2)
        else:
            parts = x.reshape(items, coarse, height, s, width, s).permute(0, 3, 5, 1, 2, 4)
        return parts.reshape(top)


@register("Flip")
class Flip(Layer):
    """The planes of (N, C, H, W) from right to left, with flip_height upside down (caffe-windows, flip_layer.cpp)."""

    allows_in_place = False

    def top_shapes(self, bottom: Shape) -> list[Shape]:
        if len(bottom) != 4:
            self.fail(f"needs (N, C, H, W), not {list(bottom)}")
        return [bottom]

    def forward(self, x: Tensor) -> Tensor:
        return x.flip(self.axes)

    @property
    def axes(self) -> list[int]:
        """The axes that are turned round."""
        p = self.param.flip_param
        return [axis for axis, flips in ((2, p.flip_height), (3, p.flip_width)) if flips]


@register("AutoCrop")
class AutoCrop(Crop):
    """Bottom 0 cut to bottom 1's height and width where it lies on it, by the kernels, strides and pads of the layers
    between them and a blob that both come from (auto_crop_layer.cpp of RCF); the net works that out. Errors: see Crop.
    """

    def set_up(self, bottom: Shape, reference: Shape) -> None:
        self.check(len(self.param.crop_param.offset) == 2, "needs a net, which says where it cuts")
        super().set_up(bottom, reference)


@register("Gather")
class Gather(Layer):
    """Each bottom as its top (yjxiong's gather_layer.cpp: of all its processes; here each has its own part)."""

    bottoms = at_least(1)
    tops = at_least(1)
    deviations = "the batches of other processes are not gathered: each goes on with its own"

    def set_up(self, *bottoms: Shape) -> None:
        self.check(self.top_count == len(bottoms), "Must have equal number of top and bottom blobs")

    def top_shapes(self, *bottoms: Shape) -> list[Shape]:
        return list(bottoms)

    def forward(self, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        return bottoms if len(bottoms) > 1 else bottoms[0]
