"""Online hard example mining of R-FCN against its rules written out with loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pysolver.errors import CaffeError
from pysolver.net.net import Net
from pysolver.proto.caffe_pb2 import NetParameter
from pysolver.proto.text import parse_text

RNG = np.random.default_rng(11)


def _normal(*shape):
    return torch.from_numpy(RNG.standard_normal(shape).astype(np.float32))


@pytest.mark.parametrize("mode, divisor", [("FULL", 3 * 4), ("VALID", 3 * 4), ("BATCH_SIZE", 3), ("NONE", 1)])
def test_smooth_l1_by_place(make, mode, divisor):
    a, b, w = (_normal(3, 5, 2, 2) * 2 for _ in range(3))
    layer = make(f'type: "SmoothL1LossOHEM" loss_param {{ normalization: {mode} }}', *[a.shape] * 3, tops=2)
    loss, places = layer(a, b, w)
    d = np.abs((w * (a - b)).double().numpy())
    each = np.where(d < 1, d**2 / 2, d - 0.5)
    np.testing.assert_allclose(places, each.sum(1, keepdims=True), rtol=1e-5)
    np.testing.assert_allclose(loss, each.sum() / divisor, rtol=1e-5)


def test_cascades_smooth_l1_by_place(make):
    """Weighted inside and outside; its sum is N times the loss."""
    a, b, inside, outside = (_normal(3, 5, 2, 2) for _ in range(4))
    loss, places = make('type: "SmoothL1Loss" smooth_l1_loss_param { sigma: 2 }', *[a.shape] * 4, tops=2)(
        a, b, inside, outside
    )
    d = np.abs((inside * (a - b)).double().numpy())
    each = outside.numpy() * np.where(d < 1 / 4, 2 * d**2, d - 1 / 8)
    np.testing.assert_allclose(places, each.sum(1, keepdims=True), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(loss, each.sum() / 3, rtol=1e-5)


@pytest.mark.parametrize("kind", ["SoftmaxWithLossOHEM", "SoftmaxWithLoss"])
def test_softmax_loss_by_place(make, kind):
    x, label = _normal(2, 3, 1, 2), torch.tensor([[[[0, 2]]], [[[-1, 1]]]])
    text = f'type: "{kind}" loss_param {{ ignore_label: -1 }}'
    loss, p, places = make(text, x.shape, label.shape, tops=3)(x, label.float())
    expected = torch.softmax(x.double(), 1)
    each = -np.log([expected[0, 0, 0, 0], expected[0, 2, 0, 1], 1, expected[1, 1, 0, 1]])
    np.testing.assert_allclose(places.flatten(), each, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(p, expected, rtol=1e-5)
    np.testing.assert_allclose(loss, each.sum() / 3, rtol=1e-5)


def test_box_annotator_keeps_the_dearest_of_each_image(make):
    images = np.array([0, 1, 0, 0, 1])
    regions = np.concatenate([images[:, None], RNG.uniform(0, 9, (5, 4))], 1).astype(np.float32)
    loss = np.array([0.5, 0.1, 2.0, 0.7, 0.3], np.float32)
    labels, weights = np.array([3, 4, 0, 5, 6], np.float32), RNG.uniform(1, 2, (5, 8)).astype(np.float32)
    layer = make(
        'type: "BoxAnnotatorOHEM" box_annotator_ohem_param { roi_per_img: 2 ignore_label: -7 }',
        (5, 5, 1, 1),
        (5, 1, 1, 1),
        (5, 1, 1, 1),
        (5, 8, 1, 1),
        tops=2,
    )
    bottoms = (
        regions.reshape(5, 5, 1, 1),
        loss.reshape(5, 1, 1, 1),
        labels.reshape(5, 1, 1, 1),
        weights[..., None, None],
    )
    kept, kept_weights = layer(*map(torch.from_numpy, bottoms))
    np.testing.assert_array_equal(kept.flatten(), [-7, 4, 0, 5, 6])  # images 0: the losses 2.0 and 0.7; 1: both
    np.testing.assert_array_equal(kept_weights[:, :, 0, 0], weights * np.array([0, 1, 1, 1, 1], np.float32)[:, None])
    with pytest.raises(CaffeError, match="needs regions"):
        layer.top_shapes((5, 4, 1, 1), (5, 1, 1, 1), (5, 1, 1, 1), (5, 8, 1, 1))


def test_layer_by_layer_backward_with_weights_that_are_computed():
    """As in Faster R-CNN: SmoothL1Loss is asked for a gradient of its weights, and owes none."""
    text = """
    layer { name: "x" type: "Input" top: "x" top: "t" input_param { shape { dim: 2 dim: 3 } } }
    layer { name: "a" type: "InnerProduct" bottom: "x" top: "a" inner_product_param { num_output: 3
            weight_filler { type: "gaussian" } } }
    layer { name: "w" type: "InnerProduct" bottom: "x" top: "w" inner_product_param { num_output: 3
            weight_filler { type: "gaussian" } } }
    layer { name: "loss" type: "SmoothL1Loss" bottom: "a" bottom: "t" bottom: "w" bottom: "w" top: "loss" }
    """
    param = parse_text(text, NetParameter)
    gradients = []
    for by_layer in (True, False):
        torch.manual_seed(3)
        net = Net(param)
        for name in net.inputs:
            net.blobs[name].value = torch.randn(2, 3)
        net.clear_param_diffs()
        if by_layer:
            net.forward()
            net.backward()
        else:
            net.forward_backward()
        gradients.append([parameter.grad.clone() for parameter in net.learnable_params])
    for one, other in zip(*gradients, strict=True):
        assert torch.allclose(one, other, rtol=1e-6)
    assert gradients[0][0].abs().sum() > 0
    assert gradients[0][2].abs().sum() == 0
