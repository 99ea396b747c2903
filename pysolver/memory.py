"""Freed memory stays with a process that computes: each iteration frees what the next one wants again."""

from __future__ import annotations

import ctypes
import os

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt (malloc.h)
_LARGEST_KEPT = 32 << 20  # bytes; the most that glibc takes; above, gaps cost more memory than pages cost time


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
