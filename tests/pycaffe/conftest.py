"""Nets for the tests of pycaffe's interface."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from dense import DENSE

import pysolver as caffe
from pysolver.blob import _Synced


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    """write(text, name="net.prototxt") -> path"""

    def write(text: str, name: str = "net.prototxt") -> str:
        file = tmp_path / name
        file.write_text(text)
        return str(file)

    return write


@pytest.fixture(params=["shared memory", "host copies"])
def faces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Arrays that are the tensors' memory, as on the CPU, and arrays that are copies of it, as on a GPU."""
    if request.param == "host copies":
        monkeypatch.setattr(_Synced, "_is_on_host", False)
    return request.param


@pytest.fixture
def net(write: Callable[..., str], faces: str) -> caffe.Net:
    """DENSE with random input."""
    caffe.set_random_seed(1)
    made = caffe.Net(write(DENSE), caffe.TRAIN)
    made.blobs["data"].data[...] = np.random.default_rng(0).normal(size=(4, 3))
    made.blobs["label"].data[...] = [0, 1, 1, 0]
    return made
