"""A folder for one process at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from pysolver.errors import CaffeError


@contextlib.contextmanager
def alone(folder: Path, refusal: str = "") -> Iterator[None]:
    """The folder, made if need be, is this process's as long as the block runs.

    If another has it: CaffeError with the refusal, or without one the other is waited for. CaffeError too if it cannot
    be made or opened.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise CaffeError(f"{error.filename}: cannot be written: {error.strerror}") from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (fcntl.LOCK_NB if refusal else 0))
        except BlockingIOError:
            raise CaffeError(f"{folder}: {refusal}") from None
        yield
    finally:
        os.close(handle)
