"""A parser of protobuf's text format that takes and refuses what the C++ one does, with errors for people.

Grammar: the comments of protobuf's src/google/protobuf/text_format.h and its language specification. Extensions and
Any are left out: Caffe's schema has none. The schema nests no message in itself, so the depth is bounded by it.
"""

from __future__ import annotations

import re
from itertools import accumulate
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from pysolver.proto.caffe_pb2 import LayerParameter, V1LayerParameter
from pysolver.proto.foreign import Foreign, UnknownInside
from pysolver.proto.suggestions import AGAIN, is_hidden, shown, suggestion
from pysolver.proto.tokens import Tokens

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


class Parser(Tokens):
    """Reads `text` into messages; `name` stands for the file in errors.

    A field that the schema does not have is an error, unless it is that of a layer whose type BVLC's Caffe does not
    have either: then it is kept as text (see foreign.py).
    """

    def __init__(self, text: str, name: str):
        super().__init__(text, name)
        self._layers: list[int] = []  # where the layers of a net begin
        self._foreign: Foreign | None = None  # of the layer that is open

    def parse(self, message: Message) -> None:
        """Fill the message with the whole text; CaffeError `name:line:column: ...` for what is wrong."""
        self._fields(message, None)
        self._check_complete(message, 0)

    def layer_lines(self) -> list[int]:
        """In which line each layer of the net begins."""
        spans = zip([0, *self._layers], self._layers)
        return list(accumulate((self.text.count("\n", *span) for span in spans), initial=1))[1:]

    # Messages

    def _fields(self, message: Message, close: str | None) -> None:
        """All up to the closing sign, None: up to the end of the text."""
        is_layer = isinstance(message, LayerParameter | V1LayerParameter)
        if is_layer:
            self._foreign = Foreign(self, message)
        while not (self.attempt(close) if close else self.kind == "end"):
            if self.kind != "name":
                self.fail_expected("the name of a field" + (f" or '{close}'" if close else ""))
            self._field(message)
        if is_layer and self._foreign is not None:
            self._foreign.check()
            self._foreign = None

    def _field(self, message: Message) -> None:
        start, name = self.start, self.take()
        owner = message.DESCRIPTOR
        field: Any = owner.fields_by_name.get(name)
        if field is None or is_hidden(name):
            hint = self._unclosed(name) or suggestion(name, owner) or self._of_old_form(owner.name)
            error = f"{owner.name} has no field '{name}'{hint}"
            if self._foreign is None or not self._foreign.may_keep(name):
                self.fail(error, start)
            if self._foreign.layer is not message:
                if not self._foreign.is_inside:
                    self.fail(error, start)
                raise UnknownInside(error, start)
            message, field = self._foreign.keep(name, error, start)
            if field is None:
                return
        if self._foreign is not None and self._foreign.holds(message, field):
            self._own_message(message, field, start, self._foreign)
        else:
            self._rest(message, field, start)

    def _own_message(self, message: Message, field: FieldDescriptor, start: int, foreign: Foreign) -> None:
        """A message that a layer has once: as text, if there is something unknown in it."""
        before, is_open = self.start, len(self.open)
        foreign.is_inside = True
        try:
            self._rest(message, field, start)
        except UnknownInside as unknown:
            message.ClearField(field.name)
            self._advance_from(before)
            del self.open[is_open:]
            foreign.keep_text(field.name, *unknown.args)
        finally:
            foreign.is_inside = False

    def _rest(self, message: Message, field: FieldDescriptor, start: int) -> None:
        """What stands behind the name of a field, which begins at `start`."""
        owner, name = message.DESCRIPTOR, field.name
        more: Any = field if field.is_repeated else owner.fields_by_name.get(name + AGAIN)
        if not field.is_repeated and message.HasField(name):
            if more is None:
                self.fail(f"{owner.name} has one '{name}', but it is given twice", start)
            field = more
        if name in ("layer", "layers") and not self.open:
            self._layers.append(start)
        colon = self.attempt(":")
        if not colon and field.message_type is None:
            self.fail_expected(f"':' after {name}{self._of_old_form(owner.name)}")
        if more and self.attempt("["):
            if not self.attempt("]"):
                self._value(message, field)
                while self.attempt(","):
                    self._value(message, more)
                self.expect("]")
        else:
            self._value(message, field)
        self.attempt(";") or self.attempt(",")

    def _value(self, message: Message, field: FieldDescriptor) -> None:
        if field.message_type is not None:
            inner = getattr(message, field.name)
            if field.is_repeated:
                inner = inner.add()
            else:
                inner.SetInParent()
            self._braces(inner, field.name)
            return
        if self._foreign is not None and self._foreign.takes_type(field):
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
            self.fail_expected(f"'{{' after {name}")
        self.open.append(self.start)
        self.take()
        self._fields(message, close)
        self._check_complete(message, self.open.pop())

    def _check_complete(self, message: Message, at: int) -> None:
        missing = message.FindInitializationErrors()
        if missing:
            self.fail(f"{message.DESCRIPTOR.name} needs {' and '.join(missing)}", at)

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
        negative = self.attempt("-")
        if self.kind != "number" or not _INTEGER.fullmatch(self.token):
            if self.kind == "number" and _DECIMAL.fullmatch(self.token) and float(self.token.rstrip("fF")) % 1 == 0:
                whole = int(float(self.token.rstrip("fF")))
                self.fail(f"expected an integer for {field.name}, found {shown(self.token)}; write {whole}")
            self.fail_expected(f"an integer for {field.name}")
        digits = self.token
        if len(digits) > 30:
            self.fail(f"{field.name} is out of range: {low} to {high}", start)
        value = int(digits, 16 if digits[:2] in ("0x", "0X") else 8 if digits[0] == "0" else 10)
        value = -value if negative else value
        if not low <= value <= high:
            self.fail(f"{field.name}: {value} is out of range: {low} to {high}", start)
        self.take()
        return value

    def _float(self, field: FieldDescriptor) -> float:
        sign = -1.0 if self.attempt("-") else 1.0
        if self.kind == "name" and self.token.lower() in ("inf", "infinity", "nan"):
            return sign * float(self.take())
        if self.kind != "number" or not _DECIMAL.fullmatch(self.token):
            self.fail_expected(f"a number for {field.name}")
        return sign * float(self.take().rstrip("fF"))

    def _bool(self, field: FieldDescriptor) -> bool:
        if self.kind == "number" and _INTEGER.fullmatch(self.token):
            return bool(self._integer(field, 0, 1))
        if self.kind != "name" or self.token not in _BOOLS:
            self.fail_expected(f"true or false for {field.name}")
        return _BOOLS[self.take()]

    def _enum(self, field: FieldDescriptor) -> int:
        known = field.enum_type
        start = self.start
        if self.kind == "name":
            token = self.take()
            value = known.values_by_name.get(token)
        elif self.kind == "number" or self.token == "-":
            number = self._integer(field, *_RANGES[FieldDescriptor.CPPTYPE_INT32])
            token, value = str(number), known.values_by_number.get(number)
        elif field.full_name == "caffe.V1LayerParameter.type":
            return self._quoted_type(field)
        else:
            self.fail_expected(f"one of {', '.join(known.values_by_name)} for {field.name}")
        if value is None:
            self.fail(f"{field.name} has no value {token}; known values: {', '.join(known.values_by_name)}", start)
        return value.number

    def _quoted_type(self, field: FieldDescriptor) -> int:
        """`type: "Softmax"` in a `layers`, which Caffe refuses but people write: SOFTMAX."""
        known = {name.replace("_", ""): value for name, value in field.enum_type.values_by_name.items()}
        value = known.get(self.token.strip("\"'").upper().replace("_", "")) if self.kind == "string" else None
        if value is None:
            self.fail_expected('a name like CONVOLUTION for type (in quotes it stands in "layer", not in "layers")')
        self.take()
        return value.number

    def _string(self, field: FieldDescriptor) -> str | bytes:
        if self.kind != "string":
            self.fail_expected(f"a string in quotes for {field.name}")
        start = self.start
        parts = []
        while self.kind == "string":  # neighbours are one string
            body = self.token[1:-1].encode("utf-8", "surrogateescape")
            parts.append(_ESCAPE.sub(self._unescape, body) if b"\\" in body else body)
            self.take()
        data = b"".join(parts)
        if field.type == FieldDescriptor.TYPE_BYTES:
            return data
        try:
            return data.decode()
        except UnicodeDecodeError:
            self.fail(f"the string for {field.name} is not UTF-8", start)

    def _unescape(self, match: re.Match[bytes]) -> bytes:
        kind, code = match.lastgroup, match[match.lastgroup]
        if kind == "bad":
            self.fail("the string has an escape that protobuf does not know; paths take /, a backslash itself is \\\\")
        if kind == "plain":
            return bytes([_PLAIN[code[0]]])
        if kind == "octal":
            return bytes([int(code, 8) & 0xFF])
        if kind == "hex":
            return bytes([int(code, 16)])
        return chr(int(code, 16)).encode("utf-8", "surrogatepass")
