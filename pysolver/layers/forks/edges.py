"""The loss of nets that draw edges and masks (HED, Xie and Tu, 2015; OSVOS, Caelles et al., 2017)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pysolver.layers.base import exactly, register
from pysolver.layers.losses import SigmoidCrossEntropyLoss


@register("SigmoidCrossEntropyBalanceLoss")
class SigmoidCrossEntropyBalanceLoss(SigmoidCrossEntropyLoss):
    """Sum of w (-t log(s) - (1 - t) log(1 - s)) / N, s = sigmoid(x), over targets t of 0 and 1
    (OSVOS's sigmoid_cross_entropy_balance_loss_layer.cpp).

    In each item w of the ones is the share of the zeros among them, and the other way round. Errors: other counts.
    """

    bottoms = exactly(2)
    deviations = "targets other than 0 and 1 have no gradient; loss_param is not read, as there"

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        target, rows = target.detach().reshape(len(x), -1), x.reshape(len(x), -1)
        ones, zeros = target == 1, target == 0
        counts = [mask.sum(1, keepdim=True).to(x.dtype) for mask in (ones, zeros)]
        share = counts[1] / (counts[0] + counts[1]).clamp(min=1)
        weight = torch.where(ones, share, torch.where(zeros, 1 - share, 0))
        return F.binary_cross_entropy_with_logits(rows, ones.to(x.dtype), weight, reduction="sum") / len(x)
