"""caffe.draw: a NetParameter as a picture (python/caffe/draw.py).

Graphviz's `dot` lays it out where it is installed; without it, pysolver.drawing does.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pysolver.drawing.picture import Box, Picture, render
from pysolver.errors import CaffeError
from pysolver.extras import require
from pysolver.files import write_atomic
from pysolver.proto import caffe_pb2
from pysolver.proto.caffe_pb2 import ConvolutionParameter, LayerParameter, NetParameter, PoolingParameter
from pysolver.proto.upgrade import upgrade_net
from pysolver.pycaffe import mode

_COLORS = {
    "Convolution": "#FF5050",
    "Deconvolution": "#FF5050",
    "Pooling": "#FF9900",
    "InnerProduct": "#CC33FF",
}
_LAYER_COLOR, _IN_PLACE_COLOR, _BLOB_COLOR = "#6495ED", "#90EE90", "#E0E0E0"


@dataclass
class Node:
    label: str
    color: str
    is_blob: bool = False


@dataclass
class Graph:
    """Layers and blobs by id, and edges (from id, to id, label)."""

    name: str
    rankdir: str
    nodes: dict[str, Node] = field(default_factory=dict)
    edges: list[tuple[str, str, str]] = field(default_factory=list)

    def to_dot(self) -> str:
        """The graph in Graphviz's language."""
        lines = [f"digraph {_quote(self.name)} {{", f"rankdir={self.rankdir};"]
        for key, node in self.nodes.items():
            shape = "octagon" if node.is_blob else "box"
            style = f'shape={shape}, style=filled, fillcolor="{node.color}"'
            lines.append(f"{_quote(key)} [label={_quote(node.label)}, {style}];")
        for source, target, label in self.edges:
            lines.append(f"{_quote(source)} -> {_quote(target)} [label={_quote(label)}];")
        return "\n".join([*lines, "}", ""])

    def picture(self) -> Picture:
        """The graph laid out without Graphviz."""
        boxes = {
            key: Box(node.label.split("\n"), node.color, is_round=node.is_blob) for key, node in self.nodes.items()
        }
        return Picture(boxes, self.edges).arrange(self.rankdir)


def _quote(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def net_graph(
    net: NetParameter, rankdir: str, label_edges: bool = True, phase: int | None = None, display_lrm: bool = False
) -> Graph:
    """The Graph of a NetParameter. rankdir: LR, RL, TB or BT; phase None: the layers of both."""
    if rankdir not in ("LR", "RL", "TB", "BT"):
        raise ValueError(f"rankdir is LR, RL, TB or BT, not '{rankdir}'")
    if net.layers:  # the form of before 2014
        old, net = net, caffe_pb2.NetParameter()
        net.CopyFrom(old)
        net = upgrade_net(net, net.name or "the net to draw", mode.log())
    graph = Graph(net.name or "Net", rankdir)
    for layer in net.layer:
        if phase is not None and not _is_in_phase(layer, phase):
            continue
        key = f"{layer.name}_{layer.type}"
        in_place = len(layer.bottom) == 1 and list(layer.bottom) == list(layer.top)
        color = _IN_PLACE_COLOR if in_place else _COLORS.get(layer.type, _LAYER_COLOR)
        separator = "\n" if rankdir in ("LR", "RL") else " "  # the side that has room
        graph.nodes[key] = Node(separator.join(_describe(layer, separator, display_lrm)), color)
        for blob in [*layer.bottom, *layer.top]:
            graph.nodes.setdefault(f"{blob}_blob", Node(blob, _BLOB_COLOR, is_blob=True))
        graph.edges += [(f"{blob}_blob", key, "") for blob in layer.bottom]
        graph.edges += [(key, f"{blob}_blob", _size(layer) if label_edges else "") for blob in layer.top]
    return graph


def _is_in_phase(layer: LayerParameter, phase: int) -> bool:
    if layer.include and layer.exclude:
        raise ValueError(f"layer '{layer.name}' has both include and exclude rules")
    if layer.include:
        return any(not rule.HasField("phase") or rule.phase == phase for rule in layer.include)
    return not any(rule.phase == phase for rule in layer.exclude)


def _describe(layer: LayerParameter, separator: str, display_lrm: bool) -> list[str]:
    """The parts of a layer's label."""
    if layer.type == "Pooling":
        method = caffe_pb2.PoolingParameter.PoolMethod.Name(layer.pooling_param.pool)
        parts = [layer.name, f"(Pooling {method})"]
    else:
        parts = [layer.name, f"({layer.type})"]
    if layer.type in ("Convolution", "Deconvolution", "Pooling"):
        param = layer.pooling_param if layer.type == "Pooling" else layer.convolution_param
        window = {
            "kernel size": _spatial(param, "kernel_size", "kernel_h", "kernel_w", 1),
            "stride": _spatial(param, "stride", "stride_h", "stride_w", 1),
            "pad": _spatial(param, "pad", "pad_h", "pad_w", 0),
        }
        parts.append(separator.join(f"{name}: {value}" for name, value in window.items()))
    if display_lrm and layer.type in ("Convolution", "Deconvolution", "InnerProduct"):
        rates = [spec.lr_mult for spec in layer.param[:2]]
        rates += [1.0] * (2 - len(rates))
        if any(rates):
            parts.append(f"lr mult: {rates[0]:.1f}, {rates[1]:.1f}")
    return parts


def _spatial(param: ConvolutionParameter | PoolingParameter, name: str, height: str, width: str, default: int) -> str:
    """`3` or `3x5`, from whichever of the fields is given."""
    if param.HasField(height) or param.HasField(width):
        return f"{getattr(param, height)}x{getattr(param, width)}"
    value = getattr(param, name)
    if isinstance(value, int):
        return str(value)
    return "x".join(map(str, value)) or str(default)


def _size(layer: LayerParameter) -> str:
    """What is written on the edge to a layer's top."""
    if layer.type == "Data":
        return f"Batch {layer.data_param.batch_size}"
    if layer.type in ("Convolution", "Deconvolution"):
        return str(layer.convolution_param.num_output)
    return str(layer.inner_product_param.num_output) if layer.type == "InnerProduct" else ""


def get_pydot_graph(
    caffe_net: NetParameter, rankdir: str, label_edges: bool = True, phase: int | None = None, display_lrm: bool = False
) -> Any:
    """The net as a graph of the package pydot."""
    pydot = require("pydot")
    return pydot.graph_from_dot_data(net_graph(caffe_net, rankdir, label_edges, phase, display_lrm).to_dot())[0]


def draw_net(
    caffe_net: NetParameter, rankdir: str = "LR", ext: str = "png", phase: int | None = None, display_lrm: bool = False
) -> bytes:
    """The picture of a NetParameter in the format `ext`: png, svg, pdf ...; `raw` is Graphviz's text."""
    graph = net_graph(caffe_net, rankdir, True, phase, display_lrm)
    if ext == "raw":
        return graph.to_dot().encode()
    if shutil.which("dot") is None:
        return render(graph.picture(), ext)
    done = subprocess.run(["dot", f"-T{ext}"], input=graph.to_dot().encode(), capture_output=True)
    if done.returncode:
        raise CaffeError(f"dot cannot draw the net as '{ext}': {done.stderr.decode(errors='replace').strip()}")
    return done.stdout


def draw_net_to_file(
    caffe_net: NetParameter, filename: str, rankdir: str = "LR", phase: int | None = None, display_lrm: bool = False
) -> None:
    """Write the picture; the file's ending is its format."""
    picture = draw_net(caffe_net, rankdir, Path(filename).suffix[1:], phase, display_lrm)
    write_atomic(filename, picture)
