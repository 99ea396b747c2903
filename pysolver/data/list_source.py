"""ListSource: a source of the files that a list names, a line a record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from pysolver.data.batch_source import BatchSource
from pysolver.errors import CaffeError
from pysolver.logs import notices


class ListSource(BatchSource):
    """The lines of a list in its order, or shuffled anew in each epoch, after a random number of them (rand_skip).

    In training, rank r of n takes the lines k with k % n == r; Caffe's ranks all read all of them.
    """

    list_field = "image_data_param"
    line_form: ClassVar[str] = "path label"  # what an error says that a line is
    lines: Sequence[Any]

    @property
    def list_param(self) -> Any:
        """The message of the LayerParameter with source, batch_size, shuffle, rand_skip, new_height and new_width."""
        return getattr(self.param, self.list_field)

    def read_list(self, path: str) -> Sequence[Any]:
        """What each line says. Raises CaffeError if there is no line, or a wrong one."""
        raise NotImplementedError

    def check_list(self) -> None:
        """Errors that need no file."""
        p = self.list_param
        self.check(
            bool(p.source), f"{self.list_field}.source is missing: a file with a line `{self.line_form}` for each"
        )
        self.check(p.batch_size > 0, f"batch_size must be positive, not {p.batch_size}")
        self.check(
            (p.new_height > 0) == (p.new_width > 0),
            f"new_height and new_width must be set at the same time, not {p.new_height} and {p.new_width}",
        )

    def open_list(self) -> None:
        """Read the list, with Caffe's log lines. CaffeError if it has too few lines for the ranks, or to skip some."""
        p, emit = self.list_param, self.context.emit
        emit(notices.OpeningImageList(p.source))
        self.lines = self.read_list(p.source)
        if p.shuffle:
            emit(notices.ShufflingImages())
        emit(notices.ListedImages(len(self.lines)))
        self.records = len(self.lines)
        self.check_records(self.records)
        if p.rand_skip:
            emit(notices.SkippingImages(self._skipped()))
            if self._skipped() >= len(self.lines):
                raise CaffeError(f"Not enough points to skip: rand_skip is {p.rand_skip}")

    def line_numbers(self, index: int) -> np.ndarray:
        """The lines of batch `index`."""
        return self._lines_of(self.row_numbers(index, self.list_param.batch_size))

    @property
    def first_line(self) -> int:
        """Where a run of one process begins: Caffe takes the shapes from it."""
        return int(self._lines_of(np.array([0]))[0])

    def name_of(self, number: int) -> str:
        line = int(self._lines_of(np.array([number]))[0])
        return f"{self.list_param.source}:{line + 1}: {self.lines[line][0]}"

    def _lines_of(self, numbers: np.ndarray) -> np.ndarray:
        return self.places(numbers + self._skipped(), len(self.lines), self.list_param.shuffle)

    def _skipped(self) -> int:
        """Drawn anew each time, since a resumed run has the seed of the run before."""
        rand_skip = self.list_param.rand_skip
        return int(self.generator("skip", 0, rank=0).integers(rand_skip)) if rand_skip else 0
