"""Fields and types of Caffes that the schema does not know: kept as text in layers whose type is not BVLC's.

So a net of any fork is read, changed and written; it is refused, with the name of the layer, when it is built.
"""

from __future__ import annotations

import difflib
import re
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from pysolver.errors import CaffeError
from pysolver.proto.bvlc_types import BVLC_TYPES
from pysolver.proto.caffe_pb2 import LayerParameter, V1LayerParameter
from pysolver.proto.suggestions import is_hidden
from pysolver.proto.tokens import Tokens

_DEEPEST = 100
_LAST_OF_BVLC = V1LayerParameter.DECONVOLUTION
_OLD_TYPE = re.compile(r"[A-Z][A-Z0-9_]*")
_LIKE = 0.9  # of a name that is only misspelt


class UnknownInside(Exception):
    """An unknown field inside a known one of a layer that may be another Caffe's: what to say of it, where it is."""


class Foreign:
    """What one layer has that the schema does not."""

    def __init__(self, tokens: Tokens, layer: LayerParameter | V1LayerParameter) -> None:
        self.tokens, self.layer = tokens, layer
        self.is_inside = False  # within a field that may be kept as text as a whole
        self._present: LayerParameter | None = None  # of an old layer
        self._first: tuple[str, int] | None = None  # what to say of the first field, and where it stands

    def may_keep(self, name: str) -> bool:
        """Whether a field may be another Caffe's, for all that is known of the type up to here."""
        return name not in ("layer", "layers") and self._is_bvlcs is not True

    def keep(self, name: str, error: str, at: int) -> tuple[LayerParameter, Any]:
        """Take the field, whose name is taken, as text; or say where it has a place in the present form of a layer."""
        self._first = self._first or (error, at)
        layer = self.layer
        if isinstance(layer, V1LayerParameter):
            field = LayerParameter.DESCRIPTOR.fields_by_name.get(name)
            self._present = layer.present
            layer = self._present
            if field is not None and not is_hidden(name):
                return layer, field
        self.keep_text(name, error, at)
        return layer, None

    def holds(self, message: Message, field: FieldDescriptor) -> bool:
        """Whether a field may be kept as text as a whole: one of the layer's own messages, that it has once."""
        is_own = message is self.layer or message is self._present
        return is_own and field.message_type is not None and not field.is_repeated

    def keep_text(self, name: str, error: str, at: int) -> None:
        """Take the field, whose name is taken, as text."""
        self._first = self._first or (error, at)
        layer = self.layer.present if isinstance(self.layer, V1LayerParameter) else self.layer
        values = _field(self.tokens, name, 0)
        try:
            layer.foreign_text.extend("\n".join(lines) for lines in values)
        except ValueError:  # what stands for bytes that are no UTF-8
            self.tokens.fail(f"{name} has a string that is not UTF-8", at)

    def takes_type(self, field: FieldDescriptor) -> bool:
        """Take the next word as the type of an old layer, if no Caffe that is known has it."""
        if field.full_name != "caffe.V1LayerParameter.type" or self.tokens.kind != "name":
            return False
        known, word = list(field.enum_type.values_by_name), self.tokens.token
        if not _OLD_TYPE.fullmatch(word) or difflib.get_close_matches(word, known, 1, _LIKE):
            return False
        self.layer.foreign_type = self.tokens.take()  # type: ignore[union-attr]
        return True

    def check(self) -> None:
        """At the end of the layer. Raises CaffeError for a field that no Caffe has in a layer of this type."""
        if self._first is not None and self._is_bvlcs is not False:
            self.tokens.fail(*self._first)

    @property
    def _is_bvlcs(self) -> bool | None:
        """Whether the type is; None if it is not given."""
        layer = self.layer
        if isinstance(layer, LayerParameter):
            return layer.type in BVLC_TYPES if layer.type else None
        if layer.HasField("foreign_type"):
            return False
        return layer.type <= _LAST_OF_BVLC if layer.HasField("type") else None


def checked_foreign(text: str) -> str:
    """The text of a field as it is kept. Raises CaffeError for any other: a binary file may say what it likes."""
    tokens = Tokens(text, "a field that is kept as text")
    values = _field(tokens, tokens.take(), 0) if tokens.kind == "name" else []
    if tokens.kind != "end" or ["\n".join(lines) for lines in values] != [text]:
        raise CaffeError(f"not a field of a prototxt: {text[:60]!r}")
    return text


def _field(tokens: Tokens, name: str, depth: int) -> list[list[str]]:
    """The lines of each value of a field, whose name is taken, with two blanks for each level."""
    if depth > _DEEPEST:
        tokens.fail(f"{name} is nested more than {_DEEPEST} deep")
    colon = tokens.attempt(":")
    if colon and tokens.attempt("["):
        values = []
        while not tokens.attempt("]"):
            values.append(_value(tokens, name, depth, colon))
            if not tokens.attempt(",") and tokens.token != "]":
                tokens.fail_expected("',' or ']'")
    else:
        values = [_value(tokens, name, depth, colon)]
    if not tokens.attempt(";"):
        tokens.attempt(",")
    return values


def _value(tokens: Tokens, name: str, depth: int, colon: bool) -> list[str]:
    blanks = "  " * depth
    close = {"{": "}", "<": ">"}.get(tokens.token) if tokens.kind == "symbol" else None
    if close is None:
        if not colon:
            tokens.fail_expected(f"':' or '{{' after {name}")
        return [f"{blanks}{name}: {_scalar(tokens, name)}"]
    tokens.open.append(tokens.start)
    tokens.take()
    lines = [f"{blanks}{name} {{"]
    while not tokens.attempt(close):
        if tokens.kind != "name":
            tokens.fail_expected(f"the name of a field or '{close}'")
        lines += [line for value in _field(tokens, tokens.take(), depth + 1) for line in value]
    tokens.open.pop()
    return [*lines, f"{blanks}}}"]


def _scalar(tokens: Tokens, name: str) -> str:
    sign = "-" if tokens.attempt("-") else ""
    if tokens.kind == "string" and not sign:
        parts = [tokens.take()]
        while tokens.kind == "string":
            parts.append(tokens.take())
        return " ".join(parts)
    if tokens.kind not in ("name", "number"):
        tokens.fail_expected(f"a value for {name}")
    return sign + tokens.take()
