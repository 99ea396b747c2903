"""A PyTorch module in the making: lines of __init__ and of forward, and which parameter of Caffe each tensor is.

To say how a layer type is written in PyTorch, write a function in the file of its family:

    @writes("Power")
    def power(w: Writer, layer: Power, x: str) -> str:
        return f"({layer.shift!r} + {layer.scale!r} * {x}) ** {layer.power!r}"

It gets the variables of its bottoms and returns an expression for its top (one each for several). What needs
parameters is a module: w.module(...) puts it into __init__ and returns how forward calls it.
"""

from __future__ import annotations

import inspect
import keyword
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn

import numpy as np
from torch import nn

from pysolver.blob import Shape
from pysolver.errors import CaffeError, visible
from pysolver.export.program import Program, Step, Value, unique
from pysolver.layers.base import Layer

Written = Callable[..., "str | tuple[str, ...]"]
_METHODS = {*dir(nn.Module()), "forward"}  # an attribute of such a name would not be found, or hide what torch needs
_NAMES = {"self", "torch", "nn", "F", "lstm_unit", "inf", "nan"}  # what lines of forward call by name
_WRITERS: dict[str, Written] = {}
_REFUSALS: dict[str, str] = {}


def writes(*type_names: str) -> Callable[[Written], Written]:
    """Function decorator: this writes layers of these types. A second one for a type is an error."""

    def add(function: Written) -> Written:
        for name in type_names:
            if name in _WRITERS:
                raise CaffeError(f"Layer type {name} has a PyTorch form already.")
            _WRITERS[name] = function
        return function

    return add


def refuse(type_name: str, why: str) -> None:
    """Plain PyTorch has no form for this type, for the reason given."""
    _REFUSALS[type_name] = why


def writer(type_name: str) -> Written | None:
    """The function that writes this type, if there is one."""
    return _WRITERS.get(type_name)


def why_not(type_name: str) -> str:
    """Why there is none."""
    return _REFUSALS.get(type_name, "nobody has written down its PyTorch form yet")


@dataclass
class Binding:
    """A tensor of the module's state_dict and the blob of Caffe that it is.

    kind: `plain`, the same numbers in another shape; `transposed`, a matrix on its side; `statistic`, blob / blob 2 of
    a BatchNorm, which stores sums.
    """

    key: str
    layer: Layer
    index: int
    kind: Literal["plain", "transposed", "statistic"] = "plain"


@dataclass
class Source:
    """The text of the module, piece by piece. name: of its class."""

    name: str = "Net"
    init: list[str] = field(default_factory=list)
    forward: list[str] = field(default_factory=list)
    pieces: dict[str, type | Callable] = field(default_factory=dict)  # classes and functions that the file brings along
    bindings: list[Binding] = field(default_factory=list)
    attributes: set[str] = field(default_factory=set)
    modules: dict[tuple, str] = field(default_factory=dict)  # what is written and its tensors' memory -> attribute
    constants: dict[str, Any] = field(default_factory=dict)  # buffers by attribute: tensors of the state_dict
    owners: dict[int, Binding] = field(default_factory=dict)  # memory of a parameter -> the first tensor that is it
    variables: dict[str, str] = field(default_factory=dict)  # blob -> variable


