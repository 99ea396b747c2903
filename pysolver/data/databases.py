"""Databases of records, LMDB and LevelDB: key order, read-only, written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from pysolver.errors import CaffeError
from pysolver.files import looked_for
from pysolver.lmdb_file import LmdbFile, Place
from pysolver.logs import notices
from pysolver.logs.events import Emit
from pysolver.proto import caffe_pb2

LMDB, LEVELDB = caffe_pb2.DataParameter.LMDB, caffe_pb2.DataParameter.LEVELDB
_NAMES: dict[int, str] = {LMDB: "LMDB", LEVELDB: "LEVELDB"}

_ARTICLES: dict[int, str] = {LMDB: "an", LEVELDB: "a"}


def backend_named(name: str) -> int:
    """LMDB or LEVELDB from the word that Caffe's tools take."""
    try:
        return {"lmdb": LMDB, "leveldb": LEVELDB}[name]
    except KeyError:
        raise CaffeError(f"Unknown database backend '{name}' (lmdb or leveldb)") from None


class Database(Protocol):
    """A folder of records, open for reading."""

    source: str

    @property
    def entries(self) -> int:
        """How many records there are."""

    def items(self) -> Iterator[tuple[bytes | memoryview, bytes | memoryview]]:
        """(key, value) in key order, from the first; a memoryview is valid until the next one is asked for."""

    def places(self) -> list[Any]:
        """Where each record is, in key order: for at()."""

    def at(self, place: Any) -> tuple[bytes | memoryview, bytes | memoryview]:
        """The (key, value) of a place."""


def open_database(source: str, backend: int) -> Database:
    """Open an existing database (db::GetDB, db::READ). Raises CaffeError if it is not there, or of the other kind."""
    folder = Path(source)
    if not folder.exists():
        raise CaffeError(f"{source}: no such database{looked_for(source)}")
    found = _backend_of(folder)
    if found is None:
        given = f"; give its folder, {folder.parent}" if folder.name in ("data.mdb", "CURRENT") else ""
        raise CaffeError(
            f"{source}: not a database: a folder with data.mdb (LMDB) or CURRENT (LevelDB) is needed{given}"
        )
    if found != backend:
        raise CaffeError(
            f"{source}: backend {_NAMES[backend]} is asked for (LEVELDB is the default), "
            f"but this is {_ARTICLES[found]} {_NAMES[found]}: set backend: {_NAMES[found]}"
        )
    if backend == LMDB:
        return LmdbReader(source)
    from pysolver.data.leveldb import LeveldbReader  # needs an extra

    return LeveldbReader(source)


def _backend_of(folder: Path) -> int | None:
    if (folder / "data.mdb").is_file():
        return LMDB
    return LEVELDB if (folder / "CURRENT").is_file() else None


class LmdbReader:
    """An LMDB folder, read without locks and without writing anything (src/caffe/util/db_lmdb.cpp)."""

    def __init__(self, source: str) -> None:
        self.source = source
        self._file = LmdbFile(os.path.join(source, "data.mdb"))
        self.entries: int = self._file.entries

    def items(self) -> Iterator[tuple[memoryview, memoryview]]:
        return self._file.items()

    def places(self) -> list[Place]:
        return self._file.places()

    def at(self, place: Place) -> tuple[memoryview, memoryview]:
        return self._file.at(place)


def tell_opened(database: Database, emit: Emit) -> None:
    """Caffe's line for an open database."""
    opened = notices.OpenedLmdb if isinstance(database, LmdbReader) else notices.OpenedLeveldb
    emit(opened(database.source))
