"""LevelDB for reading (src/caffe/util/db_leveldb.cpp)."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from pysolver.errors import CaffeError
from pysolver.extras import require

_TABLES = {".ldb", ".sst"}  # never changed once written; all other files are


class LeveldbReader:
    """A LevelDB folder, opened through a shadow so that nothing in it is written or locked.

    LevelDB has no read-only mode: opening takes a lock, writes a log and may move records between files. So a
    temporary folder gets links to the tables and copies of the rest; the source can be on a read-only file system,
    and be read by several layers and processes.
    """

    def __init__(self, source: str) -> None:
        self._plyvel = require("plyvel")
        self.source = source
        self._folder = tempfile.mkdtemp(prefix="pysolver_leveldb_")
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        try:
            _shadow(Path(source), Path(self._folder))
            self._database = self._plyvel.DB(self._folder, create_if_missing=False, paranoid_checks=True)
        except (self._plyvel.Error, OSError) as error:
            raise CaffeError(f"Failed to open leveldb {source}: {_without(self._folder, error)}") from None

    @cached_property
    def entries(self) -> int:
        """Number of records. LevelDB does not know it: this reads through the whole database once."""
        return sum(1 for _ in self._iterate(include_value=False))

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        return self._iterate()

    def places(self) -> list[bytes]:
        return list(self._iterate(include_value=False))

    def at(self, place: bytes) -> tuple[bytes, bytes]:
        try:
            return place, self._database.get(place, verify_checksums=True)
        except self._plyvel.Error as error:
            raise CaffeError(f"{self.source}: the LevelDB is damaged: {_without(self._folder, error)}") from None

    def _iterate(self, **options: bool) -> Iterator:
        try:
            with self._database.iterator(verify_checksums=True, **options) as iterator:
                yield from iterator
        except self._plyvel.Error as error:
            raise CaffeError(f"{self.source}: the LevelDB is damaged: {_without(self._folder, error)}") from None


def _shadow(source: Path, shadow: Path) -> None:
    for file in source.iterdir():
        if file.suffix in _TABLES:
            (shadow / file.name).symlink_to(file.resolve())
        elif file.is_file() and file.name not in ("LOCK", "LOG", "LOG.old"):
            shutil.copyfile(file, shadow / file.name)


def _without(folder: str, error: Exception) -> str:
    """The message without the path of a folder that its reader has never heard of."""
    return str(error).replace(f"{folder}/", "").replace(folder, "")
