"""What is exchanged, in which parts, and when: without processes, all_reduce only notes what it is given."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from pysolver.solver import buckets
from pysolver.solver.buckets import Buckets


@pytest.fixture
def sent(monkeypatch):
    given: list[torch.Tensor] = []
    work = SimpleNamespace(wait=lambda: None)
    monkeypatch.setattr(buckets.dist, "all_reduce", lambda flat, async_op: given.append(flat) or work)
    monkeypatch.setattr(buckets.dist, "get_world_size", lambda: 2)
    return given


def parameter(*shape: int, trained: bool = True) -> nn.Parameter:
    made = nn.Parameter(torch.ones(shape), requires_grad=trained)
    made.grad = torch.zeros(shape)
    return made


def test_each_is_sent_as_soon_as_it_is_complete(sent):
    layers = [parameter(30, 30) for _ in range(4)]
    made = Buckets([[w] for w in layers], first=1, size=1)
    counts: list[int] = []
    for w in layers:
        w.register_post_accumulate_grad_hook(lambda leaf: counts.append(len(sent)))

    def backward() -> None:
        x = torch.eye(30)
        for w in layers:
            x = x @ w
        x.sum().backward()

    backward()
    assert counts == [0] * 4, "an earlier pass of iter_size sends nothing"
    made.expect()
    backward()
    assert counts[4:] == [1, 2, 3, 4], "the last layer's leaves while the others are still computed"
    assert [flat.data_ptr() for flat in sent] == [w.grad.data_ptr() for w in layers[::-1]]
    before = layers[0].grad.clone()
    made.average()
    assert len(sent) == 4 and torch.equal(layers[0].grad, before / 2)


def test_a_shared_parameter_is_sent_once_when_its_last_layer_is_done(sent):
    owner = parameter(5, 5)
    sharer = nn.Parameter(owner.data)
    sharer.grad = owner.grad
    made = Buckets([[owner, sharer]])
    counts: list[int] = []
    for leaf in (owner, sharer):
        leaf.register_post_accumulate_grad_hook(lambda leaf: counts.append(len(sent)))
    made.expect()
    (torch.eye(5) @ owner @ sharer).sum().backward()
    assert counts == [0, 1] and [flat.numel() for flat in sent] == [25]
    assert torch.equal(owner.grad, sharer.grad) and owner.grad.data_ptr() == sharer.grad.data_ptr()


def test_what_is_frozen_is_not_sent(sent):
    frozen, trained = parameter(100, 100, trained=False), parameter(3)
    Buckets([[frozen], [trained]]).average()
    assert [flat.numel() for flat in sent] == [3]
    Buckets([[frozen]]).average()
    assert len(sent) == 1


@pytest.mark.parametrize(
    ("megabytes", "parts"),
    [
        ([0.25, 0.25], [0.5]),
        ([1, 8, 0.5], [0.5, 8, 1]),  # the large one does not wait for what comes after it
        ([40, 10, 10, 10, 10, 10, 10, 10, 10, 80], [80, 20, 20, 20, 20, 40]),
    ],
)
def test_parts_are_small_for_a_small_net_and_25_mb_at_most_for_a_large_one(megabytes, parts, sent):
    leaves = [[parameter(int(size * 2**18))] for size in megabytes]
    assert [flat.numel() / 2**18 for flat in Buckets(leaves).flat] == parts
