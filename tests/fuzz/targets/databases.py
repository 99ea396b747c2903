"""LMDBs and LevelDBs, their files and their records; the mean of one."""

from __future__ import annotations

import atexit
import functools
import io
import os
import shutil
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import plyvel

import pysolver.data  # noqa: F401  registers the sources
from pysolver.component import create
from pysolver.context import Context
from pysolver.proto import blobproto, caffe_pb2
from pysolver.proto.text import parse_text
from tests.fuzz.targets.pictures import pictures
from tests.fuzz.targets.target import folder_of, message, mutate_member, target


@functools.cache
def color_lmdb() -> str:
    folder = tempfile.mkdtemp(prefix="fuzz_lmdb_")

    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    write_lmdb(folder, [_datum().SerializeToString()] * 3)
    return folder


def _datum() -> Any:
    return caffe_pb2.Datum(channels=3, height=2, width=2, data=bytes(range(12)), label=1)


def _datums() -> list[bytes]:
    floats = caffe_pb2.Datum(channels=1, height=2, width=2, float_data=[1, 2, 3, 4], label=2)
    picture = caffe_pb2.Datum(data=pictures()[0], encoded=True, label=3)
    return [datum.SerializeToString() for datum in (_datum(), floats, picture)]


def write_lmdb(folder: str, values: Sequence[bytes]) -> None:
    with lmdb.open(folder, map_size=1 << 24) as environment, environment.begin(write=True) as transaction:
        for number, value in enumerate(values):
            transaction.put(b"%08d" % number, value)
    os.unlink(f"{folder}/lock.mdb")


def source(text: str, batches: int = 2, **context: Any) -> None:
    param = parse_text(text, caffe_pb2.LayerParameter)
    param.phase = caffe_pb2.TRAIN
    source = create(param, Context(**{"seed": 1, "cache_bytes": 1 << 20, **context}))
    try:
        source.set_up()
        source.top_shapes()
        for index in range(batches):
            source.make_batch(index)
    finally:
        source.close()


_TRANSFORMS = ["crop_size: 2", "mirror: true scale: 0.5", "force_color: true", "force_gray: true", "mean_value: 1"]


def _data_layer(folder: str, backend: str, number: int) -> None:
    transform = _TRANSFORMS[number % len(_TRANSFORMS)]
    data = f'data_param {{ source: "{folder}" batch_size: 2 backend: {backend} }}'
    layer = f'name: "d" type: "Data" top: "x" top: "l" transform_param {{ {transform} }} {data}'
    source(layer, cache_bytes=number % 2 << 20)


@target("datum in LMDB", _datums, message(caffe_pb2.Datum))
def _datum_lmdb(data: bytes) -> None:
    with folder_of("db") as folder:
        write_lmdb(str(folder), [_datums()[len(data) % 3], data, data][: 1 + len(data) % 3] + [data])
        _data_layer("db", "LMDB", len(data))


@target("datum in LevelDB", _datums, message(caffe_pb2.Datum))
def _datum_leveldb(data: bytes) -> None:
    with folder_of("db") as folder:
        database = plyvel.DB(str(folder), create_if_missing=True)
        database.put(b"0", data)
        database.put(b"1", _datums()[len(data) % 3])
        database.close()
        _data_layer("db", "LEVELDB", len(data))


def _data_mdbs() -> list[bytes]:
    """A tree of one level, one of two, and one whose values have pages of their own."""
    made = []
    for values in ([_datum().SerializeToString()] * 3, [_datum().SerializeToString()] * 300, [bytes(9000)] * 5):
        with tempfile.TemporaryDirectory() as folder:
            write_lmdb(folder, values)
            made.append(Path(folder, "data.mdb").read_bytes())
    return made


@target("data.mdb", _data_mdbs)
def _data_mdb(data: bytes) -> None:
    with folder_of("db") as folder:
        (folder / "data.mdb").write_bytes(data)
        _data_layer("db", "LMDB", len(data))


def _leveldb_files() -> list[bytes]:
    """All files of a LevelDB, one behind the other: the table, the log, the manifest."""
    with tempfile.TemporaryDirectory() as folder:
        database = plyvel.DB(folder, create_if_missing=True)
        for number in range(50):
            database.put(b"%08d" % number, _datum().SerializeToString())
        database.compact_range()
        database.put(b"99999999", _datum().SerializeToString())
        database.close()
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            for path in sorted(Path(folder).iterdir()):
                tar.add(path, path.name)
        return [archive.getvalue()]


@target("LevelDB files", _leveldb_files, mutate_member)
def _leveldb(data: bytes) -> None:
    with folder_of("db") as folder, tarfile.open(fileobj=io.BytesIO(data)) as tar:
        tar.extractall(folder, filter="data")
        _data_layer("db", "LEVELDB", len(data))


def _blobs() -> list[bytes]:
    legacy = caffe_pb2.BlobProto(num=1, channels=3, height=2, width=2, data=range(12))
    return [blobproto.from_array(np.ones((3, 2, 2))).SerializeToString(), legacy.SerializeToString()]


@target("binaryproto", _blobs, message(caffe_pb2.BlobProto))
def _binaryproto(data: bytes) -> None:
    Path("mean.binaryproto").write_bytes(data)
    source('name: "d" type: "Data" top: "x" transform_param { mean_file: "mean.binaryproto" } '
            f'data_param {{ source: "{color_lmdb()}" batch_size: 2 backend: LMDB }}')  # fmt: skip
