"""Inputs that are nearly right: bytes, texts and messages with a few changes, all drawn from one random.Random."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

Mutate = Callable[[random.Random, bytes, Sequence[bytes]], bytes]

NUMBERS = [0, 1, 2, 3, 7, 8, 255, 256, 32767, 65535, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 63, (1 << 64) - 1]
WORDS = [
    "-1",
    "0",
    "1",
    "2",
    "3",
    "1e19",
    "-1e38",
    "1e-45",
    "nan",
    "inf",
    "-inf",
    "2147483647",
    "4294967295",
    "-0",
    "1e999",
]
STRINGS = ["", "data", "label", "ip1", "conv1", "TEST", "%s%n", "a/b", "../x", "x" * 300, "\\000", "\\377", "ü", "\n"]
_TOKEN = re.compile(r'"[^"\n]*"|[\w.+-]+|\s+|.', re.DOTALL)


# ---- bytes ---------------------------------------------------------------------------------------------------------


def mutate_bytes(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """One to eight changes: bits, numbers of 1 to 8 bytes, cuts, copies, pieces of another input."""
    changed = bytearray(data)
    for _ in range(1 << rng.randrange(4)):
        at = rng.randrange(len(changed) + 1)
        # Most of what decides lies in front: half of all changes are there.
        at = min(at, rng.randrange(1, 200)) if rng.random() < 0.5 else at
        rng.choice(_CHANGES)(rng, changed, at, others)
    return bytes(changed)


def _flip(rng: random.Random, data: bytearray, at: int, others: Sequence[bytes]) -> None:
    if at < len(data):
        data[at] ^= 1 << rng.randrange(8)


def _overwrite(rng: random.Random, data: bytearray, at: int, others: Sequence[bytes]) -> None:
    size = rng.choice((1, 2, 4, 8))
    number = (rng.choice(NUMBERS) + rng.choice((-1, 0, 0, 1))) % (1 << 8 * size)
    data[at : at + size] = number.to_bytes(size, rng.choice(("little", "big")))


def _cut(rng: random.Random, data: bytearray, at: int, others: Sequence[bytes]) -> None:
    del data[at : at + rng.choice((1, 2, 4, 16, 100, 5000))]


def _truncate(rng: random.Random, data: bytearray, at: int, others: Sequence[bytes]) -> None:
    if rng.random() < 0.3:
        del data[rng.randrange(len(data) + 1) :]


def _double(rng: random.Random, data: bytearray, at: int, others: Sequence[bytes]) -> None:
    piece = bytes(data[at : at + rng.choice((1, 4, 16, 200))])
    data[at:at] = piece * rng.choice((1, 1, 2, 50))


def _splice(rng: random.Random, data: bytearray, at: int, others: Sequence[bytes]) -> None:
    other = rng.choice(others)
    start = rng.randrange(len(other) + 1)
    data[at : at + rng.choice((0, 16, 200))] = other[start : start + rng.choice((1, 16, 200, 3000))]


def _noise(rng: random.Random, data: bytearray, at: int, others: Sequence[bytes]) -> None:
    data[at:at] = rng.randbytes(rng.choice((1, 3, 20)))


_CHANGES = [_flip, _flip, _overwrite, _overwrite, _cut, _truncate, _double, _splice, _noise]


# ---- texts ---------------------------------------------------------------------------------------------------------


def mutate_text(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Tokens and lines exchanged, doubled, left out, numbers and strings replaced; one time in five just bytes."""
    if rng.random() < 0.2:
        return mutate_bytes(rng, data, others)
    tokens = _TOKEN.findall(data.decode("utf-8", "surrogateescape"))
    for _ in range(1 << rng.randrange(4)):
        if not tokens:
            break
        at = rng.randrange(len(tokens))
        rng.choice(_TEXT_CHANGES)(rng, tokens, at, others)
    return "".join(tokens).encode("utf-8", "surrogateescape")


def _replace(rng: random.Random, tokens: list[str], at: int, others: Sequence[bytes]) -> None:
    """A value of the kind that stands there."""
    wanted = rng.choice((str.isdigit, lambda token: token.startswith('"'), str.isalpha))
    places = [place for place, token in enumerate(tokens) if wanted(token)]
    at = rng.choice(places) if places else at
    token = tokens[at]
    if token.startswith('"'):
        tokens[at] = (
            f'"{rng.choice(STRINGS)}"' if rng.random() < 0.5 else rng.choice([t for t in tokens if t[:1] == '"'])
        )
    elif token.isalpha():
        tokens[at] = rng.choice([t for t in tokens if t.isalpha()])
    else:
        tokens[at] = rng.choice(WORDS) if rng.random() < 0.7 else str(rng.choice(NUMBERS))


