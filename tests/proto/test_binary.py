"""Binary files: damage of every kind, and writing that never leaves half a file."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

import pytest

from pysolver.errors import CaffeError
from pysolver.proto.binary import read_binary
from pysolver.proto.blobproto import to_array
from pysolver.proto.caffe_pb2 import ClipParameter, NetParameter
from pysolver.proto.upgrade import read_weights

OLD_MODEL = Path(__file__).parents[1] / "golden/upgrade/v1_weights/v1.caffemodel"


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setenv("GLOG_minloglevel", "3")


def _read_all(path):
    """What loading weights reads of a caffemodel."""
    return [to_array(blob) for layer in read_weights(path).layer for blob in layer.blobs]


@pytest.mark.parametrize("model", ["v1.caffemodel", "upgraded.caffemodel"])
def test_cut_models_are_read_or_refused_by_name(tmp_path, model):
    whole = OLD_MODEL.with_name(model).read_bytes()
    path = tmp_path / "cut.caffemodel"
    refused = 0
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        try:
            _read_all(path)
        except CaffeError as error:
            refused += 1
            assert "blob" in str(error) or str(path) in str(error)
    assert refused > 0.9 * len(whole) / 7  # a cut between two layers leaves a whole, shorter message


def test_flipped_bits_never_raise_anything_but_a_caffe_error(tmp_path):
    whole = OLD_MODEL.read_bytes()
    chance = random.Random(1)
    path = tmp_path / "damaged.caffemodel"
    for _ in range(500):
        damaged = bytearray(whole)
        for _ in range(chance.choice((1, 1, 2, 20))):
            damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        with contextlib.suppress(CaffeError):
            _read_all(path)


@pytest.mark.parametrize(
    "content, error",
    [
        (None, "file not found"),
        (b"", "empty, not a binary NetParameter"),
        (b'name: "a text net"\n', "not a binary NetParameter, or damaged (19 bytes)"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "not a binary NetParameter, or damaged"),
        (b"\xff" * 100, "not a binary NetParameter, or damaged"),
    ],
)
def test_files_that_are_no_model(tmp_path, content, error):
    path = tmp_path / "x.caffemodel"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CaffeError) as caught:
        read_binary(path, NetParameter)
    assert str(caught.value) == f"{path}: {error}" or error in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_message_that_lacks_what_it_requires(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"\x0d\x00\x00\x80\x3f")  # min: 1
    with pytest.raises(CaffeError, match="damaged: ClipParameter lacks max"):
        read_binary(path, ClipParameter)


def test_names_in_other_encodings_are_read(tmp_path):
    """Caffe does not look; a model trained on Windows has its data path in it."""
    path = tmp_path / "x"
    path.write_bytes(b"\x0a\x02\xb9\xa4" + b"\x1a\x03a\xb9\xa4" + b"\x1a\x01b" + b"\xa2\x06\x04\x0a\x02\xff\xfe")
    net = read_binary(path, NetParameter)
    assert (net.name, list(net.input), net.layer[0].name) == (r"\xb9\xa4", [r"a\xb9\xa4", "b"], r"\xff\xfe")


def test_folders_and_strange_paths(tmp_path):
    with pytest.raises(CaffeError, match="Is a directory"):
        read_binary(tmp_path, NetParameter)
    with pytest.raises(CaffeError, match="null byte"):
        read_binary("a\0b", NetParameter)


def test_a_caffemodel_whose_settings_are_of_another_fork(tmp_path):
    """Number 148 is a message with two required fields in BVLC's schema, and a plain number elsewhere."""
    net = NetParameter(name="fork")
    net.layer.add(name="conv", type="Convolution").blobs.add(shape={"dim": [2]}, data=[1.5, -2])
    for setting in (b"\xa2\x09\x02\x08\x01", b"\xa2\x09\x01\xff"):  # a message without what it needs, and no message
        layer = net.layer[0].SerializeToString() + setting
        path = tmp_path / "fork.caffemodel"
        path.write_bytes(b"\x0a\x04fork" + b"\xa2\x06" + bytes([len(layer)]) + layer)
        with pytest.raises(CaffeError):
            read_binary(path, NetParameter)
        (read,) = read_weights(path).layer
        assert (read.name, read.type, list(read.blobs[0].data)) == ("conv", "Convolution", [1.5, -2])
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(CaffeError, match="not a binary NetParameter, or damaged"):
        read_weights(path)
