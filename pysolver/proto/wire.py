"""Protobuf's wire form, as far as it is written and read by hand."""

from __future__ import annotations


def bytes_field(number: int, payload: bytes) -> bytes:
    """A length-delimited field: bytes, a string, a message, or packed numbers."""
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; all bytes but the last have their top bit set."""
    groups = [number >> shift & 0x7F for shift in range(0, max(1, number.bit_length()), 7)]
    return bytes([group | 0x80 for group in groups[:-1]] + groups[-1:])


def read_varint(data: bytes | memoryview, start: int) -> tuple[int, int]:
    """The number that begins at `start`, and the offset behind it."""
    number = 0
    for at in range(start, min(start + 5, len(data))):
        number |= (data[at] & 0x7F) << 7 * (at - start)
        if data[at] < 0x80:
            return number, at + 1
    return number, len(data)
