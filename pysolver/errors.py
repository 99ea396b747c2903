"""The one error that bad input raises."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

# What moves a terminal's cursor, ends a line, or turns the direction of writing.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


class CaffeError(RuntimeError):
    """What Caffe answers with a failed CHECK: one clear line that names file, layer and field.

    It is a RuntimeError because that is what pycaffe raises for a missing file.

    layer: the name of the layer that it is about, for those who know the file and can say in which line that stands.
    item: which one of how many of a batch it is about, for those who know where that came from.
    """

    def __init__(self, message: str, layer: str | None = None, item: tuple[int, int] | None = None) -> None:
        super().__init__(message)
        self.layer, self.item = layer, item


def visible(text: str) -> str:
    r"""The text in one line that stays where it is: `\n`, `\x1b` in place of control characters.

    Names of layers come from files of strangers, and may hold whole lines of a log.
    """
    return _CONTROL.sub(lambda found: repr(found[0])[1:-1], text)


class OutOfMemory(CaffeError):
    """A net with its batch takes more memory than there is."""


class UsageError(CaffeError):
    """Wrong arguments of a command: exit status 2."""


@contextlib.contextmanager
def about(what: object) -> Iterator[None]:
    """Puts `what: ` in front of a CaffeError of the block: the file that it came from, say."""
    try:
        yield
    except CaffeError as error:
        raise type(error)(f"{what}: {error}", error.layer) from None
