"""HDF5Output: a file that takes blobs."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from torch import Tensor

from pysolver.blob import Shape
from pysolver.layers.base import Layer, exactly, register
from pysolver.logs import notices


@register("HDF5Output")
class HDF5Output(Layer):
    """Writes its bottoms as `data` and `label`, each with 4 axes, to file_name (hdf5_output_layer.cpp).

    The file is emptied at set-up. Errors: file_name missing or not writable; different batch sizes.
    """

    bottoms = exactly(2)
    tops = exactly(0)
    deviations = "further forwards append their rows; in Caffe the second one is fatal"

    def set_up(self, data: Shape, label: Shape) -> None:
        import h5py

        self.path = self.param.hdf5_output_param.file_name
        self.check(bool(self.path), "needs file_name")
        if os.path.exists(self.path) and not h5py.is_hdf5(self.path):
            self.fail(f"{self.path} is there and is no HDF5 file: a net does not overwrite it")
        try:
            h5py.File(self.path, "w").close()
        except OSError as error:
            self.fail(f"Failed to open HDF5 file {self.path}: {error}")

    def top_shapes(self, data: Shape, label: Shape) -> list[Shape]:
        if data[:1] != label[:1]:
            self.fail(f"data and label need the same first dimension, not {list(data)} and {list(label)}")
        return []

    def forward(self, data: Tensor, label: Tensor) -> tuple[()]:
        import h5py

        self.context.emit(notices.SavingHdf5(self.path))
        with h5py.File(self.path, "a") as file:
            for name, value in (("data", data), ("label", label)):
                self._append(file, name, value.detach().cpu().numpy())
        self.context.emit(notices.SavedRows(data.shape[0]))
        return ()

    def _append(self, file: Any, name: str, rows: np.ndarray) -> None:
        rows = rows.reshape(rows.shape + (1,) * (4 - rows.ndim))
        if name not in file:
            file.create_dataset(name, data=rows, maxshape=(None, *rows.shape[1:]))
        elif file[name].shape[1:] != rows.shape[1:]:
            self.fail(f"{name} has rows of {list(file[name].shape[1:])}, a later batch brings {list(rows.shape[1:])}")
        else:
            file[name].resize(len(file[name]) + len(rows), axis=0)
            file[name][-len(rows) :] = rows
