"""InnerProduct and Embed: one matrix over all inputs."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from pysolver.blob import Shape
from pysolver.layers.base import Layer, register
from pysolver.layers.indices import IndexCheck


@register("InnerProduct")
class InnerProduct(Layer):
    """y = W x + b (inner_product_layer.cpp).

    The bottom's axes from `axis` on are one vector of K numbers; the top has the axes before it and num_output.
    Blob 0: W (num_output, K), or (K, num_output) if transpose; blob 1: b (num_output), if bias_term.
    Errors: num_output 0; a K other than at set-up.
    """

    takes_half = True
    top_is_free = True

    def set_up(self, bottom: Shape) -> None:
        p = self.param.inner_product_param
        self.check(p.num_output > 0, "num_output must be positive")
        self.first = self.axis(p.axis, bottom)
        self.inputs = math.prod(bottom[self.first :])
        self.outputs, self.transpose = p.num_output, p.transpose
        shape = (self.inputs, self.outputs) if p.transpose else (self.outputs, self.inputs)
        self.add_blob(shape, p.weight_filler)
        if p.bias_term:
            self.add_blob((self.outputs,), p.bias_filler)

    def top_shapes(self, bottom: Shape) -> list[Shape]:
        if math.prod(bottom[self.first :]) != self.inputs:
            self.fail(
                f"Input size incompatible with inner product parameters: the bottom {list(bottom)} has "
                f"{math.prod(bottom[self.first :])} numbers from axis {self.first} on, the weights take {self.inputs}"
            )
        return [(*bottom[: self.first], self.outputs)]

    def forward(self, x: Tensor) -> Tensor:
        weight = self.blobs[0].t() if self.transpose else self.blobs[0]
        y = F.linear(x.flatten(self.first), weight, self.blobs[1] if len(self.blobs) > 1 else None)
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
