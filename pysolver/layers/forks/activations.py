"""SeLu and its dropout of self-normalising nets (Klambauer et al., 2017), Mish of YOLO version 4, GuidedDropout."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from pysolver.blob import Shape
from pysolver.layers.activations import Elementwise
from pysolver.layers.base import Layer, exactly, register


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


@register("GuidedDropout")
class GuidedDropout(Layer):
    """The channels of (N, C, ...) that the guidance (N, C) or (N, C, 1, 1) lets through, times C / what passes (Xiao et
    al., 2016; guided_dropout_layer.cpp of dgd_person_reid's Caffe).

    deterministic: where the guidance is above guidance_threshold, in both phases; an item without any is all 0.
    stochastic: in TRAIN with the probability logistic(sigmoid_scaler guidance), whose sum is what passes; in TEST
    y = x. No gradient to the guidance. Errors: another type; another guidance.
    """

    bottoms = exactly(2)
    no_gradient_bottoms = frozenset({1})
    deviations = "drawn by torch's generator"

    def set_up(self, bottom: Shape, guidance: Shape) -> None:
        self.p = self.param.guided_dropout_param
        if self.p.type not in ("deterministic", "stochastic"):
            self.fail(f"type is deterministic or stochastic, not {self.p.type!r}")

    def top_shapes(self, bottom: Shape, guidance: Shape) -> list[Shape]:
        good = len(bottom) >= 2 and guidance[:2] == bottom[:2] and math.prod(guidance) == math.prod(bottom[:2])
        self.check(good, f"needs one number for each channel of {list(bottom)}, not {list(guidance)}")
        return [bottom]

    def forward(self, x: Tensor, guidance: Tensor) -> Tensor:
        g = guidance.detach().reshape(x.shape[:2])
        if self.p.type == "deterministic":
            mask = (g > self.p.guidance_threshold).to(x.dtype)
            passing = mask.sum(1, keepdim=True).clamp(min=1)
        elif self.is_training:
            chance = torch.sigmoid(g * self.p.sigmoid_scaler)
            mask, passing = torch.bernoulli(chance), chance.sum(1, keepdim=True)
        else:
            return x.clone()
        return x * (mask * x.shape[1] / passing).reshape(*x.shape[:2], *[1] * (x.dim() - 2))
