"""Freed memory stays with the process; when there is no more, that is said."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import numpy as np
import pytest
import torch

from pysolver import memory
from pysolver.errors import CaffeError, OutOfMemory, about

PROGRAM = """
import mmap, resource, sys
from pysolver import memory

if sys.argv[1] == "kept":
    memory.keep_freed()

def pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blobs = [bytearray(b"x") * (30 << 20) for _ in range(3)]
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / (3 * (30 << 20) // mmap.PAGESIZE)

print(min(pages() for _ in range(3)))
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="not glibc")
def test_what_is_freed_is_used_again(monkeypatch):
    def share(how: str) -> float:
        """Of the blobs' pages those that come from the kernel, in the best of three rounds."""
        done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True)
        return float(done.stdout)

    for name in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)
    assert share("left") > 0.6  # all blocks but one: the heap's end goes back where more than two of them lie free
    assert share("kept") < 0.05
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", str(1 << 20))
    assert share("kept") > 0.9, "the environment decides"  # every block by itself: all go back


@pytest.mark.parametrize("asks", [lambda: torch.empty(1 << 50), lambda: np.empty(1 << 50), lambda: bytearray(1 << 60)])
def test_a_shortage_says_what_helps(asks):
    """8 PiB and more, which no allocator grants; each library has its own error for it."""
    words = "^net.prototxt: out of memory; a smaller batch_size takes less"
    with pytest.raises(OutOfMemory, match=words), about("net.prototxt"), memory.shortage_told():
        asks()


@pytest.mark.parametrize("error", [RuntimeError("shapes do not fit"), CaffeError("out of memory, says a layer's name")])
def test_other_errors_stay_what_they_are(error):
    with pytest.raises(type(error)) as told, memory.shortage_told():
        raise error
    assert told.value is error
