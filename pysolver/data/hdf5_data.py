"""HDF5Data: batches from the datasets of HDF5 files (src/caffe/layers/hdf5_data_layer.cpp)."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from pysolver.blob import Shape
from pysolver.context import Context
from pysolver.data.batch_source import BatchSource, to_device
from pysolver.data.records import format_shape
from pysolver.data.source import at_least, register
from pysolver.errors import CaffeError
from pysolver.files import read_text
from pysolver.logs import notices
from pysolver.proto.caffe_pb2 import LayerParameter
from pysolver.proto.hdf5 import Hdf5File, open_hdf5, type_class


@register("HDF5Data")
class HDF5Data(BatchSource):
    """Rows of the datasets named like the tops, file after file; with shuffle, files and the rows in each are mixed.

    In training, rank r of n takes the rows k with k % n == r.
    """

    tops = at_least(1)
    deviations = "Later files are checked against the first one's row shapes; shuffling follows random_seed."

    def __init__(self, param: LayerParameter, context: Context) -> None:
        super().__init__(param, context)
        self._param = param.hdf5_data_param

    def set_up(self) -> None:
        param = self._param
        self.check(not self.param.HasField("transform_param"), "HDF5Data does not transform data: no transform_param")
        self.check(param.batch_size > 0, f"batch_size must be positive, not {param.batch_size}")
        self.check(bool(param.source), "hdf5_data_param.source is missing: a text file with names of HDF5 files")
        with self.about():
            self._files = self._open_list(param.source)
        self._rows = [file.rows for file in self._files]
        self.check(sum(self._rows) > 0, f"{param.source}: no file holds a row")
        self.records = sum(self._rows)
        self.check_records(self.records)
        self._keep_all = sum(file.size for file in self._files) <= self.context.cache_bytes

    def _open_list(self, source: str) -> list[_File]:
        self.context.emit(notices.LoadingHdf5List(source))
        try:
            names = read_text(source).split()
        except CaffeError as error:
            raise CaffeError(f"Failed to open source file: {error}") from None
        if not names:
            raise CaffeError(f"{source}: the list is empty: it must name at least one HDF5 file")
        self.context.emit(notices.Hdf5Files(len(names)))
        files = [_File(name, list(self.param.top)) for name in names]
        for name in dict.fromkeys(name for file in files for name in file.type_classes):
            self.context.emit(notices.DatatypeClass(name))
        for file in files:
            file.check_like(files[0])
        return files

    def top_shapes(self) -> list[Shape]:
        return [(self._param.batch_size, *row) for row in self._files[0].row_shapes]

    def make_batch(self, index: int) -> list[Tensor]:
        epochs, rows = np.divmod(self.row_numbers(index, self._param.batch_size), sum(self._rows))
        parts = []
        for epoch in np.unique(epochs):
            parts += self._rows_of_epoch(int(epoch), rows[epochs == epoch])
        tops = parts[0] if len(parts) == 1 else map(np.concatenate, zip(*parts))
        return [to_device(top, self.context.device) for top in tops]

    def _rows_of_epoch(self, epoch: int, rows: np.ndarray) -> list[list[np.ndarray]]:
        """The values of rows (rising numbers within the epoch), one list of tops for each file they lie in."""
        shuffled, parts, start = self._param.shuffle, [], 0
        order = self.permutation("files", epoch, len(self._files)).tolist() if shuffled else range(len(self._files))
        for number in order:
            end = start + self._rows[number]
            here = rows[(rows >= start) & (rows < end)] - start
            if len(here):
                if shuffled:
                    here = self.permutation(f"rows of file {number}", epoch, self._rows[number])[here]
                parts.append([values[here] for values in self._load(number)])
            start = end
        return parts

    def _load(self, number: int) -> list[np.ndarray]:
        if not self._keep_all:
            for other in self._files:
                if other is not self._files[number]:
                    other.forget()
        with self.about():
            return self._files[number].load()


class _File:
    """One HDF5 file: the shapes of its datasets at once, their values when asked for."""

    def __init__(self, path: str, names: list[str]) -> None:
        self.path, self._names = path, names
        self._values: list[np.ndarray] | None = None
        self.type_classes: dict[str, None] = {}  # in the order of their first dataset
        with open_hdf5(path) as file:
            shapes = [self._shape(file, name) for name in names]
        self.rows = shapes[0][0]
        self.row_shapes = [shape[1:] for shape in shapes]
        self.size = sum(4 * int(np.prod(shape, dtype=np.int64)) for shape in shapes)  # bytes, as float32
        for name, shape in zip(names, shapes):
            if shape[0] != self.rows:
                raise CaffeError(
                    f"{path}: dataset '{name}' has {shape[0]} rows, '{names[0]}' has {self.rows}: they must agree"
                )

    def _shape(self, file: Hdf5File, name: str) -> Shape:
        dataset = file.dataset(file.root, name)
        if dataset is None:
            raise CaffeError(
                f"{self.path}: Failed to find HDF5 dataset {name} (there are: {', '.join(file.root) or 'none'})"
            )
        if dataset.dtype.kind not in "fiu":
            raise CaffeError(f"{self.path}: dataset '{name}' is of type {dataset.dtype}, not of floats or integers")
        if not dataset.shape:
            raise CaffeError(f"{self.path}: dataset '{name}' has no axis: at least one is needed, the rows")
        self.type_classes.setdefault(type_class(dataset))
        return dataset.shape

    def check_like(self, first: _File) -> None:
        for name, mine, other in zip(self._names, self.row_shapes, first.row_shapes):
            if mine != other:
                raise CaffeError(
                    f"{self.path}: the rows of dataset '{name}' are {format_shape(mine) or 'scalars'}, "
                    f"those of {first.path} {format_shape(other) or 'scalars'}"
                )

    def load(self) -> list[np.ndarray]:
        """The values of all datasets as float32."""
        if self._values is None:
            with open_hdf5(self.path) as file:
                datasets = [file.dataset(file.root, name) for name in self._names]
                shapes = [(self.rows, *row) for row in self.row_shapes]
                if [getattr(dataset, "shape", None) for dataset in datasets] != shapes:
                    raise CaffeError(f"{self.path}: its datasets have changed since the file was first opened")
                self._values = [file.numbers(dataset) for dataset in datasets]
        return self._values

    def forget(self) -> None:
        self._values = None
