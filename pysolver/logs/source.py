"""A log as pieces of clean text: from a file, a .gz, standard input, or a file that still grows."""

from __future__ import annotations

import codecs
import gzip
import io
import re
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from pysolver.errors import CaffeError

PIECE = 1 << 21  # bytes read at once: what bounds the memory
_GZIP = b"\x1f\x8b"  # how a packed file begins
_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")


def open_log(path: str | Path) -> BinaryIO:
    """A binary stream of the log; `-` is standard input. CaffeError if there is nothing to read."""
    if str(path) == "-":
        stream: BinaryIO = sys.stdin.buffer
        if stream.closed:
            raise CaffeError("-: standard input is closed")
        packed = hasattr(stream, "peek") and stream.peek(2)[:2] == _GZIP
        return gzip.open(stream) if packed else stream  # type: ignore[return-value]
    path = Path(path)
    if path.is_dir():
        raise CaffeError(f"{path}: is a directory, not a log file")
    try:
        stream = path.open("rb")
        packed = stream.peek(2)[:2] == _GZIP  # of a pipe there is no way back
    except OSError as error:
        raise CaffeError(f"{path}: {error.strerror or error}") from None
    return gzip.open(stream) if packed else stream  # type: ignore[return-value]


def pieces(stream: BinaryIO, name: str, follow: float | None = None) -> Iterator[str]:
    """Pieces of text as they come. `follow`: seconds to wait at the end for more; then an empty piece says so."""
    decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder("utf-8")("replace"), translate=True)
    first = True
    while True:
        data = _read(stream, name)
        if first and b"\0" in data[:4096]:
            raise CaffeError(f"{name}: a binary file, not a log")
        first = False
        if not data and follow is None:
            return
        text = decoder.decode(data)
        yield _ANSI.sub("", text) if "\x1b" in text else text
        if not data:
            time.sleep(follow)


def _read(stream: BinaryIO, name: str) -> bytes:
    try:
        return stream.read1(PIECE) if hasattr(stream, "read1") else stream.read(PIECE)
    except EOFError:  # a .gz that is still being written, or was cut off
        return b""
    except (OSError, zlib.error) as error:
        raise CaffeError(f"{name}: {error}") from None
