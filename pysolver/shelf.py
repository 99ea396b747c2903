"""What one net leaves for the next of the same process."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Protocol, TypeVar, cast


class Sized(Protocol):
    """What a shelf holds."""

    @property
    def nbytes(self) -> int: ...


_Thing = TypeVar("_Thing", bound=Sized)


class Shelf:
    """Decoded data sets that wait for the nets to come: those last used, up to so many bytes."""

    def __init__(self, most: int = 2 << 30) -> None:
        self._most = most
        self._things: OrderedDict[Hashable, Sized] = OrderedDict()

    def take(self, key: Hashable, make: Callable[[], _Thing]) -> _Thing:
        """What lies there under this key, else a new one, for which the longest unused make room."""
        thing = cast(_Thing, self._things.pop(key, None)) or make()
        self._things[key] = thing
        while self._things and sum(one.nbytes for one in self._things.values()) > self._most:
            self._things.popitem(last=False)
        return thing
