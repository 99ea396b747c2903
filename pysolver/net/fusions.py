"""Fusions: rewritings of a function's steps that compute the same with less memory or fewer passes over it.

Each takes the steps and the slots that somebody will look at, and leaves alone whatever would change those. A value
between two layers is one (writer, slot) pair: an in-place layer writes the same slot again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pysolver.layers.affine import Scale
from pysolver.layers.base import Layer
from pysolver.layers.normalisation import BatchNorm
from pysolver.layers.shape import Split


class Step(NamedTuple):
    """One layer of the function, by slots."""

    layer: Layer
    bottoms: tuple[int, ...]
    tops: tuple[int, ...]
    needs: tuple[bool, ...]  # which bottoms get a gradient
    differentiates: bool
    losses: tuple[tuple[int, float], ...]  # (slot, weight) of the tops that count for the loss
    call: Callable[..., Tensor | tuple[Tensor, ...]]  # tops from bottoms
    top_is_free: bool  # see Layer
    done: tuple[int, ...] = ()  # slots that nobody reads afterwards


Kept = frozenset[int]
Fusion = Callable[[list[Step], Kept], list[Step]]


def fuse(steps: Sequence[Step], kept: Iterable[int]) -> list[Step]:
    """All fusions, one after the other."""
    fused, looked_at = list(steps), frozenset(kept)
    for fusion in FUSIONS:
        fused = fusion(fused, looked_at)
    return fused


def no_splits(steps: list[Step], kept: Kept) -> list[Step]:
    """Whoever reads a Split's top reads its bottom; so gradients add up in place, since none is a view of another.

    The slots of a Split have one writer each: no layer works in place on either side of it.
    """
    last_writer: dict[int, int] = {}
    writers = Counter(top for step in steps for top in step.tops)
    for index, step in enumerate(steps):
        last_writer.update(dict.fromkeys(step.tops, index))
    alias: dict[int, tuple[int, bool]] = {}  # top -> (what it is, whether a gradient passes)
    fused = []
    for index, step in enumerate(steps):
        if isinstance(step.layer, Split) and not step.losses and not kept & set(step.tops):
            slot, passes = alias.get(step.bottoms[0], (step.bottoms[0], True))
            if all(writers[top] == 1 for top in step.tops) and last_writer.get(slot, -1) <= index:
                passes = passes and step.differentiates and step.needs[0]
                alias.update((top, (slot, passes)) for top in step.tops)
                continue
        pairs = [alias.get(bottom, (bottom, True)) for bottom in step.bottoms]
        needs = tuple(need and passes for need, (_, passes) in zip(step.needs, pairs))
        fused.append(step._replace(bottoms=tuple(slot for slot, _ in pairs), needs=needs))
    return fused


def batch_norm_and_scale(steps: list[Step], kept: Kept) -> list[Step]:
    """BatchNorm and the Scale by channel behind it are one normalisation with affine parameters.

    It stands where the BatchNorm stood: nothing but its top goes into the Scale. One that is scaled already (NVIDIA's)
    stays apart.
    """
    fused, gone = list(steps), set()
    for first, second in _pairs(steps, kept):
        norm, scale = steps[first], steps[second]
        if not (isinstance(norm.layer, BatchNorm) and not norm.layer.is_nvidia):
            continue
        if not (isinstance(scale.layer, Scale) and scale.layer.is_by_channel):
            continue
        fused[first] = scale._replace(
            bottoms=norm.bottoms,
            needs=(norm.differentiates and norm.needs[0] and scale.needs[0],),
            call=_AffineNorm(norm.layer, scale.layer),  # type: ignore[arg-type]  # a tuple that can be called
            top_is_free=True,
        )
        gone.add(second)
    return [step for index, step in enumerate(fused) if index not in gone]


class _AffineNorm(NamedTuple):
    norm: BatchNorm
    scale: Scale

    def __call__(self, x: Tensor) -> Tensor:
        return self.norm.normalise(x, self.scale.blobs[0], self.scale.blobs[1] if self.scale.has_bias else None)


def overwrite(steps: list[Step], kept: Kept) -> list[Step]:
    """Layers that can write into bottom 0 do so, where it is a new tensor that no other layer and no backward reads."""
    fused = list(steps)
    for first, second in _pairs(steps, kept):
        writer, reader = fused[first], steps[second]
        if writer.top_is_free and reader.layer.can_overwrite and writer.tops[0] == reader.bottoms[0]:
            fused[second] = reader._replace(call=reader.layer.overwrite)
    return fused


FUSIONS: tuple[Fusion, ...] = (no_splits, batch_norm_and_scale, overwrite)


def _pairs(steps: Sequence[Step], kept: Kept) -> Iterator[tuple[int, int]]:
    """(writer, reader) by index, for each single top that one bottom of one later step reads and nobody else sees."""
    for first, step in enumerate(steps):
        if len(step.tops) == 1 and not step.losses:
            readers = list(_readers(steps, first, step.tops[0], kept))
            if len(readers) == 1 and readers[0] is not None:
                yield first, readers[0]


def _readers(steps: Sequence[Step], writer: int, slot: int, kept: Kept) -> Iterator[int | None]:
    """By index, once for each bottom, who reads what `writer` put into the slot; None for whoever looks at the end."""
    for index in range(writer + 1, len(steps)):
        for bottom in steps[index].bottoms:
            if bottom == slot:
                yield index
        if slot in steps[index].tops:
            return
    if slot in kept:
        yield None


def channels_last(x: Tensor) -> Tensor:
    """x in memory with the channels innermost, as convolutions and pooling want it; the shape stays.

    With one channel both orders are the same memory, and torch takes the strides for NCHW unless it is told.
    """
    if x.dim() != 4:
        return x
    x = x.contiguous(memory_format=torch.channels_last)
    n, c, h, w = x.shape
    return x.as_strided(x.shape, (h * w, 1, w, 1)) if c == 1 else x
