"""New databases, LMDB and LevelDB: they appear under their name when all is written, or not at all."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

import lmdb

from pysolver.data.databases import LMDB
from pysolver.data.extras import require
from pysolver.errors import CaffeError

COMMIT_EVERY = 1000  # records in one transaction, as Caffe's tools
_FIRST_MAP_SIZE = 1 << 26

Records = Iterable[tuple[bytes, bytes]]


def write_database(
    path: str | Path, backend: int, records: Records, on_commit: Callable[[int], None] = lambda count: None
) -> int:
    """Write (key, value) pairs into a new database and return their number.

    on_commit: called with the number of records written so far, after every thousand and at the end.
    Raises CaffeError if `path` exists or cannot be written; whatever goes wrong, nothing is left behind.
    """
    path = Path(path)
    if path.exists():
        raise CaffeError(f"{path}: exists already; a database is not added to")
    with staging_folder(path.parent, path.name) as staging:
        partial = staging / path.name
        count = (_write_lmdb if backend == LMDB else _write_leveldb)(partial, iter(records), on_commit)
        partial.rename(path)
    return count


@contextlib.contextmanager
def staging_folder(parent: Path, name: str) -> Iterator[Path]:
    """A folder beside the place where its contents will be moved to; removed in any case.

    What the disk or the database refuses inside the block becomes a CaffeError that names `parent / name`.
    """
    staging = None
    try:
        parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{name}.", suffix=".partial", dir=parent))
        staging.chmod(0o755)
        yield staging
    except (OSError, lmdb.Error) as error:
        raise CaffeError(f"{parent / name}: cannot be written: {getattr(error, 'strerror', None) or error}") from None
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)


def _write_lmdb(folder: Path, records: Iterator[tuple[bytes, bytes]], on_commit: Callable[[int], None]) -> int:
    count = 0
    with lmdb.open(str(folder), map_size=_FIRST_MAP_SIZE, sync=False) as environment:
        while chunk := list(islice(records, COMMIT_EVERY)):
            _put_all(environment, chunk)
            count += len(chunk)
            on_commit(count)
        environment.sync(True)
    (folder / "lock.mdb").unlink()
    return count


def _put_all(environment: lmdb.Environment, chunk: list[tuple[bytes, bytes]]) -> None:
    """One transaction; the map is doubled until it fits."""
    while True:
        try:
            with environment.begin(write=True) as transaction:
                for key, value in chunk:
                    transaction.put(key, value)
            return
        except lmdb.MapFullError:
            environment.set_mapsize(2 * environment.info()["map_size"])


def _write_leveldb(folder: Path, records: Iterator[tuple[bytes, bytes]], on_commit: Callable[[int], None]) -> int:
    plyvel = require("plyvel")
    count = 0
    try:
        with contextlib.closing(plyvel.DB(str(folder), create_if_missing=True, error_if_exists=True)) as database:
            while chunk := list(islice(records, COMMIT_EVERY)):
                with database.write_batch(sync=True) as batch:
                    for key, value in chunk:
                        batch.put(key, value)
                count += len(chunk)
                on_commit(count)
    except plyvel.Error as error:
        raise OSError(str(error)) from None
    return count
