"""extract_features against the net itself."""

from __future__ import annotations

import lmdb
import numpy as np
import pytest

from pysolver.commands import main
from pysolver.commands.extract_features import extract_features
from pysolver.context import Context
from pysolver.errors import CaffeError
from pysolver.net.filter import read_net_for
from pysolver.net.net import Net
from pysolver.proto import caffe_pb2

NET = """
layer { name: "d" type: "DummyData" top: "data" dummy_data_param { shape { dim: 3 dim: 2 dim: 4 dim: 5 }
  data_filler { type: "constant" value: 1.5 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 2 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip"
  inner_product_param { num_output: 6 weight_filler { type: "xavier" } } }
"""


@pytest.fixture
def net(tmp_path, monkeypatch) -> Net:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.prototxt").write_text(NET)
    net = Net(read_net_for("net.prototxt", caffe_pb2.TEST), Context())
    (tmp_path / "w.caffemodel").write_bytes(net.to_proto().SerializeToString())
    net.forward()
    return net


def test_features_are_the_blobs(net, capfd) -> None:
    extract_features("w.caffemodel", "net.prototxt", ["conv", "ip"], ["a", "b"], 2, "lmdb")
    for name, path, shape in (("conv", "a", (2, 2, 3)), ("ip", "b", (6, 1, 1))):
        with lmdb.open(path, readonly=True, lock=False) as environment, environment.begin() as transaction:
            items = [(key, caffe_pb2.Datum.FromString(value)) for key, value in transaction.cursor()]
        assert [key for key, _ in items] == [b"%010d" % i for i in range(6)]
        for index, (_, record) in enumerate(items):
            assert (record.channels, record.height, record.width) == shape
            assert not record.HasField("label") and not record.data
            wanted = net.blobs[name].data[index % 3].ravel()
            np.testing.assert_array_equal(np.array(record.float_data, np.float32), wanted)
    errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("E")]
    assert any(line.endswith("Extracted features of 6 query images for feature blob ip") for line in errors)
    assert errors[-1].endswith("Successfully extracted the features!")


def test_bad_input_leaves_nothing_behind(net, tmp_path) -> None:
    (tmp_path / "old").mkdir()
    before = sorted(path.name for path in tmp_path.iterdir())
    cases = [
        (["conv", "gone"], ["a", "b"], "lmdb", "CPU", "Unknown feature blob name gone in the network net.prototxt"),
        (["conv"], ["a", "b"], "lmdb", "CPU", "the number of blobs .1. and of databases .2. must be equal"),
        (["conv", "ip"], ["a", "old"], "lmdb", "CPU", "old: exists already"),
        (["conv"], ["a"], "sqlite", "CPU", "Unknown database backend"),
        (["conv"], ["a"], "lmdb", "TPU", "the mode is CPU or GPU, not 'TPU'"),
    ]
    for blobs, databases, kind, mode, message in cases:
        with pytest.raises(CaffeError, match=message):
            extract_features("w.caffemodel", "net.prototxt", blobs, databases, 1, kind, mode)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_more_batches_than_can_be_counted_are_wrong_usage(capsys) -> None:
    with pytest.raises(SystemExit) as end:
        main(["extract_features", "w.caffemodel", "net.prototxt", "ip", "feat", "99999999999999999999", "lmdb"])
    assert end.value.code == 2
    assert "BATCHES: must be at most 2147483647, not 99999999999999999999" in capsys.readouterr().err
