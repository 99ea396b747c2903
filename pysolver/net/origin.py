"""Where a net comes from: what stands in front of its errors."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pysolver.component import naming_layers
from pysolver.data.source import Source
from pysolver.errors import CaffeError
from pysolver.net.filter import is_included
from pysolver.proto.caffe_pb2 import NetState
from pysolver.proto.text import layers_with_lines


@contextlib.contextmanager
def telling_records(sources: Iterable[Source]) -> Iterator[None]:
    """A CaffeError of the block that is about an item of a batch says which record that was."""
    try:
        yield
    except CaffeError as error:
        found = [source.where(*error.item) for source in sources] if error.item else []
        if not any(found):
            raise
        raise type(error)(f"{error} ({', '.join(filter(None, found))})", error.layer) from error.__cause__


@dataclass(frozen=True)
class Origin:
    """The file of a net, or what else it is called in errors (`net_param`); "" for a net that came from nowhere."""

    name: str = ""

    @contextlib.contextmanager
    def telling(self, state: NetState) -> Iterator[None]:
        """CaffeErrors of the block say `net.prototxt:12: `, the line of the layer that they are about.

        state: the net's NetState, which tells layers of one name apart.
        """
        try:
            with naming_layers():
                yield
        except CaffeError as error:
            if not self.name or str(error).startswith(f"{self.name}:"):  # a pass within a pass
                raise
            raise type(error)(f"{self.name}{self._line(error.layer, state)}: {error}") from error.__cause__

    def _line(self, layer: str | None, state: NetState) -> str:
        """`:12`, or nothing where that cannot be said."""
        try:
            found = [at for at in layers_with_lines(self.name) if at[1].name == layer] if layer else []
        except CaffeError:  # no file, or another one by now
            return ""
        mine = [line for line, param in found if len(found) == 1 or is_included(param, state, lambda event: None)]
        return f":{mine[0]}" if mine else ""
