"""ONNX models: a graph with its metadata as a ModelProto, and as files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import onnx
from onnx import helper

from pysolver.errors import CaffeError
from pysolver.export.onnx.graph import Graph
from pysolver.files import write_atomic, write_together

Dims = Sequence["int | str"]
LARGEST = 2_000_000_000  # bytes in one file: protobuf takes no more than 2^31
_IN_THE_FILE = 1024  # smaller constants stay in the model when the weights are beside it


def assemble(graph: Graph, shapes: Mapping[str, Dims], metadata: Mapping[str, str]) -> onnx.ModelProto:
    """The model of a graph. shapes: of all blobs' tensors; a text is a dimension's name, `?` one that nobody knows."""
    inputs = [_info(name, shapes.get(name, shape)) for name, shape in graph.inputs.items()]
    outputs = [_info(name, shapes[name]) for name in graph.outputs]
    written = {name for node in graph.nodes for name in node.output}
    inner = [_info(n, dims) for n, dims in shapes.items() if n in written and n not in graph.outputs]
    model = onnx.ModelProto(producer_name="pysolver", producer_version=_version())
    model.opset_import.append(helper.make_opsetid("", graph.opset))
    model.ir_version = helper.find_min_ir_version_for(list(model.opset_import))
    model.graph.MergeFrom(helper.make_graph(graph.nodes, graph.name, inputs, outputs, value_info=inner))
    for name, array in graph.constants.items():  # written in its place: a large net's weights are copied once
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        model.graph.initializer.add(name=name, data_type=kind, dims=array.shape).raw_data = array.tobytes()
    helper.set_model_props(model, dict(metadata))
    return model


def _info(name: str, dims: Dims) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [None if dim == "?" else dim for dim in dims])


def _version() -> str:
    try:
        return version("pysolver")
    except PackageNotFoundError:
        return "not installed"


def verify(model: onnx.ModelProto) -> None:
    """onnx's own checker and shape inference. Weights may be too large for one message: here they are inputs."""
    light, inputs = _frame(model), {info.name for info in model.graph.input}
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) < _IN_THE_FILE:
            light.graph.initializer.append(tensor)
        elif tensor.name not in inputs:
            light.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    try:
        onnx.checker.check_model(light, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise CaffeError(f"net '{model.graph.name}': onnx refuses the model: {error}") from error


def described(infos: Iterable[onnx.ValueInfoProto]) -> dict[str, list[int | str]]:
    """Names and dimensions of inputs or outputs; `?` where the data decide."""
    return {info.name: [d.dim_param or d.dim_value or "?" for d in info.type.tensor_type.shape.dim] for info in infos}


def save(model: onnx.ModelProto, path: str | Path, largest: int = LARGEST) -> list[Path]:
    """Write a model; the files written. Above `largest` bytes of weights these go to PATH.data, as external data.

    What is written is written whole, all of it or nothing.
    """
    path = Path(path)
    total = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    if total <= largest:
        write_atomic(path, model.SerializeToString())
        return [path]
    weights = path.with_name(path.name + ".data")
    light, pieces, offset = _frame(model), [], 0
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) < _IN_THE_FILE:
            light.graph.initializer.append(tensor)
            continue
        entry = light.graph.initializer.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        _set_place(entry, weights.name, offset, len(tensor.raw_data))
        pieces.append(tensor.raw_data)
        offset += len(tensor.raw_data)
    write_together({weights: b"".join(pieces), path: light.SerializeToString()})
    return [path, weights]


def _frame(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without its constants."""
    frame = onnx.ModelProto()
    for field, value in model.ListFields():
        if field.name != "graph":
            frame.MergeFrom(onnx.ModelProto(**{field.name: value}))
    for field, value in model.graph.ListFields():
        if field.name != "initializer":
            frame.graph.MergeFrom(onnx.GraphProto(**{field.name: value}))
    return frame


def _set_place(tensor: onnx.TensorProto, location: str, offset: int, length: int) -> None:
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))
