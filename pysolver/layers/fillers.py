"""Fillers: the laws from which parameters get their first values (include/caffe/filler.hpp).

Only the shape of the blob counts: fan_in = count / shape[0], fan_out = count / shape[1].
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from pysolver.errors import CaffeError
from pysolver.proto import caffe_pb2
from pysolver.proto.caffe_pb2 import FillerParameter


@torch.no_grad()
def fill(tensor: Tensor, filler: FillerParameter) -> None:
    """Overwrite `tensor` with draws from the law of `filler` (FillerParameter), by torch's global generator.

    Errors: an unknown type, an empty blob, `sparse` without gaussian, min > max, std <= 0, a shape the type
    cannot fill.
    """
    check(tensor, filler)
    _LAWS[filler.type](tensor, filler)


def check(tensor: Tensor, filler: FillerParameter) -> None:
    """CaffeError for what is wrong whatever the law."""
    if filler.type not in _LAWS:
        raise CaffeError(f"Unknown filler name: {filler.type} (known: {', '.join(_LAWS)})")
    if tensor.numel() == 0:
        raise CaffeError(f"filler {filler.type}: cannot fill an empty blob of shape {list(tensor.shape)}")
    if filler.sparse != -1 and filler.type != "gaussian":
        raise CaffeError(f"filler {filler.type}: sparse is only for the gaussian filler")


def _constant(tensor: Tensor, filler: FillerParameter) -> None:
    tensor.fill_(filler.value)


def _uniform(tensor: Tensor, filler: FillerParameter) -> None:
    """U[min, max]"""
    if filler.min > filler.max:
        raise CaffeError(f"filler uniform: min {filler.min:g} is above max {filler.max:g}")
    tensor.uniform_(filler.min, filler.max)


def _gaussian(tensor: Tensor, filler: FillerParameter) -> None:
    """N(mean, std^2); with sparse s >= 0 an element is kept with probability s / shape[0], else 0."""
    if filler.std <= 0:
        raise CaffeError(f"filler gaussian: std must be positive, not {filler.std:g}")
    tensor.normal_(filler.mean, filler.std)
    if filler.sparse >= 0:
        outputs = tensor.shape[0] if tensor.dim() else 1
        tensor.mul_(torch.rand_like(tensor) < filler.sparse / outputs)


def _positive_unitball(tensor: Tensor, filler: FillerParameter) -> None:
    """U[0, 1], then each row divided by its sum."""
    rows = tensor.uniform_(0, 1).view(tensor.shape[0] if tensor.dim() else 1, -1)
    rows.div_(rows.sum(1, keepdim=True))


def _gaussian_unitball(tensor: Tensor, filler: FillerParameter) -> None:
    """N(0, 1), then each row made of length 1: NormFace's (caffe-windows)."""
    rows = tensor.normal_(0, 1).view(tensor.shape[0] if tensor.dim() else 1, -1)
    rows.mul_((rows.square().sum(1, keepdim=True) + 1e-12).rsqrt())


def _xavier(tensor: Tensor, filler: FillerParameter) -> None:
    """U[-s, s] with s = sqrt(3 / n): variance 1 / n (Glorot and Bengio, 2010)."""
    bound = math.sqrt(3 / _fan(tensor, filler))
    tensor.uniform_(-bound, bound)


def _msra(tensor: Tensor, filler: FillerParameter) -> None:
    """N(0, 2 / n) (He et al., 2015)."""
    tensor.normal_(0, math.sqrt(2 / _fan(tensor, filler)))


def _bilinear(tensor: Tensor, filler: FillerParameter) -> None:
    """The kernel of bilinear upsampling by f = ceil(width / 2), the same in every channel."""
    if tensor.dim() != 4 or tensor.shape[2] != tensor.shape[3]:
        raise CaffeError(f"filler bilinear: needs 4 axes and a square kernel, not {list(tensor.shape)}")
    width = tensor.shape[3]
    factor = math.ceil(width / 2)
    centre = (width - 1) / (2 * factor)
    ramp = 1 - (torch.arange(width, dtype=torch.float64) / factor - centre).abs()
    tensor.copy_(torch.outer(ramp, ramp))


def _fan(tensor: Tensor, filler: FillerParameter) -> float:
    """n of xavier and msra: fan_in, fan_out or their mean, by variance_norm."""
    count = tensor.numel()
    fan_in = count / (tensor.shape[0] if tensor.dim() else 1)
    fan_out = count / tensor.shape[1] if tensor.dim() > 1 else count
    if filler.variance_norm == caffe_pb2.FillerParameter.FAN_OUT:
        return fan_out
    if filler.variance_norm == caffe_pb2.FillerParameter.AVERAGE:
        return (fan_in + fan_out) / 2
    return fan_in


_LAWS: dict[str, Callable[[Tensor, FillerParameter], None]] = {
    "constant": _constant,
    "gaussian": _gaussian,
    "positive_unitball": _positive_unitball,
    "uniform": _uniform,
    "xavier": _xavier,
    "msra": _msra,
    "bilinear": _bilinear,
    "gaussian_unitball": _gaussian_unitball,
}
