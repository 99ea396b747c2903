"""NormFace's losses of distances, AvgProbs, GuidedDropout and Unpooling, by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

D = [[0.5, 0.75, 2, 0.25], [3, 0.5, 1.5, 6]]
LABEL = [0.0, 3]


def loss_of(make, text):
    """The loss, its two means, and the gradient times the number of items."""
    x = torch.tensor(D, requires_grad=True)
    loss, means = make(text, (2, 4), (2,), tops=2)(x, torch.tensor(LABEL))
    loss.backward()
    return loss.item(), means.tolist(), (2 * x.grad).tolist()


def test_general_contrastive_loss(make):
    """Item 0 is 0.5 from its class, 0.25 and 0.75 short of a margin of 1; item 1 is 6 away, of which 4 count."""
    text = "positive_weight: 2 negative_weight: 3"
    loss, means, gradient = loss_of(make, f'type: "GeneralContrastiveLoss" general_contrastive_loss_param {{ {text} }}')
    assert loss == pytest.approx((2 * 0.5 + 3 * (0.25 + 0.75) + 2 * 4 + 3 * 0.5) / 2)
    assert means == pytest.approx([(0.5 + 4) / 2, (0.25 + 0.75 + 0.5) / 2 / 3])
    assert gradient == [[2, -3, 0, -3], [0, -3, 0, 0]]


def test_general_contrastive_loss_pulls_first(make):
    """Item 1, far from its class, is only pulled, though it is beyond the threshold; a positive margin of 0.5."""
    text = "positive_first: true positive_upper_bound: 1 positive_margin: 0.5"
    loss, _, gradient = loss_of(make, f'type: "GeneralContrastiveLoss" general_contrastive_loss_param {{ {text} }}')
    assert loss == pytest.approx((0.25 + 0.75 + 4) / 2)
    assert gradient == [[0, -1, 0, -1], [0, 0, 0, 1]]


@pytest.mark.parametrize(
    "fields, loss, gradient",
    [
        ("margin: 0.5", 0.25 + 0.75 + 3.5 + 6 + 5, [[1, -1, 0, -1], [-1, -1, -1, 1]]),
        ("margin: 0.5 hardest_only: true negative_weight: 2", 2 * (0.75 + 6), [[1, 0, 0, -2], [0, -2, 0, 1]]),
        ("margin: 0.5 positive_first: true positive_weight: 3", 1, [[3, -1, 0, -1], [0, 0, 0, 3]]),
        ("margin: -0.5", 2.5 + 5 + 4, [[1, 0, 0, 0], [-1, -1, -1, 1]]),
        ("margin: -0.5 add_center_loss: false", 2.5 + 5 + 4, [[0, 0, 0, 0], [-1, -1, -1, 1]]),
    ],
)
def test_general_triplet_loss(make, fields, loss, gradient):
    """Distances to the label of 0.5 and 6, to others of 0.75, 2, 0.25 and 3, 0.5, 1.5."""
    found = loss_of(make, f'type: "GeneralTripletLoss" general_triplet_loss_param {{ {fields} }}')
    assert found[0] == pytest.approx(loss / 2)
    assert found[1] == pytest.approx([3.25, 8 / 6])
    assert found[2] == gradient


def test_averages(make):
    x = torch.tensor([[1.0, 2], [3, 4], [5, 0], [7, 2]])
    y = make('type: "AvgProbs" avg_probs_param { multi_infer_size: 2 }', (4, 2))(x)
    assert y.tolist() == [[2, 3], [6, 1]]
    assert make('type: "AvgProbsMultiSources"', (4, 2), (4, 2))(x, x + 2).tolist() == (x + 1).tolist()


def test_guided_dropout(make):
    """Of four channels those with a guidance above 0.5 pass, times 4 / their number; if none does, nothing."""
    x, guidance = torch.ones(2, 4, 2), torch.tensor([[1.0, 0.5, 2, -1], [0, 0, 0, 0]])
    text = "guided_dropout_param { guidance_threshold: 0.5 }"
    y = make(f'type: "GuidedDropout" {text}', (2, 4, 2), (2, 4), phase="TEST")(x, guidance)
    assert y[..., 0].tolist() == y[..., 1].tolist() == [[2, 0, 2, 0], [0, 0, 0, 0]]


def test_guided_dropout_by_chance(make):
    """Chances of 1 / 4 and 3 / 4: what passes is times 2 / 1, one time in four and three in four; all in TEST."""
    x, guidance = torch.ones(4000, 2), torch.tensor([[-np.log(3), np.log(3)]], dtype=torch.float32).expand(4000, 2)
    text = 'type: "GuidedDropout" guided_dropout_param { type: "stochastic" }'
    y = make(text, (4000, 2), (4000, 2))(x, guidance)
    np.testing.assert_allclose(y.unique(), [0, 2], rtol=1e-6)
    np.testing.assert_allclose(y.mean(0), [0.5, 1.5], atol=0.07)  # 5 standard deviations of 2 sqrt(3 / 16 / 4000)
    assert make(text, (4000, 2), (4000, 2), phase="TEST")(x, guidance).tolist() == x.tolist()


def test_unpooling(make):
    x = torch.tensor([[[[1.0, 2], [3, 4]]]])
    mask = torch.tensor([[[[5.0, 2], [8, 15]]]])
    y = make('type: "Unpooling" unpooling_param { kernel_size: 2 unpool_size: 4 }', x.shape, mask.shape)(x, mask)
    assert y.flatten().nonzero().flatten().tolist() == [2, 5, 8, 15]
    assert y.flatten()[[5, 2, 8, 15]].tolist() == [1, 2, 3, 4]
    y = make('type: "Unpooling" unpooling_param { kernel_size: 2 stride: 2 }', x.shape)(x)  # 2 n + 1 wide
    assert y[0, 0].tolist() == [[1, 0, 2, 0, 0], [0] * 5, [3, 0, 4, 0, 0], [0] * 5, [0] * 5]
