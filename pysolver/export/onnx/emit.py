"""A program as an ONNX graph, for one batch size or for any."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from onnx import helper

import pysolver.export.onnx  # noqa: F401  registers the layer types
from pysolver.blob import Shape
from pysolver.errors import CaffeError
from pysolver.export.onnx.graph import Graph, Scope, emitter, why_not
from pysolver.export.program import Program, Step, array_of


def emit(program: Program, opset: int) -> Graph:
    """The graph of a program. Errors: a layer without an ONNX form, with the layer's name and the reason."""
    graph = Graph(program.name or "net", opset)
    graph.shapes = {value.name: value.shape for value in program.values()}
    graph.inputs = {value.name: value.shape for value in program.inputs}
    tensors = {value: value.name for value in program.inputs}
    for value in program.constants:
        tensors[value] = value.name
        graph.constants[value.name] = array_of(value.constant).numpy()
        graph.layer_of[value.name] = value.producer
    for step in program.steps:
        made = _emit_layer(graph, step, [tensors[value] for value in step.inputs])
        tensors.update(zip(step.outputs, made, strict=True))
    for value in program.outputs:
        if tensors[value] != value.name or value.name in graph.constants:  # another blob's tensor, or a constant
            graph.nodes.append(helper.make_node("Identity", [tensors[value]], [value.name], f"{value.name}/Identity"))
    graph.outputs = [*dict.fromkeys(value.name for value in program.outputs), *graph.outputs]
    return graph


def _emit_layer(graph: Graph, step: Step, inputs: list[str]) -> tuple[str, ...]:
    """Write one layer; the tensors that are its tops."""
    write = emitter(step.layer.type_name)
    if write is None:
        step.layer.fail(f"cannot be written as ONNX: {why_not(step.layer.type_name)}")
    scope = Scope(graph, step)
    tops = write(scope, step.layer, *inputs)
    named = []
    for i, (tensor, value) in enumerate(zip(tops if isinstance(tops, tuple) else (tops,), step.outputs, strict=True)):
        if scope.rename(tensor, value.name):
            scope.name_node(value.name, step.layer.name if i == 0 else f"{step.layer.name}/{i}")
            tensor = value.name
        named.append(tensor)
    scope.close()
    axis = scope.varying_axis
    for name in inputs if axis is None else []:
        axis = graph.varying.get(name, axis)
    if axis is not None:
        graph.varying.update(dict.fromkeys(named, axis))
    return tuple(named)


def dims(graph: Graph, shapes: Mapping[str, Sequence[int | str]] | None = None) -> dict[str, list[int | str]]:
    """The dimensions of all blobs' tensors: the graph's own, or `shapes`; `?` where the data decide."""
    found = {name: list(shape) for name, shape in (shapes or graph.shapes).items()}
    for name, axis in graph.varying.items():
        if name in found and axis < len(found[name]):
            found[name][axis] = "?"
    return found


def generalise(graph: Graph, other: Graph, batch: int, other_batch: int) -> dict[str, tuple[int | str, ...]]:
    """The shapes of a graph that holds for any batch, from two graphs of the same net for two batch sizes.

    Errors: a node or a constant that differs between them, with the layer's name.
    """
    for mine, theirs in zip(graph.nodes, other.nodes):
        if mine != theirs:
            _refuse_batch(graph.layer_of.get(mine.name, mine.name))
    if len(graph.nodes) != len(other.nodes) or graph.constants.keys() != other.constants.keys():
        raise CaffeError(f"net '{graph.name}': its graph depends on the batch: --batch dynamic is not possible")
    for name, array in graph.constants.items():
        if not _equal(array, other.constants[name]):
            _refuse_batch(graph.layer_of.get(name, name))
    return {name: _general(shape, other.shapes[name], batch, other_batch) for name, shape in graph.shapes.items()}


def _refuse_batch(layer: str) -> None:
    raise CaffeError(f"layer '{layer}': depends on the batch size: --batch dynamic is not possible, give a number")


def _equal(a: np.ndarray, b: np.ndarray) -> bool:
    is_same_memory = a.__array_interface__["data"] == b.__array_interface__["data"]
    return a.shape == b.shape and (is_same_memory or np.array_equal(a, b))


def _general(shape: Shape, other: Shape, batch: int, other_batch: int) -> tuple[int | str, ...]:
    """`N` where the dimension is the batch, `kN` where it is k times as long, `?` where it changes otherwise."""
    dims: list[int | str] = []
    for mine, theirs in zip(shape, other, strict=True):
        factor = mine // batch
        if mine == theirs:
            dims.append(mine)
        elif factor * batch == mine and factor * other_batch == theirs:
            dims.append("N" if factor == 1 else f"{factor}N")
        else:
            dims.append("?")
    return tuple(dims)
