"""InnerProduct and Embed: one matrix over all inputs."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from pysolver.blob import Shape
from pysolver.layers.base import Layer, between, register
from pysolver.layers.indices import IndexCheck


@torch.no_grad()
def make_unit_rows(weights: Tensor) -> None:
    """Make the rows w of length 1, in place: w / sqrt(w w + 1e-6), as NormFace's Caffe does on the CPU."""
    weights.mul_((weights.square().sum(1, keepdim=True) + 1e-6).rsqrt())


@register("InnerProduct")
class InnerProduct(Layer):
    """y = W x + b (inner_product_layer.cpp).

    The bottom's axes from `axis` on are one vector of K numbers; the top has the axes before it and num_output.
    Blob 0: W (num_output, K), or (K, num_output) if transpose; blob 1: b (num_output), if bias_term.
    Of NormFace: further bottoms are W, (num_output, ...), and, if bias_term, b, of which the layer has no blobs then
    (with W alone b is blob 0); normalize: every forward makes the rows of W of length 1, with the gradient as of the
    rows it made. Errors: num_output 0; a K other than at set-up; normalize with transpose.
    """

    bottoms = between(1, 3)
    takes_half = True
    top_is_free = True

    def set_up(self, bottom: Shape, weights: Shape | None = None, bias: Shape | None = None) -> None:
        p = self.param.inner_product_param
        outputs = p.num_output if weights is None else weights[0]
        self.check(outputs > 0, "num_output must be positive")
        self.first = self.axis(p.axis, bottom)
        self.inputs = math.prod(bottom[self.first :])
        self.outputs, self.transpose = outputs, p.transpose
        self.check(not (p.normalize and p.transpose), "normalize is of rows: without transpose")
        self.check(weights is None or not p.transpose, "weights from a bottom are taken without transpose")
        self.check(bias is None or p.bias_term, "a bottom for the bias needs bias_term")
        self.has_unit_rows = self.is_opaque = p.normalize and weights is None
        if weights is None:
            shape = (self.inputs, self.outputs) if p.transpose else (self.outputs, self.inputs)
            self.add_blob(shape, p.weight_filler)
        if p.bias_term and bias is None:
            self.add_blob((self.outputs,), p.bias_filler)

    def top_shapes(self, bottom: Shape, weights: Shape | None = None, bias: Shape | None = None) -> list[Shape]:
        good = weights is None or weights[0] == self.outputs and math.prod(weights) == self.outputs * self.inputs
        self.check(good, f"needs weights of {self.outputs} x {self.inputs} numbers, not {list(weights or ())}")
        good = bias is None or math.prod(bias) == self.outputs
        self.check(good, f"needs {self.outputs} numbers as bias, not {list(bias or ())}")
        if math.prod(bottom[self.first :]) != self.inputs:
            self.fail(
                f"Input size incompatible with inner product parameters: the bottom {list(bottom)} has "
                f"{math.prod(bottom[self.first :])} numbers from axis {self.first} on, the weights take {self.inputs}"
            )
        return [(*bottom[: self.first], self.outputs)]

    def forward(self, x: Tensor, weights: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        if self.has_unit_rows:
            make_unit_rows(self.blobs[0])
        own = list(self.blobs)
        weight = own.pop(0) if weights is None else weights.flatten(1)
        bias = own.pop(0) if own else None if bias is None else bias.flatten()
        y = F.linear(x.flatten(self.first), weight.t() if self.transpose else weight, bias)
        p = self.param.inner_product_param
        return F.leaky_relu(y, p.negative_slope) if p.relu else y  # of Intel's Caffe: a ReLU fused with it


@register("Embed")
class Embed(Layer):
    """A learned row for every index: y[..., :] = W[x] + b (embed_layer.cpp).

    The top has the bottom's axes and num_output. Blob 0: W (input_dim, num_output); blob 1: b (num_output), if
    bias_term. No gradient to the indices. Errors: num_output or input_dim 0; an index outside [0, input_dim).
    """

    no_gradient_bottoms = frozenset({0})
    deviations = "an index outside the table is an error"

    def set_up(self, bottom: Shape) -> None:
        p = self.param.embed_param
        self.check(p.num_output > 0, "num_output must be positive")
        self.check(p.input_dim > 0, "input_dim must be positive")
        self.outputs = p.num_output
        self.index = IndexCheck(self, p.input_dim, "index", "rows")
        self.add_blob((p.input_dim, p.num_output), p.weight_filler)
        if p.bias_term:
            self.add_blob((p.num_output,), p.bias_filler)

    def top_shapes(self, bottom: Shape) -> list[Shape]:
        return [(*bottom, self.outputs)]

    def forward(self, x: Tensor) -> Tensor:
        y = F.embedding(self.index(x), self.blobs[0])
        return y + self.blobs[1] if len(self.blobs) > 1 else y
