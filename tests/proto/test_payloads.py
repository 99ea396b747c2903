"""A caffemodel read with its numbers left in the file is the one that protobuf reads whole."""

from __future__ import annotations

import numpy as np
import pytest

from pysolver.proto import blobproto, caffe_pb2
from pysolver.proto.payloads import split

RNG = np.random.default_rng(5)


def layer(kind: type, *blobs: caffe_pb2.BlobProto):
    return kind(name="a", blobs=blobs)


def random(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


OLD = caffe_pb2.BlobProto(num=1, channels=1, height=20, width=40, data=random(800).tolist())
NVIDIA = caffe_pb2.BlobProto(
    shape=caffe_pb2.BlobShape(dim=[512]), raw_data=random(512).tobytes(), raw_data_type=caffe_pb2.FLOAT
)
DOUBLE = blobproto.from_array(RNG.normal(size=300))
LARGE, SMALL = blobproto.from_array(random(30, 40), random(30, 40)), blobproto.from_array(random(3))
NEW, V1 = caffe_pb2.LayerParameter, caffe_pb2.V1LayerParameter
NETS = {
    "new": (caffe_pb2.NetParameter(name="n", layer=[layer(NEW, LARGE, SMALL), layer(NEW, LARGE)]), 2),
    "V1": (caffe_pb2.NetParameter(layers=[layer(V1, OLD), layer(V1, SMALL)]), 1),
    "others": (caffe_pb2.NetParameter(layer=[layer(NEW, DOUBLE), layer(NEW, SMALL)]), 0),
    "NVIDIA": (caffe_pb2.NetParameter(layer=[layer(NEW, LARGE), layer(NEW, NVIDIA)]), 0),  # left whole
}


@pytest.mark.parametrize("name", NETS)
def test_the_same_values_without_a_copy(name: str):
    net, taken = NETS[name]
    data = net.SerializeToString()
    rest, payloads = split(data)
    assert len(payloads) == taken and (len(rest) < len(data)) == bool(taken)
    found = caffe_pb2.NetParameter.FromString(rest)
    pairs = zip([*net.layer, *net.layers], [*found.layer, *found.layers], strict=True)
    for whole, part in pairs:
        for one, two in zip(whole.blobs, part.blobs, strict=True):
            blobproto.check(two, payloads)
            np.testing.assert_array_equal(blobproto.to_array(one), blobproto.to_array(two, payloads))
            assert whole.name == part.name and one.diff == two.diff


def test_what_is_cut_or_strange_is_protobufs_to_judge():
    data = NETS["new"][0].SerializeToString()
    for end in (1, len(data) // 2, len(data) - 1):
        assert split(data[:end]) == (data[:end], {})
    twice = data + caffe_pb2.NetParameter(layer=[layer(NEW, NVIDIA)]).SerializeToString()
    assert split(twice) == (twice, {})


def test_values_that_do_not_fill_the_shape():
    net = caffe_pb2.NetParameter(layer=[layer(NEW, LARGE)])
    net.layer[0].blobs[0].shape.dim[0] = 31
    rest, payloads = split(net.SerializeToString())
    (blob,) = caffe_pb2.NetParameter.FromString(rest).layer[0].blobs
    with pytest.raises(Exception, match="needs 1240 values, the file has 1200"):
        blobproto.check(blob, payloads)


@pytest.mark.parametrize("fields", [b"\x20\x01" * 300_000, b"\xa0" + b"\x80" * 1_000_000, b"\x22\x00" * 300_000])
def test_fields_without_number_are_left_to_protobuf(fields: bytes):
    """Each took hundreds of bytes of memory here, a number without an end a step a byte."""
    data = NETS["new"][0].SerializeToString() + fields
    assert split(data) == (data, {})
