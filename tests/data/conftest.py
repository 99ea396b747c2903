"""Databases and layers for the tests of the sources, made without the package's own readers and writers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import lmdb
import numpy as np
import pytest

import pysolver.data  # noqa: F401  registers the sources
from pysolver.component import create
from pysolver.context import Context
from pysolver.data.source import Source
from pysolver.proto import caffe_pb2
from pysolver.proto.text import parse_text

GOLDEN = Path(__file__).parents[1] / "golden" / "transforms"


@pytest.fixture
def golden_folder(monkeypatch) -> Path:
    """The folder with batches of a real Caffe, as the working directory."""
    monkeypatch.chdir(GOLDEN)
    return GOLDEN


@pytest.fixture
def make_source(tmp_path, monkeypatch) -> Iterable[Callable[..., Source]]:
    """make_source(text, phase="TRAIN", **context): a source from its prototxt, set up, in an empty working folder."""
    if Path.cwd() != GOLDEN:
        monkeypatch.chdir(tmp_path)
    made = []

    def make(text: str, phase: str = "TRAIN", **context) -> Source:
        param = parse_text(text, caffe_pb2.LayerParameter)
        param.phase = caffe_pb2.Phase.Value(phase)
        source = create(param, Context(**{"seed": 1, **context}))
        made.append(source)
        source.set_up()
        return source

    yield make
    for source in made:
        source.close()


def raw_record(image: np.ndarray, label: int = 0) -> bytes:
    channels, height, width = image.shape
    record = caffe_pb2.Datum(channels=channels, height=height, width=width, label=label)
    if image.dtype == np.uint8:
        record.data = image.tobytes()
    else:
        record.float_data.extend(image.ravel().tolist())
    return record.SerializeToString()


@pytest.fixture
def write_lmdb(tmp_path) -> Callable[[str, Iterable[bytes]], None]:
    """write_lmdb(name, records[, keys]) makes tmp_path/name."""

    def write(name: str, records: Iterable[bytes], keys: Iterable[bytes] | None = None) -> None:
        with lmdb.open(str(tmp_path / name), map_size=1 << 26) as environment, environment.begin(write=True) as txn:
            for key, record in zip(keys or (b"%08d" % i for i in range(10**6)), records, strict=False):
                txn.put(key, record)

    return write


@pytest.fixture
def counted_lmdb(write_lmdb) -> Callable[[int], None]:
    """counted_lmdb(n) makes the LMDB `db` of n images 1 x 2 x 2 whose pixels and label are the record's number."""

    def write(count: int) -> None:
        write_lmdb("db", (raw_record(np.full((1, 2, 2), i % 256, np.uint8), i) for i in range(count)))

    return write
