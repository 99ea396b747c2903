"""Layers that draw: the laws of what they draw."""

from __future__ import annotations

import pytest
import torch


def test_dropout_keeps_the_mean_and_repeats_its_mask_backward(make):
    layer = make('type: "Dropout" dropout_param { dropout_ratio: 0.3 }', (400, 500))
    x = torch.ones(400, 500, requires_grad=True)
    y = layer(x)
    assert y.unique().tolist() == pytest.approx([0, 1 / 0.7])
    assert y.mean().item() == pytest.approx(1, abs=0.01)
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())


def test_dropout_in_test_is_the_identity(make):
    x = torch.randn(3, 4)
    assert torch.equal(make('type: "Dropout"', (3, 4), phase="TEST")(x), x)


STOCHASTIC = 'type: "Pooling" pooling_param { pool: STOCHASTIC kernel_size: 2 stride: 2 }'


def test_stochastic_pooling_draws_in_proportion(make):
    """Zeiler and Fergus, 2013, section 3: an element is drawn with probability a_i / sum of the a."""
    layer = make(STOCHASTIC, (20000, 1, 2, 2))
    y = layer(torch.tensor([[1.0, 2.0], [0.0, 5.0]]).expand(20000, 1, 2, 2)).flatten()
    for value, share in ((1, 1 / 8), (2, 2 / 8), (5, 5 / 8)):
        assert (y == value).float().mean().item() == pytest.approx(share, abs=0.015)
    assert (y > 0).all()


def test_stochastic_pooling_in_test_is_the_weighted_mean(make):
    layer = make(STOCHASTIC, (1, 1, 2, 3), phase="TEST")
    y = layer(torch.tensor([[[[1.0, 2.0, 0.0], [0.0, 5.0, 0.0]]]]))
    torch.testing.assert_close(y.flatten(), torch.tensor([30 / 8, 0.0]))


def test_stochastic_pooling_sends_the_gradient_to_the_one_drawn(make):
    x = torch.rand(3, 2, 4, 4, requires_grad=True)
    y = make(STOCHASTIC, (3, 2, 4, 4))(x)
    y.sum().backward()
    assert x.grad.sum() == y.numel()
    torch.testing.assert_close((x.grad * x).sum(), y.sum())
