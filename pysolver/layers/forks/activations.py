"""SeLu and its dropout of self-normalising nets (Klambauer et al., 2017), Mish of YOLO version 4."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from pysolver.blob import Shape
from pysolver.layers.activations import Elementwise
from pysolver.layers.base import register


@register("SeLu")
class SeLu(Elementwise):
    """y = 1.0507 x for x > 0, else 1.0507 * 1.6733 (e^x - 1), with the paper's digits."""

    deviations = "by the paper: no source of that fork (soeaver) is public"

    def forward(self, x: Tensor) -> Tensor:
        return F.selu(x)


@register("SeLuDropout")
class SeLuDropout(Elementwise):
    """TRAIN: a part dropout_ratio of the elements becomes SeLu's lower bound, and all are scaled and shifted such that
    mean and variance stay (the paper's alpha dropout). TEST: y = x. Errors: dropout_ratio outside [0, 1).
    """

    deviations = SeLu.deviations

    def set_up(self, bottom: Shape) -> None:
        self.ratio = self.param.selu_dropout_param.dropout_ratio
        self.check(0 <= self.ratio < 1, f"dropout_ratio must be in [0, 1), not {self.ratio:g}")

    def forward(self, x: Tensor) -> Tensor:
        return F.alpha_dropout(x, self.ratio, self.is_training)


@register("Mish")
class Mish(Elementwise):
    """y = x tanh(log(1 + e^x)) (Misra, 2019; mish_layer.cpp of the YOLO forks)."""

    def forward(self, x: Tensor) -> Tensor:
        return F.mish(x)
