"""compute_image_mean: the mean image of a database (tools/compute_image_mean.cpp)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tqdm import tqdm

from pysolver.data import datum
from pysolver.data.databases import backend_named, open_database
from pysolver.data.parallel import map_ahead
from pysolver.errors import CaffeError
from pysolver.files import write_atomic
from pysolver.logs import notices
from pysolver.logs.events import Emit
from pysolver.logs.writer import to_stderr
from pysolver.proto import caffe_pb2


def compute_image_mean(
    database: str, output: str | Path | None = None, backend: str = "lmdb", emit: Emit = to_stderr
) -> np.ndarray:
    """The mean of all images, float32 (C, H, W), and its file if `output` is given.

    Logs the mean of every channel. Raises CaffeError if the database is empty or an image has another shape.
    """
    source = open_database(database, backend_named(backend))
    total, count = None, 0
    raw = ((bytes(key), bytes(value)) for key, value in source.items())
    for key, image in tqdm(map_ahead(_decode, raw), total=source.entries, desc=database, unit="image", disable=None):
        if total is None:
            total = np.zeros(image.shape, np.float64 if image.dtype == np.float32 else np.int64)
        if image.shape != total.shape:
            name = key.decode(errors="backslashreplace")
            raise CaffeError(f"{database}: record '{name}': an image of {image.shape}, the first has {total.shape}")
        total += image
        count += 1
    if total is None:
        raise CaffeError(f"{database}: the database is empty")
    mean = (total / count).astype(np.float32)
    if output:
        emit(notices.WritingMean(str(output)))
        write_mean(output, mean)
    emit(notices.MeanChannels(len(mean)))
    for channel, value in enumerate(mean.mean(axis=(1, 2), dtype=np.float64)):
        emit(notices.MeanValue(channel, value))
    return mean


def _decode(record: tuple[bytes, bytes]) -> tuple[bytes, np.ndarray]:
    key, value = record
    try:
        return key, datum.pixels(datum.parse(value))
    except CaffeError as error:
        raise CaffeError(f"record '{key.decode(errors='backslashreplace')}': {error}") from None


def write_mean(path: str | Path, mean: np.ndarray) -> None:
    """A mean file: a BlobProto with the old dimensions 1 x C x H x W, which every Caffe reads."""
    channels, height, width = mean.shape
    blob = caffe_pb2.BlobProto(num=1, channels=channels, height=height, width=width, data=mean.ravel())
    write_atomic(path, blob.SerializeToString())
