"""Blobs, parameters and layers by name: who asks for one that is not there is told what there is."""

from __future__ import annotations

import difflib
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import TypeVar

V = TypeVar("V")
_SHOWN = 10


class Named(OrderedDict[str, V]):
    """An OrderedDict, as pycaffe has them. kind: what its values are. KeyError names what is near."""

    def __init__(self, items: Mapping[str, V] | Iterable[tuple[str, V]] = (), kind: str = "blob") -> None:
        super().__init__(items)
        self._kind = kind

    def __missing__(self, name: str) -> V:
        raise KeyError(f"the net has no {self._kind} {name!r}{instead(name, self)}")


def instead(name: object, known: Iterable[str]) -> str:
    """`; did you mean 'conv1'?`, or the first of what there is."""
    names = list(known)
    near = difflib.get_close_matches(str(name), names, 2)
    if near:
        return f"; did you mean {' or '.join(map(repr, near))}?"
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f" (there are: {', '.join(names[:_SHOWN])}{more})" if names else " (there are none)"
