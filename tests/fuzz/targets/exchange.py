"""Weights that come back from PyTorch, and nets that leave for ONNX and PyTorch."""

from __future__ import annotations

import contextlib
import functools
from pathlib import Path

import numpy as np
import safetensors.numpy

from pysolver.context import Context
from pysolver.errors import CaffeError
from pysolver.export import module
from pysolver.export.convert import to_onnx
from pysolver.export.onnx.model import verify
from pysolver.net.filter import read_net_for
from pysolver.net.net import Net
from pysolver.proto import caffe_pb2
from pysolver.proto.text import parse_text
from tests.fuzz.targets.prototxts import HEAVY, nets
from tests.fuzz.targets.target import prototxt, target
from tests.fuzz.targets.weights import NET


@functools.cache
def _form() -> module.TorchForm:
    return module.torch_form(Net(parse_text(NET, caffe_pb2.NetParameter), Context(seed=1)))


@target("safetensors", lambda: [safetensors.numpy.save({
    key: np.ascontiguousarray(tensor.numpy()) for key, tensor in _form().tensors.items()
})])  # fmt: skip
def _safetensors(data: bytes) -> None:
    Path("n.safetensors").write_bytes(data)
    module.load_back(_form(), "n.safetensors")


@target("net to ONNX and PyTorch", nets, prototxt(caffe_pb2.NetParameter))
def _export(data: bytes) -> None:
    """What the net computes is not compared here: only that it leaves, or is refused in a line."""
    Path("net.prototxt").write_bytes(data)
    net = Net(read_net_for("net.prototxt", caffe_pb2.TEST), Context(seed=1, cache_bytes=1 << 20))
    if sum(blob.count for blob in net.blobs.values()) < HEAVY:
        with contextlib.suppress(CaffeError):
            verify(to_onnx(net))
        module.torch_form(net).build()
