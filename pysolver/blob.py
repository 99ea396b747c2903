"""Blob: a tensor pair (data, diff) seen as live numpy arrays, as pycaffe shows it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pysolver.errors import CaffeError

Shape = tuple[int, ...]


class _Synced:
    """One tensor and its numpy face (src/caffe/syncedmem.cpp).

    On the CPU the array is the tensor's own memory. On another device it is a host copy: handing it
    out makes the host the newer side, and the tensor is refreshed from it at its next use.
    An array once handed out stays live: later values of the same shape are written into it.
    """

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor
        self._host: np.ndarray | None = None
        self._host_is_newer = False

    @property
    def tensor(self) -> Tensor:
        if self._host_is_newer:
            with torch.no_grad():
                self._tensor.copy_(torch.from_numpy(self._host))
            self._host_is_newer = False
        return self._tensor

    def set(self, value: Tensor) -> None:
        if value is self._tensor:
            return
        self._host_is_newer = False
        if self._host is not None and value.shape == self._tensor.shape:
            with torch.no_grad():
                self._tensor.copy_(value)
        else:
            self._tensor, self._host = value, None

    def numpy(self) -> np.ndarray:
        if self._tensor.device.type == "cpu":
            if not self._tensor.is_contiguous() and self._host is None:
                self._tensor = self._tensor.detach().contiguous()
            if self._host is None:
                self._host = self._tensor.detach().numpy()
        elif not self._host_is_newer:
            fresh = self._tensor.detach().cpu().numpy()
            if self._host is None:
                self._host = np.array(fresh)
            else:
                np.copyto(self._host, fresh)
            self._host_is_newer = True
        return self._host


class Blob:
    """An n-dimensional float array with its diff (src/caffe/blob.cpp).

    `data` and `diff` are writable numpy views of shape `shape`, 0-d for a scalar. The net itself works on
    `value` and `gradient`, the tensors behind them.
    """

    def __init__(self, value: Tensor, gradient: Tensor | None = None) -> None:
        self._value = _Synced(value)
        self._gradient = _Synced(gradient) if gradient is not None else None

    @classmethod
    def zeros(cls, shape: Sequence[int], device: torch.device | None = None) -> Blob:
        """A blob of zeros. shape: at most 32 axes, as Caffe's kMaxBlobAxes."""
        if len(shape) > 32:
            raise CaffeError(f"a blob has at most 32 axes, not {len(shape)}")
        return cls(torch.zeros(tuple(shape), device=device))

    @property
    def value(self) -> Tensor:
        return self._value.tensor

    @value.setter
    def value(self, tensor: Tensor) -> None:
        if self._gradient is not None and tensor.shape != self._value.tensor.shape:
            self._gradient = None
        self._value.set(tensor)

    @property
    def gradient(self) -> Tensor:
        if self._gradient is None:
            self._gradient = _Synced(torch.zeros_like(self._value.tensor, memory_format=torch.contiguous_format))
        return self._gradient.tensor

    @gradient.setter
    def gradient(self, tensor: Tensor) -> None:
        if self._gradient is None:
            self._gradient = _Synced(tensor)
        else:
            self._gradient.set(tensor)

    @property
    def data(self) -> np.ndarray:
        return self._value.numpy()

    @property
    def diff(self) -> np.ndarray:
        self.gradient  # noqa: B018  allocates it
        return self._gradient.numpy()

    @property
    def shape(self) -> Shape:
        return tuple(self._value._tensor.shape)

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    def _legacy_axis(self, index: int) -> int:
        if len(self.shape) > 4:
            raise CaffeError(f"num, channels, height and width need a blob of at most 4 axes, not {list(self.shape)}")
        return self.shape[index] if index < len(self.shape) else 1

    num = property(lambda self: self._legacy_axis(0))
    channels = property(lambda self: self._legacy_axis(1))
    height = property(lambda self: self._legacy_axis(2))
    width = property(lambda self: self._legacy_axis(3))

    def reshape(self, *shape: int) -> None:
        """A new shape; the contents stay if the count does, else they become zeros."""
        if len(shape) > 32:
            raise CaffeError(f"a blob has at most 32 axes, not {len(shape)}")
        if any(dim < 0 for dim in shape):
            raise CaffeError(f"a blob cannot have the shape {list(shape)}: a dimension is negative")
        if tuple(shape) == self.shape:
            return
        same_count = math.prod(shape) == self.count
        old = self._value.tensor.detach()
        self._value = _Synced(old.reshape(shape) if same_count else torch.zeros(shape, device=old.device))
        if self._gradient is not None:
            old = self._gradient.tensor
            self._gradient = _Synced(old.reshape(shape)) if same_count else None
