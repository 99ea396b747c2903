"""HDF5 files of weights and solver states: bounded, checked, and with one kind of error."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator

import h5py

from pysolver.errors import CaffeError
from pysolver.files import read_bytes
from pysolver.logs import glog
from pysolver.proto.seal import check_hdf5

LARGEST_HDF5 = 1 << 40  # bytes: HDF5 itself knows no limit


@contextlib.contextmanager
def open_hdf5(path: str) -> Iterator[h5py.File]:
    """The file, open for reading; CaffeError for whatever turns out to be wrong with it while it is used."""
    data = read_bytes(path, LARGEST_HDF5)
    if not data:
        raise CaffeError(f"{path}: damaged: the file is empty")
    check_hdf5(data, path)
    try:
        with h5py.File(path, "r", locking=False) as file:
            yield file
    except CaffeError:
        raise
    except Exception as error:  # in a damaged file h5py comes upon almost anything
        raise CaffeError(f"{path}: damaged, or not a readable HDF5 file: {' '.join(str(error).split())}") from error


def tell_class(dataset: h5py.Dataset) -> None:
    """The line that Caffe logs for the first dataset of floats, and of integers, in a process (hdf5.cpp)."""
    _tell_once(*(("hdf5.cpp:33", "FLOAT") if dataset.dtype.kind == "f" else ("hdf5.cpp:36", "INTEGER")))


@functools.cache
def _tell_once(where: str, name: str) -> None:
    glog.info(where, f"Datatype class: H5T_{name}")
