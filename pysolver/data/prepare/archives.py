"""Archives of strangers: read where they lie, nothing unpacked to the disk."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

from pysolver.errors import CaffeError

MOST = 1 << 28  # bytes of an archive once it is decompressed; CIFAR's have 184 MB
_LONGEST_HEADER = 1 << 13  # bytes of a name or of PAX fields, which tarfile takes time squared for
_PLAIN = (*tarfile.REGULAR_TYPES, tarfile.DIRTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE)


class _Member(tarfile.TarInfo):
    """A member whose header claims no more than archives of data hold: Python takes any size, negative ones too."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if not 0 <= self.size < (1 << 62 if self.type in _PLAIN else _LONGEST_HEADER):
            raise tarfile.ReadError(f"damaged: a header says {self.size} bytes")
        return super()._proc_member(archive)  # type: ignore[misc]  # which tarfile means to be overridden


def unpacked(path: Path) -> tarfile.TarFile:
    """A .tar or .tar.gz, decompressed into memory. CaffeError if that is more than MOST: a few KB can hold a terabyte.

    What is wrong with it is an OSError, EOFError, ValueError, zlib.error or TarError, here or later.
    """
    with open(path, "rb") as file, gzip.open(file) if file.peek(2)[:2] == b"\x1f\x8b" else file as stream:
        data = stream.read(MOST + 1)
    if len(data) > MOST:
        raise CaffeError(f"{path}: more than {MOST} bytes in it")
    return tarfile.open(fileobj=io.BytesIO(data), mode="r:", tarinfo=_Member)


def in_place(path: Path) -> tarfile.TarFile:
    """A .tar whose members are read from the file when they are asked for. Errors as of unpacked()."""
    return tarfile.open(path, "r:", tarinfo=_Member)


def files_of(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The plain files in it. ReadError where PAX fields lead backwards or out of it: Python would go there for ever."""
    last = -1
    for member in archive:
        if member.offset <= last or not 0 <= member.size < 1 << 62:
            raise tarfile.ReadError(f"damaged: {member.name:.60} has {member.size} bytes")
        last = member.offset
        if member.isfile() and not member.issparse():
            yield member
