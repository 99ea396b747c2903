"""--fold: what is constant is computed, what is linear becomes part of the convolution before it, Dropout goes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from onnx import NodeProto, helper
from onnx.reference import ReferenceEvaluator

from pysolver.export.onnx.graph import Graph
from pysolver.export.program import unique

_LINEAR = ("Conv", "ConvTranspose", "Gemm", "BatchNormalization")


class _Affine(NamedTuple):
    """factor * x + shift for each channel, or for all (arrays of one number)."""

    factor: np.ndarray
    shift: np.ndarray


def fold(graph: Graph) -> None:
    """Rewrite the graph in place. Outputs keep their names; a folded node keeps that of its first layer."""
    _remove(graph, "Dropout", "Identity")
    _compute_constants(graph)
    for node in list(graph.nodes):
        while node in graph.nodes and node.op_type in _LINEAR and _fold_next(graph, node):
            pass
    used = {name for node in graph.nodes for name in _reads(node)}
    for name in [name for name in graph.constants if name not in used and name not in graph.inputs]:
        del graph.constants[name]


def _reads(node: NodeProto) -> list[str]:
    """What a node and its subgraphs read."""
    inner = [name for a in node.attribute if a.HasField("g") for part in a.g.node for name in _reads(part)]
    return [*node.input, *inner]


def _readers(graph: Graph, tensor: str) -> list[NodeProto]:
    return [node for node in graph.nodes if tensor in _reads(node)]


def _remove(graph: Graph, *ops: str) -> None:
    """Take nodes out that hand their first input on."""
    for node in [node for node in graph.nodes if node.op_type in ops]:
        source, target = node.input[0], node.output[0]
        if target in graph.outputs:
            if source in graph.inputs or source in graph.outputs or source in graph.constants:
                continue
            source, target = target, source
        graph.nodes.remove(node)
        for other in graph.nodes:
            for names in (other.input, other.output):
                names[:] = [source if name == target else name for name in names]


def _compute_constants(graph: Graph) -> None:
    """Run the nodes that read constants only."""
    for node in list(graph.nodes):
        known = all(name in graph.constants and name not in graph.inputs for name in node.input if name)
        if not known or not node.input or node.op_type == "Scan" or any(name in graph.outputs for name in node.output):
            continue
        run = ReferenceEvaluator(node, opsets={"": graph.opset}).run
        values = run(None, {name: graph.constants[name] for name in node.input if name})
        for name, value in zip(node.output, values, strict=True):
            graph.constants[name] = np.asarray(value)
            graph.layer_of[name] = graph.layer_of.get(node.name, node.name)
        graph.nodes.remove(node)


def _fold_next(graph: Graph, node: NodeProto) -> bool:
    """Make the one reader of this node part of it, if it is linear too."""
    tensor = node.output[0]
    readers = _readers(graph, tensor)
    if len(readers) != 1 or tensor in graph.outputs or any(name not in graph.constants for name in node.input[1:]):
        return False
    following = _affine_of(graph, readers[0], tensor, len(graph.shapes.get(tensor, ())) or _rank(graph, node))
    if following is None:
        return False
    {"BatchNormalization": _into_norm}.get(node.op_type, _into_weights)(graph, node, following)
    node.output[0] = readers[0].output[0]
    graph.nodes.remove(readers[0])
    return True


def _rank(graph: Graph, node: NodeProto) -> int:
    """Axes of the node's output."""
    if node.op_type == "BatchNormalization":
        return len(graph.shapes.get(node.input[0], ())) or 0
    return graph.constants[node.input[1]].ndim


def _affine_of(graph: Graph, node: NodeProto, tensor: str, rank: int) -> _Affine | None:
    """What the node does to each channel (axis 1) of the tensor, if it is that simple."""
    if node.op_type == "BatchNormalization" and node.input[0] == tensor:
        scale, shift, mean, variance = (graph.constants[name].astype(np.float64) for name in node.input[1:])
        factor = scale / np.sqrt(variance + _attribute(node, "epsilon", 1e-5))
        return _Affine(factor, shift - mean * factor)
    if node.op_type not in ("Mul", "Add") or len(node.input) != 2:
        return None
    (other,) = [name for name in node.input if name != tensor] or [tensor]
    operand = graph.constants.get(other)
    if operand is None or other in graph.inputs or not _is_per_channel(operand, rank):
        return None
    operand = operand.astype(np.float64).reshape(-1)
    return _Affine(operand, np.zeros(1)) if node.op_type == "Mul" else _Affine(np.ones(1), operand)


def _is_per_channel(operand: np.ndarray, rank: int) -> bool:
    """One number, or one for each place on axis 1 of `rank` axes."""
    aligned = (1,) * (rank - operand.ndim) + operand.shape
    return operand.size == 1 or (len(aligned) == rank >= 2 and operand.size == aligned[1])


def _attribute(node: NodeProto, name: str, default: float) -> float:
    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def _into_norm(graph: Graph, node: NodeProto, after: _Affine) -> None:
    scale, shift = (graph.constants[name].astype(np.float64) for name in node.input[1:3])
    _replace(graph, node, 1, scale * after.factor)
    _replace(graph, node, 2, shift * after.factor + after.shift)


def _into_weights(graph: Graph, node: NodeProto, after: _Affine) -> None:
    weight = graph.constants[node.input[1]].astype(np.float64)
    group = int(_attribute(node, "group", 1))
    if node.op_type == "ConvTranspose":  # (C, O / group, kernel...)
        outputs = weight.shape[1] * group
        parts = weight.reshape(group, -1, *weight.shape[1:])
        factor = np.broadcast_to(after.factor, outputs).reshape(group, 1, -1, *[1] * (weight.ndim - 2))
        weight = (parts * factor).reshape(weight.shape)
    elif node.op_type == "Gemm" and not _attribute(node, "transB", 0):  # (K, O)
        outputs = weight.shape[1]
        weight = weight * np.broadcast_to(after.factor, outputs)
    else:
        outputs = weight.shape[0]
        weight = weight * np.broadcast_to(after.factor, outputs).reshape(-1, *[1] * (weight.ndim - 1))
    bias = graph.constants[node.input[2]].astype(np.float64) if len(node.input) > 2 else np.zeros(outputs)
    _replace(graph, node, 1, weight)
    _replace(graph, node, 2, np.broadcast_to(bias * after.factor + after.shift, outputs))


def _replace(graph: Graph, node: NodeProto, index: int, array: np.ndarray) -> None:
    """A new constant for an input; under the old name if nobody else reads that."""
    base = node.input[index] if index < len(node.input) else f"{node.name}.1"
    name = base if len(_readers(graph, base)) <= 1 and index < len(node.input) else unique(base, graph.constants)
    graph.constants[name] = np.ascontiguousarray(array, np.float32)
    graph.layer_of[name] = node.name
    node.input[index : index + 1] = [name]
