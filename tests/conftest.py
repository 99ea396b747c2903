"""What every test starts from: one thread a process, and the log at its usual level."""

from __future__ import annotations

import os

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two processes with more threads than cores slow each other down


@pytest.fixture(autouse=True)
def usual_log_level(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GLOG_minloglevel in the caller's environment must not hide the lines that tests look for."""
    monkeypatch.delenv("GLOG_minloglevel", raising=False)
