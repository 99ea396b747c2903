"""Files of bytes: bounded reading, and writing that leaves the old file or the new one, nothing between."""

from __future__ import annotations

import contextlib
import difflib
import errno
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path

from pysolver.errors import CaffeError

LARGEST_LIST = 1 << 28  # bytes; that of ImageNet's training images has 43 MB. A list may be named /dev/zero
_OF_A_PIPE = 1 << 31  # bytes
_LOOKED_AT = 200  # files of a folder, for one whose name was meant
TEMPORARY = r"\.[0-9a-f]{8}\.tmp\."  # how the name of an unfinished file begins: then comes its own


_STARTS = {
    b"\x89HDF\r\n\x1a\n": "an HDF5 file",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"PK\x03\x04": "a zip archive, as PyTorch's own files are",
    b"\x1f\x8b": "compressed by gzip",
    b"\x80\x02": "a Python pickle",
    b"\x80\x04": "a Python pickle",
    b"\xff\xfe": "a text in UTF-16: save it as UTF-8",
    b"\xfe\xff": "a text in UTF-16: save it as UTF-8",
    b"version https://git-lfs": "a pointer of git-lfs: `git lfs pull` fetches the file itself",
    b"<!DOCTYPE": "a web page, perhaps of a download that failed",
    b"<html": "a web page, perhaps of a download that failed",
    b"{": "JSON",
}


def seems_to_be(data: bytes, text: str = "") -> str:
    """What a file of another kind than the wanted one seems to be: `; this is a PNG image`, or nothing.

    text: what it is if it holds nothing but characters, where a binary file is wanted.
    """
    for start, what in _STARTS.items():
        if data.startswith(start):
            return f"; this is {what}"
    is_text = all(byte >= 32 or byte in b"\t\n\r\f" for byte in data[:4096])
    return f"; this is {text}" if text and is_text else ""


def looked_for(path: str | Path) -> str:
    """From where a path that leads nowhere was followed, nothing for an absolute one; and what is there of nearly the
    same name."""
    path = str(path)
    near = _near(path)
    if os.path.isabs(path):
        return near
    try:
        here = os.getcwd()
    except FileNotFoundError:
        here = "a folder that has been removed"
    unknown = "; nobody replaces ~, $NAME or * in it" if path.startswith("~") or {"$", "*"} & {*path} else ""
    return f" (looked for from {here}{unknown}){near}"


def _near(path: str) -> str:
    """`; did you mean net.prototxt?`: of the same folder, if it has not too many files to look through."""
    folder, name = os.path.split(path)
    try:
        names = [entry.name for entry in islice(os.scandir(folder or "."), _LOOKED_AT)]
    except (OSError, ValueError):
        return ""
    if len(names) == _LOOKED_AT:
        return ""
    begins = sorted(other for other in names if name and other.startswith(f"{name}."))[:2]
    near = begins or difflib.get_close_matches(name, names, 1, 0.75)
    return f"; did you mean {' or '.join(os.path.join(folder, other) for other in near)}?" if near else ""


def read_bytes(path: str | Path, largest: int) -> bytes:
    """The file's content; CaffeError if there is none, if it is a folder, unreadable or larger than `largest` bytes."""
    try:
        with open(path, "rb") as file:
            info = os.fstat(file.fileno())
            if not stat.S_ISREG(info.st_mode):  # it may have no end
                largest = min(largest, LARGEST_LIST if stat.S_ISCHR(info.st_mode) else _OF_A_PIPE)
            # read(n) reserves n bytes: of a plain file ask for no more than there is
            data = file.read((min(info.st_size, largest) if stat.S_ISREG(info.st_mode) else largest) + 1)
    except FileNotFoundError:
        raise CaffeError(f"{path}: file not found{looked_for(path)}") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise CaffeError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(data) > largest:
        raise CaffeError(f"{path}: larger than {largest} bytes, the most that is read")
    return data


def read_text(path: str | Path) -> str:
    r"""A list or table: read_bytes() as text, all line ends `\n`; bytes that are not UTF-8 are carried along."""
    data = read_bytes(path, LARGEST_LIST)
    if seems := seems_to_be(data):
        raise CaffeError(f"{path}: not a text{seems}")
    text = data.decode("utf-8-sig", "surrogateescape")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def write_atomic(path: str | Path, data: bytes) -> None:
    """Write all of `data` or nothing: a crash or a full disk leaves whatever `path` was before. CaffeError if not."""
    path = Path(path)
    with _naming(path):
        if path.exists() and not path.is_file():  # /dev/stdout, a pipe: nothing to replace
            path.write_bytes(data)
            return
        with replacing(path) as temporary, open(temporary, "xb") as file:
            file.write(data)


def write_together(contents: Mapping[str | Path, bytes]) -> None:
    """write_atomic for files that belong together: none takes its name before all are written."""
    with contextlib.ExitStack() as names:
        for path, data in contents.items():
            names.enter_context(_naming(path))
            if Path(path).is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            names.enter_context(replacing(path)).write_bytes(data)


@contextlib.contextmanager
def _naming(path: str | Path) -> Iterator[None]:
    """What goes wrong in the block, as a CaffeError with the path and the reason."""
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise CaffeError(f"{path}: cannot be written: {getattr(error, 'strerror', None) or error}") from None


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A path for the block to write to; after the block that file has the name `path`, if nothing was raised.

    It lies in the same folder (a rename across file systems is a copy) and ends in the same suffix. It reaches the
    disk before it takes the name, and the name reaches the disk before this returns.
    """
    path = Path(path)
    temporary = path.with_name(f".{secrets.token_hex(4)}.tmp.{path.name[-100:]}")
    try:
        yield temporary
        sync(temporary, os.O_RDWR)
        os.replace(temporary, path)
        sync(path.parent)
    finally:
        with contextlib.suppress(OSError, ValueError):
            os.unlink(temporary)  # already gone if all went well


def sync(path: Path, mode: int = os.O_RDONLY) -> None:
    """Bring a file, or the names in a folder, to the disk."""
    handle = os.open(path, mode)
    try:
        os.fsync(handle)
    except OSError:
        if not path.is_dir():  # some file systems cannot sync a folder
            raise
    finally:
        os.close(handle)