class Writer:
    """One layer's part of a module."""

    def __init__(self, source: Source, program: Program, step: Step) -> None:
        self.source = source
        self.program = program
        self.step = step
        self.layer = step.layer
        self.bottoms: list[Shape] = [value.shape for value in step.inputs]
        self.tops: list[Shape] = [value.shape for value in step.outputs]

    def module(self, text: str, *bindings: tuple[str, Layer, int] | tuple[str, Layer, int, str], name: str = "") -> str:
        """A line `self.NAME = text` in __init__; `self.NAME`.

        bindings: (tensor of the module, layer, blob index[, kind]).
        """
        memory = {blob.data_ptr() for _, layer, *_ in bindings for blob in layer.blobs}
        key = (text, tuple((tensor, *rest) for tensor, _, *rest in bindings), frozenset(memory))
        if bindings and key in self.source.modules:  # siamese layers: one module, called twice
            return f"self.{self.source.modules[key]}"
        attribute = self.attribute(name or self.layer.name)
        self.source.modules[key] = attribute
        self.source.init.append(f"self.{attribute} = {text}")
        for tensor, *rest in bindings:
            self._bind(Binding(f"{attribute}.{tensor}" if tensor else attribute, *rest))
        return f"self.{attribute}"

    def parameter(self, index: int, shape: Shape) -> str:
        """A parameter of the module itself, not of a layer in it."""
        return self.module(f"nn.Parameter(torch.zeros({tuple(shape)!r}))", ("", self.layer, index))

    def constant(self, tensor: Any, name: str = "") -> str:
        """A buffer: saved with the weights, never trained."""
        attribute = self.attribute(name or self.layer.name)
        self.source.init.append(f'self.register_buffer("{attribute}", torch.zeros({tuple(tensor.shape)!r}))')
        self.source.constants[attribute] = tensor
        return f"self.{attribute}"

    def piece(self, cls: type) -> str:
        """The name of a class of pysolver.export.torch.pieces, which the file then brings along."""
        self.source.pieces[cls.__name__] = cls
        return cls.__name__

    def attribute(self, name: str) -> str:
        """A free name of the module for a layer's name."""
        found = unique(identifier(name), self.source.attributes | _METHODS)
        self.source.attributes.add(found)
        return found

    def owner(self, index: int) -> Binding | None:
        """The tensor of an earlier module that is this parameter of the layer, if another layer shares it."""
        return self.source.owners.get(self.layer.blobs[index].data_ptr())

    def _bind(self, binding: Binding) -> None:
        blob = binding.layer.blobs[binding.index]
        owner = self.source.owners.setdefault(blob.data_ptr(), binding)
        if owner is not binding and binding.kind != "statistic":
            if owner.kind != binding.kind or owner.layer.blobs[owner.index].shape != blob.shape:
                self.cannot(f"it shares parameter {binding.index} with '{owner.layer.name}', where it has another form")
            self.source.init.append(f"self.{binding.key} = self.{owner.key}  # shared")
        self.source.bindings.append(binding)

    def reader(self) -> Step | None:
        """The one layer that reads this one's only top, if nobody else does."""
        (top,) = self.step.outputs
        readers = [step for step in self.program.steps if top in step.inputs]
        return readers[0] if len(readers) == 1 and top not in self.program.outputs else None

    def reshape(self, x: str, before: Shape, after: Shape) -> str:
        """x of shape `before` as `after`, for any first dimension where that is possible."""
        if before == after:
            return x
        if len(after) == 2 and before[:1] == after[:1]:
            return f"{x}.flatten(1)" if len(before) > 2 else f"{x}.unsqueeze(1)"
        first = f"{x}.shape[0]" if before[:1] == after[:1] else "-1"
        return f"{x}.reshape({', '.join([first, *map(str, after[1:])])})" if after else f"{x}.reshape(())"

    def cannot(self, why: str) -> NoReturn:
        """Plain PyTorch has no form for this layer."""
        self.layer.fail(f"cannot be written as plain PyTorch: {why}")


def write_source(program: Program) -> Source:
    """The text of a program. Errors: a layer without a PyTorch form, with the layer's name and the reason."""
    source = Source()
    names: dict[Value, str] = {}

    def variable(value: Value) -> str:
        """A blob is one variable, however often it is written."""
        if value.blob not in source.variables:
            taken = {*_NAMES, *source.variables.values()}
            source.variables[value.blob] = unique(identifier(value.blob), taken)
        return source.variables[value.blob]

    for value in program.inputs:
        names[value] = variable(value)
    merged: dict[Value, Value] = {}
    for step in program.steps:
        if step.outputs[0] in merged:  # it has become part of the layer before it
            names[step.outputs[0]] = names[merged[step.outputs[0]]]
            continue
        write = writer(step.layer.type_name)
        if write is None:
            step.layer.fail(f"cannot be written as plain PyTorch: {why_not(step.layer.type_name)}")
        w = Writer(source, program, step)
        for value in step.inputs:
            if value.constant is not None and value not in names:
                names[value] = w.constant(value.constant, value.blob)
        made = write(w, step.layer, *(names[value] for value in step.inputs))
        swallowed = swallowed_by(w)
        if swallowed is not None:
            merged[swallowed.outputs[0]] = step.outputs[0]
        _assign(source, step, swallowed, made, names, variable)
    name = class_name(program.name)
    source.name = f"{name}Net" if name in {*_NAMES, *source.pieces} else name
    return source


