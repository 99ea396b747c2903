"""Databases cross the border both ways: Caffe reads the LMDBs written here, and the ones it writes are read here."""

from __future__ import annotations

import os
import subprocess

import lmdb
import numpy as np
import real

from pysolver.context import Context
from pysolver.data.prepare import prepare
from pysolver.net.filter import read_net_for
from pysolver.net.net import Net
from pysolver.proto import caffe_pb2

TOOL = f"{real.BUILT}/tools/extract_features.bin"
BATCH, BATCHES = 100, 3

NET = """
layer {{ name: "d" type: "Data" top: "data" top: "label" transform_param {{ {} }}
  data_param {{ source: "{}" backend: LMDB batch_size: {} }} }}
layer {{ name: "quiet" type: "Silence" bottom: "data" bottom: "label" }}
"""


def test_caffe_reads_the_digits_and_its_features_are_read_here(plain, tmp_path, monkeypatch) -> None:
    """extract_features of a real Caffe: our LMDB in, its pixels as floats out, in an LMDB of its own."""
    monkeypatch.chdir(tmp_path)
    real.make(plain, TOOL)
    _, test, _ = prepare("digits", tmp_path)
    transform = "scale: 0.125 mean_value: 3 crop_size: 7"
    (tmp_path / "net.prototxt").write_text(NET.format(transform, test, BATCH))
    (tmp_path / "none.caffemodel").write_bytes(caffe_pb2.NetParameter(name="none").SerializeToString())
    arguments = ["none.caffemodel", "net.prototxt", "data,label", "pixels,labels", str(BATCHES), "lmdb"]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run([str(plain / TOOL), *arguments], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]

    with lmdb.open(str(test), readonly=True, lock=False) as environment, environment.begin() as transaction:
        digits = [caffe_pb2.Datum.FromString(value) for _, value in transaction.cursor()]
    images = np.stack([np.frombuffer(digit.data, np.uint8).reshape(1, 8, 8) for digit in digits])
    wanted = (images[:, :, :7, :7].astype(np.float32) - 3) * np.float32(0.125)
    for source, expected in (("pixels", wanted), ("labels", np.array([digit.label for digit in digits]))):
        (tmp_path / "back.prototxt").write_text(NET.format("", source, len(digits)))
        net = Net(read_net_for("back.prototxt", caffe_pb2.TEST), Context())
        net.forward()
        np.testing.assert_array_equal(net.blobs["data"].data.reshape(expected.shape), expected)
        net.close()
