"""All parameters of a net: who owns them, who shares them, and their multipliers (Net::AppendParam)."""

from __future__ import annotations

import math
import mmap
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pysolver.component import Component, format_shape
from pysolver.context import Context
from pysolver.errors import CaffeError
from pysolver.logs import notices
from pysolver.proto import caffe_pb2

_WORTH_PAGES = 1 << 16  # values


def _untouched_zeros(like: Tensor) -> Tensor:
    """Zeros of that shape and place; on a CPU of pages that come when they are written: many a net has no backward."""
    if like.device.type != "cpu" or like.numel() < _WORTH_PAGES or not hasattr(mmap, "MAP_PRIVATE"):
        return torch.zeros_like(like, requires_grad=False)
    memory = mmap.mmap(-1, like.numel() * like.itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(memory, dtype=like.dtype).reshape(like.shape)


@dataclass
class Slot:
    """One parameter blob of one layer."""

    layer: Component
    index: int  # among the layer's blobs
    name: str  # ParamSpec.name, "" if none
    owner: int | None  # index among the learnable parameters' slots it shares with; None: owns itself

    @property
    def blob(self) -> nn.Parameter:
        return self.layer.blobs[self.index]


class Parameters:
    """The parameter blobs of a net, layer by layer, and the learnable ones among them.

    learnable: the owners in net order, the order of the solver's history.
    lr_mults, decay_mults: their multipliers (1 if neither owner nor sharer says otherwise).
    """

    def __init__(self) -> None:
        self.slots: list[Slot] = []
        self.learnable: list[nn.Parameter] = []
        self.lr_mults: list[float] = []
        self.decay_mults: list[float] = []
        self._owners: dict[str, int] = {}  # name -> index of the owner in `learnable`
        self._owner_slots: list[Slot] = []
        self._said: list[dict[str, float]] = []  # multipliers given explicitly, per learnable parameter

    def add(self, layer: Component, context: Context) -> None:
        """Take over the blobs of a layer that has just been set up."""
        specs = layer.param.param
        if len(specs) > len(layer.blobs):
            raise CaffeError(
                f"Too many params specified for layer {layer.name}: {len(specs)} for {len(layer.blobs)} blobs"
            )
        for index in range(len(layer.blobs)):
            spec = specs[index] if index < len(specs) else caffe_pb2.ParamSpec()
            if spec.name and spec.name in self._owners:
                self._share(layer, index, spec, context)
            else:
                self._own(layer, index, spec)

    def _own(self, layer: Component, index: int, spec: caffe_pb2.ParamSpec) -> None:
        blob = layer.blobs[index]
        blob.data = blob.data.to(layer.context.device)
        blob.grad = _untouched_zeros(blob)
        slot = Slot(layer, index, spec.name, None)
        if spec.name:
            self._owners[spec.name] = len(self.learnable)
        self.slots.append(slot)
        self._owner_slots.append(slot)
        self.learnable.append(blob)
        self.lr_mults.append(spec.lr_mult)
        self.decay_mults.append(spec.decay_mult)
        self._said.append({f: getattr(spec, f) for f in ("lr_mult", "decay_mult") if spec.HasField(f)})

    def _share(self, layer: Component, index: int, spec: caffe_pb2.ParamSpec, context: Context) -> None:
        owner_index = self._owners[spec.name]
        owner, owner_slot = self.learnable[owner_index], self._owner_slots[owner_index]
        shape = tuple(layer.blobs[index].shape)
        self._check_shapes(owner_slot, layer, spec, shape)
        context.emit(notices.SharingParameters(spec.name, owner_slot.layer.name, owner_slot.index))
        # A leaf of its own on the owner's memory: each layer keeps its shape, values and gradients are one.
        sharer = nn.Parameter(owner.data.view(shape), requires_grad=layer.blobs[index].requires_grad)
        sharer.grad = owner.grad.view(shape)
        layer.blobs[index] = sharer  # type: ignore[index]  # who has a blob has a list of them
        self.slots.append(Slot(layer, index, spec.name, owner_index))
        for name, values in (("lr_mult", self.lr_mults), ("decay_mult", self.decay_mults)):
            if not spec.HasField(name):
                continue
            said, value = self._said[owner_index], getattr(spec, name)
            if said.setdefault(name, value) != value:
                raise CaffeError(
                    f"Shared param '{spec.name}' has mismatched {name}: layer '{layer.name}' says {value:g}, "
                    f"an earlier layer {said[name]:g}",
                    layer.name,
                )
            values[owner_index] = value

    @staticmethod
    def _check_shapes(owner: Slot, layer: Component, spec: caffe_pb2.ParamSpec, shape: tuple) -> None:
        owner_shape = tuple(owner.blob.shape)
        permissive = spec.share_mode == caffe_pb2.ParamSpec.PERMISSIVE
        fits = math.prod(shape) == math.prod(owner_shape) if permissive else shape == owner_shape
        if not fits:
            what = "count" if permissive else "shape"
            raise CaffeError(
                f"Cannot share param '{spec.name}' owned by layer '{owner.layer.name}' with layer '{layer.name}'; "
                f"{what} mismatch.  Owner layer param shape is {format_shape(owner_shape)}; sharing layer "
                f"{'param' if permissive else 'expects'} shape is {format_shape(shape)}",
                layer.name,
            )