def _assign(
    source: Source,
    step: Step,
    swallowed: Step | None,
    made: str | tuple[str, ...],
    names: dict[Value, str],
    variable: Callable[[Value], str],
) -> None:
    """Lines of forward that give the tops their values."""
    made = made if isinstance(made, tuple) else (made,)
    tops = step.outputs if swallowed is None else swallowed.outputs
    targets = [variable(value) for value in tops]
    names.update(zip(step.outputs, targets))
    if len(made) == 1 < len(targets):  # one expression for all
        source.forward.append(f"{', '.join(targets)} = {made[0]}")
        return
    for target, expression in zip(targets, made, strict=True):
        before = f"{target} = "
        if expression == f"F.relu({target})" and source.forward and source.forward[-1].startswith(before):
            source.forward[-1] = f"{before}F.relu({source.forward[-1].removeprefix(before)})"
        elif target != expression:
            source.forward.append(before + expression)


def swallowed_by(w: Writer) -> Step | None:
    """The Scale that a BatchNorm brings along: torch's own has slope and bias."""
    following = w.reader() if w.layer.type_name == "BatchNorm" and len(w.step.outputs) == 1 else None
    if following is None or following.layer.type_name != "Scale" or len(following.inputs) != 1:
        return None
    if w.layer.is_nvidia:  # it has its own
        return None
    scale = following.layer
    axis = scale.first % len(w.bottoms[0])
    return following if scale.has_bias and axis == 1 and scale.blobs[0].dim() == 1 else None


def number(value: float) -> str:
    """A field of the prototxt, single precision, as one would write it: 1e-05."""
    return repr(float(str(np.float32(value))))


def identifier(name: str) -> str:
    """A Python name as near to `name` as can be: `conv1/7x7_s2` is conv1_7x7_s2."""
    found = re.sub(r"\W", "_", name, flags=re.ASCII).strip("_") or "x"
    found = f"x{found}" if found[0].isdigit() else found
    return f"{found}_" if keyword.iskeyword(found) else found


def _quoted(text: str) -> str:
    """Text that does not end the string it stands in."""
    return visible(text).replace("\\", "\\\\").replace('"', '\\"')


def text_of(source: Source, program: Program, origin: str, weights: str) -> str:
    """The Python file. origin: what it was written from; weights: the name of the file with the tensors."""
    name = source.name
    inputs = [source.variables.get(value.blob) for value in program.inputs]
    outputs = [source.variables[value.blob] for value in program.outputs]
    shapes = "; ".join(f"{n} {tuple(value.shape)}" for n, value in zip(inputs, program.inputs))
    result = ", ".join(outputs)
    body = [
        f'"""{name}, written by pysolver from {_quoted(origin)}.',
        "",
        f"    net = {name}()",
        f'    net.load_state_dict(safetensors.torch.load_file("{_quoted(weights)}"))',
        f"    {result} = net.eval()({', '.join(inputs)})",
        "",
        f"Inputs: {shapes}, float32.",
        '"""',
        "",
        *(["from math import inf, nan", ""] if _uses_odd_numbers(source) else []),
        "import torch",
        *(["import torch.nn.functional as F"] if _uses_functional(source) else []),
        "from torch import nn",
    ]
    for cls in source.pieces.values():
        body += ["", "", inspect.getsource(cls).rstrip()]
    body += ["", "", f"class {name}(nn.Module):", "    def __init__(self):", "        super().__init__()"]
    body += [f"        {line}" for line in source.init]
    body += ["", f"    def forward(self, {', '.join(inputs)}):", *(f"        {line}" for line in source.forward)]
    return "\n".join([*body, f"        return {result}", ""])


def _uses_functional(source: Source) -> bool:
    lines = [*source.forward, *map(inspect.getsource, source.pieces.values())]
    return any(re.search(r"\bF\.", line) for line in lines)


def _uses_odd_numbers(source: Source) -> bool:
    """A setting that is no finite number is still a setting."""
    return any(re.search(r"(?<![\w.])(inf|nan)\b", line) for line in [*source.init, *source.forward])


def class_name(name: str) -> str:
    """The net's name as that of a class: `CIFAR10_quick` is CIFAR10Quick."""
    words = re.findall(r"[A-Za-z0-9]+", name)
    found = "".join(word[0].upper() + word[1:] for word in words) or "Net"
    return f"Net{found}" if found[0].isdigit() or keyword.iskeyword(found) else found
