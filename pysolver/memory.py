"""What a process that computes does about memory: it keeps what it frees, and says when there is no more."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
from collections.abc import Iterator

from pysolver.errors import CaffeError, OutOfMemory

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt (malloc.h)
_LARGEST_KEPT = 32 << 20  # bytes; the most that glibc takes; above, gaps cost more memory than pages cost time
_SHORTAGE = re.compile(r"out of memory|allocate memory|bad_alloc|new thread|host allocation of size", re.IGNORECASE)


def keep_freed() -> None:
    """From now on the C library hands out again what was freed, blocks above 32 MiB aside.

    glibc returns the heap's end to the system as soon as it is free; the kernel then fills every page with zeros anew,
    in each iteration of a net. The process stays as large as it once was. Nothing happens where the C library is
    another one, or where the environment sets glibc's malloc (MALLOC_..., GLIBC_TUNABLES).
    """
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # TypeError: Windows knows no library of the program itself
        return
    mallopt(_TRIM_THRESHOLD, -1)
    mallopt(_MMAP_THRESHOLD, _LARGEST_KEPT)


def is_shortage(words: str) -> bool:
    """Whether this is how torch, CUDA, C++ or a Caffe says that memory is at its end."""
    return bool(_SHORTAGE.search(words))


def shortage(error: BaseException) -> OutOfMemory | None:
    """What says more than the error of Python, numpy or torch where memory is at its end; None for any other error."""
    words = str(error).partition("\n")[0]
    told = isinstance(error, MemoryError) or is_shortage(words) or getattr(error, "errno", None) == errno.ENOMEM
    if isinstance(error, CaffeError) or not told:
        return None
    advice = "a smaller batch_size takes less, and iter_size makes up for it"
    return OutOfMemory(f"out of memory; {advice}: {words or type(error).__name__}")


@contextlib.contextmanager
def shortage_told() -> Iterator[None]:
    """OutOfMemory in place of each library's own error."""
    try:
        yield
    except (MemoryError, OSError, RuntimeError) as error:
        if (short := shortage(error)) is None:
            raise
        raise short from error
