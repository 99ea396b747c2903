"""The net as one function of its source blobs: what a solver trains, and what can be compiled, exported, distributed.

Nothing is read from blobs or written to them. Values live in numbered slots, one for each blob; an in-place layer puts
its top into the slot of its bottom. A value is let go as soon as its last reader has run, so that only what the
backward pass needs stays alive.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from pysolver.blob import Blob
from pysolver.context import Context
from pysolver.net import precision
from pysolver.net.fusions import Step, channels_last, fuse
from pysolver.net.nodes import LayerNode, Node, SourceNode, as_tuple


class NetFunction(nn.Module):
    """forward(*inputs) -> (loss, values): the weighted loss, 0-d, and the values of the slots `kept`.

    inputs: the tops of the sources, in net order. kept: the slots of the net's outputs, in the order of their names,
    unless keep() says otherwise.
    """

    def __init__(self, nodes: Sequence[Node], outputs: Iterable[Blob], context: Context) -> None:
        super().__init__()
        precision.check(context.precision)
        self.device, self.precision = context.device, context.precision
        self.blobs = list(dict.fromkeys(blob for node in nodes for blob in node.tops))  # by slot
        slot = {blob: index for index, blob in enumerate(self.blobs)}
        sources = [node for node in nodes if isinstance(node, SourceNode)]
        self.inputs = [slot[blob] for node in sources for blob in node.tops]
        self.losses = tuple(loss for node in sources for loss in _losses(node, slot))
        computed = [node for node in nodes if isinstance(node, LayerNode)]
        self.layers = nn.ModuleList(node.layer for node in computed)
        self._steps = [
            Step(
                node.layer,
                tuple(slot[blob] for blob in node.bottoms),
                tuple(slot[blob] for blob in node.tops),
                tuple(node.bottom_need),
                node.needs_backward,
                _losses(node, slot),
                node.layer,
                node.layer.top_is_free,
            )
            for node in computed
        ]
        self.outputs = tuple(slot[blob] for blob in outputs)
        self.keep(self.outputs)

    def keep(self, slots: Sequence[int]) -> None:
        """From now on forward() returns the values of these slots, the last ones where a slot is written again."""
        self.kept = tuple(slots)
        self.plan = with_last_readers(fuse(self._steps, self.kept), self.kept)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        slots: list[Tensor | None] = [None] * len(self.blobs)
        for index, value in zip(self.inputs, inputs, strict=True):
            slots[index] = channels_last(value)
        with precision.autocast(self.device, self.precision):
            total = self._run(slots)
        loss = torch.zeros((), device=self.device) if total is None else total
        return loss, tuple(precision.single(slots[index]) for index in self.kept)

    def _run(self, slots: list[Tensor | None]) -> Tensor | None:
        """Fill the slots, step by step; the sum of the weighted losses."""
        total = _add(None, slots, self.losses)
        for step in self.plan:
            with contextlib.nullcontext() if step.differentiates else torch.no_grad():
                tops = as_tuple(step.call(*_bottoms(step, slots)))
            for index, top in zip(step.tops, tops):
                slots[index] = top
            del tops
            total = _add(total, slots, step.losses)
            for index in step.done:
                slots[index] = None
        return total


def _bottoms(step: Step, slots: list[Tensor | None]) -> Iterator[Tensor]:
    """What the step takes. A bottom that needs no gradient is cut off, whatever lies below it."""
    for index, need in zip(step.bottoms, step.needs):
        value = slots[index] if need else slots[index].detach()
        yield value if step.layer.takes_half else precision.single(value)


def _losses(node: Node, slot: dict[Blob, int]) -> tuple[tuple[int, float], ...]:
    return tuple((slot[blob], weight) for blob, weight in zip(node.tops, node.loss_weights) if weight)


def _add(total: Tensor | None, slots: list[Tensor | None], losses: Iterable[tuple[int, float]]) -> Tensor | None:
    for index, weight in losses:
        value = precision.single(slots[index])
        value = value.sum() if value.dim() else value
        value = value if weight == 1 else value * weight
        total = value if total is None else total + value
    return total


def with_last_readers(steps: Sequence[Step], kept: Iterable[int]) -> list[Step]:
    """The steps, each with the slots that no later one reads and nobody wants to keep."""
    wanted, plan = set(kept), []
    for step in reversed(steps):
        used = dict.fromkeys((*step.bottoms, *step.tops))
        plan.append(step._replace(done=tuple(index for index in used if index not in wanted)))
        wanted.update(used)
    return plan[::-1]
