"""BlobProto, the stored form of a blob, to and from arrays. Caffe: src/caffe/blob.cpp, FromProto and ToProto."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from google.protobuf.unknown_fields import UnknownFieldSet

from pysolver.errors import CaffeError, about
from pysolver.proto import caffe_pb2
from pysolver.proto.binary import read_binary
from pysolver.proto.caffe_pb2 import BlobProto, BlobShape
from pysolver.proto.payloads import Payloads
from pysolver.proto.wire import bytes_field

LARGEST_COUNT = (1 << 31) - 1
MOST_AXES = 32  # include/caffe/blob.hpp, kMaxBlobAxes

_RAW = {caffe_pb2.DOUBLE: "<f8", caffe_pb2.FLOAT: "<f4", caffe_pb2.FLOAT16: "<f2"}
_MOST = 1 << 60  # values by the axes that are not 0
_LEGACY = ("num", "channels", "height", "width")


def shape_of(blob: BlobProto) -> tuple[int, ...]:
    """The blob's shape: (num, channels, height, width) if any of these is present, as in old files, else `shape`."""
    if _is_legacy(blob):
        shape = tuple(getattr(blob, name) for name in _LEGACY) + _fifth(blob)
    else:
        shape = tuple(blob.shape.dim)
    small = 0 <= min(shape, default=0) <= max(shape, default=0) <= LARGEST_COUNT
    if len(shape) > MOST_AXES or not small or math.prod(shape) > LARGEST_COUNT:
        raise CaffeError(f"impossible blob shape {_show(shape)}")
    return shape


def shapes_equal(shape: Sequence[int], blob: BlobProto) -> bool:
    """Does a blob of this shape take the stored values?

    Old files know only 4 axes: there a bias (N) is 1x1x1xN, so shapes are compared with ones put in front.
    """
    if _is_legacy(blob):
        stored = shape_of(blob)
        return (1,) * (len(stored) - len(shape)) + tuple(shape) == stored
    return tuple(shape) == shape_of(blob)


def to_array(blob: BlobProto, payloads: Payloads | None = None) -> np.ndarray:
    """The values as a float32 array of the blob's shape; CaffeError if their number is another.

    payloads: what payloads.split took out of the message that the blob was in; such values are not copied.
    """
    return _values(blob, _stored(blob, "data", payloads), "values")


def diff_to_array(blob: BlobProto) -> np.ndarray | None:
    """The stored gradient, float32 and of the blob's shape, or None if the file has none."""
    stored = _stored(blob, "diff")
    return _values(blob, stored, "gradients") if len(stored) else None


def read_array(path: str | Path) -> np.ndarray:
    """The values in a .binaryproto, as to_array; CaffeError, with the file's name, if there are none."""
    blob = read_binary(path, BlobProto)
    with about(f"{path}: damaged"):
        return to_array(blob)


def check(blob: BlobProto, payloads: Payloads | None = None) -> None:
    """CaffeError if the values, or the gradients if there are some, do not fill the shape."""
    for stored, what in ((_stored(blob, "data", payloads), "values"), (_stored(blob, "diff"), "gradients")):
        if len(stored) or what == "values":
            _filled_shape(blob, stored, what)


def from_array(data: np.ndarray, diff: np.ndarray | None = None) -> BlobProto:
    """A BlobProto of the array's shape: float64 goes to double_data, all else to data (float32)."""
    blob = BlobProto(shape=BlobShape(dim=data.shape))
    double = data.dtype == np.float64
    _append(blob, "double_data" if double else "data", data)
    if diff is not None:
        _append(blob, "double_diff" if double else "diff", diff)
    return blob


def _stored(blob: BlobProto, what: str, payloads: Payloads | None = None) -> Sequence[float] | np.ndarray:
    """The numbers of `data` or `diff`: in double, in float or, of NVIDIA's Caffe, as bytes of a named type."""
    raw = getattr(blob, f"raw_{what}")
    if payloads and what == "data" and raw in payloads and not blob.HasField("raw_data_type"):
        return payloads[raw]
    if not raw:
        if _fifth(blob):
            return blob.diff if what == "data" else ()
        return getattr(blob, f"double_{what}") or getattr(blob, what)
    kind = _RAW.get(getattr(blob, f"raw_{what}_type"))
    if kind is None or len(raw) % np.dtype(kind).itemsize:
        raise CaffeError(f"{len(raw)} bytes of raw_{what} are no array of DOUBLE, FLOAT or FLOAT16")
    return np.frombuffer(raw, kind)


def _fifth(blob: BlobProto) -> tuple[int, ...]:
    """(width,) of a blob of C3D 1.0, whose axes have the numbers 1 to 5 and whose data those of diff here."""
    if blob.data or not blob.diff or not blob.HasField("width"):
        return ()
    fields = UnknownFieldSet(blob)
    known = (fields[index] for index in range(len(fields)))
    return tuple(field.data for field in known if field.field_number == 5 and field.wire_type == 0)[-1:]


def _is_legacy(blob: BlobProto) -> bool:
    return any(blob.HasField(name) for name in _LEGACY)


def _values(blob: BlobProto, stored: Sequence[float] | np.ndarray, what: str) -> np.ndarray:
    shape = _filled_shape(blob, stored, what)
    with np.errstate(over="ignore"):  # a double beyond float32 becomes inf, as in C++
        return np.asarray(stored, np.float32).reshape(shape)


def _filled_shape(blob: BlobProto, stored: Sequence[float] | np.ndarray, what: str) -> tuple[int, ...]:
    shape = shape_of(blob)
    if len(stored) != math.prod(shape):
        raise CaffeError(f"a blob of shape {_show(shape)} needs {math.prod(shape)} {what}, the file has {len(stored)}")
    if math.prod(filter(None, shape)) > _MOST:  # numpy makes no such array, though it may be empty
        raise CaffeError(f"a blob of shape {_show(shape)} is too large")
    return shape


def _append(blob: BlobProto, field: str, values: np.ndarray) -> None:
    """Fill a packed field by its wire form: `extend` takes 0.3 s for a million values, this a millisecond."""
    kind = "<f8" if field.startswith("double") else "<f4"
    payload = np.ascontiguousarray(values, kind).tobytes()
    if payload:
        blob.MergeFromString(bytes_field(BlobProto.DESCRIPTOR.fields_by_name[field].number, payload))


def _show(shape: Sequence[int]) -> str:
    return f"({' '.join(map(str, shape))})"
