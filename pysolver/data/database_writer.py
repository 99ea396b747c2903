"""New databases, LMDB and LevelDB: they appear under their name when all is written, or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Protocol

import lmdb

from pysolver.data.databases import LMDB
from pysolver.errors import CaffeError
from pysolver.extras import require
from pysolver.files import sync

COMMIT_EVERY = 1000  # records in one transaction, as Caffe's tools
_FIRST_MAP_SIZE = 1 << 26

Items = list[tuple[bytes, bytes]]


class Writer(Protocol):
    def put(self, items: Items) -> None:
        """Add (key, value) pairs in one transaction."""

    def close(self) -> None:
        """Bring everything to the disk."""


def write_all(
    database: Writer, items: Iterable[tuple[bytes, bytes]], on_commit: Callable[[int], None] = lambda count: None
) -> int:
    """Put all (key, value) pairs and return their number.

    on_commit: called with the number written so far, after every thousand and at the end.
    """
    count, items = 0, iter(items)
    while chunk := list(islice(items, COMMIT_EVERY)):
        database.put(chunk)
        count += len(chunk)
        on_commit(count)
    return count


@contextlib.contextmanager
def new_database(path: str | Path, backend: int) -> Iterator[Writer]:
    """A database to write to; it gets its name when the block ends well, and vanishes when it does not.

    Raises CaffeError if `path` exists or cannot be written.
    """
    path = Path(path)
    if path.exists():
        raise CaffeError(f"{path}: exists already; a database is not added to")
    with staging_folder(path.parent, path.name) as staging:
        partial = staging / path.name
        with contextlib.closing((_Lmdb if backend == LMDB else _Leveldb)(partial)) as writer:
            yield writer
        partial.rename(path)
        sync(path.parent)


@contextlib.contextmanager
def staging_folder(parent: Path, name: str) -> Iterator[Path]:
    """A folder beside the place where its contents will be moved to; removed in any case.

    It is locked as long as its process lives: those of killed ones, which nobody could remove, go first.
    What the disk or the database refuses inside the block becomes a CaffeError that names `parent / name`.
    """
    staging = lock = None
    try:
        try:
            parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            words = f"{error.filename} is a file, where a folder is needed"
            raise CaffeError(f"{parent / name}: cannot be written: {words}") from None
        for leftover in parent.glob(f".{glob.escape(name)}.*.partial"):
            _remove_unlocked(leftover)
        staging = Path(tempfile.mkdtemp(prefix=f".{name}.", suffix=".partial", dir=parent))
        staging.chmod(0o755)
        lock = os.open(staging, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield staging
    except (OSError, lmdb.Error) as error:
        raise CaffeError(f"{parent / name}: cannot be written: {getattr(error, 'strerror', None) or error}") from None
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _remove_unlocked(folder: Path) -> None:
    with contextlib.suppress(OSError):  # locked: somebody is writing there
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(lock)


class _Lmdb:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._environment = lmdb.open(str(folder), map_size=_FIRST_MAP_SIZE, sync=False)

    def put(self, items: Items) -> None:
        while True:
            try:
                with self._environment.begin(write=True) as transaction:
                    for key, value in items:
                        transaction.put(key, value)
                return
            except lmdb.BadValsizeError:
                longest, most = max(len(key) for key, _ in items), self._environment.max_key_size()
                words = f"a key of {longest} bytes, a long path perhaps: LMDB takes {most}, LevelDB any"
                raise CaffeError(f"{self._folder.name}: {words}") from None
            except lmdb.MapFullError:  # only the address space: the file grows with its contents
                self._environment.set_mapsize(2 * self._environment.info()["map_size"])

    def close(self) -> None:
        self._environment.sync(True)
        self._environment.close()
        (self._folder / "lock.mdb").unlink()


class _Leveldb:
    def __init__(self, folder: Path) -> None:
        self._plyvel = require("plyvel")
        with self._as_os_error():
            self._database = self._plyvel.DB(str(folder), create_if_missing=True, error_if_exists=True)

    def put(self, items: Items) -> None:
        with self._as_os_error(), self._database.write_batch(sync=True) as batch:
            for key, value in items:
                batch.put(key, value)

    def close(self) -> None:
        self._database.close()

    @contextlib.contextmanager
    def _as_os_error(self) -> Iterator[None]:
        try:
            yield
        except self._plyvel.Error as error:
            raise OSError(str(error)) from None
