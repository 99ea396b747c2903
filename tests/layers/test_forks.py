"""Layers of the forks against formulas written out with loops. (SSD's are in test_against_caffe.py, too.)"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pysolver.errors import CaffeError
from pysolver.layers.forks import boxes

RNG = np.random.default_rng(3)


def c_round(x: float) -> int:
    return int(math.copysign(math.floor(abs(x) + 0.5), x))


def regions(count: int, images: int, size: int) -> np.ndarray:
    """Random regions, some partly and one wholly outside the image."""
    low = RNG.uniform(-8, size, (count, 2))
    boxes_ = np.concatenate([low, low + RNG.uniform(0, size, (count, 2))], 1)
    boxes_[0] = [2 * size, 2 * size, 3 * size, 3 * size]
    boxes_[1] = [5, 5, 2, 2]
    return np.concatenate([RNG.integers(0, images, (count, 1)), boxes_], 1).astype(np.float32)


@pytest.mark.parametrize("pad", [0, 0.25])
def test_roi_pooling(pad, make):
    scale, ph, pw = 0.25, 3, 2
    x, rois = RNG.standard_normal((2, 3, 7, 9)).astype(np.float32), regions(12, 2, 36)
    expected = np.zeros((12, 3, ph, pw))
    for r, (image, *corners) in enumerate(rois):
        more = [(corners[2] - corners[0] + 1) * pad, (corners[3] - corners[1] + 1) * pad]
        corners = [corners[0] - more[0], corners[1] - more[1], corners[2] + more[0], corners[3] + more[1]]
        x1, y1, x2, y2 = (c_round(c * scale) for c in corners)
        height, width = (
            np.float32(max(y2 - y1 + 1, 1)) / np.float32(ph),
            np.float32(max(x2 - x1 + 1, 1)) / np.float32(pw),
        )
        for i in range(ph):
            for j in range(pw):
                top, bottom = (
                    min(max(int(v) + y1, 0), 7) for v in (math.floor(i * height), math.ceil((i + 1) * height))
                )
                left, right = (min(max(int(v) + x1, 0), 9) for v in (math.floor(j * width), math.ceil((j + 1) * width)))
                window = x[int(image), :, top:bottom, left:right]
                if window.size:
                    expected[r, :, i, j] = window.max((1, 2))
    layer = make(
        f'type: "ROIPooling" roi_pooling_param {{ pooled_h: 3 pooled_w: 2 spatial_scale: {scale} pad_ratio: {pad} }}',
        x.shape,
        rois.shape,
    )
    y = layer(torch.from_numpy(x), torch.from_numpy(rois))
    np.testing.assert_allclose(y.numpy(), expected, rtol=1e-6)


def test_region_pooling(make):
    """Rings, cell by cell."""
    scale, offset = 0.25, 1.0
    x = RNG.standard_normal((2, 3, 7, 9)).astype(np.float32)
    rings = np.concatenate([regions(20, 2, 36), regions(20, 2, 36)[:, 1:]], 1)
    rings[0, 5:] = [-9, -9, 99, 99]  # nothing is left but the edge
    rings[1:10] = np.rint(rings[1:10])  # a quarter of them falls on halves of cells

    def cells(box):
        first = [math.floor((v + 1 + offset) * scale + 0.5) for v in box[:2]]
        last = [math.ceil((v + 1 - offset) * scale - 0.5) for v in box[2:]]
        for i in (0, 1):
            if first[i] > last[i]:
                first[i] = last[i] = int((first[i] + last[i]) / 2)
        return *first, *last

    expected = np.zeros((20, 3, 3, 2))
    for r, (image, *corners) in enumerate(rings):
        x1, y1, x2, y2 = cells(corners[:4])
        left, top, right, bottom = cells(corners[4:])
        height, width = (y2 - y1 + 1) / 3, (x2 - x1 + 1) / 2
        for c, i, j in np.ndindex(3, 3, 2):
            for h in range(max(y1 + math.floor(i * height), 0), min(y1 + math.ceil((i + 1) * height), 7)):
                for w in range(max(x1 + math.floor(j * width), 0), min(x1 + math.ceil((j + 1) * width), 9)):
                    if not (left < w < right and top < h < bottom):
                        expected[r, c, i, j] = max(expected[r, c, i, j], x[int(image), c, h, w])
    text = f"region_pooling_param {{ pooled_h: 3 pooled_w: 2 spatial_scale: {scale} offset: {offset} }}"
    layer = make(f'type: "RegionPooling" {text}', x.shape, rings.shape)
    y = layer(torch.from_numpy(x), torch.from_numpy(rings))
    assert (expected == 0).any() and (expected > 0).any()
    np.testing.assert_array_equal(y.numpy(), expected.astype(np.float32))


def test_psroi_pooling(make):
    scale, group, outputs = 0.25, 3, 2
    x, rois = RNG.standard_normal((2, outputs * group**2, 7, 9)).astype(np.float32), regions(12, 2, 36)
    expected = np.zeros((12, outputs, group, group))
    for r, (image, *corners) in enumerate(rois):
        x1, y1 = (c_round(c) * scale for c in corners[:2])
        x2, y2 = ((c_round(c) + 1) * scale for c in corners[2:])
        height, width = max(y2 - y1, 0.1) / group, max(x2 - x1, 0.1) / group
        for d in range(outputs):
            for i in range(group):
                for j in range(group):
                    top, bottom = (
                        min(max(v, 0), 7) for v in (math.floor(i * height + y1), math.ceil((i + 1) * height + y1))
                    )
                    left, right = (
                        min(max(v, 0), 9) for v in (math.floor(j * width + x1), math.ceil((j + 1) * width + x1))
                    )
                    window = x[int(image), (d * group + i) * group + j, top:bottom, left:right]
                    if window.size:
                        expected[r, d, i, j] = window.mean()
    text = f"psroi_pooling_param {{ spatial_scale: {scale} output_dim: {outputs} group_size: {group} }}"
    layer = make(f'type: "PSROIPooling" {text}', x.shape, rois.shape)
    y = layer(torch.from_numpy(x), torch.from_numpy(rois))
    np.testing.assert_allclose(y.numpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["ROIPooling", "PSROIPooling"])
def test_an_image_that_is_not_there(make, kind: str):
    text = "roi_pooling_param { pooled_h: 1 pooled_w: 1 } "
    text += "psroi_pooling_param { spatial_scale: 1 output_dim: 1 group_size: 2 }"
    layer = make(f'type: "{kind}" {text}', (2, 4, 5, 5), (1, 5))
    with pytest.raises(CaffeError, match="image index 2 is outside"):
        layer(torch.rand(2, 4, 5, 5), torch.tensor([[2.0, 0, 0, 3, 3]]))


def bilinear_by_loops(x: np.ndarray, height: int, width: int) -> np.ndarray:
    """Corners on corners."""
    y = np.zeros((*x.shape[:2], height, width))
    for i in range(height):
        for j in range(width):
            v = i * (x.shape[2] - 1) / (height - 1) if height > 1 else 0
            u = j * (x.shape[3] - 1) / (width - 1) if width > 1 else 0
            for row, part in ((int(v), 1 - v % 1), (min(int(v) + 1, x.shape[2] - 1), v % 1)):
                for column, share in ((int(u), 1 - u % 1), (min(int(u) + 1, x.shape[3] - 1), u % 1)):
                    y[:, :, i, j] += part * share * x[:, :, row, column]
    return y


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("height: 11 width: 7", (11, 7)),
        ("zoom_factor: 3", (13, 16)),
        ("shrink_factor: 2", (3, 3)),
        ("shrink_factor: 2 zoom_factor: 4", (9, 9)),
    ],
)
def test_interp(make, text: str, size: tuple[int, int]):
    x = RNG.standard_normal((2, 3, 5, 6))
    layer = make(f'type: "Interp" interp_param {{ {text} }}', x.shape)
    assert layer.top_shapes(x.shape) == [(2, 3, *size)]
    np.testing.assert_allclose(layer(torch.from_numpy(x)).numpy(), bilinear_by_loops(x, *size), atol=1e-12)


def test_interp_cuts_first(make):
    x = RNG.standard_normal((1, 2, 6, 7))
    layer = make('type: "Interp" interp_param { zoom_factor: 2 pad_beg: -1 pad_end: -2 }', x.shape)
    assert layer.top_shapes(x.shape) == [(1, 2, 5, 7)]
    np.testing.assert_allclose(
        layer(torch.from_numpy(x)).numpy(), bilinear_by_loops(x[:, :, 1:-2, 1:-2], 5, 7), atol=1e-12
    )


def test_upsample_undoes_max_pooling(make):
    x = torch.rand(2, 3, 5, 7)
    pool = make('type: "Pooling" pooling_param { kernel_size: 2 stride: 2 }', x.shape, tops=2)
    y, mask = pool(x)
    up = make('type: "Upsample" upsample_param { scale: 2 pad_out_h: true pad_out_w: true }', y.shape, y.shape)
    back = up(y, mask)
    assert back.shape == x.shape
    kept = back != 0
    assert torch.equal(back[kept], x[kept]) and int(kept.sum()) == y.numel()


def test_upsample_refuses_a_place_outside(make):
    up = make('type: "Upsample" upsample_param { scale: 2 }', (1, 1, 1, 1), (1, 1, 1, 1))
    with pytest.raises(CaffeError, match="mask index 4 is outside"):
        up(torch.ones(1, 1, 1, 1), torch.full((1, 1, 1, 1), 4.0))


def test_upsample_with_one_bottom_repeats(make):
    up = make('type: "Upsample" upsample_param { scale: 2 }', (1, 1, 1, 2))
    assert up(torch.tensor([[[[1.0, 2.0]]]])).tolist() == [[[[1, 1, 2, 2], [1, 1, 2, 2]]]]


def test_relu6_axpy_and_shuffle(make):
    x = torch.tensor([[-2.0, 0, 3, 6, 9]])
    assert make('type: "ReLU6"', x.shape)(x).tolist() == [[0, 0, 3, 6, 6]]
    assert make('type: "ReLU6" relu6_param { negative_slope: 0.5 }', x.shape)(x).tolist() == [[-1, 0, 3, 6, 6]]
    channels = torch.arange(6.0).reshape(1, 6, 1)
    shuffled = make('type: "ShuffleChannel" shuffle_channel_param { group: 2 }', (1, 6, 1))(channels)
    assert shuffled.flatten().tolist() == [0, 3, 1, 4, 2, 5]
    a, v, b = torch.randn(2, 3), torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    expected = np.einsum("nc,nchw->nchw", a.numpy(), v.numpy()) + b.numpy()
    torch.testing.assert_close(make('type: "Axpy"', (2, 3), v.shape, v.shape)(a, v, b), torch.from_numpy(expected))


def test_depthwise_convolution_is_one_convolution_a_channel(make):
    x = torch.randn(2, 3, 6, 5)
    text = 'convolution_param { num_output: 3 kernel_size: 3 pad: 1 weight_filler { type: "gaussian" } }'
    layer = make(f'type: "ConvolutionDepthwise" {text}', x.shape)
    assert layer.blobs[0].shape == (3, 1, 3, 3)
    (y,) = layer(x)
    for c in range(3):
        alone = torch.nn.functional.conv2d(x[:, c : c + 1], layer.blobs[0][c : c + 1], padding=1)
        torch.testing.assert_close(y[:, c : c + 1], alone)


def test_smooth_l1_with_weights(make):
    """Fast R-CNN's equation 3, with sigma, inside and outside weights."""
    a, b, inside, outside = RNG.standard_normal((4, 3, 8))
    d = inside * (a - b)
    each = np.where(np.abs(d) < 1 / 9, 0.5 * (3 * d) ** 2, np.abs(d) - 0.5 / 9)
    layer = make('type: "SmoothL1Loss" smooth_l1_loss_param { sigma: 3 }', *[(3, 8)] * 4)
    loss = layer(*(torch.from_numpy(v) for v in (a, b, inside, outside)))
    assert loss.item() == pytest.approx((outside * each).sum() / 3)


