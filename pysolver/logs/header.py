"""What the head of a log tells: the solver's parameters and the nets, dumped as protobuf text.

A small reader of its own: dumps come from many Caffes, with fields that no one schema knows.
"""

from __future__ import annotations

import ast
import re
from typing import Any

DEEPEST = 50  # messages in messages: more are no dump of a Caffe, and what nests them (JSON) has limits too

Message = dict[str, Any]  # field -> value, or list of values where it repeats; a sub-message is a Message

_LINE = re.compile(r'\s*(?:(\w+)\s*:\s*("[^"\\\n]*(?:\\.[^"\\\n]*)*"|\S+)|(\w+)\s*(?::\s*)?\{|(\}))')


def parse_dump(text: str) -> Message:
    """A text dump as nested dictionaries. Stops quietly at what is no dump (another thread's line)."""
    root: Message = {}
    stack = [root]
    position = 0
    while match := _LINE.match(text, position):
        position = match.end()
        field, value, opened, closed = match.groups()
        if field:
            _add(stack[-1], field, _value(value))
        elif opened and len(stack) <= DEEPEST:
            inner: Message = {}
            _add(stack[-1], opened, inner)
            stack.append(inner)
        elif closed and len(stack) > 1:
            stack.pop()
    return root


def many(message: Message, field: str) -> list[Any]:
    """All values of a field, none if it is not there."""
    value = message.get(field, [])
    return value if isinstance(value, list) else [value]


def batch_size(net: Message) -> int | None:
    """Images per iteration and device of the net's first data layer; None if it does not say."""
    for layer in filter(_is_message, many(net, "layer") + many(net, "layers")):
        for name, parameter in layer.items():
            if name.endswith("data_param") and isinstance(parameter, dict) and "batch_size" in parameter:
                return _whole(parameter["batch_size"])
    shapes = many(net, "input_shape") + [s for layer in many(net, "layer") for s in _input_shapes(layer)]
    return next((_whole(many(shape, "dim")[0]) for shape in filter(_is_message, shapes) if many(shape, "dim")), None)


def accuracies(net: Message) -> tuple[str, ...]:
    """The first tops of a net's Accuracy layers, whatever their names; the one of the smallest top_k comes first."""
    found = []
    for layer in filter(_is_message, many(net, "layer") + many(net, "layers")):
        tops = many(layer, "top")
        if layer.get("type") in ("Accuracy", "ACCURACY") and tops:
            parameter = layer.get("accuracy_param")
            top_k = _whole(parameter.get("top_k", 1)) if _is_message(parameter) else 1
            found.append((top_k or 1, str(tops[0])))
    return tuple(name for _, name in sorted(found, key=lambda pair: pair[0]))


def _is_message(value: Any) -> bool:
    return isinstance(value, dict)


def _whole(value: Any) -> int | None:
    return value if type(value) is int else None


def _input_shapes(layer: Any) -> list[Message]:
    parameter = layer.get("input_param") if _is_message(layer) else None
    return many(parameter, "shape") if isinstance(parameter, dict) else []


def _add(message: Message, field: str, value: Any) -> None:
    if field not in message:
        message[field] = value
    elif isinstance(message[field], list):
        message[field].append(value)
    else:
        message[field] = [message[field], value]


def _value(text: str) -> Any:
    if text in ("true", "false"):
        return text == "true"
    if text.startswith('"'):
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return text[1:-1]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text
