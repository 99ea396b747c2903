"""The one error that bad input raises."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


class CaffeError(RuntimeError):
    """What Caffe answers with a failed CHECK: one clear line that names file, layer and field.

    It is a RuntimeError because that is what pycaffe raises for a missing file.

    layer: the name of the layer that it is about, for those who know the file and can say in which line that stands.
    """

    def __init__(self, message: str, layer: str | None = None) -> None:
        super().__init__(message)
        self.layer = layer


class UsageError(CaffeError):
    """Wrong arguments of a command: exit status 2."""


@contextlib.contextmanager
def about(what: object) -> Iterator[None]:
    """Puts `what: ` in front of a CaffeError of the block: the file that it came from, say."""
    try:
        yield
    except CaffeError as error:
        raise CaffeError(f"{what}: {error}", error.layer) from None