def test_bn_of_segnet(make):
    x = torch.randn(4, 3, 5, 5)
    learn = make('type: "BN" bn_param { scale_filler { value: 2 } shift_filler { value: 1 } }', x.shape)
    y = learn(x)
    torch.testing.assert_close(y.mean((0, 2, 3)), torch.ones(3))
    torch.testing.assert_close(y.std((0, 2, 3), correction=0), torch.full((3,), 2.0), rtol=1e-4, atol=1e-4)
    text = 'type: "BN" bn_param { bn_mode: INFERENCE scale_filler { value: 2 } shift_filler { value: 1 } }'
    torch.testing.assert_close(make(text, x.shape)(x), 2 * x + 1)


def test_bn_of_segnet_knows_small_variances(make):
    """Variances of 1 / 4 10^-9 and an eps of 10^-9; and DeconvNet's further tops."""
    x = torch.tensor([[1.0], [-1]]) * 0.5e-9**0.5 * 0.5**0.5
    y, mean, var = make('type: "BN" bn_param { scale_filler { value: 1 } }', x.shape, tops=3)(x)
    np.testing.assert_allclose(y.detach().flatten(), [0.2**0.5, -(0.2**0.5)], rtol=1e-5)
    assert mean.tolist() == [[[[0]]]] and var.shape == (1, 1, 1, 1)
    np.testing.assert_allclose(var.flatten(), [0.25e-9], rtol=1e-5)


