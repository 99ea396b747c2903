"""Eltwise, Reduction, Softmax, ArgMax: arithmetic between bottoms and along axes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pysolver.blob import Shape
from pysolver.layers.base import Layer, at_least, register
from pysolver.proto import caffe_pb2


@register("Eltwise")
class Eltwise(Layer):
    """SUM (with one `coeff` a bottom, or 1), PROD or MAX of bottoms of one shape (eltwise_layer.cpp).

    MAX: between bottoms 0 and 1 a tie goes to 1, a later one wins if it is strictly larger; the gradient goes to the
    winner. Errors: different shapes; coeff with PROD, or not one a bottom.
    """

    takes_half = True
    bottoms = at_least(2)
    deviations = "PROD's gradient is the stable one, whatever stable_prod_grad says"

    def set_up(self, *bottoms: Shape) -> None:
        p = self.param.eltwise_param
        self.operation, self.coeffs = p.operation, list(p.coeff)
        if self.coeffs:
            self.check(len(self.coeffs) == len(bottoms), "takes one coefficient per bottom blob.")
            self.check(p.operation != p.PROD, "only takes coefficients for summation.")
        self.can_overwrite = self.top_is_free = p.operation == p.SUM

    def top_shapes(self, *bottoms: Shape) -> list[Shape]:
        for other in bottoms[1:]:
            if other != bottoms[0]:
                self.fail(f"the bottoms must have one shape, not {list(bottoms[0])} and {list(other)}")
        return [bottoms[0]]

    def forward(self, *bottoms: Tensor) -> Tensor:
        p = caffe_pb2.EltwiseParameter
        if self.operation == p.SUM:
            return self._sum(bottoms)
        y = bottoms[0]
        for x in bottoms[1:]:
            if self.operation == p.PROD:
                y = y * x
            else:
                y = torch.where(y > x, y, x) if y is bottoms[0] else torch.where(x > y, x, y)
        return y

    def overwrite(self, first: Tensor, *others: Tensor) -> Tensor:
        if any(x.dtype != first.dtype for x in others):  # the sum is of the wider type
            return self._sum((first, *others))
        coeffs = self.coeffs or [1] * (1 + len(others))
        if coeffs[0] != 1:
            first.mul_(coeffs[0])
        for x, coeff in zip(others, coeffs[1:], strict=True):
            first.add_(x, alpha=coeff)
        return first

    def _sum(self, bottoms: tuple[Tensor, ...]) -> Tensor:
        if not self.coeffs:
            return sum(bottoms[1:], start=bottoms[0])
        y = bottoms[0] * self.coeffs[0]
        for x, coeff in zip(bottoms[1:], self.coeffs[1:], strict=True):
            y = y.add(x, alpha=coeff)
        return y


@register("Reduction")
class Reduction(Layer):
    """All axes from `axis` on become one number: coeff times SUM, ASUM (of |x|), SUMSQ, MEAN (reduction_layer.cpp)."""

    def set_up(self, bottom: Shape) -> None:
        p = self.param.reduction_param
        self.first, self.operation, self.coeff = p.axis, p.operation, p.coeff

    def top_shapes(self, bottom: Shape) -> list[Shape]:
        return [bottom[: self.axis(self.first, bottom)]]

    def forward(self, x: Tensor) -> Tensor:
        p = caffe_pb2.ReductionParameter
        x = x.flatten(self.first)
        if self.operation == p.MEAN:
            return x.mean(-1) * self.coeff
        if self.operation == p.ASUM:
            x = x.abs()
        elif self.operation == p.SUMSQ:
            x = x.square()
        return x.sum(-1) * self.coeff


@register("Softmax")
class Softmax(Layer):
    """y = exp(x - max) / sum along `axis` (softmax_layer.cpp)."""

    def set_up(self, bottom: Shape) -> None:
        self.along = self.param.softmax_param.axis

    def top_shapes(self, bottom: Shape) -> list[Shape]:
        self.axis(self.along, bottom)
        return [bottom]

    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(x, self.along)


@register("ArgMax")
class ArgMax(Layer):
    """Where the top_k largest numbers are, largest first; of equal ones the larger index (argmax_layer.cpp).

    With `axis`: that axis becomes top_k long and holds indices, or the values if out_max_val. Without: over all axes
    from 1 on; the top is (N, 1, top_k), with out_max_val (N, 2, top_k): indices, then values; more axes are 1.
    No gradient. Errors: top_k outside [1, number of candidates].
    """

    no_gradient_bottoms = frozenset({0})

    def set_up(self, bottom: Shape) -> None:
        p = self.param.argmax_param
        self.along = p.axis if p.HasField("axis") else None
        self.top_k, self.with_values = p.top_k, p.out_max_val

    def top_shapes(self, bottom: Shape) -> list[Shape]:
        if self.along is None:
            candidates = math.prod(bottom[1:])
            top = (bottom[0], 2 if self.with_values else 1, self.top_k, *[1] * (len(bottom) - 3))
        else:
            axis = self.axis(self.along, bottom)
            candidates = bottom[axis]
            top = (*bottom[:axis], self.top_k, *bottom[axis + 1 :])
        if not 1 <= self.top_k <= candidates:
            self.fail(f"top_k must be between 1 and the number of candidates, {candidates}, not {self.top_k}")
        return [top]

    def forward(self, x: Tensor) -> Tensor:
        (top,) = self.top_shapes(tuple(x.shape))
        axis = 1 if self.along is None else self.along
        candidates = x.flatten(1) if self.along is None else x
        flipped = candidates.flip(axis)  # so that of equal ones the last comes first
        values, places = flipped.sort(dim=axis, descending=True, stable=True)
        values = values.narrow(axis, 0, self.top_k)
        places = (candidates.shape[axis] - 1 - places.narrow(axis, 0, self.top_k)).to(x.dtype)
        if self.along is not None:
            return values if self.with_values else places
        return (torch.stack([places, values], 1) if self.with_values else places).reshape(top)
