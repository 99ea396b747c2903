"""Write blobs of a net as databases of features (Caffe: tools/extract_features.cpp)."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from tqdm import tqdm

from pysolver.blob import Blob
from pysolver.commands import _options as o
from pysolver.context import Context
from pysolver.data.database_writer import COMMIT_EVERY, Writer, new_database
from pysolver.data.databases import backend_named
from pysolver.errors import CaffeError
from pysolver.logs import notices
from pysolver.logs.events import Emit
from pysolver.logs.writer import to_stderr
from pysolver.net.filter import read_net_for
from pysolver.net.net import Net
from pysolver.net.pretrained import pretrained
from pysolver.proto import caffe_pb2
from pysolver.pycaffe import alias
from pysolver.pycaffe.named import instead


def options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("weights_file", metavar="WEIGHTS")
    add("net", metavar="NET")
    add("blobs", metavar="BLOB[,BLOB...]")
    add("dbs", metavar="DB[,DB...]")
    add("batches", metavar="BATCHES", type=o.positive)
    add("db_type", metavar="lmdb|leveldb")
    add("mode", metavar="CPU|GPU", nargs="?", default="CPU")
    add("device", metavar="DEVICE_ID", nargs="?", type=o.integer, default=0)


def call(args: argparse.Namespace) -> None:
    alias.offer()  # modules of Python layers `import caffe`
    blobs, databases = args.blobs.split(","), args.dbs.split(",")
    extract_features(
        args.weights_file,
        args.net,
        blobs,
        databases,
        args.batches,
        args.db_type,
        mode=args.mode,
        device=args.device,
        emit=args.emit,
    )


def extract_features(
    weights: str,
    net_file: str,
    blobs: Sequence[str],
    databases: Sequence[str],
    batches: int,
    db_type: str,
    mode: str = "CPU",
    device: int = 0,
    emit: Emit = to_stderr,
) -> None:
    """Run `batches` batches through the net in the TEST phase and store each blob in the database of the same place.

    A record is a Datum of floats (channels, height, width as the blob's) without label; its key is the item's number
    with 10 digits. Progress is reported as E lines, as Caffe's tool does. Raises CaffeError for an unknown blob,
    lists of different length, a database that exists.
    """
    if len(blobs) != len(databases):
        raise CaffeError(f"the number of blobs ({len(blobs)}) and of databases ({len(databases)}) must be equal")
    if mode not in ("CPU", "GPU"):
        raise CaffeError(f"the mode is CPU or GPU, not '{mode}'")
    backend = backend_named(db_type)
    place = torch.device("cuda", device) if mode == "GPU" and torch.cuda.is_available() else torch.device("cpu")
    emit(notices.ExtractingOnCpu() if place.type == "cpu" else notices.ExtractingOnGpu(device))
    param = read_net_for(net_file, caffe_pb2.TEST, emit=emit)
    net = pretrained(param, Context(place, listener=emit), [weights], net_file)
    try:
        for name in blobs:
            if name not in net.blobs:
                near = instead(name, net.blobs)
                raise CaffeError(f"Unknown feature blob name {name} in the network {net_file}{near}")
        with contextlib.ExitStack() as stack:
            writers = [stack.enter_context(new_database(path, backend)) for path in databases]
            _extract(
                net, [_Features(name, net.blobs[name], writer, emit) for name, writer in zip(blobs, writers)], batches
            )
    finally:
        net.close()
    emit(notices.ExtractionDone())


def _extract(net: Net, features: list[_Features], batches: int) -> None:
    net.context.emit(notices.Extracting())
    for _ in tqdm(range(batches), "features", unit="batch", disable=None):
        net.forward()
        for feature in features:
            feature.take()
    for feature in features:
        feature.commit()


class _Features:
    """The way of one blob into its database."""

    def __init__(self, name: str, blob: Blob, database: Writer, emit: Emit) -> None:
        self._emit = emit
        self._name, self._blob, self._database = name, blob, database
        self._count = 0
        self._waiting: list[tuple[bytes, bytes]] = []

    def take(self) -> None:
        """Add the items of the present batch."""
        for item in self._items():
            self._waiting.append((b"%010d" % self._count, item.SerializeToString()))
            self._count += 1
            if len(self._waiting) == COMMIT_EVERY:
                self.commit()

    def _items(self) -> Iterator[caffe_pb2.Datum]:
        blob = self._blob
        rows = np.ascontiguousarray(blob.data, np.float32).reshape(blob.num, -1)
        for row in rows:
            yield caffe_pb2.Datum(channels=blob.channels, height=blob.height, width=blob.width, float_data=row)

    def commit(self) -> None:
        if self._waiting:
            self._database.put(self._waiting)
            self._waiting = []
            self._emit(notices.Extracted(self._count, self._name))
