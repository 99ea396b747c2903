"""Binary messages in files."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from pysolver.errors import CaffeError
from pysolver.files import read_bytes, seems_to_be
from pysolver.proto.seal import open_seal

LARGEST_MESSAGE = (1 << 31) - 1  # bytes: the limit of protobuf itself, and so of a caffemodel

M = TypeVar("M", bound=Message)


def read_binary(path: str | Path, kind: type[M]) -> M:
    """The serialised message in a file (caffemodel, solverstate, binaryproto); CaffeError if it is not one."""
    return parse(read_sealed(path, kind.DESCRIPTOR.name), kind, path)


def read_sealed(path: str | Path, name: str) -> bytes:
    """The bytes of a message, `name` for the error, in a file; CaffeError if its checksum does not fit."""
    data = read_bytes(path, LARGEST_MESSAGE)
    if not data:
        raise CaffeError(f"{path}: empty, not a binary {name}")
    open_seal(data, str(path))  # our own files carry a checksum
    return data


def parse(data: bytes, kind: type[M], path: str | Path) -> M:
    """The serialised message in the bytes of a file; CaffeError if it is not one."""
    name = kind.DESCRIPTOR.name
    try:
        message = kind.FromString(data)
    except DecodeError:
        seems = seems_to_be(data, "a text")
        raise CaffeError(f"{path}: not a binary {name}, or damaged ({len(data)} bytes){seems}") from None
    _mend_strings(message)
    missing = message.FindInitializationErrors()  # type: ignore[attr-defined]  # the stubs forget it
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
