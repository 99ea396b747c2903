"""HDF5 files of weights and solver states: bounded, checked, and with one kind of error."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import h5py

from pysolver.errors import CaffeError
from pysolver.proto.binary import read_bytes
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
