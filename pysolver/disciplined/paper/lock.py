"""A folder for one process at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from pysolver.errors import CaffeError

HOLDER = ".process"  # in a folder that is not waited for: who has it


class Busy(CaffeError):
    """Another process has the folder."""


@contextlib.contextmanager
def alone(folder: Path, wait: bool = True) -> Iterator[int]:
    """The folder, made if need be, is this process's as long as the block runs, or a child that keeps the descriptor.

    If another has it, it is waited for, or else Busy says which process that is. CaffeError if the folder cannot be
    made or opened.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise CaffeError(f"{error.filename}: cannot be written: {error.strerror}") from None
    holder = folder / HOLDER
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise Busy(f"is being run by {_who(holder)}") from None
        if wait:
            yield handle
            return
        with contextlib.suppress(OSError):  # a full disk: then nobody is told
            holder.write_text(str(os.getpid()))
        try:
            yield handle
        finally:
            holder.unlink(missing_ok=True)
    finally:
        os.close(handle)


def _who(holder: Path) -> str:
    try:
        number = int(holder.read_text())
        os.kill(number, 0)
    except (OSError, ValueError, OverflowError) as error:
        if isinstance(error, ProcessLookupError):
            return f"a training that process {number} left behind and that goes on without it"
        return "another process"
    return f"process {number}"
