"""RNN, LSTM, LSTMUnit. A sequence may start at any step (cont), which ONNX's own LSTM cannot say: a Scan can.

Without expose_hidden Caffe carries the state from one forward to the next. Here it is an input LAYER.h_in that may be
left out (then the state is what the net carries now, else zeros) and an output LAYER.h_out to hand in again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, ValueInfoProto, helper

from pysolver.export.onnx.graph import Scope, emits
from pysolver.export.program import array_of
from pysolver.layers import recurrent as layers


def _from_input(g: Scope, layer: layers.Recurrent, bottoms: Sequence[str]) -> str:
    """What every step gets from outside, (T, N, outputs of the matrix)."""
    steps, streams, *rest = g.bottoms[0]
    x = g.reshape(bottoms[0], g.bottoms[0], (steps, streams, math.prod(rest)))
    y = g.node("Add", g.node("MatMul", x, _transposed(g, 0)), g.blob(1))
    if layer.has_static:
        static = g.reshape(bottoms[2], g.bottoms[2], (streams, math.prod(g.bottoms[2][1:])))
        y = g.node("Add", y, g.node("MatMul", static, _transposed(g, 2)))
    return y


def _transposed(g: Scope, index: int) -> str:
    return g.constant(g.values(index).T, hint=str(index))


def _scan(g: Scope, layer: layers.Recurrent, bottoms: Sequence[str], body: GraphProto) -> list[str]:
    """The last states and the output of every step. body: states, outside, cont -> states, output."""
    steps, streams = g.bottoms[0][:2]
    outside = _from_input(g, layer, bottoms)
    cont = g.node("Reshape", bottoms[1], g.indices([steps, -1, 1], "cont_shape"))
    state_shape, names = (1, streams, layer.outputs), ("h", "c")[: layer.states]
    if layer.exposed:
        first = list(bottoms[len(bottoms) - layer.exposed :])
    else:
        carried = layer.carried or [None] * layer.states
        arrays = [
            np.zeros(state_shape, np.float32) if part is None else array_of(part).reshape(state_shape).numpy()
            for part in carried
        ]
        first = [g.state(f"{name}_in", array) for name, array in zip(names, arrays, strict=True)]
    flat = [g.node("Reshape", state, g.indices([-1, layer.outputs], "state_shape")) for state in first]
    *last, y = g.nodes("Scan", layer.states + 1, *flat, outside, cont, body=body, num_scan_inputs=2)
    last = [g.node("Reshape", state, g.indices([1, -1, layer.outputs], "states_shape")) for state in last]
    if not layer.exposed:
        for name, state in zip(names, last, strict=True):
            g.also_output(f"{name}_out", state, state_shape)
    return [*last, y]


def _body(
    layer: layers.Recurrent, streams: int, gates: int, nodes: list[NodeProto], names: dict[str, str]
) -> GraphProto:
    """The graph of one step. names: each state's new value by the state's letter; `y` is the output."""
    at = f"{layer.name}/step/"

    def info(name: str, size: int) -> ValueInfoProto:
        return helper.make_tensor_value_info(at + name, TensorProto.FLOAT, (streams, size))

    states = [key for key in names if key != "y"]
    inputs = [info(key, layer.outputs) for key in states] + [info("outside", gates), info("cont", 1)]
    for node in nodes:
        for tensors in (node.input, node.output):
            tensors[:] = [at + name.removeprefix("~") if name.startswith("~") else name for name in tensors]
    outputs = [info(names[key], layer.outputs) for key in (*states, "y")]
    return helper.make_graph(nodes, f"{layer.name}/step", inputs, outputs)


@emits("RNN")
def rnn(g: Scope, layer: layers.RNN, *bottoms: str) -> tuple[str, ...]:
    count = len(layer.blobs)
    nodes = [
        helper.make_node("Mul", ["~cont", "~h"], ["~kept"]),
        helper.make_node("Gemm", ["~kept", g.blob(count - 3), "~outside"], ["~sum"], transB=1),
        helper.make_node("Tanh", ["~sum"], ["~h_next"]),
        helper.make_node("Identity", ["~h_next"], ["~y"]),
    ]
    body = _body(layer, g.bottoms[0][1], layer.outputs, nodes, {"h": "h_next", "y": "y"})
    state, hidden = _scan(g, layer, bottoms, body)
    y = g.node("Add", g.node("MatMul", hidden, _transposed(g, count - 2)), g.blob(count - 1))
    return (g.node("Tanh", y), *([state] if layer.exposed else []))


@emits("LSTM")
def lstm(g: Scope, layer: layers.LSTM, *bottoms: str) -> tuple[str, ...]:
    d = layer.outputs
    nodes = [
        helper.make_node("Mul", ["~cont", "~h"], ["~kept"]),
        helper.make_node("Gemm", ["~kept", g.blob(len(layer.blobs) - 1), "~outside"], ["~gates"], transB=1),
        *_cell(g, d, "~c", "~gates", "~cont", "~c_next", "~h_next"),
        helper.make_node("Identity", ["~h_next"], ["~y"]),
    ]
    body = _body(layer, g.bottoms[0][1], 4 * d, nodes, {"h": "h_next", "c": "c_next", "y": "y"})
    *states, y = _scan(g, layer, bottoms, body)
    return (y, *(states if layer.exposed else []))


def _cell(g: Scope, d: int, c: str, gates: str, cont: str, c_next: str, h_next: str) -> list[NodeProto]:
    """c' = cont sig(f) c + sig(i) tanh(g); h' = sig(o) tanh(c'). gates: i, f, o, g side by side on the last axis."""
    thirds, parts = g.indices([d] * 3, "gate_sizes"), g.indices([3 * d, d], "parts")
    return [
        helper.make_node("Split", [gates, parts], ["~ifo", "~g"], axis=-1),
        helper.make_node("Sigmoid", ["~ifo"], ["~sig_ifo"]),
        helper.make_node("Split", ["~sig_ifo", thirds], ["~i", "~f", "~o"], axis=-1),
        helper.make_node("Tanh", ["~g"], ["~tanh_g"]),
        helper.make_node("Mul", [cont, "~f"], ["~forget"]),
        helper.make_node("Mul", ["~forget", c], ["~old"]),
        helper.make_node("Mul", ["~i", "~tanh_g"], ["~new"]),
        helper.make_node("Add", ["~old", "~new"], [c_next]),
        helper.make_node("Tanh", [c_next], ["~tanh_c"]),
        helper.make_node("Mul", ["~o", "~tanh_c"], [h_next]),
    ]


@emits("LSTMUnit")
def lstm_unit(g: Scope, layer: layers.LSTMUnit, c: str, gates: str, cont: str) -> tuple[str, str]:
    cont = g.reshape(cont, g.bottoms[2], (*g.bottoms[2], 1))
    tensors = {"~c": c, "~gates": gates, "~cont": cont}
    for node in _cell(g, g.bottoms[0][2], "~c", "~gates", "~cont", "~c_next", "~h_next"):
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        made = g.nodes(node.op_type, len(node.output), *(tensors.get(n, n) for n in node.input), **attributes)
        tensors.update(zip(node.output, made, strict=True))
    return tensors["~c_next"], tensors["~h_next"]
