"""A checksum inside a file that Caffe still reads: damage is noticed, and a note rides along.

A serialised message gets two fields that no Caffe message has, and that every protobuf reader skips and keeps:

    field 5000, bytes, in front    the note (may be empty)
    field 5001, fixed32, at the end    CRC-32 of all bytes before it

A flipped bit breaks the sum; a file that was cut has its front without its end. For HDF5 the sum stands behind the
file's own end, where the library does not look. Files without a seal (Caffe's own) pass unchecked.
"""

from __future__ import annotations

import struct
import zlib

from pysolver.errors import CaffeError
from pysolver.proto.wire import bytes_field, read_varint, varint

_NOTE = 5000
_FRONT = varint(_NOTE << 3 | 2)  # its tag: length-delimited
_END = b"\xcd\xb8\x02"  # the tag of field 5001, fixed32
_HDF5_END = b"pysolver-crc32:"


def seal(message: bytes, note: bytes = b"") -> bytes:
    """The serialised message with its note and checksum."""
    return _with_sum(bytes_field(_NOTE, note) + message, _END)


def seal_hdf5(file: bytes) -> bytes:
    """The HDF5 file with its checksum."""
    return _with_sum(file, _HDF5_END)


def open_seal(data: bytes, path: str) -> bytes | None:
    """The note of a sealed message, None if it has no seal; CaffeError if it is damaged.

    A program that reads a sealed message and writes it again (Caffe's upgrade tools, a script that edits weights)
    keeps both fields, but behind the message: that is a message without a seal.
    """
    if data.startswith(_FRONT):
        _check_sum(data, _END, path)
        length, start = read_varint(data, len(_FRONT))
        return data[start : start + length]
    if data[-7:-4] == _END and not _is_written_again(data):
        raise CaffeError(f"{path}: damaged: its first bytes have changed")
    if _is_nearly(data[: len(_FRONT)], _FRONT) and _is_nearly(data[-7:-4], _END):
        raise CaffeError(f"{path}: damaged: its first and last bytes have changed")
    return None


def _is_nearly(given: bytes, tag: bytes) -> bool:
    """Up to three bits of three bytes from it: one file in 50 million is so at both ends by chance."""
    return len(given) == len(tag) and (int.from_bytes(given, "big") ^ int.from_bytes(tag, "big")).bit_count() <= 3


def _is_written_again(data: bytes) -> bool:
    front = data.rfind(_FRONT)
    if front < 0:
        return False
    length, start = read_varint(data, front + len(_FRONT))
    return start + length == len(data) - 7


def check_hdf5(data: bytes, path: str) -> None:
    """CaffeError if the HDF5 file has a checksum that does not fit. The library itself finds files that are cut.

    The file says where it ends; what stands behind that can only be the checksum, so damage to its name shows too.
    """
    end = _hdf5_end(data)
    if data[-4 - len(_HDF5_END) : -4] == _HDF5_END:
        _check_sum(data, _HDF5_END, path)
    elif end is not None and end < len(data):
        raise CaffeError(f"{path}: damaged: {len(data) - end} bytes behind the end of the HDF5 file are no checksum")


def _hdf5_end(data: bytes) -> int | None:
    """The end-of-file address in the superblock, None where addresses have other sizes than 8 bytes."""
    version = data[8] if len(data) > 13 else None
    if version in (0, 1) and data[13] == 8:
        start = 24 + 4 * version
        base, _, end = struct.unpack_from("<3Q", data, start) if len(data) >= start + 24 else (0, 0, len(data))
    elif version in (2, 3) and data[9] == 8:
        base, _, end = struct.unpack_from("<3Q", data, 12) if len(data) >= 36 else (0, 0, len(data))
    else:
        return None
    return end if base == 0 else None


def _with_sum(data: bytes, tag: bytes) -> bytes:
    data += tag
    return data + zlib.crc32(data).to_bytes(4, "little")


def _check_sum(data: bytes, tag: bytes, path: str) -> None:
    intact = len(data) > 4 and data[-4 - len(tag) : -4] == tag
    if not intact or zlib.crc32(data[:-4]) != int.from_bytes(data[-4:], "little"):
        raise CaffeError(f"{path}: damaged: its checksum does not fit its {len(data)} bytes (cut off, or bits changed)")
