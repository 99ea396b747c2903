"""Labels and indices: floats in Caffe's blobs, checked without making the device wait."""

from __future__ import annotations

import torch
from torch import Tensor

from pysolver.layers.base import Layer


class IndexCheck:
    """Turns a blob of indices into int64 (truncated towards zero) and refuses those outside [0, limit).

    On the CPU, and for the first batch anywhere, the check is immediate. Later batches on an accelerator are
    looked at one call late, when the answer has arrived by itself; until then a bad index is clamped into range.
    """

    def __init__(self, layer: Layer, limit: int, what: str, of: str, ignore: int | None = None) -> None:
        self.layer, self.limit, self.ignore = layer, limit, ignore
        self.what, self.of = what, of
        self._pending: tuple[torch.cuda.Event, Tensor] | None = None
        self._seen_one = False

    def __call__(self, values: Tensor) -> Tensor:
        """The indices as int64, in range or equal to `ignore`. Errors: one outside, with the layer's name."""
        index = values.detach().long()
        if torch.compiler.is_compiling():
            return index
        if index.is_cuda and self._seen_one:
            return self._later(index, self._wrong(index))
        self._seen_one = True
        if index.numel():
            least, most = index.aminmax()
            if (least < 0 or most >= self.limit) and (wrong := self._wrong(index)).any():
                at = wrong.nonzero()[0].tolist()
                self._refuse(int(index[tuple(at)]), (at[0], len(index)) if at else None)
        return index

    def _wrong(self, index: Tensor) -> Tensor:
        wrong = (index < 0) | (index >= self.limit)
        return wrong if self.ignore is None else wrong & (index != self.ignore)

    def _later(self, index: Tensor, wrong: Tensor) -> Tensor:
        if self._pending is not None and self._pending[0].query():
            any_wrong, first = self._pending[1].tolist()
            if any_wrong:
                self._refuse(first)
            self._pending = None
        if self._pending is None and index.numel() and not torch.cuda.is_current_stream_capturing():
            first = torch.take(index, wrong.flatten().int().argmax())
            answer = torch.stack([wrong.any().long(), first])
            host = torch.empty(2, dtype=torch.long, pin_memory=True).copy_(answer, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
            self._pending = event, host
        return torch.where(wrong, 0, index)

    def _refuse(self, value: int, item: tuple[int, int] | None = None) -> None:
        self.layer.fail(f"{self.what} {value} is outside [0, {self.limit}), there are {self.limit} {self.of}", item)
