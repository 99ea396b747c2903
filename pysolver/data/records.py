"""The images and labels of a database by running number, kept in memory if they are few enough."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch

from pysolver.data import datum
from pysolver.data.databases import Database
from pysolver.data.images import Colour
from pysolver.data.parallel import usable_cores
from pysolver.errors import CaffeError
from pysolver.proto import caffe_pb2

Images = np.ndarray | list[np.ndarray]


class Record(NamedTuple):
    key: str
    image: np.ndarray  # (channels, height, width), uint8 or float32
    label: int


class Records:
    """Record k of the endless repetition of a database.

    cache_bytes: if all images fit into them, each is decoded once and kept (pinned for copies to a GPU).
    any_size: images of one batch may differ in height and width.
    """

    def __init__(self, database: Database, colour: Colour, any_size: bool, cache_bytes: int, pinned: bool) -> None:
        if not database.entries:
            raise CaffeError(f"{database.source}: the database is empty")
        self.size = database.entries
        self._source, self._colour, self._any_size = database.source, colour, any_size
        self._stream = _endless(database)
        self._position = 0  # of the stream, in the database
        key, value = next(database.items())
        first = self._parse(key, value)
        self.first_is_encoded: bool = first[1].encoded
        image = self._decode(first).image
        self.shape = image.shape
        self._cache = _Cache(self.size, image, pinned) if self.size * image.nbytes <= cache_bytes else None
        self._pool: ThreadPoolExecutor | None = None

    def fetch(self, numbers: np.ndarray) -> tuple[Images, np.ndarray]:
        """The images and labels (float32) of records, by running number.

        Images come as one array (N, C, H, W), perhaps the cache's own memory; as a list if their sizes differ.
        """
        places = numbers % self.size
        if self._cache is not None:
            missing = places[~self._cache.holds[places]]
            if all(map(self._cache.store, missing, self._read(missing))):
                return self._cache.take(places)
            self._cache = None  # an image of another size: nothing to keep in one array
        records = self._read(places)
        return self._join(records), np.array([record.label for record in records], np.float32)

    def _read(self, places: np.ndarray) -> list[Record]:
        parsed = [self._parse(*self._record_at(int(place))) for place in places]
        if len(parsed) > 1 and parsed[0][1].encoded:  # OpenCV lets other threads run
            self._pool = self._pool or ThreadPoolExecutor(usable_cores(), "decode")
            return list(self._pool.map(self._decode, parsed))
        return [self._decode(record) for record in parsed]

    def _record_at(self, place: int) -> tuple[memoryview, memoryview]:
        ahead = (place - self._position) % self.size
        self._position = (place + 1) % self.size
        return next(islice(self._stream, ahead, None))

    def _parse(self, key: memoryview, value: memoryview) -> tuple[str, caffe_pb2.Datum]:
        name = bytes(key).decode(errors="backslashreplace")
        try:
            return name, datum.parse(value)
        except CaffeError as error:
            raise self._error(name, error) from None

    def _decode(self, parsed: tuple[str, caffe_pb2.Datum]) -> Record:
        name, message = parsed
        try:
            return Record(name, datum.pixels(message, self._colour), message.label)
        except CaffeError as error:
            raise self._error(name, error) from None

    def _join(self, records: Sequence[Record]) -> Images:
        first = records[0].image.shape
        same_size = True
        for key, image, _ in records:
            if image.shape != first:
                same_size = False
                if not self._any_size or image.shape[0] != first[0]:
                    raise self._error(key, f"an image of {image.shape} in a batch that starts with {first}")
        images = [record.image for record in records]
        return np.stack(images) if same_size else images

    def _error(self, key: str, what: object) -> CaffeError:
        return CaffeError(f"{self._source}: record '{key}': {what}")


class _Cache:
    """All images of a database in one array of their own type, filled as they are read for the first time."""

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

    def take(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        first, last = int(places[0]), int(places[-1])
        if last - first == len(places) - 1:  # running numbers rise: so do these, by one, unless they wrapped
            return self._images[first : last + 1], self._labels[first : last + 1].copy()
        return self._images[places], self._labels[places]


def _endless(database: Database) -> Iterator[tuple[memoryview, memoryview]]:
    while True:
        yield from database.items()