@pytest.mark.parametrize("field", ["scale_filler { value: 2 } shift_filler { value: 3 }", "bias_filler { value: 3 }"])
def test_bn_of_one_value_a_channel(make, field):
    """It is its own mean, so the bias is left, without gradient to it."""
    x = torch.randn(1, 3, requires_grad=True)
    y = make(f'type: "BN" bn_param {{ {field} }}', x.shape)(x)
    y.sum().backward()
    assert y.tolist() == [[3, 3, 3]] and x.grad.tolist() == [[0, 0, 0]]


def test_overlap():
    a = torch.tensor([[0.0, 0, 2, 2]])
    b = torch.tensor([[1.0, 1, 3, 3], [0, 0, 2, 2], [2, 2, 3, 3], [1, 1, 0, 0]])
    torch.testing.assert_close(boxes.overlaps(a, b), torch.tensor([[1 / 7, 1, 0, 0]]))


def test_overlap_of_pixels_counts_them():
    a, b = torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([[1.0, 1, 2, 2], [2, 0, 3, 1]])
    torch.testing.assert_close(boxes.overlaps(a, b, pixel=1), torch.tensor([[1 / 7, 0]]))


def test_detections_are_judged_in_pixels_of_their_image(make, tmp_path):
    """Boxes of a row of pixels have no area as fractions; here they are 2 and 3 pixels long."""
    sizes = tmp_path / "sizes.txt"
    sizes.write_text("first 1 3\n")
    text = f'num_classes: 2 overlap_threshold: 0.6 name_size_file: "{sizes}"'
    detection = torch.tensor([[[[0, 1, 0.9, 0, 0, 1 / 3, 0]]]])
    truth = torch.tensor([[[[0, 1, 0, 0, 0, 2 / 3, 0, 0]]]])
    judge = make(f'type: "DetectionEvaluate" detection_evaluate_param {{ {text} }}', (1, 1, 1, 7), (1, 1, 1, 8))
    assert judge(detection, truth)[0, 0, 1].tolist() == pytest.approx([0, 1, 0.9, 1, 0])  # 2 of 3 pixels


