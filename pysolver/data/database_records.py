"""The decoded records of a database, by number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

from pysolver.cores import usable_cores
from pysolver.data import datum
from pysolver.data.databases import Database
from pysolver.data.images import Colour
from pysolver.data.records import Record
from pysolver.errors import CaffeError, about
from pysolver.proto import caffe_pb2

Bytes = bytes | memoryview


class DatabaseRecords:
    """Reads through a database in key order and starts over at its end; `scattered`: in any order.

    first: the first record, which reading does not skip.
    """

    def __init__(self, database: Database, colour: Colour, scattered: bool = False) -> None:
        if not database.entries:
            raise CaffeError(f"{database.source}: the database is empty")
        self.size = database.entries
        self._source, self._colour = database.source, colour
        self._database = database
        self._places = database.places() if scattered else None
        self._stream = _endless(database)
        self._position = 0  # of the stream, in the database
        self._pool: ThreadPoolExecutor | None = None
        parsed = self._parse(*next(database.items()))
        self.is_encoded: bool = self._datum(parsed[1]).encoded
        self.first: Any = self._decode(parsed)

    def read(self, numbers: Sequence[int]) -> list[Any]:
        """The records of these numbers; quick if they rise. Raises CaffeError naming the key of a damaged one."""
        parsed = [self._parse(*self._item(number)) for number in numbers]
        if len(parsed) > 1 and self._datum(parsed[0][1]).encoded:  # OpenCV lets other threads run
            self._pool = self._pool or ThreadPoolExecutor(usable_cores(), "decode")
            return list(self._pool.map(self._decode, parsed))
        return [self._decode(record) for record in parsed]

    def _item(self, number: int) -> tuple[Bytes, Bytes]:
        if self._places is not None:
            return self._database.at(self._places[number])
        ahead = (number - self._position) % self.size
        self._position = (number + 1) % self.size
        return next(islice(self._stream, ahead, None))

    # What a record holds; another kind of record overrides these three.

    def _message(self, value: Bytes) -> caffe_pb2.Datum:
        return datum.parse(value)

    def _datum(self, message: caffe_pb2.Datum) -> caffe_pb2.Datum:
        return message

    def _record(self, name: str, message: caffe_pb2.Datum) -> Record:
        return Record(name, datum.pixels(message, self._colour), message.label)

    def _parse(self, key: Bytes, value: Bytes) -> tuple[str, Any]:
        name = f"{self._source}: record '{bytes(key).decode(errors='backslashreplace')}'"
        with about(name):
            return name, self._message(value)

    def _decode(self, parsed: tuple[str, Any]) -> Record:
        with about(parsed[0]):
            return self._record(*parsed)


def _endless(database: Database) -> Iterator[tuple[Bytes, Bytes]]:
    while True:
        yield from database.items()
