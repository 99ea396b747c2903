"""The logs of single processes of a training by several."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from pysolver.errors import CaffeError
from pysolver.logs.writer import CaffeLog


@contextlib.contextmanager
def rank_log(folder: str, rank: int) -> Iterator[CaffeLog]:
    """The log of one process of several: FOLDER/rank_<N>.log, which begins anew with each start."""
    path = Path(folder, f"rank_{rank}.log")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    except OSError as error:
        raise CaffeError(f"{path}: cannot be written: {error.strerror}") from None
    with file:
        yield CaffeLog(file)
