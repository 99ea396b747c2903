"""CenterLoss and MarginInnerProduct of face recognition, SegAccuracy, L1Loss, Flip: their rules by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pysolver.errors import CaffeError


def test_center_loss(make):
    """Three items, two of class 0; the weight of the loss does not reach the centres."""
    layer = make('type: "CenterLoss" center_loss_param { num_output: 3 }', (3, 2), (3,))
    layer.blobs[0].data.copy_(torch.tensor([[1.0, 2], [0, 0], [-1, 1]]))
    x = torch.tensor([[2.0, 2], [1, 4], [0, 1]], requires_grad=True)
    loss = layer(x, torch.tensor([0.0, 0, 2]))
    assert loss.item() == pytest.approx((1 + 4 + 1) / 3 / 2)
    to_x, to_centres = torch.autograd.grad(5 * loss, [x, layer.blobs[0]])
    torch.testing.assert_close(to_x, 5 * torch.tensor([[1.0, 0], [0, 2], [1, 0]]) / 3)
    torch.testing.assert_close(to_centres, torch.tensor([[-1 / 3, -2 / 3], [0, 0], [-1 / 2, 0]]))


def turned(kind, angle):
    """g of the angle in degrees: (-1)^k cos(m a) - 2 k for a in [180 k / m, 180 (k + 1) / m] (SphereFace, eq. 6)."""
    if kind == 1:
        return 1 * (2 * math.cos(angle) ** 2 if angle < math.pi / 2 else -2 * math.cos(angle) ** 2) - 1
    part = min(int(kind * angle / math.pi), kind - 1)
    return (-1) ** part * math.cos(kind * angle) - 2 * part


@pytest.mark.parametrize("name, times", [("SINGLE", 0), ("DOUBLE", 2), ("TRIPLE", 3), ("QUADRUPLE", 4)])
@pytest.mark.parametrize("degrees", [10, 50, 70, 100, 130, 170])
def test_margin(make, name, times, degrees):
    """A vector of length 3 at an angle to the weight of its class."""
    angle = math.radians(degrees)
    layer = make(
        f'type: "MarginInnerProduct" margin_inner_product_param {{ num_output: 2 type: {name} base: 8 gamma: 1 '
        'power: 1 lambda_min: 3 weight_filler { type: "constant" value: 1 } }',
        (1, 2),
        (1,),
        tops=2,
    )
    layer.blobs[0].data.copy_(torch.tensor([[0.0, 5], [2, 0]]))
    x = torch.tensor([[3 * math.cos(angle), 3 * math.sin(angle)]], requires_grad=True)
    top, weakness = layer(x, torch.tensor([1.0]))
    assert weakness.tolist() == [4]  # 8 / (1 + 1)
    torch.testing.assert_close(layer.blobs[0].data, torch.tensor([[0.0, 1], [1, 0]]))
    expected = math.cos(angle) if not times else turned(times, angle)
    assert top[0, 0].item() == pytest.approx(3 * math.sin(angle), rel=1e-5)
    mixed = 3 * expected if not times else (3 * expected + 4 * 3 * math.cos(angle)) / 5
    assert top[0, 1].item() == pytest.approx(mixed, rel=1e-4, abs=1e-5)

    # To x: along w and x, the parts of the derivative of |x| g(w x / |x|), scaled to length 1, and lambda w.
    gradient = torch.tensor([[0.5, -2.0]])
    to_x, to_weight = torch.autograd.grad(top, [x, layer.blobs[0]], gradient)
    torch.testing.assert_close(to_weight, gradient.T @ x.detach())
    w = np.array([[0.0, 1], [1, 0]])
    if not times:
        wanted = gradient.numpy()[0] @ w
    else:
        step = 1e-6
        slope = (turned(times, angle + step) - turned(times, angle - step)) / (2 * step) / -math.sin(angle)
        along_x = (turned(times, angle) - math.cos(angle) * slope) / 3
        size = math.hypot(slope, along_x)
        own = -2 * (slope / size * w[1] + along_x / size * x.detach().numpy()[0])
        wanted = (0.5 * w[0] + own + 4 * (gradient.numpy()[0] @ w)) / 5
    np.testing.assert_allclose(to_x[0], wanted, rtol=1e-3, atol=1e-4)  # a numeric derivative, float32
    assert layer(x, torch.tensor([1.0]))[1].tolist() == [3]  # lambda_min


def test_seg_accuracy(make):
    """Six pixels, one ignored; class 2 is only predicted, class 3 never seen."""
    text = 'type: "SegAccuracy" seg_accuracy_param { ignore_label: 255 %s }'
    labels = torch.tensor([[[[0.0, 0, 0], [1, 1, 255]]]])
    guesses = [[0, 0, 1], [1, 2, 3]]
    scores = torch.nn.functional.one_hot(torch.tensor(guesses), 4).permute(2, 0, 1)[None].float()
    layer = make(text % "", tuple(scores.shape), tuple(labels.shape))
    top = layer(scores, labels)
    assert top.shape == (1, 1, 1, 3)
    whole, recall, overlap = 3 / 5, (2 / 3 + 1 / 2) / 2, (2 / 3 + 1 / 3 + 0 / 1 + 1) / 4
    np.testing.assert_allclose(top.flatten(), [whole, recall, overlap], rtol=1e-6)
    torch.testing.assert_close(layer(scores, labels), top)
    layer = make(text % "reset: false", tuple(scores.shape), tuple(labels.shape))
    layer(scores, labels)
    right = torch.nn.functional.one_hot(labels.clamp(max=3).long()[:, 0], 4).permute(0, 3, 1, 2).float()
    assert layer(right, labels)[0, 0, 0, 0] == pytest.approx(8 / 10)
    with pytest.raises(CaffeError, match="Unexpected label 7"):
        layer(scores, torch.full_like(labels, 7))


def test_l1_loss(make):
    a = torch.tensor([[1.0, 2, 5], [0, 0, 4]], requires_grad=True)
    loss = make('type: "L1Loss"', (2, 3), (2, 3))(a, torch.tensor([[2.0, 2, 1], [0, 3, 4]]))
    assert loss.item() == (1 + 4 + 3) / 2
    assert torch.autograd.grad(loss, a)[0].tolist() == [[-0.5, 0, 0.5], [0, -0.5, 0]]


def test_flip(make):
    x = torch.arange(6.0).reshape(1, 1, 2, 3)
    assert make('type: "Flip"', (1, 1, 2, 3))(x).flatten().tolist() == [2, 1, 0, 5, 4, 3]
    text = 'type: "Flip" flip_param { flip_width: false flip_height: true }'
    assert make(text, (1, 1, 2, 3))(x).flatten().tolist() == [3, 4, 5, 0, 1, 2]


def test_a_parameter_with_a_filler(make):
    text = 'type: "Parameter" parameter_param { shape { dim: 2 } blob_filler { type: "constant" value: 3 } }'
    assert make(text)().tolist() == [3, 3]
