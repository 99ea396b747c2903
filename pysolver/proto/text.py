"""Prototxt: text to message with errors that a person can act on, message to text exactly as C++ protobuf prints it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
from google.protobuf import text_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from pysolver.errors import CaffeError
from pysolver.proto import caffe_pb2
from pysolver.proto.binary import read_bytes

LARGEST_TEXT = 64 << 20  # bytes; the longest published prototxts have less than one MB

M = TypeVar("M", bound=Message)


def read_text(path: str | Path, kind: type[M]) -> M:
    """The message in a prototxt file.

    Raises CaffeError, naming file:line:column, for what Caffe refuses: syntax, unknown fields and enum values, a
    singular field given twice, a value of the wrong type or out of range, a missing required field.
    """
    data = read_bytes(path, LARGEST_TEXT)
    if b"\0" in data:
        raise CaffeError(f"{path}: a binary file, not a text {kind.DESCRIPTOR.name}")
    # Protobuf takes any bytes in a comment: undecodable ones are carried along and only an error inside a string.
    return parse_text(data.decode("utf-8-sig", "surrogateescape"), kind, str(path))


def parse_text(text: str, kind: type[M], name: str = "<text>") -> M:
    """The message that a prototxt says; `name` stands for the file in errors (see read_text)."""
    message = kind()
    try:
        text_format.Parse(text, message)
    except text_format.ParseError as error:
        raise CaffeError(_explain(error, text, name)) from None
    except RecursionError:
        raise CaffeError(f"{name}: nested too deeply") from None
    missing = message.FindInitializationErrors()
    if missing:
        raise CaffeError(f"{name}: {kind.DESCRIPTOR.name} needs {', '.join(missing)}")
    return message


_REWORDED = [
    (r"^Expected string but found: '(.*)'$", r"expected a string in quotes, found \1"),
    (r"^Couldn't parse integer: (.*)$", r"expected an integer, found \1"),
    (r"^Couldn't parse float: (.*)$", r"expected a number, found \1"),
    (r"^Value out of range: (.*)$", r"\1 is out of range"),
    (r"^.*'utf-8' codec can't .*$", "the string is not UTF-8"),
    (r"^'unicodeescape' codec .*: (.*)$", r"\1"),
    (r"^(String missing|Expected) ", lambda match: match[0].lower()),
    (r"\.$", ""),
]


def _explain(error: text_format.ParseError, text: str, name: str) -> str:
    """Protobuf's message in our words, with what would be right; line and column as C++ protobuf counts them."""
    line, column = error.GetLine() or 1, error.GetColumn() or 1
    source = text.split("\n")[line - 1]
    said = str(error).split(" : ", 1)[-1]
    if match := re.fullmatch(r'Message type "caffe\.(\S+)" has no field named "(.*)"\.', said):
        owner, field = match.groups()
        column = _end(field, source, column)
        said = f"{owner} has no field '{field}'{_suggestion(field, owner)}"
    elif match := re.fullmatch(r'Message type "caffe\.(\S+)" should not have multiple "(.*)" fields\.', said):
        owner, field = match.groups()
        column = _end(field, source, column)
        said = f"{owner} has one '{field}', but it is given twice"
    elif match := re.search(r'Enum type "caffe\.(\S+)" has no value (?:named|with number) (.+)\.$', said):
        known = caffe_pb2.DESCRIPTOR.pool.FindEnumTypeByName(f"caffe.{match[1]}").values_by_name
        said = f"{match[1]} has no value {match[2]}; known values: {', '.join(known)}"
    elif said in ('Expected "}".', 'Expected ">".') and (opened := _unclosed(text)):
        said = f"the file ends, but the '{{' of line {opened} is not closed"
    else:
        field = re.search(r"(\w+)\s*:\s*$", source[: column - 1])
        said = said.removeprefix(f"'{source}': ").removeprefix("'': ")
        for pattern, ours in _REWORDED:
            said = re.sub(pattern, ours, said, flags=re.DOTALL)
        said = (f"{field[1]}: " if field else "") + (said if len(said) < 200 else said[:200] + " ...")
    return f"{name}:{line}:{column}: {said}"


def _end(field: str, source: str, column: int) -> int:
    """The column behind the field's name that stands at `column` or before."""
    start = source.rfind(field, 0, column - 1 + len(field))
    return start + len(field) + 1 if start >= 0 else column


def _suggestion(field: str, owner: str) -> str:
    """`; did you mean 'base_lr'?`, or the inner message that has such a field, or nothing."""
    known = caffe_pb2.DESCRIPTOR.message_types_by_name[owner].fields
    inside = [f.name for f in known if f.message_type and field in f.message_type.fields_by_name]
    if inside and owner != "NetParameter":
        return f"; it belongs inside {' or '.join(f'{name} {{ }}' for name in inside[:3])}"
    names = [f.name for f in known]
    parts = set(field.lower().split("_"))
    parts.add("".join(part[:1] for part in field.lower().split("_")))  # learning_rate: lr
    near = difflib.get_close_matches(field.lower(), names, 1, 0.7)
    near = near or [name for name in names if parts & set(name.split("_")) or name.startswith(field.lower())]
    return f"; did you mean '{near[0]}'?" if near else ""


def _unclosed(text: str) -> int | None:
    """Line of the innermost brace that is never closed."""
    stack: list[int] = []
    for number, line in enumerate(text.split("\n"), 1):
        for token in re.findall(r"""#.*|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|[{}<>]""", line):
            if token in "{<":
                stack.append(number)
            elif token in "}>" and stack:
                stack.pop()
    return stack[-1] if stack else None


def to_text(message: Message) -> str:
    """The text form as C++ protobuf's DebugString prints it: fields by number, floats as `%g`, one value a line."""
    return "".join(_lines(message, ""))


def _lines(message: Message, indent: str) -> Iterator[str]:
    for field, value in message.ListFields():
        for item in value if field.is_repeated else [value]:
            if field.message_type:
                yield f"{indent}{field.name} {{\n"
                yield from _lines(item, indent + "  ")
                yield f"{indent}}}\n"
            else:
                yield f"{indent}{field.name}: {_scalar(field, item)}\n"


def _scalar(field: FieldDescriptor, value: object) -> str:
    if field.type == field.TYPE_FLOAT:
        return _shortest(value, np.float32, (6, 7, 8, 9))
    if field.type == field.TYPE_DOUBLE:
        return _shortest(value, np.float64, (15, 16, 17))
    if field.type == field.TYPE_BOOL:
        return "true" if value else "false"
    if field.type == field.TYPE_ENUM:
        return field.enum_type.values_by_number[value].name
    if field.type == field.TYPE_STRING:
        return f'"{_escape(value.encode())}"'
    if field.type == field.TYPE_BYTES:
        return f'"{_escape(value)}"'
    return str(value)


def _shortest(value: float, kind: type, digits: tuple[int, ...]) -> str:
    """The first %.Ng that reads back as the same number."""
    for count in digits:
        text = f"{value:.{count}g}"
        if kind(text) == value:
            return text
    return text  # nan


_ESCAPES = {9: r"\t", 10: r"\n", 13: r"\r", 34: r"\"", 39: r"\'", 92: r"\\"}


def _escape(data: bytes) -> str:
    return "".join(_ESCAPES.get(b) or (chr(b) if 32 <= b < 127 else f"\\{b:03o}") for b in data)
