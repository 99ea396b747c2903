"""What face recognition trains with: CenterLoss (Wen et al., 2016), MarginInnerProduct (Liu et al., 2017) and
LargeMarginInnerProduct (Liu et al., 2016)."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pysolver.blob import Shape
from pysolver.layers.base import Layer, between, exactly, register
from pysolver.layers.indices import IndexCheck
from pysolver.layers.losses import LabelledItems


class _ToCentres(torch.autograd.Function):
    """Half the mean square distance; a centre's own gradient is no derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, centres: Tensor, label: Tensor) -> Tensor:
        away = x - centres[label]
        ctx.save_for_backward(away, label)
        ctx.count = len(centres)
        return away.square().sum() / len(x) / 2

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        away, label = ctx.saved_tensors
        pulls = away.new_zeros(ctx.count, away.shape[1]).index_add_(0, label, -away)
        count = torch.bincount(label, minlength=ctx.count).to(away.dtype)
        return gradient * away / len(away), pulls / (count + 1)[:, None], None


@register("CenterLoss")
class CenterLoss(LabelledItems):
    """sum of |x - c_label|^2 / (2 N) with a learned centre c for each of num_output classes (center_loss_layer.cpp).

    Bottoms: features (N, ...), labels (N). Blob 0: centres (num_output, features). Gradient of a centre, whatever the
    loss weight: the sum of (c - x) over its items / (1 + their number). Errors: a label outside the classes.
    """

    def set_up(self, data: Shape, label: Shape) -> None:
        p = self.param.center_loss_param
        self.check(p.num_output > 0, "num_output must be positive")
        self.labels = IndexCheck(self, p.num_output, "label", "classes")
        self.add_blob((p.num_output, math.prod(data[1:])), p.center_filler)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        return _ToCentres.apply(x.flatten(1), self.blobs[0], self.labels(label).flatten())


def _margin(kind: int, cosine: Tensor) -> tuple[Tensor, Tensor]:
    """g(cosine) of the angle a, which falls for all a from 0 to pi, and its derivative by the cosine.

    kind 1 (DOUBLE): 2 s c^2 - 1; 2 (TRIPLE): cos(3 a) and 3 (QUADRUPLE): cos(4 a), each turned over and shifted down
    in every second part of [0, pi].
    """
    sign = cosine.sign()
    if kind == 1:
        return 2 * sign * cosine**2 - 1, 4 * sign * cosine
    if kind == 2:
        turn = (cosine.abs() - 0.5).sign()
        return turn * (4 * cosine**3 - 3 * cosine) + sign * (1 + turn) - 2, turn * (12 * cosine**2 - 3)
    turn = sign * (2 * cosine**2 - 1).sign()
    curve = 8 * cosine**4 - 8 * cosine**2 + 1
    return turn * curve + 2 * sign + turn - 3, turn * (32 * cosine**3 - 16 * cosine)


