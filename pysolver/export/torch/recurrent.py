"""RNN, LSTM, LSTMUnit."""

from __future__ import annotations

import math

from pysolver.export.torch import pieces
from pysolver.export.torch.source import Writer, writes
from pysolver.layers import recurrent as layers


def _call(w: Writer, layer: layers.Recurrent, cls: type, tensors: list[str], bottoms: tuple[str, ...]) -> str:
    """The module and its call: (y, states...). tensors: the module's, in the order of the blobs."""
    sizes = [math.prod(w.bottoms[0][2:]), layer.outputs]
    if layer.has_static:
        sizes.append(math.prod(w.bottoms[2][1:]))
    tensors = [name for name in tensors if layer.has_static or name != "from_static.weight"]
    bindings = [(name, layer, i) for i, name in enumerate(tensors)]
    module = w.module(f"{w.piece(cls)}({', '.join(map(str, sizes))})", *bindings)
    arguments = [*bottoms[:2], bottoms[2] if layer.has_static else "None"]
    if layer.exposed:
        states = [f"{state}[0]" for state in bottoms[len(bottoms) - layer.exposed :]]
        arguments.append(states[0] if len(states) == 1 else f"({', '.join(states)})")
    while arguments[-1] == "None":
        arguments.pop()
    return f"{module}({', '.join(arguments)})"


def _tops(layer: layers.Recurrent, call: str) -> str:
    if layer.exposed:
        return f"(part if part.dim() == 3 else part.unsqueeze(0) for part in {call})"
    return f"{call}[0]"


@writes("LSTM")
def lstm(w: Writer, layer: layers.LSTM, *bottoms: str) -> str:
    tensors = ["from_input.weight", "from_input.bias", "from_static.weight", "from_hidden.weight"]
    return _tops(layer, _call(w, layer, pieces.LSTM, tensors, bottoms))


@writes("RNN")
def rnn(w: Writer, layer: layers.RNN, *bottoms: str) -> str:
    tensors = ["from_input.weight", "from_input.bias", "from_static.weight", "from_hidden.weight"]
    return _tops(layer, _call(w, layer, pieces.RNN, [*tensors, "output.weight", "output.bias"], bottoms))


@writes("LSTMUnit")
def lstm_unit(w: Writer, layer: layers.LSTMUnit, c: str, gates: str, cont: str) -> str:
    w.source.pieces[pieces.lstm_unit.__name__] = pieces.lstm_unit
    return f"lstm_unit({c}, {gates}, {cont})"
