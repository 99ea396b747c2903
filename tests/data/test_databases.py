"""Writing databases: whole or not at all, readable by the plain libraries."""

from __future__ import annotations

import subprocess
import sys

import lmdb
import plyvel
import pytest

from pysolver.data.database_writer import new_database, write_all
from pysolver.data.databases import LEVELDB, LMDB, backend_named, open_database
from pysolver.errors import CaffeError

ITEMS = [(b"%05d" % i, b"x" * (i % 100)) for i in range(2500)]


def read_plainly(path, backend: int) -> list[tuple[bytes, bytes]]:
    if backend == LMDB:
        with lmdb.open(str(path), readonly=True, lock=False) as environment, environment.begin() as transaction:
            return list(transaction.cursor())
    database = plyvel.DB(str(path))
    found = list(database)
    database.close()
    return found


@pytest.mark.parametrize("backend", [LMDB, LEVELDB])
def test_what_is_written_is_read(tmp_path, backend) -> None:
    commits = []
    with new_database(tmp_path / "db", backend) as database:
        assert write_all(database, iter(ITEMS), commits.append) == 2500
        assert not (tmp_path / "db").exists()
    assert commits == [1000, 2000, 2500]
    assert [path.name for path in tmp_path.iterdir()] == ["db"]
    assert read_plainly(tmp_path / "db", backend) == ITEMS
    opened = open_database(str(tmp_path / "db"), backend)
    assert opened.entries == 2500
    assert [(bytes(key), bytes(value)) for key, value in opened.items()] == ITEMS


def test_an_lmdb_grows_beyond_its_first_map(tmp_path) -> None:
    big = [(b"%d" % i, bytes(1 << 20)) for i in range(130)]
    with new_database(tmp_path / "db", LMDB) as database:
        database.put(big)
    assert [len(value) for _, value in read_plainly(tmp_path / "db", LMDB)] == [1 << 20] * 130


@pytest.mark.parametrize("backend", [LMDB, LEVELDB])
def test_nothing_is_left_of_what_failed(tmp_path, backend) -> None:
    with pytest.raises(KeyboardInterrupt), new_database(tmp_path / "db", backend) as database:
        database.put(ITEMS)
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_writer_left_goes_and_a_live_one_stays(tmp_path) -> None:
    code = (
        "import sys, os, signal; from pysolver.data.database_writer import new_database\n"
        "from pysolver.data.databases import LMDB\n"
        "with new_database(sys.argv[1], LMDB) as database:\n"
        "    database.put([(b'1', b'2')])\n"
        "    os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "db[1]")], check=False)
    assert [path.suffix for path in tmp_path.iterdir()] == [".partial"]
    with new_database(tmp_path / "db[1]", LMDB) as first:
        assert len(list(tmp_path.iterdir())) == 1  # the killed one's is gone
        with new_database(tmp_path / "db[1]", LMDB) as second:
            assert len(list(tmp_path.iterdir())) == 2
            first.put(ITEMS[:1])
            second.put(ITEMS[:1])
        (tmp_path / "db[1]").rename(tmp_path / "other")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["db[1]", "other"]


@pytest.mark.parametrize("backend", [LMDB, LEVELDB])
def test_an_existing_database_is_left_alone(tmp_path, backend) -> None:
    (tmp_path / "db").mkdir()
    with pytest.raises(CaffeError, match="db: exists already"), new_database(tmp_path / "db", backend):
        pass
    assert list((tmp_path / "db").iterdir()) == []


FULL_DISK = """
import resource
from pysolver.data.database_writer import new_database
from pysolver.errors import CaffeError
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))  # writing on fails as on a full disk
for backend in (0, 1):
    try:
        with new_database(f"db{backend}", backend) as database:
            for i in range(100):
                database.put([(b"%d" % i, bytes(range(256)) * 256)])
    except CaffeError as error:
        print(error)
"""


def test_a_full_disk(tmp_path) -> None:
    done = subprocess.run([sys.executable, "-c", FULL_DISK], cwd=tmp_path, capture_output=True, text=True, check=True)
    messages = done.stdout.splitlines()
    assert len(messages) == 2
    assert all(message.startswith(f"db{i}: cannot be written: ") for i, message in enumerate(messages))
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_place(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(CaffeError, match="file/db: cannot be written: .*file is a file, where a"),
        new_database(tmp_path / "file" / "db", LMDB),
    ):
        pass


def test_a_damaged_leveldb(tmp_path) -> None:
    with new_database(tmp_path / "db", LEVELDB) as database:
        database.put(ITEMS)
    (tmp_path / "db" / "CURRENT").write_text("nonsense\n")
    with pytest.raises(CaffeError, match="Failed to open leveldb .*db: "):
        open_database(str(tmp_path / "db"), LEVELDB)


def test_unknown_backends() -> None:
    assert (backend_named("lmdb"), backend_named("leveldb")) == (LMDB, LEVELDB)
    with pytest.raises(CaffeError, match="Unknown database backend 'sqlite'"):
        backend_named("sqlite")


def test_a_key_longer_than_lmdb_takes(tmp_path) -> None:
    error = "db: a key of 600 bytes, a long path perhaps: LMDB takes 511, LevelDB any"
    with pytest.raises(CaffeError, match=error), new_database(tmp_path / "db", LMDB) as database:
        database.put([(b"x" * 600, b"")])
    assert list(tmp_path.iterdir()) == []
