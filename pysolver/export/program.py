"""The deploy form of a net as a program: every value written once, heads of training gone, nothing computed in vain.

Both exporters read this, so what leaves a net and what things are called is decided here only:

- sources become inputs; a DummyData layer of constants becomes constants;
- a loss that has a softmax or sigmoid inside becomes that; other losses, accuracies and layers without tops leave,
  and with them what only they have read (labels);
- a margin at the label (MarginInnerProduct, LargeMarginInnerProduct) leaves: what stays is an inner product;
- a blob that is computed in place is several values: the last one has the blob's name.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pysolver.blob import Shape
from pysolver.component import Component
from pysolver.errors import CaffeError
from pysolver.layers.base import Layer
from pysolver.net.net import Net
from pysolver.net.nodes import LayerNode, SourceNode

HEADS = {
    **dict.fromkeys(("SoftmaxWithLoss", "SoftmaxWithLossOHEM", "FocalLoss", "InfogainLoss"), "Softmax"),
    "SigmoidCrossEntropyLoss": "Sigmoid",
}
_MARGINS = ("MarginInnerProduct", "LargeMarginInnerProduct")
_JUDGES = (
    "Accuracy",
    "BboxAccuracy",
    "BoxAnnotatorOHEM",
    "DetectionEvaluate",
    "EvalDetection",
    "HDF5Output",
    "SegAccuracy",
    "Silence",
)


def leaves(layer: type[Component] | Component) -> bool:
    """Whether a layer is only there to train or to judge, with nothing of it in the deploy form."""
    return (layer.is_loss or layer.type_name in _JUDGES) and layer.type_name not in HEADS


@dataclass(eq=False)
class Value:
    """One tensor of the program. name is unique; blob is the name of the Caffe blob that shows it."""

    blob: str
    shape: Shape
    producer: str = ""  # name of the layer
    is_learned: bool = False  # some layer with parameters is above it
    name: str = ""
    constant: Tensor | None = None


@dataclass(eq=False)
class Step:
    """A layer with the values it reads and writes."""

    layer: Layer
    inputs: list[Value]
    outputs: list[Value]


@dataclass
class Program:
    """inputs -> outputs by the steps, in their order."""

    name: str
    inputs: list[Value]
    steps: list[Step]
    outputs: list[Value]
    constants: list[Value] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)  # names of the layers that left

    def values(self) -> Iterator[Value]:
        """All values, inputs and constants first."""
        yield from self.inputs
        yield from self.constants
        for step in self.steps:
            yield from step.outputs


def program_of(net: Net, batch: int | None = None) -> Program:
    """The deploy form of a net, as its phase has it. batch: the inputs' first dimension instead of the net's own.

    The net is not changed. Errors: nothing is left to compute; shapes that do not fit the batch, as the layer says it.
    """
    net.flush_params()
    return _Builder(net, batch).build()


class _Builder:
    def __init__(self, net: Net, batch: int | None) -> None:
        self.net, self.batch = net, batch
        self.now: dict[str, Value] = {}  # by blob name: the value it has at this place of the net
        self.steps: list[Step] = []
        self.sources: list[Value] = []
        self.candidates: list[Value] = []  # what the heads that left have looked at
        self.dropped: list[str] = []
        self.lost: set[str] = set()  # blobs that nobody computes any more

    def build(self) -> Program:
        for node in self.net.nodes:
            if isinstance(node, SourceNode):
                self._add_source(node)
            elif node.layer.type_name == "Split":
                self.now.update((top, self.now[node.bottom_names[0]]) for top in self._known(node))
            elif leaves(node.layer) or any(name in self.lost for name in node.bottom_names):
                self._drop(node)
            else:
                self._add_step(node)
        outputs = self._outputs()
        steps = self._needed(outputs)
        read = {value for step in steps for value in step.inputs} | set(outputs)
        sources = [value for value in self.sources if value in read]
        program = Program(
            self.net.name,
            [value for value in sources if value.constant is None],
            steps,
            outputs,
            [value for value in sources if value.constant is not None],
            self.dropped,
        )
        _give_names(program)
        return program

    def _known(self, node: LayerNode) -> list[str]:
        """The tops of a Split, unless what it splits is lost."""
        if node.bottom_names[0] in self.lost:
            self.lost.update(node.top_names)
            return []
        return node.top_names

    def _add_source(self, node: SourceNode) -> None:
        constants = _constants(node)
        for name, blob, constant in zip(node.top_names, node.tops, constants, strict=True):
            shape = tuple(blob.shape)
            if self.batch is not None and constant is None:
                shape = self._with_batch(shape)
            value = Value(name, shape, node.layer.name, constant=constant)
            self.now[name] = value
            self.sources.append(value)

    def _with_batch(self, shape: Shape) -> Shape:
        """The first input says which first dimension is the batch; inputs that have another one keep theirs."""
        sources = [node for node in self.net.nodes if isinstance(node, SourceNode)]
        first = next((tuple(blob.shape) for node in sources for blob in node.tops if blob.shape), ())
        return (self.batch, *shape[1:]) if shape[:1] == first[:1] else shape

    def _drop(self, node: LayerNode) -> None:
        self.dropped.append(node.layer.name)
        self.lost.update(set(node.top_names) - set(node.bottom_names))
        labels = node.layer.no_gradient_bottoms if node.layer.is_loss else range(1, len(node.bottom_names))
        self.candidates += [
            self.now[name] for i, name in enumerate(node.bottom_names) if name not in self.lost and i not in labels
        ]

    def _add_step(self, node: LayerNode) -> None:
        layer = node.layer
        inputs = [self.now[name] for name in node.bottom_names]
        top_names = list(node.top_names)
        if layer.type_name in HEADS:  # its labels may be of another batch: they leave
            self.lost.update((*top_names[:1], *top_names[2:]))  # the loss, and that of each place
            inputs, shapes = inputs[:1], [inputs[0].shape]
            top_names = top_names[1:2] or [self._head_name(layer)]
        elif layer.type_name in _MARGINS:
            self.lost.update(top_names[1:])
            inputs, top_names = inputs[:1], top_names[:1]
            shapes = layer.top_shapes(inputs[0].shape, inputs[0].shape[:1])[:1]
        else:
            shapes = [tuple(shape) for shape in layer.top_shapes(*(value.shape for value in inputs))]
        learned = bool(len(layer.blobs)) or any(value.is_learned for value in inputs)
        outputs = [Value(name, shape, layer.name, learned) for name, shape in zip(top_names, shapes, strict=True)]
        self.now.update(zip(top_names, outputs))
        self.steps.append(Step(layer, inputs, outputs))

    def _head_name(self, layer: Layer) -> str:
        """`prob`, as deploy files have it, where only one head asks for it."""
        heads = [node for node in self.net.nodes if node.layer.type_name in HEADS and len(node.layer.param.top) < 2]
        return "prob" if len(heads) == 1 and "prob" not in self.net.blobs else f"{layer.name}/prob"

    def _outputs(self) -> list[Value]:
        """What the net hands out and still computes, and what the heads that left have judged."""
        read = {value for step in self.steps for value in step.inputs}
        written = [value for step in self.steps for value in step.outputs]
        ends = [self.now[name] for name in self.net.outputs if name in self.now and name not in self.lost]
        ends += [value for step in self.steps if step.layer.type_name in HEADS for value in step.outputs]
        judged = [value for value in self.candidates if value in written and value not in read]
        if any(value.is_learned for value in written):  # a target made from the data alone is nobody's answer
            judged = [value for value in judged if value.is_learned]
        outputs = [value for value in dict.fromkeys(ends + judged) if value in written]
        if not outputs:
            what = f"only {', '.join(self.dropped)}" if self.dropped else "no layer that computes"
            raise CaffeError(
                f"net '{self.net.name}': nothing to export: in this phase it has beside its sources {what}"
            )
        return outputs

    def _needed(self, outputs: list[Value]) -> list[Step]:
        """The steps without which an output could not be computed."""
        wanted, needed = set(outputs), []
        for step in reversed(self.steps):
            if any(value in wanted for value in step.outputs):
                wanted.update(step.inputs)
                needed.append(step)
        return needed[::-1]


def _constants(node: SourceNode) -> list[Tensor | None]:
    """For each top of a source its value, if that never changes."""
    none: list[Tensor | None] = [None] * len(node.tops)
    if node.layer.type_name != "DummyData":
        return none
    fillers = list(node.layer.param.dummy_data_param.data_filler) * len(none)
    kinds = [filler.type for filler in fillers[: len(none)]] or ["constant"] * len(none)
    values = node.layer.initial_tops()
    return [value.detach().cpu() if kind == "constant" else None for kind, value in zip(kinds, values, strict=True)]


def _give_names(program: Program) -> None:
    """The blob's name for its last value (an input keeps it), BLOB/LAYER for those before."""
    last: dict[str, Value] = {}
    for value in program.values():
        last[value.blob] = value
    last.update((value.blob, value) for value in program.inputs)
    taken = set(last)
    for value in program.values():
        value.name = value.blob
        if last[value.blob] is not value:
            value.name = unique(f"{value.blob}/{value.producer}", taken)
            taken.add(value.name)


def unique(name: str, taken: Container[str]) -> str:
    """The name, or NAME_2, NAME_3 ... if it is taken."""
    candidate, count = name, 1
    while candidate in taken:
        count += 1
        candidate = f"{name}_{count}"
    return candidate


def array_of(tensor: Tensor) -> Tensor:
    """The values on the host, without a copy where they are there already."""
    return tensor.detach().to("cpu", torch.float32)
