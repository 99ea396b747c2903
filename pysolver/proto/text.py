"""Prototxt: text to message with errors that a person can act on, message to text exactly as C++ protobuf prints it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from pysolver.errors import CaffeError
from pysolver.files import read_bytes, seems_to_be
from pysolver.proto.caffe_pb2 import NetParameter
from pysolver.proto.foreign import checked_foreign
from pysolver.proto.parser import AGAIN, Parser

LARGEST_TEXT = 64 << 20  # bytes; the longest published prototxts have less than one MB

M = TypeVar("M", bound=Message)


def read_text(path: str | Path, kind: type[M]) -> M:
    """The message in a prototxt file.

    Raises CaffeError, naming file:line:column, for what Caffe refuses: syntax, unknown fields and enum values, a
    singular field given twice, a value of the wrong type or out of range, a missing required field.
    """
    message = kind()
    _parser(path, kind).parse(message)
    return message


def _parser(path: str | Path, kind: type[Message]) -> Parser:
    data = read_bytes(path, LARGEST_TEXT)
    seems = seems_to_be(data)
    if b"\0" in data:
        raise CaffeError(f"{path}: a binary file, not a text {kind.DESCRIPTOR.name}{seems}")
    if seems:
        raise CaffeError(f"{path}: not a text {kind.DESCRIPTOR.name}{seems}")
    # Protobuf takes any bytes in a comment: undecodable ones are carried along and only an error inside a string.
    return Parser(data.decode("utf-8-sig", "surrogateescape"), str(path))


def layers_with_lines(path: str | Path) -> list[tuple[int, Any]]:
    """(line, LayerParameter or the like) of each layer of a net prototxt as it stands there."""
    parser, net = _parser(path, NetParameter), NetParameter()
    parser.parse(net)
    return list(zip(parser.layer_lines(), [*net.layers, *net.layer]))  # a net has one kind of them


def parse_text(text: str, kind: type[M], name: str = "<text>") -> M:
    """The message that a prototxt says; `name` stands for the file in errors (see read_text)."""
    message = kind()
    Parser(text, name).parse(message)
    return message


def to_text(message: Message) -> str:
    """The text form as C++ protobuf's DebugString prints it: fields by number, floats as `%g`, one value a line."""
    return "".join(_lines(message, ""))


def _lines(message: Message, indent: str) -> Iterator[str]:
    for field, value in message.ListFields():
        if field.name == "foreign_text":
            for text in value:
                yield from (f"{indent}{line}\n" for line in checked_foreign(text).split("\n"))
            continue
        if field.name == "foreign_type":  # of an old layer, as the next one
            yield f"{indent}type: {value}\n"
            continue
        if field.name == "present":
            yield from _lines(value, indent)
            continue
        name = field.name.removesuffix(AGAIN)
        for item in value if field.is_repeated else [value]:
            if field.message_type:
                yield f"{indent}{name} {{\n"
                yield from _lines(item, indent + "  ")
                yield f"{indent}}}\n"
            else:
                yield f"{indent}{name}: {_scalar(field, item)}\n"


def _scalar(field: FieldDescriptor, value: object) -> str:
    if field.type == field.TYPE_FLOAT:
        return _float(value)
    if field.type == field.TYPE_DOUBLE:
        return _double(value)
    if field.type == field.TYPE_BOOL:
        return "true" if value else "false"
    if field.type == field.TYPE_ENUM:
        return field.enum_type.values_by_number[value].name
    if field.type == field.TYPE_STRING:
        return f'"{_escape(value.encode())}"'
    if field.type == field.TYPE_BYTES:
        return f'"{_escape(value)}"'
    return str(value)


_SMALLEST_NORMAL = np.finfo(np.float32).tiny.item()


def _float(value: float) -> str:
    """6 digits if they read back as the same number, else 9; 9 for denormals, which strtof calls out of range."""
    short = f"{value:.6g}"
    denormal = 0 < abs(value) < _SMALLEST_NORMAL
    return short if np.float32(short) == value and not denormal else f"{value:.9g}"


def _double(value: float) -> str:
    short = f"{value:.15g}"
    return short if float(short) == value else f"{value:.17g}"


_ESCAPES = {9: r"\t", 10: r"\n", 13: r"\r", 34: r"\"", 39: r"\'", 92: r"\\"}


_PLAIN = re.compile(rb"[ !#-&(-\[\]-~]*")


def _escape(data: bytes) -> str:
    if _PLAIN.fullmatch(data):
        return data.decode()
    return "".join(_ESCAPES.get(b) or (chr(b) if 32 <= b < 127 else f"\\{b:03o}") for b in data)
