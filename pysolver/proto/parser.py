"""A parser of protobuf's text format that takes and refuses what the C++ one does, with errors for people.

Grammar: the comments of protobuf's src/google/protobuf/text_format.h and its language specification. Extensions and
Any are left out: Caffe's schema has none. The schema nests no message in itself, so the depth is bounded by it.
"""

from __future__ import annotations

import re
from itertools import accumulate
from typing import NoReturn

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from pysolver.errors import CaffeError
from pysolver.proto.suggestions import AGAIN, placeholder, shown, suggestion, why

_TOKEN = re.compile(
    r"""(?:[\ \t\r\n\v\f]+|\#[^\n]*)*  # space and comments
    (?: (?P<name>[A-Za-z_][A-Za-z0-9_]*)
      | (?P<number>\.?[0-9](?:[eE][+-]|[A-Za-z0-9_.])*)
      | (?P<string>"[^"\\\n]*(?:\\[^\n][^"\\\n]*)*"|'[^'\\\n]*(?:\\[^\n][^'\\\n]*)*')
      | (?P<symbol>[\s\S])
      | (?P<end>\Z) )""",
    re.VERBOSE,
)
_INTEGER = re.compile(r"0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*")
_DECIMAL = re.compile(r"(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?[fF]?")
_ESCAPE = re.compile(
    rb"\\(?:(?P<plain>[abfnrtv\\?'\"])|(?P<octal>[0-7]{1,3})|[xX](?P<hex>[0-9a-fA-F]{1,2})"
    rb"|u(?P<short>[0-9a-fA-F]{4})|U(?P<long>00(?:0[0-9a-fA-F]|10)[0-9a-fA-F]{4})|(?P<bad>))"
)
_PLAIN = dict(zip(b"abfnrtv\\?'\"", b"\a\b\f\n\r\t\v\\?'\""))
_BOOLS = {"true": True, "True": True, "t": True, "false": False, "False": False, "f": False}
_RANGES = {
    FieldDescriptor.CPPTYPE_INT32: (-(1 << 31), (1 << 31) - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, (1 << 32) - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(1 << 63), (1 << 63) - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, (1 << 64) - 1),
}