def _drop(rng: random.Random, tokens: list[str], at: int, others: Sequence[bytes]) -> None:
    del tokens[at : at + rng.choice((1, 2, 5, 30))]


def _again(rng: random.Random, tokens: list[str], at: int, others: Sequence[bytes]) -> None:
    tokens[at:at] = tokens[at : at + rng.choice((1, 3, 20, 100))] * rng.choice((1, 1, 2, 200))


def _move(rng: random.Random, tokens: list[str], at: int, others: Sequence[bytes]) -> None:
    length = rng.choice((1, 5, 40))
    piece = tokens[at : at + length]
    del tokens[at : at + length]
    to = rng.randrange(len(tokens) + 1)
    tokens[to:to] = piece


def _borrow(rng: random.Random, tokens: list[str], at: int, others: Sequence[bytes]) -> None:
    lines = rng.choice(others).decode("utf-8", "surrogateescape").splitlines(keepends=True)
    if lines:
        start = rng.randrange(len(lines))
        tokens[at:at] = lines[start : start + rng.choice((1, 4, 12))]


def _dirt(rng: random.Random, tokens: list[str], at: int, others: Sequence[bytes]) -> None:
    tokens.insert(
        at, rng.choice(("{", "}", '"', "#", "\0", "\udcff", ":", "[", "]", "a" * 20000, "\n", " " * 5000, "9" * 6000))
    )


_TEXT_CHANGES = [_replace, _replace, _replace, _drop, _again, _move, _borrow, _dirt]


# ---- messages ------------------------------------------------------------------------------------------------------


def message_mutator(kind: type[Message], parse: Callable, write: Callable[[Message], bytes]) -> Mutate:
    """Changes fields by the schema: half of the time; else what `write` gives is changed as bytes or text."""

    def mutate(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
        message = kind()
        parse(data, message)
        for _ in range(1 << rng.randrange(4)):
            _mutate_message(rng, message)
        return write(message)

    return mutate


def _mutate_message(rng: random.Random, message: Message) -> None:
    """Walk down to some message in it, and change one field there."""
    inner = [value for field, values in message.ListFields() if field.message_type
             for value in (values if field.is_repeated else [values])]  # fmt: skip
    if inner and rng.random() < 0.8:
        _mutate_message(rng, rng.choice(inner))
        return
    present = [field for field, _ in message.ListFields()]
    field = rng.choice(present if present and rng.random() < 0.6 else message.DESCRIPTOR.fields)
    values = getattr(message, field.name)
    if rng.random() < 0.15:
        message.ClearField(field.name)
    elif field.message_type:
        if field.is_repeated and values and rng.random() < 0.5:
            values.add().CopyFrom(rng.choice(values))
        else:
            child = values.add() if field.is_repeated else values
            child.SetInParent()
            for _ in range(3):
                _mutate_message(rng, child)
    elif field.is_repeated:
        value = _value(rng, field)
        if values and rng.random() < 0.6:
            values[rng.randrange(len(values))] = value
        elif len(values) and rng.random() < 0.3:
            del values[rng.randrange(len(values))]
        else:
            values.extend([value] * rng.choice((1, 1, 2, 33)))
    else:
        setattr(message, field.name, _value(rng, field))


def _value(rng: random.Random, field: FieldDescriptor) -> object:
    kind = field.cpp_type
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return rng.random() < 0.5
    if kind == FieldDescriptor.CPPTYPE_ENUM:
        return rng.choice(field.enum_type.values).number
    if kind == FieldDescriptor.CPPTYPE_STRING:
        text = rng.choice(STRINGS)
        return text.encode() if field.type == FieldDescriptor.TYPE_BYTES else text
    if kind in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
        return rng.choice((0.0, -0.0, 1.0, -1.0, 0.5, 2.0, 1e-30, 3e38, -3e38, float("inf"), float("nan")))
    bits = 31 if kind in (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_UINT32) else 63
    number = rng.choice((0, 0, 1, 1, 2, 3, 4, 5, 10, 100, 1 << bits - 1, (1 << bits) - 1))
    unsigned = kind in (FieldDescriptor.CPPTYPE_UINT32, FieldDescriptor.CPPTYPE_UINT64)
    return number if unsigned else rng.choice((1, 1, 1, -1)) * number
