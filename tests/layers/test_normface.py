"""L-Softmax, NormFace, the focal loss, GENet's batch normalisation, CTPN's and OpenVINO's layers: rules by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pysolver.errors import CaffeError


def turned(times: int, angle: float) -> float:
    """(-1)^k cos(m a) - 2 k in part k of [0, pi] (L-Softmax, eq. 6)."""
    part = min(int(times * angle / math.pi), times - 1)
    return (-1) ** part * math.cos(times * angle) - 2 * part


@pytest.mark.parametrize("name, times", [("SINGLE", 1), ("TRIPLE", 3), ("QUADRUPLE", 4)])
@pytest.mark.parametrize("degrees", [10, 50, 100, 130, 170])
def test_large_margin(name, times, degrees, make):
    """An item of length 3 at an angle to the weight of its class, of length 2."""
    angle = math.radians(degrees)
    text = f"num_output: 2 type: {name} base: 8 gamma: 1 power: 1 lambda_min: 3"
    layer = make(f'type: "LargeMarginInnerProduct" largemargin_inner_product_param {{ {text} }}', (1, 2), (1,), tops=2)
    layer.blobs[0].data.copy_(torch.tensor([[0.0, 5], [2, 0]]))
    top, weakness = layer(torch.tensor([[3 * math.cos(angle), 3 * math.sin(angle)]]), torch.tensor([1.0]))
    assert weakness.tolist() == [4] and top[0, 0].item() == pytest.approx(15 * math.sin(angle), rel=1e-5)
    expected = (6 * turned(times, angle) + 4 * 6 * math.cos(angle)) / 5
    assert top[0, 1].item() == pytest.approx(expected, rel=1e-4, abs=1e-5)
    np.testing.assert_array_equal(layer.blobs[0].detach(), [[0, 5], [2, 0]])  # not made of length 1


def test_large_margin_of_two(make):
    """2 cos^2 - 1 up to a right angle, then -2 cos^2 - 1, as that fork has it."""
    text = "num_output: 1 type: DOUBLE base: 0"
    layer = make(f'type: "LargeMarginInnerProduct" largemargin_inner_product_param {{ {text} }}', (2, 2), (2,))
    layer.blobs[0].data.copy_(torch.tensor([[1.0, 0]]))
    x = torch.tensor([[0.5, math.sqrt(0.75)], [-0.5, math.sqrt(0.75)]])
    np.testing.assert_allclose(layer(x, torch.zeros(2))[:, 0].detach(), [-0.5, -1.5], rtol=1e-5)


@pytest.mark.parametrize("kind, expected", [("L2", [[2, 13], [5, 26]]), ("L1", [[2, 5], [3, 6]])])
def test_inner_distance(kind, expected, make):
    layer = make(f'type: "InnerDistance" inner_distance_param {{ distance_type: "{kind}" }}', (2, 2), (2, 2))
    x, w = torch.tensor([[0.0, 0], [-1, 2]]), torch.tensor([[1.0, 1], [-2, -3]])
    np.testing.assert_array_equal(layer(x, w), expected)
    with pytest.raises(CaffeError, match="distance_type is L1 or L2"):
        make('type: "InnerDistance" inner_distance_param { distance_type: "cos" }', (2, 2), (2, 2))


@pytest.mark.parametrize("feature", [True, False])
@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("forward", [True, False])
def test_channel_scale(feature, scale, forward, make):
    flags = {"do_forward": forward, "do_backward_feature": feature, "do_backward_scale": scale}
    text = " ".join(f"{name}: {str(value).lower()}" for name, value in flags.items())
    layer = make(f'type: "ChannelScale" channel_scale_param {{ {text} }}', (1, 2, 1, 2), (1, 1, 1, 2))
    x = torch.tensor([[[[1.0, 2]], [[3, 4]]]], requires_grad=True)
    s = torch.tensor([[[[5.0, 7]]]], requires_grad=True)
    y = layer(x, s)
    np.testing.assert_array_equal(y.detach().flatten(), [5, 14, 15, 28] if forward else [1, 2, 3, 4])
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.flatten(), [5, 7, 5, 7] if feature else [1, 1, 1, 1])
    assert (s.grad.flatten().tolist() == [4, 6]) if scale else s.grad is None


def test_label_specific_add(make):
    """Nothing is added below -bias, nor in TEST; the bias grows from bias_min to bias_max."""
    text = "label_specific_add_param { bias_base: -0.5 bias_gamma: -0.25 bias_min: -1 bias_max: -0.6 }"
    layer = make(f'type: "LabelSpecificAdd" {text}', (2, 2), (2,), tops=2)
    x, label = torch.tensor([[0.9, 0.8], [0.9, 0.3]]), torch.tensor([0.0, 1])
    biases = []
    for _ in range(4):
        top, bias = layer(x, label)
        biases.append(bias.item())
    np.testing.assert_allclose(biases, [-0.6, -0.75, -1, -1])  # -0.5, -0.75, -1, -1.25
    assert top.tolist() == x.tolist()  # 0.9 is not above 1
    fixed = make('type: "LabelSpecificAdd" label_specific_add_param { bias: -0.35 }', (2, 2), (2,))
    np.testing.assert_allclose(fixed(x, label), [[0.55, 0.8], [0.9, 0.3]], rtol=1e-6)
    resting = make('type: "LabelSpecificAdd" label_specific_add_param { bias: -0.35 }', (2, 2), (2,), phase="TEST")
    assert resting(x, label).tolist() == x.tolist()


@pytest.mark.parametrize("kind, norms", [("L2", [5, 13]), ("L1", [7, 17])])
@pytest.mark.parametrize("field", ["normalize_param", "softmax_param"])
def test_unit_vectors(kind, norms, field, make):
    """Without a norm_param Normalize has no weights: (3, -4) / 5 and (5, 12) / 13, the norms on top."""
    layer = make(f'type: "Normalize" {field} {{ normalize_type: "{kind}" }}', (2, 2), tops=2)
    x = torch.tensor([[3.0, -4], [5, 12]], requires_grad=True)
    y, norm = layer(x)
    assert not list(layer.blobs) and norm.shape == (2, 1, 1, 1) and not norm.requires_grad
    np.testing.assert_allclose(norm.flatten(), norms, rtol=1e-6)
    np.testing.assert_allclose(y.detach(), x.detach().numpy() / np.array(norms)[:, None], rtol=1e-6)


@pytest.mark.parametrize("kind", ["InnerProduct", "InnerDistance"])
def test_rows_become_of_length_one(kind, make):
    """The weights (3, 4) become (0.6, 0.8) and stay so; their gradient is as of the product with these."""
    field = "inner_product_param" if kind == "InnerProduct" else "inner_distance_param"
    layer = make(f'type: "{kind}" {field} {{ num_output: 1 bias_term: false normalize: true }}', (1, 2))
    layer.blobs[0].data.copy_(torch.tensor([[3.0, 4]]))
    x = torch.tensor([[1.0, 2]])
    y = layer(x)
    y.sum().backward()
    np.testing.assert_allclose(layer.blobs[0].detach(), [[0.6, 0.8]], rtol=1e-6)
    is_product = kind == "InnerProduct"
    assert y.item() == pytest.approx(0.6 + 1.6 if is_product else 0.4**2 + 1.2**2, rel=1e-6)
    np.testing.assert_allclose(layer.blobs[0].grad, [[1, 2]] if is_product else [[-0.8, -2.4]], rtol=1e-5)


def test_products_with_another_blob(make):
    """Weights (1, 2) and (0, -1) from a bottom, the bias the layer's or a third bottom's."""
    x, w = torch.tensor([[3.0, 4]]), torch.tensor([[[1.0, 2]], [[0, -1]]])
    layer = make('type: "InnerProduct" inner_product_param { bias_filler { value: 5 } }', (1, 2), w.shape)
    assert [list(blob.shape) for blob in layer.blobs] == [[2]] and layer(x, w).tolist() == [[16, 1]]
    free = make('type: "InnerProduct"', (1, 2), w.shape, (2,))
    assert not list(free.blobs) and free(x, w, torch.tensor([1.0, 2])).tolist() == [[12, -2]]
    with pytest.raises(CaffeError, match="needs weights of 2 x 2 numbers"):
        make('type: "InnerProduct"', (1, 2), (2, 3))


def test_accuracy_of_distances(make):
    """Labels 0, 1, 1: at distances 1 of 1 2 3, 2 of 3 2 1, and 0 of 3 0 1."""
    x, label = torch.tensor([[1.0, 2, 3], [3, 2, 1], [3, 0, 1]]), torch.tensor([0.0, 1, 1])
    text = 'type: "Accuracy" accuracy_param { min_is_better: true top_k: %d }'
    assert make(text % 1, (3, 3), (3,))(x, label).item() == pytest.approx(2 / 3)
    assert make(text % 2, (3, 3), (3,))(x, label).item() == 1
    assert make('type: "Accuracy"', (3, 3), (3,))(x, label).item() == 0


def test_label_specific_rescale(make):
    """0.5 at the label, 2 elsewhere; with for_ip not below 0; base (1 + i)^-1, at least 0.4; nothing in TEST."""
    x, label = torch.tensor([[4.0, 3], [5, -6]]), torch.tensor([0.0, 1])

    def rescaled(fields, **kind):
        text = f'type: "LabelSpecificRescale" label_specific_rescale_param {{ {fields} }}'
        return make(text, (2, 2), (2,), **kind)

    weights = "positive_weight: 0.5 negative_weight: 2"
    assert rescaled(weights)(x, label).tolist() == [[2, 6], [10, -3]]
    assert rescaled(f"{weights} bias_fix: true for_ip: true")(x, label).tolist() == [[2.5, 6], [10, -6]]
    assert rescaled(weights, phase="TEST")(x, label).tolist() == x.tolist()
    assert rescaled(f"{weights} rescale_test: true", phase="TEST")(x, label).tolist() == [[2, 6], [10, -3]]
    layer = rescaled("positive_weight_base: 1.5 gamma: 1 power: 1 positive_weight_min: 0.4", tops=2)
    np.testing.assert_allclose([layer(x, label)[1].item() for _ in range(3)], [0.75, 0.5, 0.4], rtol=1e-6)


def test_focal_loss(make):
    """Probabilities 1/4, 3/4 and, ignored, another: of alpha (1 - p)^gamma log p the mean."""
    layer = make(
        'type: "FocalLoss" focal_loss_param { alpha: 0.5 gamma: 3 } loss_param { ignore_label: 2 }',
        (3, 2),
        (3,),
        tops=2,
    )
    x = torch.tensor([[0, math.log(3)], [0, math.log(3)], [5, 5]])
    loss, prob = layer(x, torch.tensor([0.0, 1, 2]))
    terms = [0.5 * (1 - p) ** 3 * -math.log(p) for p in (0.25, 0.75)]
    assert loss.item() == pytest.approx(sum(terms) / 2, rel=1e-5)
    np.testing.assert_allclose(prob[0], [0.25, 0.75], rtol=1e-6)


def test_cudnn_batch_norm(make):
    x = np.random.default_rng(0).normal(3, 2, (4, 2, 3, 3)).astype(np.float32)
    fillers = "scale_filler { value: 2 } bias_filler { value: 1 }"
    layer = make(f'type: "CuDNNBatchNorm" cudnn_batch_norm_param {{ momentum: 0.9 {fillers} }}', x.shape)
    y = layer(torch.tensor(x))
    mean, var = x.mean((0, 2, 3), keepdims=True), x.var((0, 2, 3), keepdims=True)
    np.testing.assert_allclose(y.detach(), 2 * (x - mean) / np.sqrt(var + 1e-5) + 1, rtol=1e-4, atol=1e-5)  # float32
    np.testing.assert_allclose(layer.blobs[2], 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(layer.blobs[3], 0.1 * var * 36 / 35, rtol=1e-5)
    assert [blob.requires_grad for blob in layer.blobs] == [True, True, False, False]
    small = x * np.float32(1e-3)  # variances of 4e-6, which cuDNN's least eps of 1e-5 exceeds
    y = make(f'type: "CuDNNBatchNorm" cudnn_batch_norm_param {{ eps: 1e-9 {fillers} }}', x.shape)(torch.tensor(small))
    expected = 2 * (small - small.mean((0, 2, 3), keepdims=True)) / np.sqrt(var * 1e-6 + 1e-5) + 1
    np.testing.assert_allclose(y.detach(), expected, rtol=1e-4, atol=1e-5)  # float32
    frozen = make(f'type: "CuDNNBatchNorm" cudnn_batch_norm_param {{ frozen: true {fillers} }}', x.shape)
    np.testing.assert_allclose(frozen(torch.tensor(x)), 2 * x / np.sqrt(1 + 1e-5) + 1, rtol=1e-5)
    assert [spec.lr_mult for spec in frozen.param.param] == [0] * 4


def test_orders(make):
    x = torch.arange(24.0).reshape(2, 3, 4)
    layer = make('type: "Transpose" transpose_param { dim: 2 dim: 0 dim: 1 }', (2, 3, 4))
    np.testing.assert_array_equal(layer(x), x.numpy().transpose(2, 0, 1))
    np.testing.assert_array_equal(make('type: "Reverse" reverse_param { axis: 1 }', (2, 3, 4))(x), x.numpy()[:, ::-1])
    with pytest.raises(CaffeError, match="must name each axis"):
        make('type: "Transpose" transpose_param { dim: 1 dim: 0 }', (2, 3, 4))
    with pytest.raises(CaffeError, match="axis 3 is none of"):
        make('type: "Reverse" reverse_param { axis: 3 }', (2, 3, 4))


def test_clustered_priors(make):
    """Around (8, 8), (24, 8) of an image of 64 x 32."""
    text = "step: 16 offset: 0.5 width: 10 width: 4 height: 6.5 height: 8 " + "variance: 0.1 variance: 0.2 " * 2
    layer = make(f'type: "PriorBoxClustered" prior_box_param {{ {text} }}', (1, 5, 1, 2), (1, 3, 32, 64))
    found = layer(torch.zeros(1, 5, 1, 2), torch.zeros(1, 3, 32, 64)).reshape(2, -1, 4)
    expected = [
        [(x - w / 2) / 64, (8 - h / 2) / 32, (x + w / 2) / 64, (8 + h / 2) / 32]
        for x in (8, 24)
        for w, h in ((10, 6.5), (4, 8))
    ]
    np.testing.assert_allclose(found[0], expected, rtol=1e-6)
    np.testing.assert_allclose(found[1], [[0.1, 0.2, 0.1, 0.2]] * 4, rtol=1e-6)
    with pytest.raises(CaffeError, match="a height for each width"):
        make('type: "PriorBoxClustered" prior_box_param { width: 3 }', (1, 5, 1, 2), (1, 3, 32, 64))


def test_selu(make):
    x = torch.tensor([-2.0, 0, 3])
    scale, alpha = 1.0507009873554805, 1.6732632423543772  # the paper's, section 2
    expected = [scale * alpha * math.expm1(-2), 0, 3 * scale]
    np.testing.assert_allclose(make('type: "SeLu"', (3,))(x), expected, rtol=1e-6)
    dropout = make('type: "SeLuDropout" selu_dropout_param { dropout_ratio: 0.2 }', (100000,))
    y = dropout(torch.randn(100000))
    assert abs(y.mean()) < 0.02 and abs(y.std() - 1) < 0.02  # four times their deviations
    resting = make('type: "SeLuDropout"', (3,), phase="TEST")
    np.testing.assert_array_equal(resting(x), x)
