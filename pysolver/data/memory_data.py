"""MemoryData: batches from arrays that the caller owns (src/caffe/layers/memory_data_layer.cpp)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pysolver.blob import Shape
from pysolver.data.source import Source, exactly, register
from pysolver.logs import notices


@register("MemoryData")
class MemoryData(Source):
    """Walks through the arrays of set_input_arrays batch by batch, over and over."""

    tops = exactly(2)

    def set_up(self) -> None:
        param = self.param.memory_data_param
        self._shape = (param.batch_size, param.channels, param.height, param.width)
        self.check(
            min(self._shape) > 0,
            "batch_size, channels, height, and width must be specified and positive in memory_data_param",
        )
        self._data: Tensor | None = None
        self._labels: Tensor | None = None
        self._position = 0

    def top_shapes(self) -> list[Shape]:
        return [self._shape, self._shape[:1]]

    def set_input_arrays(self, data: np.ndarray, labels: np.ndarray) -> None:
        """Use these arrays from now on, from their first row. They are not copied: later changes show.

        data: float32 (N, channels, height, width), N a multiple of batch_size. labels: float32 (N,) or (N, 1, 1, 1).
        Raises CaffeError (a RuntimeError) if they do not fit.
        """
        if labels.ndim == 1:
            labels = labels[:, None, None, None]
        self._check_array("data", data, self._shape[1:])
        self._check_array("labels", labels, (1, 1, 1))
        if len(data) != len(labels):
            self.fail(f"data and labels must have the same first dimension, not {len(data)} and {len(labels)}")
        if not len(data) or len(data) % self._shape[0]:
            self.fail(f"the first dimension ({len(data)}) must be a multiple of the batch size ({self._shape[0]})")
        if self.param.HasField("transform_param"):
            self.context.emit(notices.MemoryNotTransformed())
        self._data, self._labels, self._position = torch.from_numpy(data), torch.from_numpy(labels), 0

    def _check_array(self, name: str, array: np.ndarray, image: Shape) -> None:
        self.check(array.flags["C_CONTIGUOUS"], f"the {name} array must be C contiguous")
        self.check(array.dtype == np.float32, f"the {name} array must be float32, not {array.dtype}")
        self.check(array.ndim == 4, f"the {name} array must be 4-D, not {array.ndim}-D")
        self.check(array.shape[1:] == image, f"the {name} array must have rows of {image}, not {array.shape[1:]}")

    def next_batch(self) -> list[Tensor]:
        if self._data is None:
            self.fail("needs to be initialized by calling set_input_arrays")
        rows = slice(self._position, self._position + self._shape[0])
        self._position = rows.stop % len(self._data)
        # Copies: the net may write into its blobs, and the arrays are the caller's.
        return [array[rows].to(self.context.device, copy=True) for array in (self._data, self._labels)]

    def state(self) -> dict[str, int]:
        return {"row": self._position}

    def load_state(self, state: dict[str, int]) -> None:
        row = int(state["row"])
        if self._data is None and row:
            self.fail("the state names a row of arrays that are not set: call set_input_arrays first")
        self._position = row % len(self._data) if row else 0
