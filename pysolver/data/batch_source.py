"""BatchSource: a source whose i-th batch depends on nothing but i and a seed."""

from __future__ import annotations

import secrets
import zlib
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pysolver.context import Context
from pysolver.data.prefetch import Prefetcher
from pysolver.data.source import Source
from pysolver.proto.caffe_pb2 import LayerParameter

_PERMUTATIONS_KEPT = 4


class Part(NamedTuple):
    """One rank's batches of tests that several ranks run together: each size-th of every `period` batches."""

    rank: int
    size: int
    period: int

    @property
    def own(self) -> int:
        """Batches of one test."""
        return len(range(self.rank, self.period, self.size))

    def index(self, number: int) -> int:
        """Which batch comes after `number` others of this rank."""
        test, place = divmod(number, self.own)
        return test * self.period + self.rank + place * self.size

    def passed(self, number: int) -> int:
        """How many batches all ranks have passed once this one has had so many, between two tests."""
        return number // self.own * self.period if self.own else 0


class BatchSource(Source):
    """Reads ahead in a thread, and resumes exactly from two numbers: batches handed out, and the seed.

    A subclass says what batch i is: make_batch(i). It runs in the prefetch thread, i rising by one, and every
    random choice in it comes from self.generator(purpose, i).
    """

    reads_ahead: ClassVar[bool] = True

    def __init__(self, param: LayerParameter, context: Context) -> None:
        super().__init__(param, context)
        # context.seed is random_seed + rank: without the rank it is the same number in the states of all ranks.
        self._seed = secrets.randbits(62) if context.seed is None else (context.seed - context.rank) % (1 << 62)
        self._first = 0  # the batch at which this run began
        self._handed_out = 0
        self._part: Part | None = None
        self._ahead: Prefetcher | None = None
        self._permutations: dict[tuple[str, int, int], np.ndarray] = {}

    def make_batch(self, index: int) -> list[Tensor | None]:
        """The tops of batch `index` (0 is the first of a fresh run), on context.device."""
        raise NotImplementedError

    def next_batch(self) -> list[Tensor | None]:
        if self._ahead is None and self.reads_ahead:
            depth = max(1, self.param.data_param.prefetch)  # Caffe's ImageData and WindowData read this field too
            self._ahead = Prefetcher(self._make, self._handed_out, depth, self.context.device, self.context.emit)
        batch = self._ahead.take() if self._ahead else self._make(self._handed_out)
        self._handed_out += 1
        return batch

    def _make(self, number: int) -> list[Tensor | None]:
        return self.make_batch(self._index(number))

    def _index(self, number: int) -> int:
        """Of the batch that is handed out after `number` others."""
        return self._first + (self._part.index(number) if self._part else number)

    def where(self, item: int, count: int) -> str | None:
        batch = self.top_shapes()[0][0]
        if batch != count or not self._handed_out:
            return None
        return self.name_of(int(self.row_numbers(self._index(self._handed_out - 1), batch)[item]))

    def name_of(self, number: int) -> str | None:
        """How a person finds a record of that running number, None if nobody can say."""
        return None

    def divide(self, part: Part) -> None:
        """Hand out only this rank's batches of each test, for tests that all ranks share."""
        self._part = part

    @property
    def ranks(self) -> int:
        """Among how many the records are divided: in training all ranks, else everybody reads everything."""
        return self.context.world_size if self.is_training else 1

    def row_numbers(self, index: int, batch_size: int) -> np.ndarray:
        """Running numbers of the records of batch `index`: those k with k % ranks == rank, in order.

        k counts all records of all ranks from the start of the run, across the end of the data.
        """
        rank = self.context.rank if self.is_training else 0
        first = index * batch_size * self.ranks + rank
        return np.arange(first, first + batch_size * self.ranks, self.ranks)

    def check_records(self, count: int) -> None:
        """CaffeError where some rank would have no record of its own."""
        self.check(count >= self.ranks, f"{count} records for {self.ranks} processes: each needs one of its own")

    def generator(self, purpose: str, index: int, rank: int | None = None) -> np.random.Generator:
        """A random generator for one purpose and batch (or epoch) of this layer.

        Each rank has its own in training. A test gives the same result whoever runs it.
        """
        name = zlib.crc32(f"{self.name}/{purpose}".encode())
        own = self.context.rank if self.is_training else 0
        rank = own if rank is None else rank
        entropy = np.random.SeedSequence([self._seed, rank, name, index])
        return np.random.Generator(np.random.Philox(entropy))

    def permutation(self, purpose: str, index: int, size: int) -> np.ndarray:
        """A random order of 0..size-1 for one purpose and epoch, the same on all ranks; the last few are kept."""
        key = (purpose, index, size)
        if key not in self._permutations:
            while len(self._permutations) >= _PERMUTATIONS_KEPT:
                del self._permutations[next(iter(self._permutations))]
            self._permutations[key] = self.generator(purpose, index, rank=0).permutation(size)
        return self._permutations[key]

    def places(self, numbers: np.ndarray, size: int, shuffle: bool) -> np.ndarray:
        """Which of `size` records these running numbers are: over and over in order, or each time in a random one."""
        passes, places = np.divmod(numbers, size)
        for number in np.unique(passes) if shuffle else ():
            now = passes == number
            places[now] = self.permutation("shuffle", int(number), size)[places[now]]
        return places

    def state(self) -> dict[str, int]:
        passed = self._part.passed(self._handed_out) if self._part else self._handed_out
        return {"batches": self._first + passed, "seed": self._seed}

    def load_state(self, state: dict[str, int]) -> None:
        self.close()
        self._permutations.clear()
        self._first, self._handed_out, self._seed = int(state["batches"]), 0, int(state["seed"])

    def close(self) -> None:
        if self._ahead is not None:
            self._ahead.close()
            self._ahead = None


def to_device(array: np.ndarray | Tensor, device: torch.device) -> Tensor:
    """The array on the device, through pinned memory if that is a GPU. On the CPU it shares the array's memory."""
    tensor = torch.as_tensor(array)
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
