"""Blob: a tensor pair (data, diff) seen as live numpy arrays, as pycaffe shows it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pysolver.errors import CaffeError
from pysolver.proto.blobproto import LARGEST_COUNT, MOST_AXES

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

    def tensor(self) -> Tensor:
        if self._host_is_newer:
            with torch.no_grad():
                self._tensor.copy_(torch.from_numpy(self._host))
            self._host_is_newer = False
        return self._tensor

    def set(self, value: Tensor) -> None:
        self._host_is_newer = False
        if self._host is not None and value.shape == self._tensor.shape:
            if value.data_ptr() != self._tensor.data_ptr():
                self._tensor.data.copy_(value)  # .data: what autograd has kept of it follows, as Caffe's memory would
        else:
            self._tensor, self._host = value, None

    @property
    def is_shown(self) -> bool:
        return self._host is not None

    @property
    def _is_on_host(self) -> bool:
        return self._tensor.device.type == "cpu"

    def numpy(self) -> np.ndarray:
        if self._is_on_host:
            if self._host is None:
                self._tensor = self._tensor.detach().contiguous()
                self._host = self._tensor.numpy()
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
    `value` and `gradient`, the tensors behind them; both are zeros, allocated at their first use.
    """

    def __init__(self, shape: Sequence[int] = (), device: torch.device | None = None) -> None:
        self._device = device
        self._shape = self._checked(shape)
        self._value: _Synced | None = None
        self._gradient: _Synced | None = None
        self._is_released = False

    @classmethod
    def over(cls, value: Tensor, gradient: Tensor | None = None) -> Blob:
        """A blob over existing tensors, whose memory it shares."""
        blob = cls(value.shape, value.device)
        blob.share(value, gradient)
        return blob

    def share(self, value: Tensor, gradient: Tensor | None) -> None:
        """Show the memory of these tensors from now on (Blob::ShareData, ShareDiff)."""
        self._shape = tuple(value.shape)
        self._value = _Synced(value)
        self._gradient = None if gradient is None else _Synced(gradient)

    @staticmethod
    def _checked(shape: Sequence[int]) -> Shape:
        shape = tuple(int(dim) for dim in shape)
        if len(shape) > MOST_AXES:
            raise CaffeError(f"a blob has at most {MOST_AXES} axes, not {len(shape)}")
        if any(dim < 0 for dim in shape):
            raise CaffeError(f"a blob cannot have the shape {list(shape)}: a dimension is negative")
        if math.prod(shape) > LARGEST_COUNT or max(shape, default=0) > LARGEST_COUNT:
            raise CaffeError(f"blob size exceeds INT_MAX: {list(shape)}")
        return shape

    def release(self) -> None:
        """Let the value go: a pass has changed it without keeping it here. Reading it is an error until it is set."""
        self._value, self._is_released = None, True

    def _first_value(self) -> _Synced:
        if self._is_released:
            raise CaffeError(
                "The values of this blob were not kept: a net that runs as one function keeps its outputs, and blobs "
                "whose data has been asked for before. Ask before the pass, or set layer_by_layer on the net."
            )
        return self._zeros()

    def _zeros(self) -> _Synced:
        return _Synced(torch.zeros(self._shape, device=self._device))

    # ---- tensors: what the net works on -------------------------------------------------------------------

    @property
    def value(self) -> Tensor:
        if self._value is None:
            self._value = self._first_value()
        return self._value.tensor()

    @value.setter
    def value(self, tensor: Tensor) -> None:
        if tensor.shape != self._shape:
            self._shape, self._gradient = tuple(tensor.shape), None
        if self._value is None:
            self._value, self._is_released = _Synced(tensor), False
        else:
            self._value.set(tensor)

    @property
    def gradient(self) -> Tensor:
        if self._gradient is None:
            self._gradient = self._zeros()
        return self._gradient.tensor()

    @gradient.setter
    def gradient(self, tensor: Tensor) -> None:
        if self._gradient is None:
            self._gradient = _Synced(tensor)
        else:
            self._gradient.set(tensor)

    @property
    def is_shown(self) -> bool:
        """Whether `data` has been handed out: then later values go into the same memory."""
        return self._value is not None and self._value.is_shown

    @property
    def has_gradient(self) -> bool:
        """Whether a diff has been set or asked for since the shape last changed."""
        return self._gradient is not None

    # ---- arrays: what pycaffe shows -----------------------------------------------------------------------

    @property
    def data(self) -> np.ndarray:
        if self._value is None:
            self._value = self._first_value()
        return self._value.numpy()

    @property
    def diff(self) -> np.ndarray:
        if self._gradient is None:
            self._gradient = self._zeros()
        return self._gradient.numpy()

    @property
    def shape(self) -> Shape:
        return self._shape

    @property
    def count(self) -> int:
        return math.prod(self._shape)

    def _legacy_axis(self, index: int) -> int:
        if len(self._shape) > 4:
            raise CaffeError(f"num, channels, height and width need at most 4 axes, not {list(self._shape)}")
        return self._shape[index] if index < len(self._shape) else 1

    num = property(lambda self: self._legacy_axis(0))
    channels = property(lambda self: self._legacy_axis(1))
    height = property(lambda self: self._legacy_axis(2))
    width = property(lambda self: self._legacy_axis(3))

    def reshape(self, *shape: int) -> None:
        """A new shape; the contents stay if the count does, else they become zeros."""
        shape = self._checked(shape)
        if shape == self._shape:
            return
        keep = math.prod(shape) == self.count
        self._shape = shape
        for face in ("_value", "_gradient"):
            synced = getattr(self, face)
            setattr(self, face, _Synced(synced.tensor().detach().reshape(shape)) if keep and synced else None)
