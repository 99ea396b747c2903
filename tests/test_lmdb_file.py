"""Reading data.mdb without liblmdb: the records that liblmdb reads, and an error where it would end the process."""

from __future__ import annotations

import os
import random
import struct
from pathlib import Path

import lmdb
import pytest

from pysolver.disciplined.data_sets import lmdb_size
from pysolver.errors import CaffeError
from pysolver.lmdb_file import LmdbFile


def write(folder: Path, items: dict[bytes, bytes], **options) -> Path:
    with lmdb.open(str(folder), map_size=1 << 28, **options) as environment, environment.begin(write=True) as here:
        for key, value in items.items():
            here.put(key, value)
    return folder / "data.mdb"


def read(path: Path) -> list[tuple[bytes, bytes]]:
    return [(bytes(key), bytes(value)) for key, value in LmdbFile(str(path)).items()]


def read_by_the_library(folder: Path) -> list[tuple[bytes, bytes]]:
    with lmdb.open(str(folder), readonly=True, lock=False) as environment, environment.begin() as transaction:
        return list(transaction.cursor())


@pytest.mark.parametrize("sizes", [(0, 1), (5, 50), (1, 3000), (2000, 2100), (4000, 13000)])
@pytest.mark.parametrize("count", [0, 1, 7, 800])
def test_the_records_that_the_library_reads(tmp_path, sizes, count) -> None:
    """Values in their leaf and with pages of their own, keys of all lengths, some written again, some gone."""
    rng = random.Random(count)
    keys = [rng.randbytes(rng.randint(1, 300)) for _ in range(count)]
    path = write(tmp_path / "db", {key: rng.randbytes(rng.randint(*sizes)) for key in keys})
    write(tmp_path / "db", {key: b"again" for key in keys[::5]})
    with lmdb.open(str(tmp_path / "db")) as environment, environment.begin(write=True) as transaction:
        for key in keys[1::7]:
            transaction.delete(key)
    wanted = read_by_the_library(tmp_path / "db")
    assert read(path) == wanted
    assert LmdbFile(str(path)).entries == len(wanted)


def test_a_tree_of_three_levels(tmp_path) -> None:
    path = write(tmp_path / "db", {b"%0200d" % number: b"%d" % number for number in range(4000)})
    with lmdb.open(str(tmp_path / "db"), readonly=True, lock=False) as environment:
        assert environment.stat()["depth"] >= 3
    assert [value for _, value in read(path)] == [b"%d" % number for number in range(4000)]


def test_a_file_that_is_cut_short_while_it_is_read(tmp_path) -> None:
    """Training over a mapped file ended with SIGBUS here, without a word."""
    path = write(tmp_path / "db", {b"%d" % number: bytes(5000) for number in range(100)})
    records = LmdbFile(str(path)).items()
    next(records)
    os.truncate(path, 5 * 4096)
    with pytest.raises(CaffeError, match="data.mdb was cut short while it was read"):
        list(records)
    with pytest.raises(CaffeError, match="data.mdb is cut short: 20480 bytes of at least "):
        LmdbFile(str(path))


def test_a_tree_in_circles(tmp_path) -> None:
    """Every branch of the root leads back to it: 2 ** 32 ways down."""
    path = write(tmp_path / "db", {b"%04d" % number: bytes(300) for number in range(100)})
    data = bytearray(path.read_bytes())
    (root,) = struct.unpack_from("<Q", data, 4096 + 128)
    (lower,) = struct.unpack_from("<H", data, root * 4096 + 12)
    for offset in struct.unpack_from(f"<{(lower - 16) // 2}H", data, root * 4096 + 16):
        struct.pack_into("<I", data, root * 4096 + offset, root)
    path.write_bytes(data)
    with pytest.raises(CaffeError, match="the LMDB is damaged: its tree runs in circles"):
        read(path)


@pytest.mark.parametrize("seed", range(4))
def test_no_change_to_the_file_is_more_than_an_error(tmp_path, seed) -> None:
    rng = random.Random(seed)
    original = write(tmp_path / "db", {b"%d" % number: bytes(40 * number) for number in range(120)}).read_bytes()
    path = tmp_path / "changed"
    for _ in range(500):
        data = bytearray(original)
        for _ in range(rng.choice((1, 3, 30))):
            place = rng.randrange(len(data) // 4096) * 4096 + rng.randrange(64)
            data[place : place + 2] = rng.randbytes(2)
        path.write_bytes(data)
        try:
            read(path)
        except CaffeError as error:
            assert str(error).startswith(str(path))


def test_what_caffe_does_not_write_is_refused(tmp_path) -> None:
    with lmdb.open(str(tmp_path / "named"), max_dbs=1) as environment:
        base = environment.open_db(b"inside")
        with environment.begin(write=True, db=base) as transaction:
            transaction.put(b"1", b"2")
    with pytest.raises(CaffeError, match="databases inside: not Caffe's form"):
        read(tmp_path / "named" / "data.mdb")
    (tmp_path / "text").write_bytes(b"hello" * 1000)
    with pytest.raises(CaffeError, match="text: not an LMDB of version 1"):
        read(tmp_path / "text")


@pytest.mark.timeout(60)
def test_a_tree_whose_branches_meet_again(tmp_path) -> None:
    """No circle, but 80 ways into each page of each of three levels, in a file that counts as many records."""
    path = write(tmp_path / "db", {b"%0200d" % number: b"%d" % number for number in range(4000)})
    data = bytearray(path.read_bytes())

    def point_all_at_the_first(number: int) -> int:
        (lower,) = struct.unpack_from("<H", data, number * 4096 + 12)
        offsets = struct.unpack_from(f"<{(lower - 16) // 2}H", data, number * 4096 + 16)
        first = struct.unpack_from("<I", data, number * 4096 + offsets[0])[0]
        for offset in offsets:
            struct.pack_into("<I", data, number * 4096 + offset, first)
        return first

    (root,) = struct.unpack_from("<Q", data, 4096 + 128)
    point_all_at_the_first(point_all_at_the_first(root))
    for meta in (0, 4096):  # branches, leaves, overflow pages, records
        struct.pack_into("<4Q", data, meta + 96, 1 << 62, 1 << 62, 0, 1 << 62)
    path.write_bytes(data)
    for records in (LmdbFile(str(path)).items, LmdbFile(str(path)).places):
        with pytest.raises(CaffeError, match="its tree runs in circles"):
            list(records())


def test_one_record_under_many_places_of_its_page(tmp_path) -> None:
    path = write(tmp_path / "db", {b"a": b"b"})
    data = bytearray(path.read_bytes())
    (root,) = struct.unpack_from("<Q", data, 4096 + 128)
    lower, upper = struct.unpack_from("<HH", data, root * 4096 + 12)
    count = (upper - 16) // 2
    struct.pack_into("<H", data, root * 4096 + 12, 16 + 2 * count)
    struct.pack_into(f"<{count}H", data, root * 4096 + 16, *[upper] * count)
    for meta in (0, 4096):
        struct.pack_into("<Q", data, meta + 120, count)
    path.write_bytes(data)
    with pytest.raises(CaffeError, match=f"the LMDB is damaged: page {root}"):
        list(LmdbFile(str(path)).items())


def test_counting_records_needs_no_library(tmp_path) -> None:
    """A page size of a gigabyte in the first meta page ended check_solver and tune with SIGSEGV."""
    path = write(tmp_path / "db", {b"a": b"b"})
    assert lmdb_size(tmp_path / "db") == 1
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, 40, 1 << 30)
    path.write_bytes(data)
    assert lmdb_size(tmp_path / "db") is None
