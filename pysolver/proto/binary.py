"""Files of bytes: bounded reading of binary messages, and writing that leaves the old file or the new one."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from pysolver.errors import CaffeError
from pysolver.proto.seal import open_seal

LARGEST_MESSAGE = (1 << 31) - 1  # bytes: the limit of protobuf itself, and so of a caffemodel

M = TypeVar("M", bound=Message)


def read_bytes(path: str | Path, largest: int) -> bytes:
    """The file's content; CaffeError if there is none, if it is a folder, unreadable or larger than `largest` bytes."""
    try:
        with open(path, "rb") as file:
            info = os.fstat(file.fileno())
            # read(n) reserves n bytes: of a plain file ask for no more than there is
            data = file.read((min(info.st_size, largest) if stat.S_ISREG(info.st_mode) else largest) + 1)
    except FileNotFoundError:
        raise CaffeError(f"{path}: file not found") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise CaffeError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(data) > largest:
        raise CaffeError(f"{path}: larger than {largest} bytes, the most that is read")
    return data


def read_binary(path: str | Path, kind: type[M]) -> M:
    """The serialised message in a file (caffemodel, solverstate, binaryproto); CaffeError if it is not one."""
    data = read_bytes(path, LARGEST_MESSAGE)
    name = kind.DESCRIPTOR.name
    if not data:
        raise CaffeError(f"{path}: empty, not a binary {name}")
    open_seal(data, str(path))  # our own files carry a checksum
    try:
        message = kind.FromString(data)
    except DecodeError:
        raise CaffeError(f"{path}: not a binary {name}, or damaged ({len(data)} bytes)") from None
    _mend_strings(message)
    missing = message.FindInitializationErrors()
    if missing:
        raise CaffeError(f"{path}: damaged: {name} lacks {', '.join(missing[:3])}")
    return message


def _mend_strings(message: Message) -> None:
    r"""Write bytes that are not UTF-8 as \xb9: Caffe takes a name or a data path in any encoding.

    Python's protobuf hands out `bytes` for such a string, and fails wherever it is put into another message.
    """
    for field, value in message.ListFields():
        if field.message_type:
            for inner in value if field.is_repeated else [value]:
                _mend_strings(inner)
        elif field.type == field.TYPE_STRING and field.is_repeated:
            for index, item in enumerate(value):
                if isinstance(item, bytes):
                    value[index] = item.decode(errors="backslashreplace")
        elif field.type == field.TYPE_STRING and isinstance(value, bytes):
            setattr(message, field.name, value.decode(errors="backslashreplace"))


def write_atomic(path: str | Path, data: bytes) -> None:
    """Write all of `data` or nothing: a crash or a full disk leaves whatever `path` was before.

    The bytes go to a temporary file in the same folder (a rename across file systems is a copy), reach the disk,
    and take the name in one step.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}.tmp")
    try:
        if path.exists() and not path.is_file():  # /dev/stdout, a pipe: nothing to replace
            path.write_bytes(data)
            return
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise CaffeError(f"{path}: cannot be written: {getattr(error, 'strerror', None) or error}") from None
    finally:
        with contextlib.suppress(OSError, ValueError):
            os.unlink(temporary)  # already gone if all went well
