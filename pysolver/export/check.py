"""--check: what was exported beside pysolver: a model in ONNX Runtime, a module in PyTorch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from pysolver.export.module import TorchForm
from pysolver.export.preprocess import Preprocessing
from pysolver.export.program import Program, Value, program_of
from pysolver.export.reference import compute
from pysolver.extras import require
from pysolver.net.net import Net

TOLERANCE = 1e-4  # of the largest number of an output: single precision through a hundred layers

Arrays = dict[str, np.ndarray]


class Difference(NamedTuple):
    """How far one output of the model is from pysolver's."""

    data: str  # on what
    output: str
    largest: float  # difference; infinite for other shapes
    scale: float  # the largest number of the output

    @property
    def is_small(self) -> bool:
        return self.largest <= TOLERANCE * self.scale


def differences(
    net: Net, path: str | Path, batch: int | None = None, preprocessing: Preprocessing | None = None
) -> Iterator[Difference]:
    """Run the model file and the net on random input, and on a batch of the net's own data layer if it has one."""
    runtime = require("onnxruntime")
    session = runtime.InferenceSession(str(path), _quiet(runtime), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    program = program_of(net, batch)
    for data, inputs in _inputs(net, program, preprocessing):
        fed = dict(inputs)
        if preprocessing is not None:
            fed[preprocessing.blob] = preprocessing.undo(fed[preprocessing.blob])
        found = dict(zip(names, session.run(None, fed), strict=True))
        yield from _compare(data, found, compute(program, inputs))


def differences_of_module(form: TorchForm, tensors: str | Path) -> Iterator[Difference]:
    """Run the PyTorch module with the tensors of a safetensors file, and the net, on random input."""
    module = form.build()
    module.load_state_dict(require("safetensors.torch").load_file(str(tensors)))
    inputs = random_inputs(form.program)
    with torch.no_grad():
        found = module(*(torch.from_numpy(inputs[value.name]) for value in form.program.inputs))
    found = found if isinstance(found, tuple) else (found,)
    tops = {value.name: top.numpy() for value, top in zip(form.program.outputs, found, strict=True)}
    yield from _compare("random input", tops, compute(form.program, inputs))


def _compare(data: str, found: Arrays, expected: Arrays) -> Iterator[Difference]:
    for name, right in expected.items():
        scale = np.abs(right[np.isfinite(right)]).max(initial=0)
        yield Difference(data, name, _largest(found[name], right), float(scale))


def _largest(found: np.ndarray, right: np.ndarray) -> float:
    """The largest difference; none where both are the same infinity or no number."""
    if found.shape != right.shape:
        return np.inf
    differs = (found != right) & ~(np.isnan(found) & np.isnan(right))
    largest = float(np.abs(found[differs] - right[differs]).max(initial=0))
    return np.inf if np.isnan(largest) else largest


def _quiet(runtime: Any) -> Any:
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    return options


def _inputs(net: Net, program: Program, preprocessing: Preprocessing | None) -> Iterator[tuple[str, Arrays]]:
    inputs = random_inputs(program)
    if preprocessing is not None:
        blob = preprocessing.blob
        pictures = np.random.default_rng(0).integers(0, 256, inputs[blob].shape).astype(np.float32)
        inputs[blob] = preprocessing.apply(pictures)
    yield "random input", inputs
    own = {
        name: batch.cpu().numpy()
        for source in net.sources.values()
        for name, batch in zip(source.param.top, source.next_batch())
        if batch is not None
    }
    if all(value.name in own and own[value.name].shape == value.shape for value in program.inputs):
        yield "its own data", {value.name: own[value.name] for value in program.inputs}


def random_inputs(program: Program) -> Arrays:
    """Random numbers for the inputs, always the same: normal ones, or indices where a layer takes such."""
    generator = np.random.default_rng(0)
    return {value.name: _random(program, value, generator) for value in program.inputs}


def _random(program: Program, value: Value, generator: np.random.Generator) -> np.ndarray:
    """Numbers of the kind that the input's first reader takes."""
    for step in program.steps:
        for position, read in enumerate(step.inputs):
            if read is value:
                return _of_kind(step.layer, position, value.shape, step.inputs, generator)
    return generator.standard_normal(value.shape).astype(np.float32)


def _of_kind(layer, position: int, shape: tuple, inputs: list[Value], generator: np.random.Generator) -> np.ndarray:
    kind = layer.type_name
    if kind == "Embed":
        return generator.integers(0, layer.param.embed_param.input_dim, shape).astype(np.float32)
    if (kind in ("RNN", "LSTM") and position == 1) or (kind == "LSTMUnit" and position == 2):
        return generator.integers(0, 2, shape).astype(np.float32)
    if kind == "BatchReindex" and position == 1:
        return generator.integers(0, inputs[0].shape[0], shape).astype(np.float32)
    if kind == "Filter" and position == len(inputs) - 1:
        return generator.integers(0, 2, shape).astype(np.float32)
    if kind == "Proposal" and position == 2:  # an image as large as the map, not scaled
        height, width = inputs[0].shape[2:]
        sizes = np.array([height * layer.stride, width * layer.stride, *[1] * (math.prod(shape) - 2)])
        return sizes.astype(np.float32).reshape(shape)
    if kind in ("ROIPooling", "PSROIPooling") and position == 1:
        images, _, height, width = inputs[0].shape
        limits = np.array([images, width, height, width, height])
        boxes = (generator.random((shape[0], 5)) * limits).astype(np.int64)
        boxes[:, 3:] = np.maximum(boxes[:, 1:3], boxes[:, 3:])
        return (boxes * np.array([1, *[1 / layer.scale] * 4])).astype(np.float32).reshape(shape)
    return generator.standard_normal(shape).astype(np.float32)
