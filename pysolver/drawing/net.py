"""A net as a table of layers and as a picture: shapes, parameters, settings (what Netscope shows)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import Any

from google.protobuf.descriptor import FieldDescriptor

from pysolver.blob import Shape
from pysolver.drawing.picture import Box, Picture, to_svg
from pysolver.errors import visible
from pysolver.net.net import Net
from pysolver.net.nodes import Node, SourceNode
from pysolver.proto.caffe_pb2 import LayerParameter

_COLORS = {  # the first word of a type that fits
    "Convolution": "#ffb3a7", "Deconvolution": "#ffb3a7", "DepthwiseConvolution": "#ffb3a7",
    "ConvolutionDepthwise": "#ffb3a7", "InnerProduct": "#e3b7f2", "Embed": "#e3b7f2", "LSTM": "#e3b7f2",
    "RNN": "#e3b7f2", "Pooling": "#ffd9a0", "SPP": "#ffd9a0", "ROIPooling": "#ffd9a0", "BatchNorm": "#c8e6c9",
    "LRN": "#c8e6c9", "Normalize": "#c8e6c9", "Scale": "#c8e6c9", "Concat": "#fff3b0", "Eltwise": "#fff3b0",
}  # fmt: skip
_SOURCE, _LOSS, _OTHER = "#d7dce5", "#f7b7c5", "#b9d7f5"


@dataclass
class Row:
    """One layer. parameters: how many numbers it learns or keeps; 0 for those that another layer owns."""

    name: str
    type: str
    settings: str
    tops: dict[str, Shape]
    parameters: int
    is_shared: bool = False


@dataclass
class Group:
    """A layer and those that compute in its top's place."""

    rows: list[Row]
    sources: list[int]  # the groups whose blobs it reads
    color: str


def rows_of(net: Net) -> list[Row]:
    """All layers in order, without splits: there a blob is read twice, which is no layer to those who look."""
    owned = _owned(net)
    return [_row(node, owned) for node in net.nodes if node.layer.type_name != "Split"]


def _owned(net: Net) -> set[int]:
    return {id(slot.blob) for slot in net.parameters.slots if slot.owner is None}


def _row(node: Node, owned: set[int]) -> Row:
    layer = node.layer
    tops = {name: tuple(blob.shape) for name, blob in zip(node.top_names, node.tops)}
    own = [blob for blob in layer.blobs if id(blob) in owned]
    shared = len(own) < len(layer.blobs)
    return Row(layer.name, layer.type_name, settings_of(layer.param), tops, sum(blob.numel() for blob in own), shared)


def settings_of(param: LayerParameter) -> str:
    """What the layer's own parameter message says, without fillers: `num_output 64, kernel_size 3, stride 2`."""
    parts = []
    for field_, message in param.ListFields():
        if field_.message_type is None or not field_.name.endswith("_param") or field_.is_repeated:
            continue
        if field_.name in ("transform_param", "loss_param"):
            continue
        for inner, value in message.ListFields():
            if inner.message_type is None and inner.name not in ("engine", "source", "backend"):
                parts.append(f"{inner.name} {_value(inner, value)}")
    return ", ".join(parts)


def _value(field_: FieldDescriptor, value: Any) -> str:
    values = list(value) if field_.is_repeated else [value]
    if field_.enum_type is not None:
        return " ".join(field_.enum_type.values_by_number[v].name for v in values)
    return " ".join(
        f"{v:g}" if isinstance(v, float) else str(v).lower() if isinstance(v, bool) else str(v) for v in values
    )


def shape_text(shape: Shape) -> str:
    return "x".join(map(str, shape)) if shape else "scalar"


def table(net: Net) -> str:
    """The layers as text in columns, and the totals."""
    rows = rows_of(net)
    cells = [("layer", "type", "output", "parameters", "settings")]
    for row in rows:
        shapes = " ".join(map(shape_text, row.tops.values())) or "-"
        count = f"{row.parameters:,}" if row.parameters else "shared" if row.is_shared else "-"
        cells.append((visible(row.name), row.type, shapes, count, visible(row.settings)))
    widths = [max(len(row[i]) for row in cells) for i in range(4)]
    lines = []
    for name, kind, shapes, count, settings in cells:
        columns = f"{name:{widths[0]}}  {kind:{widths[1]}}  {shapes:{widths[2]}}  {count:>{widths[3]}}"
        lines.append(f"{columns}  {settings}".rstrip())
    lines.insert(1, "-" * (sum(widths) + 6))
    return "\n".join([*lines, lines[1], totals(net), ""])


