"""Writes logs into files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def log_file(tmp_path: Path) -> Callable[[str | bytes, str], Path]:
    """Writes a text into a file and answers its path."""

    def write(text: str | bytes, name: str = "a.log") -> Path:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write