class Parser:
    """Reads `text` into messages; `name` stands for the file in errors."""

    def __init__(self, text: str, name: str):
        self.text = text
        self.name = name
        self.open: list[int] = []  # where the braces stand that are not closed yet
        self._layers: list[int] = []  # where the layers of a net begin
        if "\0" in text:
            self._fail("a NUL byte: this is not text", text.index("\0"))
        self._advance_from(0)

    def parse(self, message: Message) -> None:
        """Fill the message with the whole text; CaffeError `name:line:column: ...` for what is wrong."""
        while self.kind != "end":
            self._field(message)
        self._check_complete(message, 0)

    def layer_lines(self) -> list[int]:
        """In which line each layer of the net begins."""
        spans = zip([0, *self._layers], self._layers)
        return list(accumulate((self.text.count("\n", *span) for span in spans), initial=1))[1:]

    # Tokens: `kind`, `token` and `start` are those of the next one.

    def _advance_from(self, position: int) -> None:
        match = _TOKEN.match(self.text, position)  # which takes anything
        self.kind = match.lastgroup
        self.token = match[self.kind]
        self.start, self._next = match.span(self.kind)

    def _take(self) -> str:
        token = self.token
        self._advance_from(self._next)
        return token

    def _try(self, symbol: str) -> bool:
        found = self.token == symbol and self.kind == "symbol"
        if found:
            self._take()
        return found

    def _expect(self, symbol: str) -> None:
        if not self._try(symbol):
            self._fail_expected(f"'{symbol}'")

    def _fail(self, text: str, at: int | None = None) -> NoReturn:
        at = self.start if at is None else at
        line = self.text.count("\n", 0, at) + 1
        column = at - self.text.rfind("\n", 0, at)
        raise CaffeError(f"{self.name}:{line}:{column}: {text}")

    def _fail_expected(self, what: str) -> NoReturn:
        if self.kind == "end":
            if self.open:
                line = self.text.count("\n", 0, self.open[-1]) + 1
                self._fail(f"expected {what}, but the file ends; the brace opened in line {line} is not closed")
            self._fail(f"expected {what}, but the file ends")
        if self.kind == "symbol" and self.token in "\"'":
            self._fail("this string does not end in its line")
        blank = placeholder(self.text, self.start)
        if blank or (self.kind == "name" and what.startswith(("a number", "an integer"))):
            word = blank or shown(self.token)
            self._fail(f"expected {what}, found {word}: if it is a placeholder of a template, fill it in first")
        unquoted = self.kind == "string" and " for " in what and not what.startswith("a name")
        quoted = "; leave out the quotes" if unquoted else ""
        self._fail(f"expected {what}, found {shown(self.token)}{quoted or why(self.text, self.start)}")

    # Messages

    def _field(self, message: Message) -> None:
        if self.kind != "name":
            self._fail_expected("the name of a field")
        start, name = self.start, self._take()
        owner = message.DESCRIPTOR
        field = owner.fields_by_name.get(name)
        if field is None or name.endswith(AGAIN):
            hint = self._unclosed(name) or suggestion(name, owner) or self._of_old_form(owner.name)
            self._fail(f"{owner.name} has no field '{name}'{hint}", start)
        more = field if field.is_repeated else owner.fields_by_name.get(name + AGAIN)
        if not field.is_repeated and message.HasField(name):
            if more is None:
                self._fail(f"{owner.name} has one '{name}', but it is given twice", start)
            field = more
        if name in ("layer", "layers") and not self.open:
            self._layers.append(start)
        colon = self._try(":")
        if not colon and field.message_type is None:
            self._fail_expected(f"':' after {name}{self._of_old_form(owner.name)}")
        if more and self._try("["):
            if not self._try("]"):
                self._value(message, field)
                while self._try(","):
                    self._value(message, more)
                self._expect("]")
        else:
            self._value(message, field)
        self._try(";") or self._try(",")

    def _value(self, message: Message, field: FieldDescriptor) -> None:
        if field.message_type is not None:
            inner = getattr(message, field.name)
            if field.is_repeated:
                inner = inner.add()
            else:
                inner.SetInParent()
            self._braces(inner, field.name)
            return
        value = self._scalar(field)
        if field.is_repeated:
            getattr(message, field.name).append(value)
        else:
            setattr(message, field.name, value)

    def _unclosed(self, name: str) -> str:
        """A layer within a layer: the one around it was not closed."""
        if name not in ("layer", "layers") or not self.open:
            return ""
        return f"; is the '}}' missing that closes line {self.text.count(chr(10), 0, self.open[-1]) + 1}?"

    @staticmethod
    def _of_old_form(owner: str) -> str:
        return " (this layer is a `layers`, the old form; the present one is `layer`)" if owner.startswith("V1") else ""

    def _braces(self, message: Message, name: str) -> None:
        close = {"{": "}", "<": ">"}.get(self.token)
        if close is None:
            self._fail_expected(f"'{{' after {name}")
        self.open.append(self.start)
        self._take()
        while not self._try(close):
            if self.kind != "name":
                self._fail_expected(f"the name of a field or '{close}'")
            self._field(message)
        self._check_complete(message, self.open.pop())

    def _check_complete(self, message: Message, at: int) -> None:
        missing = message.FindInitializationErrors()
        if missing:
            self._fail(f"{message.DESCRIPTOR.name} needs {' and '.join(missing)}", at)

    # Values

    def _scalar(self, field: FieldDescriptor) -> int | float | bool | str | bytes:
        kind = field.cpp_type
        if kind == FieldDescriptor.CPPTYPE_STRING:
            return self._string(field)
        if kind == FieldDescriptor.CPPTYPE_ENUM:
            return self._enum(field)
        if kind == FieldDescriptor.CPPTYPE_BOOL:
            return self._bool(field)
        if kind in _RANGES:
            return self._integer(field, *_RANGES[kind])
        return self._float(field)

    def _integer(self, field: FieldDescriptor, low: int, high: int) -> int:
        start = self.start
        negative = self._try("-")
        if self.kind != "number" or not _INTEGER.fullmatch(self.token):
            if self.kind == "number" and _DECIMAL.fullmatch(self.token) and float(self.token.rstrip("fF")) % 1 == 0:
                whole = int(float(self.token.rstrip("fF")))
                self._fail(f"expected an integer for {field.name}, found {shown(self.token)}; write {whole}")
            self._fail_expected(f"an integer for {field.name}")
        digits = self.token
        if len(digits) > 30:
            self._fail(f"{field.name} is out of range: {low} to {high}", start)
        value = int(digits, 16 if digits[:2] in ("0x", "0X") else 8 if digits[0] == "0" else 10)
        value = -value if negative else value
        if not low <= value <= high:
            self._fail(f"{field.name}: {value} is out of range: {low} to {high}", start)
        self._take()
        return value

    def _float(self, field: FieldDescriptor) -> float:
        sign = -1.0 if self._try("-") else 1.0
        if self.kind == "name" and self.token.lower() in ("inf", "infinity", "nan"):
            return sign * float(self._take())
        if self.kind != "number" or not _DECIMAL.fullmatch(self.token):
            self._fail_expected(f"a number for {field.name}")
        return sign * float(self._take().rstrip("fF"))

    def _bool(self, field: FieldDescriptor) -> bool:
        if self.kind == "number" and _INTEGER.fullmatch(self.token):
            return bool(self._integer(field, 0, 1))
        if self.kind != "name" or self.token not in _BOOLS:
            self._fail_expected(f"true or false for {field.name}")
        return _BOOLS[self._take()]

    def _enum(self, field: FieldDescriptor) -> int:
        known = field.enum_type
        start = self.start
        if self.kind == "name":
            token = self._take()
            value = known.values_by_name.get(token)
        elif self.kind == "number" or self.token == "-":
            number = self._integer(field, *_RANGES[FieldDescriptor.CPPTYPE_INT32])
            token, value = str(number), known.values_by_number.get(number)
        elif field.full_name == "caffe.V1LayerParameter.type":
            return self._quoted_type(field)
        else:
            self._fail_expected(f"one of {', '.join(known.values_by_name)} for {field.name}")
        if value is None:
            self._fail(f"{field.name} has no value {token}; known values: {', '.join(known.values_by_name)}", start)
        return value.number

    def _quoted_type(self, field: FieldDescriptor) -> int:
        """`type: "Softmax"` in a `layers`, which Caffe refuses but people write: SOFTMAX."""
        known = {name.replace("_", ""): value for name, value in field.enum_type.values_by_name.items()}
        value = known.get(self.token.strip("\"'").upper().replace("_", "")) if self.kind == "string" else None
        if value is None:
            self._fail_expected('a name like CONVOLUTION for type (in quotes it stands in "layer", not in "layers")')
        self._take()
        return value.number

    def _string(self, field: FieldDescriptor) -> str | bytes:
        if self.kind != "string":
            self._fail_expected(f"a string in quotes for {field.name}")
        start = self.start
        parts = []
        while self.kind == "string":  # neighbours are one string
            body = self.token[1:-1].encode("utf-8", "surrogateescape")
            parts.append(_ESCAPE.sub(self._unescape, body) if b"\\" in body else body)
            self._take()
        data = b"".join(parts)
        if field.type == FieldDescriptor.TYPE_BYTES:
            return data
        try:
            return data.decode()
        except UnicodeDecodeError:
            self._fail(f"the string for {field.name} is not UTF-8", start)

    def _unescape(self, match: re.Match[bytes]) -> bytes:
        kind, code = match.lastgroup, match[match.lastgroup]
        if kind == "bad":
            self._fail("the string has an escape that protobuf does not know; paths take /, a backslash itself is \\\\")
        if kind == "plain":
            return bytes([_PLAIN[code[0]]])
        if kind == "octal":
            return bytes([int(code, 8) & 0xFF])
        if kind == "hex":
            return bytes([int(code, 16)])
        return chr(int(code, 16)).encode("utf-8", "surrogatepass")
