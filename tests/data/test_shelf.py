"""What was decoded once is not decoded again by a later net, unless the files have changed."""

from __future__ import annotations

import numpy as np
import pytest

from pysolver.data import datum
from pysolver.data.images import Colour
from pysolver.data.records import Record, Store
from pysolver.shelf import Shelf

from .conftest import raw_record

DATA = 'name: "d" type: "Data" top: "data" top: "label" {} data_param {{ source: "db" backend: LMDB batch_size: 5 }}'


@pytest.fixture
def decoded(monkeypatch) -> list[int]:
    """The labels of the records that were decoded, in their order."""
    found: list[int] = []
    pixels = datum.pixels

    def counting(message, colour=Colour.AS_STORED):
        found.append(message.label)
        return pixels(message, colour)

    monkeypatch.setattr(datum, "pixels", counting)
    return found


def test_a_later_source_takes_up_what_was_decoded(counted_lmdb, make_source, decoded):
    """Each once in all; the first record once more by each source, which learns the shape from it."""
    counted_lmdb(10)
    shelf = Shelf()
    first = make_source(DATA.format(""), shelf=shelf)
    batches = [first.next_batch() for _ in range(2)]
    assert sorted(decoded) == [0, *range(10)]
    again = make_source(DATA.format("transform_param { scale: 2 }"), phase="TEST", shelf=shelf)
    for images, labels in batches:
        scaled, same = again.next_batch()
        assert (scaled == 2 * images).all() and (same == labels).all()
    assert sorted(decoded) == [0, 0, *range(10)]
    alone = make_source(DATA.format(""))
    assert [alone.next_batch()[1].tolist() for _ in range(2)] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    assert sorted(decoded) == sorted([0, 0, *range(10), 0, *range(10)]), "without a shelf nothing is shared"


def test_changed_files_are_read_anew(counted_lmdb, write_lmdb, make_source, decoded):
    counted_lmdb(10)
    shelf = Shelf()
    make_source(DATA.format(""), shelf=shelf).next_batch()
    write_lmdb("db", (raw_record(np.full((1, 2, 2), 50 + i, np.uint8), 50 + i) for i in range(10)))
    assert make_source(DATA.format(""), shelf=shelf).next_batch()[1].tolist() == [50, 51, 52, 53, 54]


def test_images_of_several_sizes_are_not_kept_nor_read_twice():
    """From the first odd one on: that batch is read again, later ones once."""
    read: list[int] = []

    def records(places) -> list[Record]:
        read.extend(places)
        return [Record(str(i), np.full((1, 2 + i % 2, 2), i, np.uint8), i) for i in places]

    store = Store(4, records([0])[0], records, window=(2, 2), cache_bytes=1000, pinned=False)
    read.clear()
    for _ in range(2):
        images, labels = store.fetch(np.arange(4))
        assert [image.shape for image in images] == [(1, 2, 2), (1, 3, 2)] * 2 and labels.tolist() == [0, 1, 2, 3]
    assert read == [0, 1, 2, 3] * 3


def test_the_longest_unused_make_room():
    """Three of 40 bytes where 100 may lie."""
    from pysolver.data.records import _Cache

    shelf, made = Shelf(100), []

    def take(key: str) -> None:
        def make() -> _Cache:
            made.append(key)
            return _Cache(10, np.zeros((1, 2, 2), np.uint8), pinned=False)

        shelf.take(key, make)

    for key in "ababcba":
        take(key)
    assert made == ["a", "b", "c", "a"]
