"""Fields that forks added to Caffe's own layers, against their formulas written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pysolver.errors import CaffeError
from pysolver.net.net import Net
from pysolver.proto.caffe_pb2 import NetParameter
from pysolver.proto.text import parse_text

RNG = np.random.default_rng(5)


def _normal(*shape):
    return torch.from_numpy(RNG.standard_normal(shape).astype(np.float32))


@pytest.mark.parametrize("size, ceil, floor", [(6, 3, 2), (7, 3, 3), (5, 2, 2)])
def test_pooling_rounds_down_without_ceil_mode(make, size, ceil, floor):
    text = 'type: "Pooling" pooling_param {{ kernel_size: 3 stride: 2 {} }}'
    fields = {"": ceil, "ceil_mode: true": ceil, "ceil_mode: false": floor, "round_mode: FLOOR": floor}
    for field, count in fields.items():
        layer = make(text.format(field), (1, 1, size, size))
        assert layer(_normal(1, 1, size, size)).shape[2:] == (count, count)


def test_dropout_of_fast_rcnn_scales_in_test(make):
    x = torch.ones(4000)
    text = 'type: "Dropout" dropout_param { dropout_ratio: 0.25 scale_train: false }'
    trained = make(text, x.shape)(x)
    assert sorted(trained.unique().tolist()) == [0, 1]
    assert abs(trained.mean() - 0.75) < 5 * (0.25 * 0.75 / 4000) ** 0.5  # five deviations of the mean
    assert torch.equal(make(text, x.shape, phase="TEST")(x), x * 0.75)


def test_dropout_of_bayesian_segnet_drops_in_test(make):
    x = torch.ones(1000)
    y = make('type: "Dropout" dropout_param { sample_weights_test: true }', x.shape, phase="TEST")(x)
    assert sorted(y.unique().tolist()) == [0, 2]


def test_elu_times_lambda(make):
    x = _normal(50)
    y = make('type: "ELU" elu_param { alpha: 1.6 lambda: 1.05 }', x.shape)(x)
    expected = 1.05 * np.where(x.numpy() > 0, x.numpy(), 1.6 * np.expm1(x.numpy()))
    np.testing.assert_allclose(y, expected, rtol=1e-6, atol=1e-7)  # float32


@pytest.mark.parametrize(
    "text", ['type: "Convolution" convolution_param { kernel_size: 1', 'type: "InnerProduct" inner_product_param {']
)
def test_fused_relu(make, text):
    x = _normal(2, 3, 1, 1)
    layer = make(
        f'{text} num_output: 8 relu: true negative_slope: 0.5 weight_filler {{ type: "gaussian" }} }}', x.shape
    )
    y = (x[:, :, 0, 0] @ layer.blobs[0].reshape(8, 3).T).detach()
    np.testing.assert_allclose(
        layer(x)[0].detach().flatten() if "Conv" in text else layer(x).detach()[0],
        np.where(y > 0, y, 0.5 * y).flatten() if "Conv" in text else np.where(y > 0, y, 0.5 * y)[0],
        rtol=1e-5,  # sums of three products in float32
        atol=1e-6,
    )


def test_one_sided_pad(make):
    """Caffe takes 0 for the side that is not named."""
    layer = make('type: "Convolution" convolution_param { num_output: 1 kernel_size: 3 pad_h: 1 }', (1, 1, 5, 5))
    assert layer.top_shapes((1, 1, 5, 5)) == [(1, 1, 5, 3)]


def test_normaliser_that_is_given(make):
    x, label = _normal(6, 4), torch.tensor([0.0, 1, 2, 3, -1, 0])
    text = 'type: "SoftmaxWithLoss" loss_param {{ ignore_label: -1 normalization: PRE_FIXED pre_fixed_normalizer: {} }}'
    kept = torch.tensor([0, 1, 2, 3, 5])
    total = -torch.log_softmax(x.double(), 1)[kept, label[kept].long()].sum()
    for given, divisor in ((40, 40), (0.25, 1)):  # at least 1, as all normalisers
        loss = make(text.format(given), x.shape, label.shape)(x, label)
        np.testing.assert_allclose(loss, total / divisor, rtol=1e-6)


def test_segnets_class_weights(make):
    x, label = _normal(2, 3, 2, 2).requires_grad_(), torch.tensor(RNG.integers(0, 3, (2, 1, 2, 2)))
    label[0, 0, 0, 0] = 7
    weights = np.array([0.5, 2.0, 4.0])
    layer = make(
        'type: "SoftmaxWithLoss" loss_param { ignore_label: 7 weight_by_label_freqs: true '
        "class_weighting: 0.5 class_weighting: 2 class_weighting: 4 }",
        tuple(x.shape),
        tuple(label.shape),
    )
    loss = layer(x, label.float())
    loss.backward()
    p = torch.softmax(x.detach().double(), 1).numpy()
    expected, gradient = 0.0, np.zeros(x.shape)
    for n in range(2):
        for i in range(2):
            for j in range(2):
                at = int(label[n, 0, i, j])
                if at != 7:
                    expected -= weights[at] * np.log(p[n, at, i, j])
                    gradient[n, :, i, j] = weights[at] * (p[n, :, i, j] - np.eye(3)[at])
    np.testing.assert_allclose(loss.item(), expected / 7, rtol=1e-6)
    np.testing.assert_allclose(x.grad, gradient / 7, rtol=1e-5, atol=1e-7)


def test_batch_norm_with_scale_and_bias(make):
    """NVIDIA's: y = scale (x - mu) / sqrt(var + eps) + bias; the first two batches replace the statistics."""
    text = (
        'type: "BatchNorm" batch_norm_param { moving_average_fraction: 0.75 eps: 1e-9 scale_bias: true '
        "scale_filler { value: 2 } bias_filler { value: 0.5 } }"
    )
    layer = make(text, (4, 3, 2, 2))
    assert [spec.lr_mult for spec in layer.param.param] == [0, 0, 0, 1, 1]
    batches = [_normal(4, 3, 2, 2) * 3 + 1 for _ in range(4)]
    mean = var = None
    for number, x in enumerate(batches):
        y = layer(x)
        values = x.double().numpy().transpose(1, 0, 2, 3).reshape(3, -1)
        mu, sigma2 = values.mean(1), values.var(1)
        mean, var = (mu, sigma2) if number < 2 else (0.75 * mean + 0.25 * mu, 0.75 * var + 0.25 * sigma2)
        side = (1, 3, 1, 1)
        expected = 2 * (x.numpy() - mu.reshape(side)) / np.sqrt(sigma2 + 1e-5).reshape(side) + 0.5
        np.testing.assert_allclose(y.detach(), expected, rtol=1e-4, atol=1e-5)  # float32
    np.testing.assert_allclose(layer.blobs[0].detach(), mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(layer.blobs[1].detach(), var, rtol=1e-5)
    assert layer.blobs[2].item() == 1
    tester = make(text, (4, 3, 2, 2), phase="TEST")
    for own, trained in zip(tester.blobs, layer.blobs, strict=True):
        own.data.copy_(trained.data)
    expected = 2 * (x.numpy() - mean.reshape(side)) / np.sqrt(var + 1e-5).reshape(side) + 0.5
    np.testing.assert_allclose(tester(x).detach(), expected, rtol=1e-4, atol=1e-5)


def test_statistics_of_parts_of_a_batch(make):
    """Intel's stats_batch_size: as two batches one after the other."""
    x = _normal(4, 3, 2, 2)
    text = 'type: "BatchNorm" batch_norm_param { moving_average_fraction: 0.75 %s }'
    parts, whole = make(text % "stats_batch_size: 2", x.shape), make(text % "", (2, 3, 2, 2))
    assert torch.equal(parts(x), torch.cat([whole(x[:2]), whole(x[2:])]))
    for own, other in zip(parts.blobs, whole.blobs, strict=True):
        assert torch.equal(own, other)
    assert parts.blobs[2].item() == 1.75
    with pytest.raises(CaffeError, match="stats_batch_size 3 does not divide the batch of 4"):
        make(text % "stats_batch_size: 3", x.shape)


def test_mish(make):
    x = _normal(50) * 3
    expected = x.numpy() * np.tanh(np.log1p(np.exp(x.numpy())))
    np.testing.assert_allclose(make('type: "Mish"', x.shape)(x), expected, rtol=1e-5, atol=1e-6)  # float32


def test_balanced_loss(make):
    """One of four is 1: it weighs 3/4, the others 1/4 each; of the second item all are 0, which weigh nothing."""
    x, target = _normal(2, 1, 2, 2), torch.tensor([1.0, 0, 0, 0, 0, 0, 0, 0]).reshape(2, 1, 2, 2)
    s = 1 / (1 + np.exp(-x[0].numpy().flatten()))
    expected = (-0.75 * np.log(s[0]) - 0.25 * np.log(1 - s[1:]).sum()) / 2
    layer = make('type: "SigmoidCrossEntropyBalanceLoss"', x.shape, target.shape)
    assert layer(x, target).item() == pytest.approx(expected, rel=1e-5)  # float32
    ignored = torch.where(target == 1, 1.0, 255.0)
    assert layer(x, ignored).item() == 0  # ones alone weigh nothing


@pytest.mark.parametrize(
    "own, other, expected",
    [
        ("filler { value: 0 }", "", 0),
        ("filler { value: 3 }", "scale_param { bias_term: true }", 3),
        ("", "", 1),
        ("filler { value: 1 }", "scale_param { filler { value: 2 } }", 2),
    ],
)
def test_intels_filler_of_a_merged_scale(own, other, expected):
    """Intel's Caffe makes one layer of a BatchNorm and the Scale behind it, and fills its scale with the former's."""
    net = Net(_batch_norm_and_scale(own, other))
    assert net.nodes[-1].layer.blobs[0].tolist() == [expected] * 3


def test_intels_filler_without_a_scale():
    """There the BatchNorm itself would scale; here it does not, and says so."""
    for own, other in (("filler { value: 2 }", "scale_param { filler { value: 2 } }"), ("filler { value: 0 }", None)):
        with pytest.raises(CaffeError, match="batch_norm_param.filler is a field of another Caffe"):
            Net(_batch_norm_and_scale(own, other))


def _batch_norm_and_scale(own, other):
    scale = f'layer {{ name: "s" type: "Scale" bottom: "b" top: "b" {other} }}' if other is not None else ""
    return parse_text(
        f"""state {{ phase: TEST }}
            layer {{ name: "x" type: "Input" top: "x" input_param {{ shape {{ dim: [2, 3] }} }} }}
            layer {{ name: "b" type: "BatchNorm" bottom: "x" top: "b" batch_norm_param {{ {own} }} }} {scale}""",
        NetParameter,
    )