class _Margin(torch.autograd.Function):
    """x w / (1 + lambda) with the margin at the label, and SphereFace's own gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, label: Tensor, kind: int, weakness: float) -> Tensor:
        plain = x @ weight.T
        if not kind:
            ctx.save_for_backward(x, weight)
            ctx.kind = kind
            return plain
        rows, length = torch.arange(len(x), device=x.device), x.norm(dim=1)
        cosine = plain[rows, label] / length
        value, slope = _margin(kind, cosine)
        top = plain.clone()
        top[rows, label] = length * value
        by_weight, by_x = slope, (value - cosine * slope) / length
        size = torch.hypot(by_weight, by_x)
        ctx.save_for_backward(x, weight, label, by_weight / size, by_x / size)
        ctx.kind, ctx.weakness = kind, weakness
        return (top + weakness * plain) / (1 + weakness)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, *rest = ctx.saved_tensors
        to_weight = gradient.T @ x
        if not ctx.kind:
            return gradient @ weight, to_weight, None, None, None
        label, by_weight, by_x = rest
        rows = torch.arange(len(x), device=x.device)
        own = gradient[rows, label]
        others = gradient.clone()
        others[rows, label] = own * by_weight
        to_x = others @ weight + (own * by_x)[:, None] * x + ctx.weakness * (gradient @ weight)
        return to_x / (1 + ctx.weakness), to_weight, None, None, None


class Margins(Layer):
    """What both share: bottoms features (N, ...) and labels (N); tops (N, num_output) and, if asked for, lambda (1).
    Blob 0: weights (num_output, features).

    lambda = max(base (1 + gamma i)^-power, lambda_min) in the i-th forward after `iteration`.
    Errors: a label outside the classes; other shapes.
    """

    bottoms = exactly(2)
    tops = between(1, 2)
    no_gradient_bottoms = frozenset({1})
    allows_in_place = False
    is_opaque = True  # each forward has another lambda
    deviations = "a label outside the classes is an error; as there, a resumed run counts from `iteration` again"
    p: Any

    def set_up(self, data: Shape, label: Shape) -> None:
        p = self.p
        self.check(p.num_output > 0, "num_output must be positive")
        self.labels = IndexCheck(self, p.num_output, "label", "classes")
        self.add_blob((p.num_output, math.prod(data[1:])), p.weight_filler)
        self.forwards = p.iteration

    def top_shapes(self, data: Shape, label: Shape) -> list[Shape]:
        if math.prod(label) != data[0] or math.prod(data[1:]) != self.blobs[0].shape[1]:
            self.fail(f"needs {self.blobs[0].shape[1]} features and one label an item, not {list(data)}, {list(label)}")
        return [(data[0], self.p.num_output), (1,)][: self.top_count]

    def weakness(self) -> float:
        """lambda of this forward."""
        self.forwards += 1
        return max(self.p.base * (1 + self.p.gamma * self.forwards) ** -self.p.power, self.p.lambda_min)

    def tops_of(self, top: Tensor, weakness: float) -> Tensor | tuple[Tensor, Tensor]:
        return (top, top.new_full((1,), weakness)) if self.top_count > 1 else top


@register("MarginInnerProduct")
class MarginInnerProduct(Margins):
    """(top + lambda x w) / (1 + lambda): top is x w, but |x| g(cos) at the label (margin_inner_product_layer.cpp).

    cos is the cosine of the angle between x and the label's weight; g: SINGLE cos; DOUBLE, TRIPLE, QUADRUPLE: that of
    two, three, four times the angle, made to fall from 0 to pi. Every forward makes the rows of the weights of length
    1. Gradients as there: to the weights as of x w; to x, at the label, the two parts (along w and x) scaled to length
    1. For lambda, shapes and errors see Margins.
    """

    def set_up(self, data: Shape, label: Shape) -> None:
        self.p = self.param.margin_inner_product_param
        super().set_up(data, label)

    def unit_rows(self) -> Tensor:
        """The weights with rows of length 1."""
        return F.normalize(self.blobs[0], dim=1, eps=0)

    def forward(self, x: Tensor, label: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        weight, weakness = self.blobs[0], self.weakness()
        with torch.no_grad():
            weight.copy_(self.unit_rows())
        top = _Margin.apply(x.flatten(1), weight, self.labels(label).flatten(), self.p.type, weakness)
        return self.tops_of(top, weakness)


@register("LargeMarginInnerProduct")
class LargeMarginInnerProduct(Margins):
    """(top + lambda x w) / (1 + lambda): top is x w, but |x| |w| g(cos) at the label; g as in MarginInnerProduct, with
    free weights and exact gradients (L-Softmax, largemargin_inner_product_layer.cpp).

    type SINGLE is x w. For lambda, shapes and errors see Margins. Errors: an axis other than 1.
    """

    def set_up(self, data: Shape, label: Shape) -> None:
        self.p = self.param.largemargin_inner_product_param
        super().set_up(data, label)
        self.check(self.p.axis == 1, f"takes axis 1, not {self.p.axis}")

    def forward(self, x: Tensor, label: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x, weight, weakness = x.flatten(1), self.blobs[0], self.weakness()
        plain, index = x @ weight.T, self.labels(label).flatten()
        if not self.p.type:
            return self.tops_of(plain, weakness)
        size = x.norm(dim=1) * weight[index].norm(dim=1) + 1e-9
        own = plain.gather(1, index[:, None])
        value, _ = _margin(self.p.type, own[:, 0] / size)
        more = size * value - own[:, 0]
        top = plain.scatter_add(1, index[:, None], (more / (1 + weakness))[:, None])
        return self.tops_of(top, weakness)
