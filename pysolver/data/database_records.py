"""The decoded records of a database, by number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from pysolver.cores import usable_cores
from pysolver.data import datum
from pysolver.data.databases import Database
from pysolver.data.images import Colour
from pysolver.data.records import Record
from pysolver.errors import CaffeError
from pysolver.proto import caffe_pb2


class DatabaseRecords:
    """Reads through a database in key order and starts over at its end.

    first: the first record, which reading does not skip.
    """

    def __init__(self, database: Database, colour: Colour) -> None:
        if not database.entries:
            raise CaffeError(f"{database.source}: the database is empty")
        self.size = database.entries
        self._source, self._colour = database.source, colour
        self._stream = _endless(database)
        self._position = 0  # of the stream, in the database
        self._pool: ThreadPoolExecutor | None = None
        parsed = self._parse(*next(database.items()))
        self.is_encoded: bool = parsed[1].encoded
        self.first = self._decode(parsed)

    def read(self, numbers: Sequence[int]) -> list[Record]:
        """The records of these numbers; quick if they rise. Raises CaffeError naming the key of a damaged one."""
        parsed = [self._parse(*self._item(number)) for number in numbers]
        if len(parsed) > 1 and parsed[0][1].encoded:  # OpenCV lets other threads run
            self._pool = self._pool or ThreadPoolExecutor(usable_cores(), "decode")
            return list(self._pool.map(self._decode, parsed))
        return [self._decode(record) for record in parsed]

    def _item(self, number: int) -> tuple[memoryview, memoryview]:
        ahead = (number - self._position) % self.size
        self._position = (number + 1) % self.size
        return next(islice(self._stream, ahead, None))

    def _parse(self, key: memoryview, value: memoryview) -> tuple[str, caffe_pb2.Datum]:
        name = f"{self._source}: record '{bytes(key).decode(errors='backslashreplace')}'"
        try:
            return name, datum.parse(value)
        except CaffeError as error:
            raise CaffeError(f"{name}: {error}") from None

    def _decode(self, parsed: tuple[str, caffe_pb2.Datum]) -> Record:
        name, message = parsed
        try:
            return Record(name, datum.pixels(message, self._colour), message.label)
        except CaffeError as error:
            raise CaffeError(f"{name}: {error}") from None


def _endless(database: Database) -> Iterator[tuple[memoryview, memoryview]]:
    while True:
        yield from database.items()
