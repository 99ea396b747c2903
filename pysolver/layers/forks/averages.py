"""AvgProbs and AvgProbsMultiSources of a plankton competition's Caffe (lim0606/ndsb): one answer from several."""

from __future__ import annotations

import torch
from torch import Tensor

from pysolver.blob import Shape
from pysolver.layers.base import Layer, at_least, register


@register("AvgProbs")
class AvgProbs(Layer):
    """The mean of each multi_infer_size items that follow one another: (N k, ...) becomes (N, ...)
    (avg_probs_layer.cpp).

    Errors: a number of items that is no multiple of multi_infer_size.
    """

    allows_in_place = False
    deviations = "has a gradient"

    def set_up(self, bottom: Shape) -> None:
        self.size = self.param.avg_probs_param.multi_infer_size
        self.check(self.size > 0, "multi_infer_size must be positive")

    def top_shapes(self, bottom: Shape) -> list[Shape]:
        if not bottom or bottom[0] % self.size:
            self.fail(f"the items of {list(bottom)} must be a multiple of multi_infer_size ({self.size})")
        return [(bottom[0] // self.size, *bottom[1:])]

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(0, (-1, self.size)).mean(1)


@register("AvgProbsMultiSources")
class AvgProbsMultiSources(Layer):
    """The mean of all bottoms, of one shape (avg_probs_multi_sources_layer.cpp). Errors: other shapes."""

    bottoms = at_least(1)
    deviations = "has a gradient"

    def top_shapes(self, *bottoms: Shape) -> list[Shape]:
        self.check(len(set(bottoms)) == 1, f"the bottoms must have one shape, not {', '.join(map(str, bottoms))}")
        return [bottoms[0]]

    def forward(self, *bottoms: Tensor) -> Tensor:
        return torch.stack(bottoms).mean(0)
