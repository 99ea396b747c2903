"""YOLO's losses against their rules written out box by box, from region_loss_layer.cpp and yolov3_layer.cpp."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pysolver.errors import CaffeError

SIDE, CLASSES = 3, 2
BIASES = [1.0, 1.5, 2.5, 0.7]
# label, x, y, width, height; the last two share a place and a box
OBJECTS = [[(0, 0.2, 0.3, 0.3, 0.4), (1, 0.9, 0.6, 0.8, 0.3), (0, 0.95, 0.65, 0.8, 0.25)], [(1, 0.5, 0.5, 0.5, 0.5)]]


def s(x):
    return 1 / (1 + math.exp(-x))


def overlap(a, b):
    """Of two boxes of centre and size."""
    sides = [
        min(a[i] + a[i + 2] / 2, b[i] + b[i + 2] / 2) - max(a[i] - a[i + 2] / 2, b[i] - b[i + 2] / 2) for i in (0, 1)
    ]
    if min(sides) < 0:
        return 0.0
    shared = sides[0] * sides[1]
    return shared / (a[2] * a[3] + b[2] * b[3] - shared)


def rows_of_5(rows=4):
    label = np.zeros((2, 1, rows, 5), np.float32)
    for image, own in enumerate(OBJECTS):
        label[image, 0, : len(own)] = own
    return torch.from_numpy(label)


def rows_of_8():
    rows = [
        (image, kind + 1, 0, x - w / 2, y - h / 2, x + w / 2, y + h / 2, 0)
        for image, own in enumerate(OBJECTS)
        for kind, x, y, w, h in own
    ]
    return torch.tensor([[[*rows, [-1.0] * 8]]])


def values(seed=0):
    return np.random.default_rng(seed).normal(size=(2, 2 * (5 + CLASSES), SIDE, SIDE))


def region(x, rescore, is_intel, noobject=0.5, object_=2.0, class_=0.7, coord=1.5, thresh=0.3):
    """The delta of RegionLoss."""
    delta = np.zeros((2, 2, 5 + CLASSES, SIDE, SIDE))
    x = x.reshape(delta.shape)
    for b, own in enumerate(OBJECTS):
        for n, j, i in np.ndindex(2, SIDE, SIDE):
            t = x[b, n, :, j, i]
            box = (i + s(t[0])) / SIDE, (j + s(t[1])) / SIDE
            box += math.exp(t[2]) * BIASES[2 * n] / SIDE, math.exp(t[3]) * BIASES[2 * n + 1] / SIDE
            if max(overlap(box, one[1:]) for one in own) <= thresh:
                delta[b, n, 4, j, i] = noobject * s(t[4]) * s(t[4]) * (1 - s(t[4]))
        for kind, cx, cy, w, h in own:
            i, j = int(cx * SIDE), int(cy * SIDE)
            fits = [overlap((0, 0, BIASES[2 * n] / SIDE, BIASES[2 * n + 1] / SIDE), (0, 0, w, h)) for n in (0, 1)]
            n = fits.index(max(fits))
            t, d = x[b, n, :, j, i], delta[b, n, :, j, i]
            box = (i + s(t[0])) / SIDE, (j + s(t[1])) / SIDE
            box += math.exp(t[2]) * BIASES[2 * n] / SIDE, math.exp(t[3]) * BIASES[2 * n + 1] / SIDE
            scale = coord if rescore or is_intel else coord * (2 - w * h)
            miss = [s(t[0]) - (cx * SIDE - i), s(t[1]) - (cy * SIDE - j)]
            miss += [t[2] - math.log(w * SIDE / BIASES[2 * n]), t[3] - math.log(h * SIDE / BIASES[2 * n + 1])]
            for k in range(4):
                held = max(-1, min(1, miss[k])) if is_intel else miss[k]
                d[k] = scale * held * (s(t[k]) * (1 - s(t[k])) if k < 2 else 1)
            bend = s(t[4]) * (1 - s(t[4]))
            if is_intel:
                d[4] = -object_ * 2 * (1 - s(t[4])) ** 3 * bend
            else:
                d[4] = -object_ * ((overlap(box, (cx, cy, w, h)) if rescore else 1) - s(t[4])) * bend
            total = sum(math.exp(c) for c in t[5:])
            for k in range(CLASSES):
                d[5 + k] = class_ * (math.exp(t[5 + k]) / total - (k == kind))
    return delta


@pytest.mark.parametrize("rescore, is_intel", [(1, False), (0, False), (1, True)])
def test_region_loss(make, rescore, is_intel):
    text = " ".join(f"biases: {bias}" for bias in BIASES)
    text += (
        f" num: 2 num_class: {CLASSES} rescore: {rescore} object_scale: 2 class_scale: 0.7 coord_scale: 1.5 thresh: 0.3"
    )
    x = torch.from_numpy(values().astype(np.float32)).requires_grad_()
    label = rows_of_8() if is_intel else rows_of_5()
    layer = make(f'type: "RegionLoss" region_loss_param {{ {text} }}', tuple(x.shape), tuple(label.shape))
    loss = layer(x, label)
    (gradient,) = torch.autograd.grad(3 * loss, x)
    expected = region(values(), rescore, is_intel)
    assert loss.item() == pytest.approx((expected**2).sum() / (1 if is_intel else 2), rel=1e-5)  # float32
    np.testing.assert_allclose(gradient.numpy(), 3 * expected.reshape(x.shape) / 2, rtol=1e-4, atol=1e-6)


ANCHORS = [10.0, 14, 23, 27, 60, 30]
SCALE = 16


def yolov3(x, mask, logic, smooth=0.2, iou_thresh=0.4, object_=2.0, class_=0.7, coord=1.5, thresh=0.3):
    """The delta of Yolov3 before what use_logic_gradient does at the end."""
    delta = np.zeros((2, 2, 5 + CLASSES, SIDE, SIDE))
    x = x.reshape(delta.shape)
    unit = SIDE * SCALE
    for b, own in enumerate(OBJECTS):
        for n, j, i in np.ndindex(2, SIDE, SIDE):
            t, bias = x[b, n, :, j, i], ANCHORS[2 * mask[n] : 2 * mask[n] + 2]
            box = (i + s(t[0])) / SIDE, (j + s(t[1])) / SIDE
            box += math.exp(t[2]) * bias[0] / unit, math.exp(t[3]) * bias[1] / unit
            if max(overlap(box, one[1:]) for one in own) <= thresh:
                delta[b, n, 4, j, i] = s(t[4])
        for kind, cx, cy, w, h in own:
            i, j = int(cx * SIDE), int(cy * SIDE)
            fits = [overlap((0, 0, ANCHORS[2 * n] / unit, ANCHORS[2 * n + 1] / unit), (0, 0, w, h)) for n in range(3)]
            best = fits.index(max(fits))
            skipped = mask.index(best) if best in mask else best
            answering = [mask.index(best)] if best in mask else []
            answering += [mask.index(n) for n in range(3) if n in mask and n != skipped and fits[n] > iou_thresh]
            for n in answering:
                t, d, bias = x[b, n, :, j, i], delta[b, n, :, j, i], ANCHORS[2 * mask[n] : 2 * mask[n] + 2]
                scale = coord * (2 - w * h)
                d[0] = scale * (s(t[0]) - (cx * SIDE - i))
                d[1] = scale * (s(t[1]) - (cy * SIDE - j))
                d[2] = scale * (t[2] - math.log(w * unit / bias[0]))
                d[3] = scale * (t[3] - math.log(h * unit / bias[1]))
                d[4] = -(1 - s(t[4])) * (object_ if logic else 1)
                for k in [kind] if d[5 + kind] else range(CLASSES):
                    d[5 + k] = class_ * (s(t[5 + k]) - ((k == kind) * (1 - smooth) + 0.5 * smooth))
    return delta


@pytest.mark.parametrize("mask", [[0, 1], [1, 2], [2, 0]])
@pytest.mark.parametrize("logic", [False, True])
def test_yolov3(make, mask, logic):
    text = " ".join([f"biases: {bias}" for bias in ANCHORS] + [f"mask: {n}" for n in mask])
    text += f" num: 2 num_class: {CLASSES} anchors_scale: {SCALE} object_scale: 2 class_scale: 0.7 coord_scale: 1.5"
    text += f" thresh: 0.3 iou_thresh: 0.4 label_smooth_eps: 0.2 use_logic_gradient: {str(logic).lower()}"
    x = torch.from_numpy(values(1).astype(np.float32)).requires_grad_()
    label = rows_of_5()
    layer = make(f'type: "Yolov3" yolov3_param {{ {text} }}', tuple(x.shape), tuple(label.shape))
    loss = layer(x, label)
    (gradient,) = torch.autograd.grad(loss, x)
    expected = yolov3(values(1), mask, logic)
    assert loss.item() == pytest.approx((expected**2).sum() / 2, rel=1e-5)  # float32
    if logic:
        seen = 1 / (1 + np.exp(-values(1).reshape(expected.shape)))
        bend = seen * (1 - seen)
        bend[:, :, 2:4] = 1
        expected = expected * bend
    np.testing.assert_allclose(gradient.numpy(), expected.reshape(x.shape) / 2, rtol=1e-4, atol=1e-6)


def test_no_objects(make):
    text = " ".join(f"biases: {bias}" for bias in BIASES) + f" num: 2 num_class: {CLASSES}"
    x, label = torch.zeros(1, 14, 3, 3), torch.zeros(1, 1500)
    loss = make(f'type: "RegionLoss" region_loss_param {{ {text} }}', (1, 14, 3, 3), (1, 1500))(x, label)
    assert loss.item() == pytest.approx(18 * (0.5 * 0.5 * 0.25) ** 2)  # s = 1/2 everywhere


@pytest.mark.parametrize(
    "text, words",
    [
        ("num: 2 num_class: 2 biases: 1 biases: 1", "needs a width and a height for each of 2"),
        ("num: 1 num_class: 2 biases: 1 biases: 1 softmax_tree: 'x'", "softmax_tree"),
        ("num: 1 num_class: 9 biases: 1 biases: 1", r"needs a map \(N, 1 x 14, H, W\)"),
    ],
)
def test_errors(make, text, words):
    with pytest.raises(CaffeError, match=words):
        make(f'type: "RegionLoss" region_loss_param {{ {text} }}', (1, 7, 3, 3), (1, 1500))


def test_an_unknown_class(make):
    layer = make(
        'type: "Yolov3" yolov3_param { num: 1 num_class: 2 biases: 9 biases: 9 mask: 0 }', (1, 7, 3, 3), (1, 5)
    )
    with pytest.raises(CaffeError, match="an object of class 2: there are 2, from 0 on"):
        layer(torch.zeros(1, 7, 3, 3), torch.tensor([[2, 0.5, 0.5, 0.2, 0.2]]))
