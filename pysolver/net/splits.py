"""Split layers, as Caffe inserts them where a blob is used more than once.

Autograd needs none of them. They are here because they show: in layer names, in net.blobs, in the log
and in caffemodels (src/caffe/util/insert_splits.cpp).
"""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Callable, Sequence

from pysolver.errors import CaffeError
from pysolver.logs import notices
from pysolver.logs.events import Emit
from pysolver.logs.writer import to_stderr
from pysolver.proto import caffe_pb2
from pysolver.proto.caffe_pb2 import LayerParameter, NetParameter

TopIndex = tuple[int, int]  # (layer, position of the top)


def insert_splits(param: NetParameter, is_loss: Callable[[str], bool], emit: Emit = to_stderr) -> NetParameter:
    """A copy of `param` in which every blob has one reader. is_loss: whether a layer type is a loss layer.

    Two departures from Caffe, each where Caffe silently computes a wrong gradient: a loss that is also read
    keeps its default weight 1, and splitting one top leaves the loss weights of the others alone.
    """
    producer, readers = _trace(param)
    consumed = {top for tops in producer.values() for top in tops}
    weights = _loss_weights(param, consumed, is_loss, emit)
    uses = {
        top: readers[top] + (1 if weights.get(top) else 0)
        for i, layer in enumerate(param.layer)
        for top in ((i, j) for j in range(len(layer.top)))
    }

    split = caffe_pb2.NetParameter()
    split.CopyFrom(param)
    del split.layer[:]
    taken: dict[TopIndex, int] = defaultdict(int)
    for i, original in enumerate(param.layer):
        layer = split.layer.add()
        layer.CopyFrom(original)
        for j, blob in enumerate(original.bottom):
            top = producer[i][j]
            if uses[top] > 1:
                layer.bottom[j] = _split_blob(param.layer[top[0]].name, blob, top[1], taken[top])
                taken[top] += 1
        for j, blob in enumerate(original.top):
            top = (i, j)
            if uses[top] > 1:
                weight = weights.get(top, 0.0)
                split.layer.append(_split_layer(original.name, blob, j, uses[top], weight))
                if weight:
                    if not layer.loss_weight:  # the default weight of a loss layer
                        layer.loss_weight.extend([1.0] + [0.0] * (len(layer.top) - 1))
                    layer.loss_weight[j] = 0.0
                    taken[top] += 1
    return split


def _trace(param: NetParameter) -> tuple[dict[int, list[TopIndex]], dict[TopIndex, int]]:
    """For each layer the tops that its bottoms come from, and for each top how many bottoms read it."""
    latest: dict[str, TopIndex] = {}
    producer: dict[int, list[TopIndex]] = {}
    readers: dict[TopIndex, int] = defaultdict(int)
    for i, layer in enumerate(param.layer):
        producer[i] = []
        for j, blob in enumerate(layer.bottom):
            if blob not in latest:
                hint = _meant(blob, list(latest), param.layer[i + 1 :], caffe_pb2.Phase.Name(param.state.phase))
                said = f"Unknown bottom blob '{blob}' (layer '{layer.name}', bottom index {j}){hint}"
                raise CaffeError(said, layer.name)
            producer[i].append(latest[blob])
            readers[latest[blob]] += 1
        latest.update((blob, (i, j)) for j, blob in enumerate(layer.top))
    return producer, readers


def _meant(name: str, made: list[str], later: Sequence[LayerParameter], phase: str) -> str:
    """What an unknown bottom may be: a blob that comes later, or the nearest names, made and not yet made."""
    maker = next((layer.name for layer in later if name in layer.top), None)
    if maker is not None:
        return f": layer '{maker}' makes it, but stands further down"
    ahead = [top for layer in later for top in layer.top if top not in made]
    near = [repr(top) for top in difflib.get_close_matches(name, made, 2)]
    near += [f"'{top}', which a layer further down makes" for top in difflib.get_close_matches(name, ahead, 1)]
    if near:
        return f"; did you mean {' or '.join(near)}?"
    there = ", ".join(made[-20:]) or "none before it; layers whose include names another phase are left out"
    return f": no layer of the {phase} net makes it (there are: {there})"


def _loss_weights(
    param: NetParameter, consumed: set[TopIndex], is_loss: Callable[[str], bool], emit: Emit
) -> dict[TopIndex, float]:
    weights: dict[TopIndex, float] = {}
    for i, layer in enumerate(param.layer):
        for j, weight in enumerate(layer.loss_weight[: len(layer.top)]):
            weights[i, j] = weight
        if not layer.loss_weight and (i, 0) in consumed and is_loss(layer.type):
            emit(notices.SharedLossTop(layer.name, layer.type))
            weights[i, 0] = 1.0
    return weights


def _split_blob(layer: str, blob: str, position: int, index: int) -> str:
    return f"{_split_name(layer, blob, position)}_{index}"


def _split_name(layer: str, blob: str, position: int) -> str:
    return f"{blob}_{layer}_{position}_split"


def _split_layer(layer: str, blob: str, position: int, count: int, weight: float) -> LayerParameter:
    split = caffe_pb2.LayerParameter(name=_split_name(layer, blob, position), type="Split", bottom=[blob])
    split.top.extend(_split_blob(layer, blob, position, k) for k in range(count))
    if weight:
        split.loss_weight.extend([weight] + [0.0] * (count - 1))
    return split
