"""The numbers of a caffemodel left where they are: in the bytes of the file, of which only the rest is parsed.

A parser that copies 500 MB of weights into messages, out of them and into the net takes three times as long as the
disk. `split` takes the numbers of large blobs out of the wire form and leaves a key behind, by which `blobproto` finds
them.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pysolver.proto.caffe_pb2 import BlobProto, LayerParameter, NetParameter, V1LayerParameter
from pysolver.proto.wire import bytes_field, read_varint

Payloads = dict[bytes, np.ndarray]

_LEAST = 1024  # bytes of a blob for which it is worth it
_DATA = BlobProto.DESCRIPTOR.fields_by_name["data"].number
_RAW = BlobProto.DESCRIPTOR.fields_by_name["raw_data"].number
_BLOBS = {  # number of a layer's message in the net -> number of its blobs
    NetParameter.DESCRIPTOR.fields_by_name[layer].number: kind.DESCRIPTOR.fields_by_name["blobs"].number
    for layer, kind in (("layer", LayerParameter), ("layers", V1LayerParameter))
}
_SIZES = {1: 8, 5: 4}  # wire types of a fixed size
_MOST = 1 << 18  # fields of all messages that are looked into; a net of a thousand layers has 50,000
_VARINT = 10  # bytes of the longest


class _Irregular(Exception):
    """Not what Caffe writes: protobuf itself shall say what it is."""


def split(data: bytes) -> tuple[bytes, Payloads]:
    """A serialised NetParameter without the numbers of its large blobs, and these, as float32 in its memory.

    Such a blob has, for its `data`, the key of its numbers in `raw_data`, whose type is not said. A message that is
    in any way unusual comes back whole.
    """
    payloads: Payloads = {}
    budget = iter(range(_MOST))
    try:
        return b"".join(_net(memoryview(data), payloads, budget)), payloads
    except _Irregular:
        return data, {}


def _net(data: memoryview, payloads: Payloads, budget: Iterator[int]) -> Iterator[bytes | memoryview]:
    for number, whole, inner in _fields(data, budget):
        if number in _BLOBS and inner is not None:
            yield bytes_field(number, b"".join(_layer(inner, _BLOBS[number], payloads, budget)))
        else:
            yield whole


def _layer(data: memoryview, blobs: int, payloads: Payloads, budget: Iterator[int]) -> Iterator[bytes | memoryview]:
    for number, whole, inner in _fields(data, budget):
        yield whole if number != blobs or inner is None else bytes_field(number, _blob(inner, payloads, budget))


def _blob(data: memoryview, payloads: Payloads, budget: Iterator[int]) -> bytes:
    kept, found = [], []
    for number, whole, inner in _fields(data, budget):
        if number == _RAW:
            raise _Irregular  # of NVIDIA's Caffe
        if number == _DATA and inner is not None:
            found.append(inner)
        else:
            kept.append(whole)
    if len(found) != 1 or len(found[0]) < _LEAST or len(found[0]) % 4:
        return bytes(data)
    place = b"%d" % len(payloads)
    payloads[place] = np.frombuffer(found[0], "<f4")
    return b"".join([*kept, bytes_field(_RAW, place)])


def _fields(data: memoryview, budget: Iterator[int]) -> Iterator[tuple[int, memoryview, memoryview | None]]:
    """(number, the field as it stands, what it holds if it is bytes or a message) of each field of a message.

    budget: one for each field; there is more than protobuf itself could take up in the time where it ends.
    """
    at = 0
    while at < len(data):
        if next(budget, None) is None:
            raise _Irregular
        key, after = read_varint(data, at)
        kind, inner = key & 7, None
        if kind == 2:
            length, start = read_varint(data, after)
            end = start + length
            inner = data[start:end]
        elif kind == 0:
            end = after
            while end < len(data) and data[end] >= 0x80 and end - after < _VARINT:
                end += 1
            end += 1
        else:
            end = after + _SIZES.get(kind, len(data))
        if end > len(data) or after > len(data):
            raise _Irregular
        yield key >> 3, data[at:end], inner
        at = end
