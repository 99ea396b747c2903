"""Nets from text, and ONNX Runtime over models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

import pysolver as caffe

Arrays = dict[str, np.ndarray]


@pytest.fixture
def net_of(tmp_path: Path) -> Callable[..., caffe.Net]:
    """A net from the text of its prototxt, its random weights always the same."""

    def make(text: str, phase: int = caffe.TEST) -> caffe.Net:
        path = tmp_path / "net.prototxt"
        path.write_text(text)
        net = caffe.Net(str(path), phase)
        generator = np.random.default_rng(1)
        for blobs in net.params.values():
            for blob in blobs:
                blob.data[...] = generator.uniform(0.2, 1.2, blob.data.shape)
        return net

    return make


@pytest.fixture
def run() -> Callable[..., Arrays]:
    """run(model, **inputs): the outputs by name."""
    runtime = pytest.importorskip("onnxruntime")

    def run_model(model: onnx.ModelProto | str, **inputs: np.ndarray) -> Arrays:
        options = runtime.SessionOptions()
        options.log_severity_level = 3
        source = str(model) if isinstance(model, (str, Path)) else model.SerializeToString()
        session = runtime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        fed = {name: np.asarray(value, np.float32) for name, value in inputs.items()}
        return dict(zip([output.name for output in session.get_outputs()], session.run(None, fed), strict=True))

    return run_model
