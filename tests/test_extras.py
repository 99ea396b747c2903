"""Packages that only some calls need."""

from __future__ import annotations

import sys

import pytest

from pysolver.errors import CaffeError
from pysolver.extras import require


@pytest.mark.parametrize(
    "module, extra",
    [
        ("cv2", "images"),
        ("onnxruntime", "export"),
        ("safetensors.numpy", "export"),
        ("plotly.subplots", "interactive"),
        ("plyvel", "leveldb"),
        ("pydot", "draw"),
        ("distributed", "dask"),
        ("sklearn", "digits"),
        ("tensorboardX", "tensorboard"),
    ],
)
@pytest.mark.parametrize("kind", [CaffeError, ImportError])
def test_a_missing_package_names_its_extra(module, extra, kind, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(kind, match=rf"pip install 'pysolver\[{extra}\]'"):
        require(module)
