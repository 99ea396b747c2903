"""From a NetParameter to connected layers: names to blobs, shapes without data, Caffe's construction log.

Follows Net::Init (src/caffe/net.cpp) step by step, since the order of its checks and log lines is part of
what users see.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pysolver.blob import Blob
from pysolver.component import create, layer_types
from pysolver.context import Context
from pysolver.data.source import Source
from pysolver.errors import CaffeError
from pysolver.logs import events as e
from pysolver.logs import notices
from pysolver.net.auto_crop import set_offsets as set_auto_crops
from pysolver.net.filter import filter_net
from pysolver.net.nodes import LayerNode, Node, SourceNode
from pysolver.net.parameters import Parameters
from pysolver.net.splits import insert_splits
from pysolver.proto import dialects
from pysolver.proto.caffe_pb2 import LayerParameter, NetParameter
from pysolver.proto.text import to_text

AUTOMATIC = "(automatic)"  # the name of a loss top that the prototxt leaves out


@dataclass
class Graph:
    """The connected layers of one net, and the names that lead to its blobs."""

    name: str
    nodes: list[Node]
    blobs: dict[str, Blob]
    outputs: list[str]
    parameters: Parameters
    param: NetParameter  # filtered and split NetParameter


def build_graph(param: NetParameter, context: Context) -> Graph:
    """Filter, split and connect. param: upgraded NetParameter with its state set."""
    filtered = filter_net(param, context.emit)
    context.emit(e.InitializingNet(to_text(filtered)))
    dialects.hand_on_fillers(filtered)
    set_auto_crops(filtered)
    ignored = dialects.check_net(filtered)
    if ignored:
        context.emit(notices.IgnoredFields(dialects.sentence(ignored)))
    if filtered.bn_stats_batch_size:  # Intel's, for all of them
        for layer in filtered.layer:
            if layer.type == "BatchNorm":
                layer.batch_norm_param.stats_batch_size = filtered.bn_stats_batch_size
    types = layer_types()
    split = insert_splits(filtered, lambda name: name in types and types[name].is_loss, context.emit)
    return _Builder(split, context).build()


class _Builder:
    def __init__(self, param: NetParameter, context: Context) -> None:
        self.param = param
        self.context = context
        self.nodes: list[Node] = []
        self.blobs: dict[str, Blob] = {}
        self.available: set[str] = set()
        self.blob_need: dict[str, bool] = {}  # by name: needs a gradient
        self.parameters = Parameters()
        self.under_loss: set[str] = set()  # names that some loss depends on
        self.skipped: set[str] = set()  # names whose readers propagate nothing down to them
        self.memory = 0

    def build(self) -> Graph:
        for layer_param in self.param.layer:
            if not layer_param.HasField("phase"):
                layer_param.phase = self.param.state.phase
            self.nodes.append(self._add(layer_param))
        for node in reversed(self.nodes):
            self._trim_backward(node)
        if self.param.force_backward:
            self._force_backward()
        outputs = sorted(self.available, key=str.encode)
        for name in outputs:
            self.context.emit(notices.NetOutput(name))
        self.context.emit(e.NetReady())
        return Graph(self.param.name, self.nodes, self.blobs, outputs, self.parameters, self.param)

    # ---- forwards: one layer after the other ---------------------------------------------------------------

    def _add(self, layer_param: LayerParameter) -> Node:
        name = layer_param.name
        if len(layer_param.propagate_down) not in (0, len(layer_param.bottom)):
            raise CaffeError(
                f"layer '{name}': propagate_down param must be specified either 0 or bottom_size times "
                f"({len(layer_param.bottom)}), not {len(layer_param.propagate_down)}",
                name,
            )
        declared_specs = len(layer_param.param)
        layer = create(layer_param, self.context)
        dialects.check_foreign(layer_param)
        self.context.emit(notices.AddingLayer(name))
        kind: Any = SourceNode if isinstance(layer, Source) else LayerNode
        node: Node = kind(layer, list(layer_param.bottom), list(layer_param.top), self._take_bottoms(layer_param))
        self._name_tops(node)
        with layer.about():
            layer.bottoms.check(len(node.bottoms), layer.type_name, "takes", "bottom")
            layer.tops.check(len(node.top_names), layer.type_name, "produces", "top")
        shapes = [blob.shape for blob in node.bottoms]
        layer.set_up(*shapes)
        node.shape_tops()
        self._set_loss_weights(node)
        node.prepare()
        self._log_set_up(node)
        self._need_backward(node, declared_specs)
        self.parameters.add(layer, self.context)
        return node

    def _take_bottoms(self, layer_param: LayerParameter) -> list[Blob]:
        bottoms = []
        for index, name in enumerate(layer_param.bottom):
            if name not in self.available:
                raise CaffeError(
                    f"Unknown bottom blob '{name}' (layer '{layer_param.name}', bottom index {index})", layer_param.name
                )
            self.available.remove(name)
            self.context.emit(notices.Bottom(layer_param.name, name))
            bottoms.append(self.blobs[name])
        return bottoms

    def _name_tops(self, node: Node) -> None:
        layer = node.layer
        for index, name in enumerate(node.top_names):
            in_place = index < len(node.bottom_names) and node.bottom_names[index] == name
            if in_place and not layer.allows_in_place:
                layer.fail(f"does not allow in-place computation: its top '{name}' must have another name")
            if name in self.blobs and not in_place:
                other = next((made.layer.name for made in self.nodes if name in made.top_names), layer.name)
                raise CaffeError(
                    f"Top blob '{name}' produced by multiple sources. (layer '{layer.name}'; layer '{other}' makes it "
                    "too: rename one, or let each into one phase by include { phase: })",
                    layer.name,
                )
            self.context.emit(e.Top(layer.name, name, in_place))
            if not in_place:
                self.blobs[name] = Blob((), self.context.device)
                self.blob_need[name] = False
            self.available.add(name)
            node.tops.append(self.blobs[name])
        missing = max(layer.tops.least, 1) if layer.is_loss else 0
        while len(node.tops) < missing:
            self.context.emit(e.Top(layer.name, AUTOMATIC))
            node.top_names.append(AUTOMATIC)
            node.tops.append(Blob((), self.context.device))

    def _set_loss_weights(self, node: Node) -> None:
        """Layer::SetLossWeights; a loss layer's default weight goes into its own parameters, and so into snapshots."""
        layer, count = node.layer, len(node.tops)
        if layer.is_loss and not layer.param.loss_weight:
            layer.param.loss_weight.extend([1.0] + [0.0] * (count - 1))
        given = list(layer.param.loss_weight)
        if given and len(given) != count:
            layer.fail(f"loss_weight must be unspecified or specified once per top blob ({count}), not {len(given)}")
        node.loss_weights = given or [0.0] * count

    def _log_set_up(self, node: Node) -> None:
        emit = self.context.emit
        emit(e.SettingUp(node.layer.name))
        for blob, weight in zip(node.tops, node.loss_weights):
            emit(e.TopShape("".join(f"{size} " for size in blob.shape), blob.count))
            if weight:
                emit(notices.LossWeight(weight))
            self.memory += 4 * blob.count
        emit(notices.Memory(self.memory))

    # ---- who needs backward ------------------------------------------------------------------------------

    def _need_backward(self, node: Node, declared_specs: int) -> None:
        """The forward half: a layer needs backward if a bottom or one of its parameters does.

        declared_specs: how many `param` entries the prototxt has. BatchNorm appends its own later, so that
        Caffe takes its statistics for trainable here; the log shows it.
        """
        layer, specs = node.layer, node.layer.param.param
        need = False
        for index, name in enumerate(node.bottom_names):
            wanted = layer.param.propagate_down
            node.bottom_need.append(wanted[index] if wanted else self.blob_need[name])
            need |= self.blob_need[name]
        for index, blob in enumerate(layer.blobs):
            need |= index >= declared_specs or specs[index].lr_mult != 0
            blob.requires_grad_(index >= len(specs) or specs[index].lr_mult != 0)
        node.needs_backward = need
        if need:
            self.blob_need.update((name, True) for name in node.top_names)

    def _trim_backward(self, node: Node) -> None:
        """The backward half: no gradient where no loss is above, or where every reader refuses it."""
        names = node.top_names
        contributes = any(node.loss_weights) or any(name in self.under_loss for name in names)
        if node.needs_backward and all(name in self.skipped for name in names):
            node.needs_backward = False
            node.bottom_need = [False] * len(node.bottom_need)
        if not contributes:
            node.needs_backward = False
        told = notices.NeedsBackward if node.needs_backward else notices.NeedsNoBackward
        self.context.emit(told(node.layer.name))
        for index, name in enumerate(node.bottom_names):
            if contributes:
                self.under_loss.add(name)
            else:
                node.bottom_need[index] = False
            if not node.bottom_need[index]:
                self.skipped.add(name)

    def _force_backward(self) -> None:
        for node in self.nodes:
            node.needs_backward = True
            blocked = node.layer.no_gradient_bottoms
            node.bottom_need = [need or i not in blocked for i, need in enumerate(node.bottom_need)]
            for blob in node.layer.blobs:
                blob.requires_grad_(True)
