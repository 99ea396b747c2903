"""Nodes: sources and layers in their places in a net, and Caffe's way to compute, one after the other through blobs.

Each layer differentiates on its own, from the diffs of its tops to the diffs of its bottoms, so that every blob and
diff can be read, and set, in between.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from pysolver.blob import Blob, Shape
from pysolver.component import Component
from pysolver.data.source import Source
from pysolver.layers.base import Layer
from pysolver.net import precision

Tape = tuple[list[Tensor], tuple[Tensor, ...]]  # bottoms and tops, ready to be differentiated


@dataclass(eq=False)
class Node:
    """What both kinds have: names and blobs, loss weights, and which gradients are owed."""

    layer: Component
    bottom_names: list[str]
    top_names: list[str]
    bottoms: list[Blob]
    tops: list[Blob] = field(default_factory=list)
    loss_weights: list[float] = field(default_factory=list)
    bottom_need: list[bool] = field(default_factory=list)  # which bottoms get a gradient
    needs_backward: bool = False

    def shape_tops(self) -> None:
        """Give the tops the shapes that follow from the bottoms'; CaffeError if these do not fit."""
        shapes = self.layer.top_shapes(*(blob.shape for blob in self.bottoms))
        if len(shapes) != len(self.tops):
            self.layer.fail(f"has {len(self.tops)} tops but shapes for {len(shapes)}")
        for blob, shape in zip(self.tops, shapes):
            blob.reshape(*shape)

    def prepare(self) -> None:
        """Once, when the net is built: a loss top's diff is its weight, whoever looks first."""
        self._seed_losses()

    def forward(self) -> float:
        """Tops from bottoms, as they are in the blobs; the sum of the weighted losses."""
        self._compute()
        self._seed_losses()
        return sum(float((b.value * b.gradient).sum()) for b, w in zip(self.tops, self.loss_weights) if w)

    def backward(self) -> None:
        """Bottom diffs (overwritten) and parameter diffs (added to) from the tops' diffs."""

    def reshape(self) -> None:
        """Carry the shapes of the bottoms on, without computing."""

    def forget(self) -> None:
        """The blobs will hold values that no forward() of this node has seen."""

    def _compute(self) -> None:
        raise NotImplementedError

    def _seed_losses(self) -> None:
        """A loss top's diff is filled in once, and again only when the blob changes its shape."""
        for blob, weight in zip(self.tops, self.loss_weights):
            if weight and not blob.has_gradient:
                blob.gradient = torch.full_like(blob.value, weight)


@dataclass(eq=False)
class SourceNode(Node):
    """A source: it fills its tops, and there is nothing behind it."""

    layer: Source

    def prepare(self) -> None:
        for blob, value in zip(self.tops, self.layer.initial_tops()):
            blob.value = value
        super().prepare()

    def batch(self) -> list[Tensor]:
        """Take the next batch into the tops; the values of all tops, those that stay as they are too."""
        for blob, value in zip(self.tops, self.layer.next_batch()):
            if value is not None:
                blob.value = value
        return [blob.value for blob in self.tops]

    def _compute(self) -> None:
        self.batch()


@dataclass(eq=False)
class LayerNode(Node):
    """A layer with the tape of its last forward."""

    layer: Layer
    _shapes: list[Shape] = field(default_factory=list)  # of the bottoms, when the tops were last shaped
    _tape: Tape | None = None

    def shape_tops(self) -> None:
        super().shape_tops()
        self._shapes = [blob.shape for blob in self.bottoms]

    def check_shapes(self) -> None:
        """Let the layer object to bottoms of a new shape before torch does."""
        if [blob.shape for blob in self.bottoms] != self._shapes:
            self.shape_tops()

    def prepare(self) -> None:
        self.layer.train(self.layer.is_training)
        for buffer in self.layer.buffers():
            buffer.data = buffer.data.to(self.layer.context.device)
        super().prepare()

    def reshape(self) -> None:
        self.shape_tops()

    def forget(self) -> None:
        self._tape = None

    def _compute(self) -> None:
        self.check_shapes()
        self._tape = _, tops = self._record()
        for blob, top in zip(self.tops, tops):
            blob.value = top.detach()

    def _record(self) -> Tape:
        """The layer on its bottoms as they are now."""
        bottoms, context = [self._leaf(*pair) for pair in zip(self.bottoms, self.bottom_need)], self.layer.context
        with torch.set_grad_enabled(self.needs_backward), precision.autocast(context.device, context.precision):
            return bottoms, tuple(precision.single(top) for top in as_tuple(self.layer(*bottoms)))

    def _leaf(self, blob: Blob, need: bool) -> Tensor:
        """A leaf on the blob's memory; of its own memory where an in-place top is about to overwrite a shown array."""
        value = blob.value.detach()
        if blob.is_shown and blob in self.tops:
            value = value.clone()
        return value.requires_grad_(need)

    def backward(self) -> None:
        if not self.needs_backward:
            return
        if self._tape is None:  # backward without forward: Caffe takes the blobs as they are
            self._tape = self._record()
        bottoms, tops = self._tape
        for position, bottom in enumerate(bottoms):
            if bottom.requires_grad and position in self.layer.no_gradient_bottoms and self.layer.is_loss:
                self.layer.fail(f"{self.layer.type_name} Layer cannot backpropagate to label inputs.")
        wanted = [tensor for tensor in (*bottoms, *self.layer.blobs) if tensor.requires_grad]
        roots = [(top, blob.gradient) for top, blob in zip(tops, self.tops) if top.requires_grad]
        for bottom in bottoms:
            bottom.grad = None
        if roots and wanted:
            outputs = [out for out, _ in roots]
            seeds = [seed.to(out.dtype).reshape(out.shape) for out, seed in roots]
            torch.autograd.backward(outputs, seeds, retain_graph=True, inputs=wanted)
        for blob, bottom, need in zip(self.bottoms, bottoms, self.bottom_need):
            if need:
                blob.gradient = torch.zeros_like(bottom) if bottom.grad is None else bottom.grad


def as_tuple(tops: Tensor | tuple[Tensor, ...] | list[Tensor]) -> tuple[Tensor, ...]:
    """A layer's tops, of which a single one may come alone."""
    return (tops,) if isinstance(tops, Tensor) else tuple(tops)
