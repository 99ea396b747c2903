"""A graph in the making: ONNX nodes and constants, layer by layer.

To say how a layer type is written in ONNX, write a function in the file of its family:

    @emits("Power")
    def power(g: Scope, layer: Power, x: str) -> str:
        return g.node("Pow", g.node("Mul", x, g.constant(layer.scale)), g.constant(layer.power))

It gets the names of its bottoms and returns those of its tops. Nothing else is touched.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
import onnx
from onnx import NodeProto, helper

from pysolver.blob import Shape
from pysolver.errors import CaffeError
from pysolver.export.program import Step, array_of, unique
from pysolver.layers.base import Layer

Emitter = Callable[..., "str | tuple[str, ...]"]
_EMITTERS: dict[str, Emitter] = {}
_REFUSALS: dict[str, str] = {}
OLDEST, NEWEST = 13, 24  # opsets that this package knows how to write


def emits(*type_names: str) -> Callable[[Emitter], Emitter]:
    """Function decorator: this writes layers of these types. A second one for a type is an error."""

    def add(function: Emitter) -> Emitter:
        for name in type_names:
            if name in _EMITTERS:
                raise CaffeError(f"Layer type {name} has an ONNX form already.")
            _EMITTERS[name] = function
        return function

    return add


def refuse(type_name: str, why: str) -> None:
    """ONNX has no form for this type, for the reason given."""
    _REFUSALS[type_name] = why


def emitter(type_name: str) -> Emitter | None:
    """The function that writes this type, if there is one."""
    return _EMITTERS.get(type_name)


def why_not(type_name: str) -> str:
    """Why there is none."""
    return _REFUSALS.get(type_name, "nobody has written down its ONNX form yet")


@dataclass
class Graph:
    """What an ONNX model is made of. Constants stay arrays (of the net's own memory where they are its blobs)."""

    name: str
    opset: int
    inputs: dict[str, Shape] = field(default_factory=dict)
    outputs: list[str] = field(default_factory=list)
    nodes: list[NodeProto] = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    shapes: dict[str, Shape] = field(default_factory=dict)
    varying: dict[str, int] = field(default_factory=dict)  # tensors with an axis whose length the data decide
    layer_of: dict[str, str] = field(default_factory=dict)  # node or constant -> Caffe layer
    blob_constants: dict[tuple[int, Shape], str] = field(default_factory=dict)  # shared parameters are one constant


class Scope:
    """One layer's part of a graph."""

    def __init__(self, graph: Graph, step: Step) -> None:
        self.graph = graph
        self.layer: Layer = step.layer
        self.bottoms: list[Shape] = [value.shape for value in step.inputs]
        self.tops: list[Shape] = [value.shape for value in step.outputs]
        self.varying_axis: int | None = None
        self._own: list[NodeProto] = []
        self._tensors: set[str] = set()

    # ---- nodes ---------------------------------------------------------------------------------------------

    def node(self, op: str, *inputs: str, **attributes: Any) -> str:
        """A node of one output; the output's name."""
        return self.nodes(op, 1, *inputs, **attributes)[0]

    def nodes(self, op: str, count: int, *inputs: str, **attributes: Any) -> list[str]:
        """A node of `count` outputs; their names. Attributes that are None are left out."""
        taken = self._tensors | self.graph.shapes.keys() | self.graph.layer_of.keys()
        name = unique(f"{self.layer.name}/{op}", taken)
        outputs = [name if count == 1 else f"{name}.{i}" for i in range(count)]
        self._tensors.update([name, *outputs])
        attributes = {key: value for key, value in attributes.items() if value is not None}
        self._own.append(helper.make_node(op, inputs, outputs, name, **attributes))
        return outputs

    def constant(self, value: Any, dtype: Any = np.float32, hint: str = "const") -> str:
        """A constant tensor; its name, LAYER.hint. Equal small ones of a layer are one."""
        array = np.ascontiguousarray(value, dtype) if np.ndim(value) else np.asarray(value, dtype)
        base = f"{self.layer.name}.{hint}"
        for name in (base, *(f"{base}_{i}" for i in range(2, 100))):
            known = self.graph.constants.get(name)
            if known is None:
                self.graph.constants[name] = array
                self.graph.layer_of[name] = self.layer.name
                return name
            if known.dtype == array.dtype and known.shape == array.shape and known.size < 64 and (known == array).all():
                return name
        raise AssertionError(f"{self.layer.name} has a hundred constants")

    def indices(self, values: Sequence[int] | int, hint: str = "const") -> str:
        """A constant of int64."""
        return self.constant(values, np.int64, hint)

    def blob(self, index: int, shape: Shape | None = None) -> str:
        """The layer's parameter as an initialiser LAYER.index, in `shape` if it is given."""
        parameter = self.layer.blobs[index]
        shape = tuple(parameter.shape) if shape is None else shape
        key = (parameter.data_ptr(), shape)
        if key not in self.graph.blob_constants:
            name = unique(f"{self.layer.name}.{index}", self.graph.constants)
            self.graph.constants[name] = array_of(parameter).reshape(shape).numpy()
            self.graph.layer_of[name] = self.layer.name
            self.graph.blob_constants[key] = name
        return self.graph.blob_constants[key]

    def values(self, index: int) -> np.ndarray:
        """The layer's parameter as an array, to compute a constant from."""
        return array_of(self.layer.blobs[index]).numpy()

    # ---- operators whose form depends on the opset, or that every family uses --------------------------------

    def reshape(self, x: str, before: Shape, after: Shape) -> str:
        """x of shape `before` as `after`, said so that it holds for any first dimension where that is possible."""
        if before == after:
            return x
        dims = list(after)
        for i, (old, new) in enumerate(zip(before, after)):
            if old != new or new == 0:
                break
            dims[i] = 0  # ONNX: as in the input
        if dims and dims[0] and before and 0 not in after:
            dims[0] = -1
        return self.node("Reshape", x, self.indices(dims, "shape"))

    def reduce(self, op: str, x: str, axes: Sequence[int], keep: bool) -> str:
        """ReduceSum and its like: the axes are an input since opset 18, for ReduceSum since 13."""
        if op == "ReduceSum" or self.graph.opset >= 18:
            return self.node(op, x, self.indices(list(axes), "axes"), keepdims=int(keep))
        return self.node(op, x, axes=list(axes), keepdims=int(keep))

    def cut(self, x: str, starts: Sequence[int], ends: Sequence[int], axes: Sequence[int]) -> str:
        """x[..., start:end, ...] on the axes."""
        names = (self.indices(list(v), h) for v, h in ((starts, "starts"), (ends, "ends"), (axes, "axes")))
        return self.node("Slice", x, *names)

    def split(self, x: str, parts: Sequence[int], axis: int) -> list[str]:
        """x in parts of these sizes."""
        return self.nodes("Split", len(parts), x, self.indices(list(parts), "parts"), axis=axis)

    def pad(self, x: str, begins: Sequence[int], ends: Sequence[int], value: float = 0.0) -> str:
        """x with `value` around it."""
        pads = self.indices([*begins, *ends], "pads")
        return self.node("Pad", x, pads, self.constant(value, hint="padding"), mode="constant")

    def to_index(self, x: str) -> str:
        """Floats as int64, cut off towards zero."""
        return self.node("Cast", x, to=onnx.TensorProto.INT64)

    def to_float(self, x: str) -> str:
        return self.node("Cast", x, to=onnx.TensorProto.FLOAT)

    def varying(self, axis: int) -> None:
        """The data decide how long the tops are along this axis."""
        self.varying_axis = axis

    def cannot(self, why: str) -> NoReturn:
        """ONNX has no form for this layer."""
        self.layer.fail(f"cannot be written as ONNX: {why}")

    def state(self, name: str, first: np.ndarray) -> str:
        """An input LAYER.name that may be left out: then it is `first`."""
        full = f"{self.layer.name}.{name}"
        self.graph.inputs[full] = first.shape
        self.graph.constants[full] = first
        self.graph.layer_of[full] = self.layer.name
        return full

    def also_output(self, name: str, tensor: str, shape: Shape) -> None:
        """A further output LAYER.name of the model."""
        full = f"{self.layer.name}.{name}"
        self.rename(tensor, full)
        self.graph.shapes[full] = shape
        self.graph.outputs.append(full)

    # ---- the end -------------------------------------------------------------------------------------------

    def rename(self, old: str, new: str) -> bool:
        """Call a tensor that this layer computes otherwise; False if it is not this layer's."""
        if not any(old in node.output for node in self._own):
            return False
        for node in self._own:
            for names in (node.input, node.output):
                for i, name in enumerate(names):
                    if name == old:
                        names[i] = new
        return True

    def name_node(self, tensor: str, name: str) -> None:
        """The node that computes this tensor gets a name, unless another has it."""
        if name in self.graph.layer_of or any(node.name == name for node in self._own):
            return
        for node in self._own:
            if tensor in node.output:
                node.name = name

    def close(self) -> None:
        """Hand the nodes over."""
        self.graph.layer_of.update((node.name, self.layer.name) for node in self._own)
        self.graph.nodes.extend(self._own)
