"""Source: what hands out batches. It is no part of the computed net, so it is a plain object."""

from __future__ import annotations

from torch import Tensor

from pysolver.component import Component, at_least, between, exactly, register

__all__ = ["Source", "at_least", "between", "exactly", "register"]


class Source(Component):
    """A data layer of Caffe: no bottoms, no blobs, one tensor for each top and batch.

    records: in one pass through the data, known after set_up; None where there is no end.
    """

    bottoms = exactly(0)
    blobs = ()
    records: int | None = None

    def initial_tops(self) -> list[Tensor]:
        """What the tops hold before the first batch, if not zeros."""
        return []

    def next_batch(self) -> list[Tensor | None]:
        """One tensor for each top, on context.device; None leaves the blob as it is (Input, constants)."""
        raise NotImplementedError

    def where(self, item: int, count: int) -> str | None:
        """Which record the item of that place in the last batch, of `count`, was; None if nobody can say."""
        return None

    def state(self) -> dict[str, int]:
        """All that a resumed run needs to hand out the same batches: the position after the last batch taken."""
        return {}

    def load_state(self, state: dict[str, int]) -> None:
        """Continue from what state() returned."""

    def close(self) -> None:
        """Stop threads and close files."""