@pytest.mark.parametrize("code", [1, 2, 3])
@pytest.mark.parametrize("in_target", [False, True])
def test_decode_undoes_encode(code: int, in_target: bool):
    low = torch.rand(2, 20, 2)
    truth, corners = torch.cat([low, low + 0.1 + torch.rand(2, 20, 2)], 2)
    priors = boxes.Priors(corners, torch.rand(20, 4) + 0.1, code, in_target)
    torch.testing.assert_close(priors.decode(priors.encode(truth) / priors.factors), truth, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("threshold, eta", [(0.3, 1.0), (0.8, 0.95)])
def test_suppression_by_loops(threshold, eta):
    low = RNG.uniform(0, 0.5, (60, 2))
    found = np.concatenate([low, low + RNG.uniform(0.4, 0.5, (60, 2))], 1)
    scores, limit = RNG.permutation(60) / 60, threshold
    kept: list[int] = []
    for i in np.argsort(-scores)[:40]:

        def overlap(j: int, i: int = i) -> float:
            low, high = np.maximum(found[i, :2], found[j, :2]), np.minimum(found[i, 2:], found[j, 2:])
            shared = np.prod(np.maximum(high - low, 0))
            return shared / (np.prod(found[i, 2:] - found[i, :2]) + np.prod(found[j, 2:] - found[j, :2]) - shared)

        if all(overlap(j) <= limit for j in kept):
            kept.append(int(i))
            limit *= eta if limit > 0.5 else 1
    given = torch.from_numpy(found), torch.from_numpy(scores), threshold
    assert 3 < len(kept) < 40 and (limit < threshold) is (eta < 1)
    assert boxes.suppress(*given, 40, eta).tolist() == kept
    for most in (0, 1, len(kept) - 1, 60):
        assert boxes.suppress(*given, 40, eta, most=most).tolist() == kept[:most]
    assert boxes.suppress(*given[:2], -1.0).tolist() == kept[:1]  # overlaps nobody yet, whatever the threshold


def test_every_object_gets_a_prior():
    """Two objects want the same prior: the one that overlaps more takes it, the other the next best."""
    priors = torch.tensor([[0.0, 0, 1, 1], [0, 0, 1, 0.5], [5, 5, 6, 6]])
    truth = torch.tensor([[0.0, 0, 1, 0.9], [0, 0, 1, 1]])
    match = boxes.match(priors, truth, 0.5, per_prediction=False, inside_only=False)
    assert match.objects.tolist() == [1, 0, -1]
    assert boxes.match(priors, truth[:1], 0.5, per_prediction=True, inside_only=False).objects.tolist() == [0, 0, -1]


def test_a_detection_output_takes_the_images_as_a_fourth_bottom(make):
    """For `visualize`: they change nothing."""
    locations, scores = torch.zeros(1, 8), torch.tensor([[0.1, 0.9, 0.8, 0.2]])
    priors = torch.tensor([[[0.1, 0.1, 0.3, 0.3, 0.5, 0.5, 0.9, 0.9], [0.1, 0.1, 0.2, 0.2] * 2]])
    text = 'type: "DetectionOutput" detection_output_param { num_classes: 2 keep_top_k: 1 nms_param { top_k: 9 } }'
    bottoms = (locations, scores, priors)
    found = make(text, *(tuple(b.shape) for b in bottoms))(*bottoms)
    np.testing.assert_allclose(found.flatten(), [0, 1, 0.9, 0.1, 0.1, 0.3, 0.3], rtol=1e-6)
    images = torch.zeros(1, 3, 4, 4)
    assert torch.equal(make(text, *(tuple(b.shape) for b in (*bottoms, images)))(*bottoms, images), found)


@pytest.mark.parametrize(("shape", "built"), [((1, 1, 5, 8), True), ((256, 3, 30, 32), True), ((1, 1, 5, 7), False)])
def test_a_multibox_loss_takes_the_labels_of_a_benchmark(make, shape: tuple, built: bool):
    """Intel's ssd benchmark fills `label` with the shape of its images: the fork asks only for whole rows of 8."""
    made = lambda: make('type: "MultiBoxLoss" multibox_loss_param { num_classes: 2 }', (1, 8), (1, 4), (1, 2, 8), shape)  # noqa: E731
    if built:
        made()
    else:
        with pytest.raises(CaffeError, match="objects"):
            made()
