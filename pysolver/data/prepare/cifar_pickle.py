"""The Python form of a CIFAR batch: a pickled dictionary, read without unpickling.

A pickle is a program, and even `numpy.ndarray` alone lets it make pointers out of its bytes. So this walks over the
opcodes and knows only what the published files hold: numbers, strings, lists, dictionaries, and arrays of bytes as
Python 2's numpy wrote them. Nothing is imported, called or set.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

_RECONSTRUCT = {"numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct"}
_VALUES = {"BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "BINFLOAT", "FLOAT", "BINBYTES", "SHORT_BINBYTES"}
_STRINGS = {"STRING", "BINSTRING", "SHORT_BINSTRING"}  # Python 2's bytes
_TEXTS = {"UNICODE", "BINUNICODE", "SHORT_BINUNICODE"}
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_MOST = 1 << 22  # opcodes; CIFAR-100's training batch has some 400,000


class NotABatch(Exception):
    """The bytes are no pickle, or one that holds something else than a CIFAR batch."""


class _Name(NamedTuple):
    """What a pickle would import: a name that nobody looks up."""

    dotted: str


class _Call(NamedTuple):
    """What a pickle would call."""

    name: str
    arguments: tuple


def read_batch(content: bytes) -> dict[bytes, Any]:
    """The fields of a batch: bytes, numbers and lists of them, and one-dimensional uint8 arrays. Raises NotABatch."""
    try:
        fields = _Machine().run(content)
    except (ValueError, IndexError, KeyError, TypeError, OverflowError) as error:  # what damaged opcodes come to
        raise NotABatch(str(error)) from None
    if not isinstance(fields, dict):
        raise NotABatch("not a dictionary")
    return fields


class _Machine:
    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []  # places in the stack
        self.memo: dict[int, Any] = {}

    def run(self, content: bytes) -> Any:
        for number, (opcode, argument, _) in enumerate(pickletools.genops(content)):
            if number == _MOST:
                raise NotABatch(f"more than {_MOST} opcodes")
            self._step(opcode.name, argument)
        return self.stack.pop()

    def _step(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in _VALUES:
            stack.append(argument)
        elif name in _STRINGS:
            stack.append(argument.encode("latin-1"))
        elif name in _TEXTS:
            stack.append(argument.encode())
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name]())
        elif name == "MARK":
            self.marks.append(len(stack))
        elif name == "TUPLE":
            stack.append(tuple(self._to_mark()))
        elif name in _TUPLES:
            stack[-_TUPLES[name] :] = [tuple(stack[-_TUPLES[name] :])]
        elif name in ("BINPUT", "LONG_BINPUT", "PUT", "MEMOIZE"):
            self.memo[len(self.memo) if name == "MEMOIZE" else argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(self.memo[argument])
        elif name in ("APPEND", "APPENDS"):
            items = self._to_mark() if name == "APPENDS" else [stack.pop()]
            _of(list, stack[-1]).extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = self._to_mark() if name == "SETITEMS" else [stack.pop(-2), stack.pop()]
            keys = [_of(bytes, key) for key in items[::2]]  # nested tuples would be hashed without end
            _of(dict, stack[-1]).update(zip(keys, items[1::2], strict=True))
        elif name == "GLOBAL":
            stack.append(_Name(argument))
        elif name == "REDUCE":
            arguments = _of(tuple, stack.pop())
            stack.append(_Call(_of(_Name, stack.pop()).dotted, arguments))
        elif name == "BUILD":
            state = _of(tuple, stack.pop())
            stack.append(_built(_of(_Call, stack.pop()), state))
        elif name not in ("PROTO", "STOP", "FRAME"):
            raise NotABatch(f"a {name} in it")

    def _to_mark(self) -> list[Any]:
        at = self.marks.pop()
        items = self.stack[at:]
        del self.stack[at:]
        return items


def _built(call: _Call, state: tuple) -> _Call | np.ndarray:
    """numpy's __setstate__: of a dtype, kept as the call; of an array of bytes, its values."""
    if call.name == "numpy dtype":
        return call
    if call.name not in _RECONSTRUCT:
        raise NotABatch(f"{call.name} in it")
    _, _, dtype, by_columns, values = state
    if by_columns or _of(_Call, dtype).name != "numpy dtype" or dtype.arguments[0] not in (b"u1", b"uint8"):
        raise NotABatch("an array of another type")
    return np.frombuffer(_of(bytes, values), np.uint8)


def _of(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise NotABatch(f"{type(value).__name__} where {kind.__name__} is needed")
    return value
