"""Stored blobs: shapes of every age, both precisions, damage."""

from __future__ import annotations

import numpy as np
import pytest

from pysolver.errors import CaffeError
from pysolver.proto.blobproto import check, diff_to_array, from_array, shape_of, shapes_equal, to_array
from pysolver.proto.caffe_pb2 import BlobProto, BlobShape


@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3), (1, 2, 3, 4), (1, 1, 1, 1, 2), (2, 0, 3)])
def test_arrays_come_back_with_their_shape(shape):
    data = np.arange(np.prod(shape), dtype=np.float32).reshape(shape) - 1.5
    blob = BlobProto.FromString(from_array(data, 2 * data).SerializeToString())
    assert shape_of(blob) == shape
    np.testing.assert_array_equal(to_array(blob), data)
    if data.size:
        np.testing.assert_array_equal(diff_to_array(blob), 2 * data)
    assert to_array(blob).dtype == np.float32


def test_a_bias_of_c3d_1_0():
    """Its axes, five, are fields 1 to 5, its values field 6: 1 x 1 x 1 x 1 x 3."""
    values = np.array([1.5, -2, 3], "<f4")
    blob = BlobProto.FromString(bytes([8, 1, 16, 1, 24, 1, 32, 1, 40, 3, 50, 12]) + values.tobytes())
    assert shape_of(blob) == (1, 1, 1, 1, 3)
    assert shapes_equal((3,), blob) and not shapes_equal((3, 1), blob)
    np.testing.assert_array_equal(to_array(blob).ravel(), values)
    assert diff_to_array(blob) is None


def test_the_wire_form_is_that_of_the_message():
    """Long enough for a length of three bytes."""
    data = np.random.default_rng(0).standard_normal((100, 50)).astype(np.float32)
    wanted = BlobProto(shape=BlobShape(dim=[100, 50]), data=data.ravel().tolist(), diff=(-data).ravel().tolist())
    assert from_array(data, -data).SerializeToString() == wanted.SerializeToString()


def test_doubles_are_stored_as_doubles_and_read_as_floats():
    blob = from_array(np.array([1 / 3, 1e300]), np.array([0.5, 0.25]))
    assert list(blob.double_data) == [1 / 3, 1e300]
    assert not blob.data
    np.testing.assert_array_equal(to_array(blob), np.array([1 / 3, np.inf], np.float32))
    np.testing.assert_array_equal(diff_to_array(blob), np.float32([0.5, 0.25]))


def test_views_and_other_types_are_stored_as_floats():
    strided = np.arange(12, dtype=np.int64).reshape(3, 4).T[::2]
    np.testing.assert_array_equal(to_array(from_array(strided)), strided.astype(np.float32))


def test_no_gradient_is_none():
    assert diff_to_array(from_array(np.ones(3, np.float32))) is None


def test_no_shape_is_one_number():
    assert shape_of(BlobProto()) == ()
    assert to_array(BlobProto(data=[7])) == 7


def test_any_legacy_field_overrules_the_shape():
    blob = BlobProto(num=1, channels=2, width=3, shape=BlobShape(dim=[6]), data=range(0))
    assert shape_of(blob) == (1, 2, 0, 3)


@pytest.mark.parametrize(
    "shape, legacy, equal",
    [
        ((5,), (1, 1, 1, 5), True),
        ((2, 3), (1, 1, 2, 3), True),
        ((4, 2, 3, 3), (4, 2, 3, 3), True),
        ((), (1, 1, 1, 1), True),
        ((1, 5), (1, 1, 1, 5), True),
        ((5, 1), (1, 1, 1, 5), False),
        ((5,), (5, 1, 1, 1), False),
        ((1, 1, 1, 1, 5), (1, 1, 1, 5), False),
    ],
)
def test_legacy_shapes_are_compared_from_the_right(shape, legacy, equal):
    blob = BlobProto(num=legacy[0], channels=legacy[1], height=legacy[2], width=legacy[3])
    assert shapes_equal(shape, blob) is equal


def test_present_shapes_are_compared_as_they_are():
    blob = BlobProto(shape=BlobShape(dim=[1, 5]))
    assert shapes_equal((1, 5), blob)
    assert not shapes_equal((5,), blob)


@pytest.mark.parametrize(
    "blob, error",
    [
        (BlobProto(shape=BlobShape(dim=[2, 3]), data=[1.0] * 5), "shape (2 3) needs 6 values, the file has 5"),
        (BlobProto(shape=BlobShape(dim=[2, 3]), data=[1.0] * 6, diff=[1.0]), "needs 6 gradients, the file has 1"),
        (BlobProto(shape=BlobShape(dim=[-1])), "impossible blob shape (-1)"),
        (BlobProto(shape=BlobShape(dim=[1] * 33), data=[1.0]), "impossible blob shape (1 1 1"),
        (BlobProto(shape=BlobShape(dim=[1 << 20, 1 << 20])), "impossible blob shape (1048576 1048576)"),
        (BlobProto(num=1 << 30, channels=1 << 30, height=1, width=1), "impossible blob shape"),
    ],
)
def test_impossible_blobs_are_refused_before_memory_is_taken(blob, error):
    with pytest.raises(CaffeError) as caught:
        to_array(blob)
        diff_to_array(blob)
    assert error in str(caught.value)


def test_unpacked_values_are_read():
    """As protobuf 2.3 wrote them: one tag a value."""
    data = b"".join(b"\x2d" + np.float32(value).tobytes() for value in (1, 2, 3))
    blob = BlobProto.FromString(data + b"\x3a\x02\x08\x03")  # shape { dim: 3 }, unpacked too
    np.testing.assert_array_equal(to_array(blob), np.float32([1, 2, 3]))


@pytest.mark.parametrize("name, kind", [("DOUBLE", "<f8"), ("FLOAT", "<f4"), ("FLOAT16", "<f2")])
def test_raw_bytes_as_nvidias_caffe_writes_them(name, kind):
    values = np.array([[1.5, -2, 0.25], [65504, 0, 3]])
    blob = BlobProto(shape={"dim": [2, 3]}, raw_data=values.astype(kind).tobytes(), raw_data_type=name)
    check(blob)
    np.testing.assert_array_equal(to_array(blob), values.astype(np.float32))
    assert diff_to_array(blob) is None
    blob.raw_diff, blob.raw_diff_type = (-values).astype(kind).tobytes(), blob.raw_data_type
    np.testing.assert_array_equal(diff_to_array(blob), -values.astype(np.float32))
    blob.raw_data = blob.raw_data[:-1]
    with pytest.raises(CaffeError, match="raw_data are no array"):
        check(blob)


def test_a_shape_beyond_memory_is_an_error_though_it_is_empty():
    with pytest.raises(CaffeError, match=r"\(2147483647 2147483647 2147483647 0\) is too large"):
        to_array(BlobProto(shape=BlobShape(dim=[2147483647] * 3 + [0])))
