"""Makes the helper module beside it importable, and writes logs into files."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))


@pytest.fixture
def log_file(tmp_path: Path) -> Callable[[str | bytes, str], Path]:
    """Writes a text into a file and answers its path."""

    def write(text: str | bytes, name: str = "a.log") -> Path:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write
