"""C3D's volumes and YOLO's maps against their rules written out with loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pysolver.errors import CaffeError

RNG = np.random.default_rng(13)


def _normal(*shape):
    return torch.from_numpy(RNG.standard_normal(shape).astype(np.float32))


V3 = "convolution3d_param { num_output: 2 kernel_size: 3 kernel_depth: 2 stride: 2 pad: 1 temporal_pad: 1"
V1 = "convolution_param { num_output: 2 kernel_size: 3 kernel_depth: 2 stride: 2 pad: 1 temporal_pad: 1"


@pytest.mark.parametrize("fields", [V3, V1])
def test_convolution_of_volumes(make, fields):
    x = _normal(1, 2, 3, 5, 4)
    layer = make(f'type: "Convolution3D" {fields} weight_filler {{ type: "gaussian" }} }}', x.shape)
    weight = layer.blobs[0].detach().numpy()
    assert weight.shape == (2, 2, 2, 3, 3)
    padded = np.pad(x.numpy().astype(float), ((0, 0), (0, 0), (1, 1), (1, 1), (1, 1)))
    expected = np.zeros((1, 2, 4, 3, 2))
    for o, t, i, j in np.ndindex(*expected.shape[1:]):
        window = padded[0, :, t : t + 2, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
        expected[0, o, t, i, j] = (window * weight[o]).sum()
    (y,) = layer(x)
    np.testing.assert_allclose(y.detach(), expected, rtol=1e-4, atol=1e-5)  # float32


@pytest.mark.parametrize("fields", [V3, V1])
def test_deconvolution_of_volumes(make, fields):
    x = _normal(1, 2, 2, 3, 4)
    layer = make(f'type: "Deconvolution3D" {fields} weight_filler {{ type: "gaussian" }} }}', x.shape)
    weight = layer.blobs[0].detach().numpy()
    assert weight.shape == (2, 2, 2, 3, 3)
    padded = np.zeros((1, 2, 3, 7, 9))
    for c, t, i, j in np.ndindex(*x.shape[1:]):
        padded[0, :, t : t + 2, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3] += x[0, c, t, i, j].item() * weight[c]
    (y,) = layer(x)
    np.testing.assert_allclose(y.detach(), padded[:, :, 1:-1, 1:-1, 1:-1], rtol=1e-4, atol=1e-5)  # float32


@pytest.mark.parametrize("own", ["pooling3d_param", "pooling_param"])
@pytest.mark.parametrize("pool, pad", [("MAX", 0), ("AVE", 0), ("AVE", 1)])
def test_pooling_of_volumes(make, own, pool, pad):
    size, kernel, stride = (4, 5, 6), (3, 3, 3), (2, 2, 2)
    x = _normal(1, 2, *size)
    text = f"pool: {pool} kernel_size: 3 kernel_depth: 3 stride: 2 temporal_stride: 2 pad: {pad}"
    y = make(f'type: "Pooling3D" {own} {{ {text} }}', x.shape)(x)
    pads = (0, pad, pad)
    counts = [math.ceil((n + 2 * p - k) / s) + 1 for n, p, k, s in zip(size, pads, kernel, stride)]
    expected = np.zeros((1, 2, *counts))
    for c, *place in np.ndindex(*expected.shape[1:]):
        starts = [at * s - p for at, s, p in zip(place, stride, pads)]
        ends = [min(start + k, n + p) for start, k, n, p in zip(starts, kernel, size, pads)]
        inside = tuple(slice(max(a, 0), min(b, n)) for a, b, n in zip(starts, ends, size))
        window = x.numpy()[(0, c, *inside)]
        volume = math.prod(b - a for a, b in zip(starts, ends))
        expected[(0, c, *place)] = window.max() if pool == "MAX" else window.sum() / volume
    assert y.shape == expected.shape
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("pool", ["MAX", "AVE"])
@pytest.mark.parametrize("square", [True, False])
def test_pooling_of_p3d(make, pool, square):
    """A kernel of 2 x 3 x 3 in steps of 2 x 2 x 4, pads of 1: the last windows of length and width, which would start
    at 4 and 8, behind 3 + 1 and 6 + 1, are left out."""
    x = _normal(1, 1, 3, 5, 6)
    planes = "kernel_size: 3 pad: 1" if square else "kernel_h: 3 kernel_w: 3 pad_h: 1 pad_w: 1"
    text = f"pool: {pool} {planes} stride_h: 2 stride_w: 4 kernel_l: 2 stride_l: 2 pad_l: 1"
    (y,) = make(f'type: "Pooling3D" pooling3d_param {{ {text} }}', x.shape)(x)[0]
    expected = np.empty((2, 3, 2))
    assert tuple(y.shape) == (2, 3, 2)
    for t, i, j in np.ndindex(*expected.shape):
        starts, sizes = (2 * t - 1, 2 * i - 1, 4 * j - 1), (3, 5, 6)
        ends = [min(s + k, n + 1) for s, k, n in zip(starts, (2, 3, 3), sizes)]
        volume = math.prod(e - s for s, e in zip(starts, ends))
        window = x.numpy()[(0, 0, *(slice(max(s, 0), e) for s, e in zip(starts, ends)))]
        expected[t, i, j] = window.max(initial=-np.inf) if pool == "MAX" else window.sum() / volume
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)  # sums of float32


def test_volumes_need_five_axes(make):
    with pytest.raises(CaffeError, match="needs a bottom"):
        make('type: "Pooling3D" pooling3d_param { kernel_size: 2 kernel_depth: 1 }', (1, 2, 3, 4))


def test_softmax_of_voxels(make):
    """Probabilities 1/4 and 3/4: label 1 costs -log(3/4), label 2, of no class, nothing, but both have gradients."""
    x = torch.tensor([0.0, math.log(3)]).reshape(1, 2, 1, 1, 1).repeat(1, 1, 2, 1, 1).requires_grad_()
    label = torch.tensor([[[1.0, 2], [0, 0]]]).reshape(1, 2, 2, 1, 1)
    loss = make('type: "VoxelSoftmaxWithLoss"', x.shape, label.shape)(x, label)
    loss.backward()
    assert loss.item() == pytest.approx(-math.log(0.75) / 2)
    np.testing.assert_allclose(x.grad.reshape(2, 2), np.array([[0.25, 0.25], [-0.25, 0.75]]) / 2, rtol=1e-6)
    np.testing.assert_allclose(make('type: "VoxelSoftmax"', x.shape)(x)[0, :, 0].detach().flatten(), [0.25, 0.75])
    with pytest.raises(CaffeError, match="labels of the volume"):
        make('type: "VoxelSoftmaxWithLoss"', x.shape, (1, 1, 3, 1, 1))


@pytest.mark.parametrize("reverse", [False, True])
def test_reorg_index_by_index(make, reverse):
    """Darknet's rule: place p of the map in c, h, w belongs to place q of the same memory in c / s^2, s h, s w."""
    s, (c, h, w) = 2, (8, 4, 6)
    x = _normal(1, c, h, w)
    y = make(f'type: "Reorg" reorg_param {{ stride: {s} reverse: {str(reverse).lower()} }}', x.shape)(x)
    flat, expected = x.numpy().reshape(-1), np.zeros(c * h * w, np.float32)
    for k, j, i in np.ndindex(c, h, w):
        offset, k2 = divmod(k, c // s**2)
        p = i + w * (j + h * k)
        q = (i * s + offset % s) + w * s * ((j * s + offset // s) + h * s * k2)
        if reverse:
            expected[q] = flat[p]
        else:
            expected[p] = flat[q]
    assert y.shape == ((1, c // 4, 2 * h, 2 * w) if reverse else (1, 4 * c, h // 2, w // 2))
    np.testing.assert_array_equal(y.numpy().reshape(-1), expected)


def _s(x):
    return 1 / (1 + math.exp(-x))


def _iou(a, b):
    wide = min(a[2], b[2]) - max(a[0], b[0])
    high = min(a[3], b[3]) - max(a[1], b[1])
    if wide < 0 or high < 0:
        return 0.0
    area = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return wide * high / (sum(area) - wide * high)


def test_yolo_boxes(make):
    classes, biases, masks, scales = 2, [10, 14, 23, 27, 37, 58, 81, 82], [[2, 3], [0, 1]], [32, 16]
    maps = [_normal(1, 2 * 7, 2, 3) * 2, _normal(1, 2 * 7, 4, 6) * 2]
    text = " ".join(
        ["num_classes: 2 num_box: 2 confidence_threshold: 0.3 nms_threshold: 0.4 mask_group_num: 2"]
        + [f"biases: {value}" for value in biases]
        + [f"mask: {value}" for value in sum(masks, [])]
        + [f"anchors_scale: {value}" for value in scales]
    )
    layer = make(
        f'type: "Yolov3DetectionOutput" yolov3_detection_output_param {{ {text} }}', *(tuple(m.shape) for m in maps)
    )
    found = []
    for values, mask, scale in zip(maps, masks, scales):
        _, _, rows, columns = values.shape
        for j, i, n in np.ndindex(rows, columns, 2):
            tx, ty, tw, th, to, *scores = values[0, 7 * n : 7 * n + 7, j, i].tolist()
            x, y = (i + _s(tx)) / columns, (j + _s(ty)) / rows
            wide = math.exp(tw) * biases[2 * mask[n]] / (columns * scale)
            high = math.exp(th) * biases[2 * mask[n] + 1] / (rows * scale)
            box = (x - wide / 2, y - high / 2, x + wide / 2, y + high / 2)
            found += [(_s(to) * _s(scores[c]), c + 1, box) for c in range(classes) if _s(to) * _s(scores[c]) > 0.3]
    found.sort(reverse=True)
    kept = []
    for score, label, box in found:
        if all(_iou(box, other) < 0.4 for _, _, other in kept):
            kept.append((score, label, box))
    assert len(found) > len(kept) > 3
    rows = layer(*maps).reshape(-1, 7)
    expected = np.array([[0, label, score, *box] for score, label, box in kept])
    np.testing.assert_allclose(rows, expected, rtol=1e-4, atol=1e-5)  # float32 exponentials


def test_yolo_finds_nothing(make):
    text = "num_classes: 1 num_box: 1 mask_group_num: 1 biases: 1 biases: 1 mask: 0 anchors_scale: 32"
    layer = make(f'type: "Yolov3DetectionOutput" yolov3_detection_output_param {{ {text} }}', (2, 6, 1, 1))
    rows = layer(torch.full((2, 6, 1, 1), -20.0)).reshape(-1, 7)
    np.testing.assert_array_equal(rows, [[0] + [-1] * 6, [1] + [-1] * 6])


def test_boxes_of_version_2(make):
    x = _normal(1, 2 * 8, 2, 3)
    biases = [1.0, 2.0, 0.5, 0.7]
    text = " ".join(f"biases: {b}" for b in biases) + " num_classes: 3 num_box: 2 confidence_threshold: 0.1"
    text += " nms_threshold: 2"  # nothing is suppressed
    y = make(f'type: "YoloDetectionOutput" yolo_detection_output_param {{ {text} }}', tuple(x.shape))(x)
    expected = []
    for n, j, i in np.ndindex(2, 2, 3):
        t = x[0].reshape(2, 8, 2, 3)[n, :, j, i].double().numpy()
        sig = 1 / (1 + np.exp(-t))
        likely = np.exp(t[5:]) / np.exp(t[5:]).sum()
        score = sig[4] * likely.max()
        if score >= 0.1:
            cx, cy = (i + sig[0]) / 3, (j + sig[1]) / 2
            w, h = np.exp(t[2]) * biases[2 * n] / 3, np.exp(t[3]) * biases[2 * n + 1] / 2
            expected.append([0, likely.argmax() + 1, score, cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2])
    expected = sorted(expected, key=lambda row: -row[2])
    assert len(expected) > 4
    np.testing.assert_allclose(y[0, 0].numpy(), expected, rtol=1e-4, atol=1e-5)  # float32


def test_judging_boxes_of_version_2(make):
    """One box at the object of its class, one of its class elsewhere on it, one of a class that has no object."""
    x = torch.zeros(1, 7, 3, 3)
    x[0, 4] = -20  # nowhere but
    for j, i, kind in ((1, 1, 0), (0, 1, 0), (2, 2, 1)):
        x[0, 4, j, i], x[0, 5 + kind, j, i] = 3 - j, 8
    x[0, 2:4, 0, 1] = 0.3
    x[0, 1, 0, 1] = 4  # down, to the middle
    text = "side: 3 num_class: 2 num_object: 1 nms: 0.9 threshold: 0.4 biases: 1 biases: 1"
    third = 1 / 3
    label = torch.tensor([[[[0, 1, 0, third, third, 2 * third, 2 * third, 0]]]])
    y = make(f'type: "EvalDetection" eval_detection_param {{ {text} }}', tuple(x.shape), tuple(label.shape))(x, label)
    assert y.shape == (1, 2 + 9 * 4)
    assert y[0, :2].tolist() == [1, 0]  # objects of each class
    rows = y[0, 2:].reshape(-1, 4)
    sure = math.exp(8) / (math.exp(8) + 1)
    scores = [sure / (1 + math.exp(-logit)) for logit in (3, 2, 1)]
    # The box above has an overlap of less than 0.4 and so is neither; the one at the object is right.
    np.testing.assert_allclose(rows[:3], [[0, scores[0], 0, 0], [0, scores[1], 1, 0], [1, scores[2], 0, 1]], rtol=1e-5)
    assert not rows[3:].any()
