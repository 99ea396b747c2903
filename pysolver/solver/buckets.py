"""Gradients in flat buckets that are summed over the ranks while backward still runs.

Every parameter's gradient is a view into a bucket, in the order in which backward completes them: the last layer
first. A bucket is sent as soon as its gradients are complete, bucket k after bucket k - 1 on all ranks. A parameter
that several layers share is in it once, and complete when the last of them is.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

FIRST, SIZE = 1 << 20, 25 << 20  # bytes: the first bucket is small, so that sending begins early
PARTS = 8  # of a net that is small: the last bucket has no backward pass left to hide behind


class Buckets:
    """The gradients of a net's parameters, which lie in `flat` from now on; what is frozen has none to send.

    leaves: for each parameter its owner and the leaves that other layers have on the same memory.
    """

    def __init__(self, leaves: Sequence[Sequence[nn.Parameter]], first: int = FIRST, size: int = SIZE) -> None:
        trainable = [shared for shared in leaves if any(leaf.requires_grad for leaf in shared)]
        whole = sum(shared[0].numel() * shared[0].element_size() for shared in trainable)
        self._groups = _grouped(trainable[::-1], first, max(first, min(size, whole // PARTS)))
        self.flat: list[Tensor] = [_flatten(group) for group in self._groups]
        trained = [[leaf for shared in group for leaf in shared if leaf.requires_grad] for group in self._groups]
        self._leaves = [len(group) for group in trained]
        self._number = {id(leaf): k for k, group in enumerate(trained) for leaf in group}
        self._missing: list[int] = []  # by bucket: leaves that backward has not completed
        self._sent: list[dist.Work] = []
        for group in trained:
            for leaf in group:
                leaf.register_post_accumulate_grad_hook(self._complete)

    def expect(self) -> None:
        """The next backward completes the gradients: send each bucket as it is ready."""
        self._missing = list(self._leaves)

    def _complete(self, leaf: nn.Parameter) -> None:
        if not self._missing:  # one of the earlier passes of iter_size, or a backward that goes layer by layer
            return
        self._missing[self._number[id(leaf)]] -= 1
        while len(self._sent) < len(self.flat) and self._missing[len(self._sent)] == 0:
            self._send()

    def _send(self) -> None:
        self._sent.append(dist.all_reduce(self.flat[len(self._sent)], async_op=True))

    def average(self) -> None:
        """Send what is left (not every parameter gets a gradient), wait for all, and divide the sums."""
        while len(self._sent) < len(self.flat):
            self._send()
        for work in self._sent:
            work.wait()
        self._sent, self._missing = [], []
        for flat in self.flat:
            flat.mul_(1 / dist.get_world_size())


def _grouped(leaves: Sequence[Sequence[nn.Parameter]], first: int, size: int) -> list[list[Sequence[nn.Parameter]]]:
    """Neighbours of one type and device up to so many bytes; a larger parameter has a bucket of its own."""
    groups: list[list[Sequence[nn.Parameter]]] = []
    room, kind = 0, None
    for shared in leaves:
        owner = shared[0]
        need = owner.numel() * owner.element_size()
        if kind != (owner.dtype, owner.device) or need > room:
            room, kind = size if groups else first, (owner.dtype, owner.device)
            groups.append([])
        groups[-1].append(shared)
        room -= need
    return groups


def _flatten(group: Sequence[Sequence[nn.Parameter]]) -> Tensor:
    owners = [shared[0] for shared in group]
    flat = torch.cat([owner.grad.flatten() for owner in owners])
    for shared, part in zip(group, flat.split([owner.numel() for owner in owners])):
        for leaf in shared:
            leaf.grad = part.view(leaf.shape)
    return flat
