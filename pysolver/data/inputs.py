"""Input and DummyData: blobs that are fed by hand, or filled (src/caffe/layers/{input,dummy_data}_layer.cpp)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

from pysolver.blob import Shape
from pysolver.data.batch_source import BatchSource
from pysolver.data.source import Source, at_least, register
from pysolver.layers.fillers import fill
from pysolver.proto import caffe_pb2


@register("Input")
class Input(Source):
    """Tops that keep what they are given."""

    tops = at_least(1)

    def set_up(self) -> None:
        shapes, tops = len(self.param.input_param.shape), len(self.param.top)
        self.check(
            shapes in (0, 1, tops),
            f"Must specify 'shape' once, once per top blob ({tops}), or not at all: {shapes} vs. {tops}.",
        )

    def top_shapes(self) -> list[Shape]:
        return _once_per_top([tuple(shape.dim) for shape in self.param.input_param.shape] or [()], self.param)

    def next_batch(self) -> list[None]:
        return [None] * len(self.param.top)


@register("DummyData")
class DummyData(BatchSource):
    """Tops from fillers: a constant is filled in once and then left alone, anything else anew for every batch."""

    tops = at_least(1)
    reads_ahead = False

    def set_up(self) -> None:
        param, tops = self.param.dummy_data_param, len(self.param.top)
        fillers = len(param.data_filler)
        self.check(
            fillers in (0, 1, tops),
            f"Number of data fillers must be 0, 1 or equal to the number of tops: {tops}; you specified {fillers}",
        )
        legacy = [len(values) for values in (param.num, param.channels, param.height, param.width)]
        if any(legacy):
            self.check(not param.shape, "give either shape or num, channels, height and width, not both")
            self.check(
                all(count in (1, tops) for count in legacy),
                f"Must specify 'num', 'channels', 'height' and 'width' once each, or once per top blob ({tops})",
            )
        else:
            self.check(
                len(param.shape) in (1, tops),
                f"Must specify 'shape' once, or once per top blob ({tops}), not {len(param.shape)} times",
            )
        default = [caffe_pb2.FillerParameter(type="constant", value=0)]
        self._fillers = _once_per_top(list(param.data_filler) or default, self.param)

    def top_shapes(self) -> list[Shape]:
        param = self.param.dummy_data_param
        if param.shape:
            return _once_per_top([tuple(shape.dim) for shape in param.shape], self.param)
        axes = (param.num, param.channels, param.height, param.width)
        return list(zip(*(_once_per_top(list(values), self.param) for values in axes), strict=True))

    def initial_tops(self) -> list[Tensor]:
        with self._random_numbers("set-up", 0):
            return [self._filled(*top) for top in zip(self.top_shapes(), self._fillers, strict=True)]

    def make_batch(self, index: int) -> list[Tensor | None]:
        tops = zip(self.top_shapes(), self._fillers, strict=True)
        with self._random_numbers("batch", index):
            return [None if filler.type == "constant" else self._filled(shape, filler) for shape, filler in tops]

    def _filled(self, shape: Shape, filler: caffe_pb2.FillerParameter) -> Tensor:
        blob = torch.empty(shape, device=self.context.device)
        with self.about():
            fill(blob, filler)
        return blob

    @contextlib.contextmanager
    def _random_numbers(self, purpose: str, index: int) -> Iterator[None]:
        """Fillers draw from torch's own generator: seed it for this batch, and leave it as it was."""
        device = self.context.device
        seed = int(self.generator(purpose, index).integers(1 << 62))
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            if device.type == "cuda":
                with torch.cuda.device(device):
                    torch.cuda.manual_seed(seed)
            else:
                torch.default_generator.manual_seed(seed)
            yield


def _once_per_top(values: list, param: caffe_pb2.LayerParameter) -> list:
    return values * len(param.top) if len(values) == 1 else values
