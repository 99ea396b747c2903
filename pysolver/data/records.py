"""Decoded images with their labels, by place in a data set, kept in memory if they are few enough."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from pysolver.errors import CaffeError
from pysolver.shelf import Shelf

Images = np.ndarray | list[np.ndarray]


class Record(NamedTuple):
    name: str  # what an error message calls it
    image: np.ndarray  # (channels, height, width), uint8 or float32
    label: int


class Store:
    """The images of a data set by place, 0 <= place < size.

    read: decodes the records at some places. Each is read once and kept if all images fit into cache_bytes,
    in memory that is pinned if `pinned` (for copies to a GPU).
    window: images may differ in height and width, if none is smaller than this; None: all are of one size.
    shelf: where what was decoded waits for the next net that reads the same, which `origin` tells; None: nowhere.
    """

    def __init__(
        self,
        size: int,
        first: Record,
        read: Callable[[Sequence[int]], list[Record]],
        *,
        window: Sequence[int] | None,
        cache_bytes: int,
        pinned: bool,
        shelf: Shelf | None = None,
        origin: Hashable = None,
    ) -> None:
        self.size = size
        self.shape = first.image.shape
        self._read = read
        self._window = window
        self._cache: _Cache | None = None
        if size * first.image.nbytes <= cache_bytes:
            like = first.image
            key = origin, size, like.shape, like.dtype.str, pinned
            self._cache = (shelf or Shelf(0)).take(key, lambda: _Cache(size, like, pinned))

    def fetch(self, places: np.ndarray) -> tuple[Images, np.ndarray]:
        """The images, and the labels as float32 (N,).

        Images come as one array (N, C, H, W), perhaps the cache's own memory; as a list if their sizes differ.
        """
        if self._cache is not None:
            missing = places[~self._cache.holds[places]].tolist()
            if not missing or all(map(self._cache.store, missing, self._read(missing))):
                return self._cache.take(places)
            self._cache = None  # an image of another size: they do not fit into one array
        records = self._read(places.tolist())
        return self._join(records), np.array([record.label for record in records], np.float32)

    def _join(self, records: Sequence[Record]) -> Images:
        first = records[0].image.shape
        for name, image, _ in records:
            if self._window and (image.shape[1] < self._window[0] or image.shape[2] < self._window[1]):
                raise CaffeError(
                    f"{name}: an image of {format_shape(image.shape)} (channels x height x width) is smaller than the "
                    f"crop of {format_shape(self._window)}"
                )
            if image.shape != first and (not self._window or image.shape[0] != first[0]):
                raise CaffeError(
                    f"{name}: an image of {format_shape(image.shape)} in a batch that starts with "
                    f"{format_shape(first)} (channels x height x width)"
                )
        images = [record.image for record in records]
        return np.stack(images) if all(image.shape == first for image in images) else images


def stamp(path: str | os.PathLike[str]) -> Hashable:
    """A value that differs when the file there does."""
    info = os.stat(path)
    return os.path.realpath(path), info.st_ino, info.st_size, info.st_mtime_ns


class _Cache:
    """All images in one array of their own type, filled as they are read for the first time."""

    def __init__(self, size: int, like: np.ndarray, pinned: bool) -> None:
        kind = torch.from_numpy(np.empty(0, like.dtype)).dtype
        self._images = torch.empty((size, *like.shape), dtype=kind, pin_memory=pinned).numpy()
        self._labels = np.zeros(size, np.float32)
        self.holds = np.zeros(size, bool)

    def store(self, place: int, record: Record) -> bool:
        """Keep the record; False if its image is of another shape or type."""
        if record.image.shape != self._images.shape[1:] or record.image.dtype != self._images.dtype:
            return False
        self._images[place], self._labels[place], self.holds[place] = record.image, record.label, True
        return True

    @property
    def nbytes(self) -> int:
        """Of the images."""
        return int(self._images.nbytes)

    def take(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if (np.diff(places) == 1).all():  # neighbours: no copy
            rows = slice(int(places[0]), int(places[-1]) + 1)
            return self._images[rows], self._labels[rows].copy()
        return self._images[places], self._labels[places]


def format_shape(shape: Sequence[int]) -> str:
    """`3 x 32 x 32`"""
    return " x ".join(map(str, shape))
