"""Layers written by users in Python (python_layer.hpp); their base class is pysolver.pycaffe.layer."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

from pysolver.blob import Blob, Shape
from pysolver.context import Context
from pysolver.layers.base import Layer, at_least, register
from pysolver.proto.caffe_pb2 import LayerParameter


class UserLayer:
    """The base of caffe.Layer: what a Python layer of a net may name without further permission."""


class ParameterBlobs:
    """`self.blobs` of a user's layer: its parameters as Blobs."""

    def __init__(self, layer: Layer) -> None:
        self._layer = layer
        self._shown: list[Blob] = []

    def add_blob(self, *shape: int) -> None:
        """One more parameter of zeros."""
        self._layer.add_blob(shape)

    def __len__(self) -> int:
        return len(self._layer.blobs)

    def __getitem__(self, index: int) -> Blob:
        return self._refreshed()[index]

    def __iter__(self) -> Iterator[Blob]:
        return iter(self._refreshed())

    def _refreshed(self) -> list[Blob]:
        """The same Blob objects as long as the parameters keep their memory."""
        for index, parameter in enumerate(self._layer.blobs):
            if index == len(self._shown):
                self._shown.append(Blob.over(parameter.data))
            elif self._shown[index].value.data_ptr() != parameter.data_ptr():
                self._shown[index] = Blob.over(parameter.data)
        return self._shown


_Kind = TypeVar("_Kind", bound=type[Layer])
_KNOWN: dict[tuple[str, str], type[Layer]] = {}


def python_class(module: str, name: str) -> Callable[[_Kind], _Kind]:
    """Class decorator: this layer computes what class `name` of `module` does in many published nets.

    It is taken where the user's own module is not there, or may not run.
    """

    def add(cls: _Kind) -> _Kind:
        cls.type_name = "Python"
        _KNOWN[module, name] = cls
        return cls

    return add


@register("Python")
class Python(Layer):
    """Hands its blobs to the class python_param.layer of python_param.module.

    The user's exceptions come through as they are. What `backward` writes into the diffs of its blobs is added to the
    parameters' gradient. Errors: Python layers not allowed here; no such module or class in it.
    """

    is_opaque = True
    bottoms = at_least(0)
    tops = at_least(0)

    def set_up(self, *bottoms: Shape) -> None:
        p = self.param.python_param
        self.check(bool(p.module and p.layer), "python_param needs module and layer")
        cls = self._class(p.module, p.layer)
        self.top_blobs = [Blob((), self.context.device) for _ in range(self.top_count)]
        self.user = cls(self.param)
        self.user.param_str, self.user.phase = p.param_str, self.phase
        self.user.blobs = ParameterBlobs(self)
        self.user.setup(self._empty(bottoms), self.top_blobs)

    @classmethod
    def chosen(cls, param: LayerParameter, context: Context) -> type[Layer]:
        """The user's class, if it is there and may run; else the one that is known here, if it is."""
        p = param.python_param
        known = _KNOWN.get((p.module, p.layer))
        if known is None or p.module in sys.modules or _is_own(p.module, context):
            return cls
        fits = (known.bottoms, len(param.bottom)), (known.tops, len(param.top))
        if not all(arity.least <= count <= (arity.most or count) for arity, count in fits):
            return cls  # another author's class of the same name
        return cls if context.allow_python_layers and _is_there(p.module) else known

    def _class(self, module: str, name: str) -> type:
        """The user's class: one that the running script has defined or imported, or, if that is allowed, any."""
        found = getattr(sys.modules.get(module), name, None)
        if found is None and module in sys.modules:
            self.fail(f"module '{module}' has no class '{name}'")
        if isinstance(found, type) and issubclass(found, UserLayer):
            return found
        if not self.context.allow_python_layers and not _is_own(module, self.context):
            self.fail(
                f"it would run code of the module '{module}', which the net's author chose; if you trust it: "
                f"--allow-python-layers, or in a script caffe.allow_python_layers() or import {module}"
            )
        try:
            found = getattr(importlib.import_module(module), name, None)
        except ModuleNotFoundError as error:
            if error.name not in (module, module.partition(".")[0]):
                raise
            self.fail(
                f"there is no module '{module}' for its class '{name}': put the folder of {module}.py into PYTHONPATH "
                f"(it is '{os.environ.get('PYTHONPATH', '')}')"
            )
        if found is None:
            self.fail(f"module '{module}' has no class '{name}'")
        return found

    def _empty(self, shapes: tuple[Shape, ...]) -> list[Blob]:
        return [Blob(shape, self.context.device) for shape in shapes]

    def top_shapes(self, *bottoms: Shape) -> list[Shape]:
        self.user.reshape(self._empty(bottoms), self.top_blobs)
        return [blob.shape for blob in self.top_blobs]

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        return _Run.apply(self, *bottoms, *self.blobs)


def _is_own(module: str, context: Context) -> bool:
    """Whether it lies in a folder of the user's own code, beside the running script."""
    package = module.partition(".")[0]
    return package.isidentifier() and any(
        os.path.isfile(os.path.join(folder, f"{package}.py")) or os.path.isdir(os.path.join(folder, package))
        for folder in context.own_code
    )


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:
        return False


class _Run(torch.autograd.Function):
    """The user's forward and backward as one autograd function of bottoms and parameters."""

    @staticmethod
    def forward(ctx, layer: Python, *inputs: Tensor) -> tuple[Tensor, ...]:
        bottoms = inputs[: len(inputs) - len(layer.blobs)]
        tops = layer.top_blobs
        blobs = [Blob.over(tensor.detach()) for tensor in bottoms]
        layer.user.reshape(blobs, tops)
        layer.user.forward(blobs, tops)
        for blob in layer.user.blobs:
            blob.value  # noqa: B018  brings what the user wrote onto the device
        outputs = tuple(blob.value.detach().clone() for blob in tops)
        ctx.layer, ctx.bottom_count = layer, len(bottoms)
        ctx.save_for_backward(*bottoms, *outputs)
        return outputs

    @staticmethod
    def backward(ctx, *diffs: Tensor) -> tuple[Tensor | None, ...]:
        layer, bottom_count = ctx.layer, ctx.bottom_count
        saved = [tensor.detach() for tensor in ctx.saved_tensors]
        needed = list(ctx.needs_input_grad[1 : 1 + bottom_count])
        bottoms = [Blob.over(tensor) for tensor in saved[:bottom_count]]
        tops = [Blob.over(tensor, diff) for tensor, diff in zip(saved[bottom_count:], diffs, strict=True)]
        for blob in layer.user.blobs:
            blob.gradient = torch.zeros_like(blob.value)
        layer.user.backward(tops, needed, bottoms)
        from_bottoms = [blob.gradient if need else None for blob, need in zip(bottoms, needed, strict=True)]
        return None, *from_bottoms, *(blob.gradient.clone() for blob in layer.user.blobs)
