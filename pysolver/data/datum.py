"""Datum, the record of a database: bytes, floats or an encoded image (src/caffe/util/io.cpp)."""

from __future__ import annotations

import numpy as np
from google.protobuf.message import DecodeError

from pysolver.data import images
from pysolver.errors import CaffeError
from pysolver.proto import caffe_pb2


def parse(value: bytes | memoryview) -> caffe_pb2.Datum:
    """The record as a message. Raises CaffeError if it is none."""
    try:
        return caffe_pb2.Datum.FromString(value)  # type: ignore[arg-type]  # a memoryview will do
    except DecodeError:
        raise CaffeError(f"not a Datum ({len(value)} bytes)") from None


def pixels(datum: caffe_pb2.Datum, colour: images.Colour = images.Colour.AS_STORED) -> np.ndarray:
    """The image as (channels, height, width): uint8, or float32 if the record holds floats; colours are B, G, R."""
    if datum.encoded:
        return images.decode(datum.data, colour)
    shape = (datum.channels, datum.height, datum.width)
    if datum.data:
        values = np.frombuffer(datum.data, np.uint8)
    else:
        values = np.array(datum.float_data, np.float32)
    if min(shape) < 1 or values.size != shape[0] * shape[1] * shape[2]:
        raise CaffeError(
            f"{values.size} values do not make an image of {shape[0]} x {shape[1]} x {shape[2]} "
            "(channels x height x width)"
        )
    return values.reshape(shape)


def from_pixels(image: np.ndarray, label: int) -> caffe_pb2.Datum:
    """A raw Datum of a uint8 image (channels, height, width)."""
    channels, height, width = image.shape
    return caffe_pb2.Datum(channels=channels, height=height, width=width, data=image.tobytes(), label=label)