def totals(net: Net) -> str:
    """One line: layers, parameters, size of the weights and of all blobs."""
    rows = rows_of(net)
    count = sum(row.parameters for row in rows)
    values = sum(math.prod(blob.shape) for blob in net.blobs.values())
    return f"{len(rows)} layers, {count:,} parameters ({4 * count / 1e6:.1f} MB), blobs {4 * values / 1e6:.1f} MB"


def picture_of(net: Net) -> Picture:
    """Boxes for layers, with the layers that compute in their place; lines are blobs."""
    groups: list[Group] = []
    writer: dict[str, tuple[int, str]] = {}  # blob -> the group that wrote it, and its name before any split
    owned = _owned(net)
    for node in net.nodes:
        known = [writer[name] for name in node.bottom_names]
        if node.layer.type_name == "Split":
            writer.update(dict.fromkeys(node.top_names, known[0]))
        elif len(known) == 1 and node.top_names == [known[0][1]]:
            groups[known[0][0]].rows.append(_row(node, owned))
        else:
            index, readers = len(groups), dict.fromkeys(group for group, _ in known)
            groups.append(Group([_row(node, owned)], list(readers), _color(node)))
            writer.update((top, (index, top)) for top in node.top_names)
    boxes = {str(index): _box(group) for index, group in enumerate(groups)}
    edges = [(str(source), str(index), "") for index, group in enumerate(groups) for source in group.sources]
    return Picture(boxes, edges).arrange()


def _color(node: Node) -> str:
    if isinstance(node, SourceNode):
        return _SOURCE
    return (
        _LOSS if node.layer.is_loss or node.layer.type_name == "Accuracy" else _COLORS.get(node.layer.type_name, _OTHER)
    )


def _box(group: Group) -> Box:
    first, *others = group.rows
    lines = [first.name, f"{first.type} {_short(first.settings)}".strip()]
    lines += [f"+ {row.name} ({row.type})" for row in others]
    lines += [shape_text(shape) for shape in first.tops.values()]
    count = sum(row.parameters for row in group.rows)
    if count:
        lines.append(f"{count:,} parameters")
    note = "\n".join(f"{row.name}: {row.type} {row.settings}" for row in group.rows)
    return Box(lines, group.color, is_bold=True, note=note)


def _short(settings: str) -> str:
    """What fits into a box."""
    return settings if len(settings) <= 48 else settings[:47] + "…"


def to_html(net: Net, title: str) -> str:
    """A page with the picture and the table; no script, nothing from elsewhere."""
    rows = []
    for row in rows_of(net):
        shapes = " ".join(map(shape_text, row.tops.values()))
        count = f"{row.parameters:,}" if row.parameters else "shared" if row.is_shared else ""
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in (row.name, row.type, shapes))
        rows.append(f'<tr>{cells}<td class="n">{count}</td><td>{escape(row.settings)}</td></tr>')
    return _PAGE.format(
        title=escape(title), totals=escape(totals(net)), rows="\n".join(rows), svg=to_svg(picture_of(net))
    )


_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 13px Helvetica, Arial, sans-serif; margin: 1.5em; color: #223 }}
main {{ display: flex; gap: 2em; align-items: flex-start; flex-wrap: wrap }}
table {{ border-collapse: collapse }} td, th {{ padding: 2px 8px; text-align: left; border-bottom: 1px solid #dde }}
td.n, th.n {{ text-align: right }} svg {{ max-width: 100%; height: auto }}
</style></head><body><h1>{title}</h1><p>{totals}</p><main>
<div>{svg}</div>
<table><tr><th>layer</th><th>type</th><th>output</th><th class="n">parameters</th><th>settings</th></tr>
{rows}
</table></main></body></html>
"""
