"""How a test makes a layer: from a piece of prototxt and the shapes of its bottoms."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import pysolver.layers  # noqa: F401  registers the layers
from pysolver.component import create
from pysolver.context import Context
from pysolver.layers.base import Layer
from pysolver.proto import caffe_pb2
from pysolver.proto.text import parse_text

Make = Callable[..., Layer]


@pytest.fixture
def make() -> Make:
    """make('type: "ReLU"', (2, 3), tops=1, phase="TRAIN"): a layer that is set up, its bottoms and tops counted."""

    def make(text: str, *shapes: tuple[int, ...], tops: int = 1, phase: str = "TRAIN", **context) -> Layer:
        param = parse_text(f'name: "layer" phase: {phase} {text}', caffe_pb2.LayerParameter)
        param.bottom.extend(f"b{i}" for i in range(len(shapes)))
        param.top.extend(f"t{i}" for i in range(tops))
        layer = create(param, Context(**context))
        layer.bottoms.check(len(shapes), layer.type_name, "takes", "bottom")
        layer.tops.check(tops, layer.type_name, "produces", "top")
        layer.set_up(*shapes)
        layer.top_shapes(*shapes)
        return layer

    return make


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(1)
