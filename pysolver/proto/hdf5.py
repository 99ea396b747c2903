"""HDF5 files of data, weights and solver states: bounded, shut in on themselves, and with one kind of error.

HDF5 lets a file point to other files (external links, external and virtual storage), give one group many names, and
claim values that are stored nowhere. Nothing that Caffe writes does any of this, so it is refused: else a weight file
could read any file of its user into the weights, or fill the memory from a few bytes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np

from pysolver.errors import CaffeError
from pysolver.files import looked_for, read_bytes
from pysolver.proto.seal import check_hdf5

LARGEST_HDF5 = 1 << 40  # bytes: HDF5 itself knows no limit
_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_UNDEFINED = b"\xff" * 8  # an address that leads nowhere
_MOST_EXPANSION = 1032  # bytes of values from a stored byte: what deflate can reach
_ALWAYS = 1 << 16  # bytes of values that a file of any size may hold


class Hdf5File:
    """An open file. CaffeError, with its path, for what it may not hold."""

    def __init__(self, path: str, root: h5py.File) -> None:
        self.path, self.root = path, root
        self._left = _ALWAYS + _MOST_EXPANSION * os.path.getsize(path)

    def dataset(self, group: h5py.Group, name: str) -> h5py.Dataset | None:
        """The dataset of that name (`a/b`: in a group of this one), None if there is none."""
        *folders, last = name.strip("/").split("/")
        for folder in folders:
            group = self._item(group, folder)
            if not isinstance(group, h5py.Group):
                return None
        item = self._item(group, last)
        if not isinstance(item, h5py.Dataset):
            return None
        if item.external or item.is_virtual:
            raise CaffeError(f"{self.path}: {item.name} lies in other files (external or virtual storage): not allowed")
        return item

    def group(self, name: str) -> h5py.Group | None:
        """The group of that name at the top of the file."""
        item = self._item(self.root, name)
        return item if isinstance(item, h5py.Group) else None

    def items(self, group: h5py.Group) -> Iterator[tuple[str, h5py.Group | h5py.Dataset]]:
        """What is in a group, by name."""
        for name in group:
            yield name, self._item(group, name)

    def _item(self, group: h5py.Group, name: str) -> h5py.Group | h5py.Dataset | None:
        link = group.get(name, getlink=True)
        if link is not None and not isinstance(link, h5py.HardLink):
            raise CaffeError(f"{self.path}: {group.name.rstrip('/')}/{name} is a link to another place: not allowed")
        return None if link is None else group[name]

    def numbers(self, dataset: h5py.Dataset) -> np.ndarray:
        """The values as float32."""
        if dataset.dtype.kind not in "fiu":
            raise CaffeError(f"{self.path}: {dataset.name} holds {dataset.dtype}, not numbers")
        self._allow(dataset)
        return np.asarray(dataset, np.float32)

    def one(self, name: str) -> Any:
        """The value of a dataset with one element, at the top of the file."""
        dataset = self.dataset(self.root, name)
        if dataset is None or dataset.size != 1:
            raise CaffeError(f"{self.path}: damaged: no single value {name}")
        self._allow(dataset)
        return dataset[()].item() if dataset.shape else dataset[()]

    def _allow(self, dataset: h5py.Dataset) -> None:
        self._left -= dataset.size * max(dataset.dtype.itemsize, 4)
        if self._left < 0:
            raise CaffeError(
                f"{self.path}: damaged: {dataset.name} claims {dataset.size} values, more than the file has room for"
            )


@contextlib.contextmanager
def open_sealed(path: str) -> Iterator[Hdf5File]:
    """A file of weights or of a solver state: open_hdf5, once its checksum, if it has one, is found to fit."""
    _check_is_file(path)
    data = read_bytes(path, LARGEST_HDF5)
    if not data:
        raise CaffeError(f"{path}: damaged: the file is empty")
    check_hdf5(data, path)
    with open_hdf5(path) as file:
        yield file


@contextlib.contextmanager
def open_hdf5(path: str) -> Iterator[Hdf5File]:
    """The file, open for reading; CaffeError for whatever turns out to be wrong with it while it is used."""
    _check_is_file(path)
    try:
        _refuse_family(path)
        with h5py.File(path, "r", locking=False) as file:
            yield Hdf5File(path, file)
    except CaffeError:
        raise
    except Exception as error:  # in a damaged file h5py comes upon almost anything
        raise CaffeError(f"{path}: damaged, or not a readable HDF5 file: {' '.join(str(error).split())}") from error


def _check_is_file(path: str) -> None:
    if not os.path.exists(path):
        raise CaffeError(f"Failed opening HDF5 file: {path}: no such file{looked_for(path)}")
    if not os.path.isfile(path):
        raise CaffeError(f"{path}: HDF5 is read from plain files only: this is a folder, a pipe or a device")


def _refuse_family(path: str) -> None:
    """The block of a driver whose data lie in several files: HDF5 would reserve whatever size it claims."""
    with open(path, "rb") as file:
        at, head = 0, file.read(64)
        while len(head) == 64 and not head.startswith(_SIGNATURE):  # behind a block of the user's, as MATLAB writes
            at = max(512, 2 * at)
            file.seek(at)
            head = file.read(64)
    version, size_of_offset = (head[8], head[13]) if len(head) == 64 else (2, 0)
    place = {0: 48, 1: 52}.get(version)  # HDF5's own specification, II.A; later superblocks have no such block
    if place and size_of_offset == 8 and head[place : place + 8] != _UNDEFINED:
        raise CaffeError(f"{path}: a file of several (it names a driver), or damaged: not allowed")


def type_class(dataset: h5py.Dataset) -> str:
    """What Caffe's log calls the kind of numbers that a dataset holds: FLOAT or INTEGER."""
    return "FLOAT" if dataset.dtype.kind == "f" else "INTEGER"
