"""Nets for the tests of pycaffe's interface."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

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
