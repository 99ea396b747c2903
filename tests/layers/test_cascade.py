"""MS-CNN's and Cascade R-CNN's proposals and detections against their rules, box by box."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pysolver.errors import CaffeError
from pysolver.layers.forks import cascade

REG = "bbox_reg_param { bbox_mean: 0.1 bbox_mean: 0 bbox_mean: -0.1 bbox_mean: 0 " + " ".join(
    f"bbox_std: {value} " for value in (0.1, 0.2, 0.3, 0.4)
)
MEAN, STD = np.array([0.1, 0, -0.1, 0]), np.array([0.1, 0.2, 0.3, 0.4])


def tensors(*arrays):
    return [torch.tensor(np.asarray(array), dtype=torch.float32) for array in arrays]


def iou(a, b, mode="IOU", pixel=1):
    sides = [min(a[i + 2], b[i + 2]) - max(a[i], b[i]) + pixel for i in (0, 1)]
    if min(sides) <= pixel * 0.999:
        return 0.0
    areas = [(box[2] - box[0] + pixel) * (box[3] - box[1] + pixel) for box in (a, b)]
    whole = {"IOMU": min(areas), "IOFU": areas[0]}.get(mode, sum(areas) - sides[0] * sides[1])
    return sides[0] * sides[1] / whole


def kept(found, threshold, mode, before, after, pixel):
    """found: (score, box) in any order."""
    found = sorted(found, key=lambda one: -one[0])[:before]
    stay = []
    for score, box in found:
        if all(iou(other, box, mode, pixel) <= threshold for _, other in stay):
            stay.append((score, box))
    return stay[:after]


@pytest.mark.parametrize("mode", ["IOU", "IOMU", "IOFU"])
@pytest.mark.parametrize("pixel", [0, 1])
def test_overlap(mode, pixel):
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 60, (20, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(5, 60, (20, 2))], 1)
    (found,) = tensors(boxes)
    for box, row in zip(boxes, found, strict=True):
        expected = [iou(box, other, mode, pixel) for other in boxes]
        np.testing.assert_allclose(cascade.overlap(row, found, mode, pixel), expected, rtol=1e-4, atol=1e-6)  # float32


def decoded(place, code):
    """A box whose ends belong to it, moved by a code."""
    x1, y1, x2, y2 = place
    dx, dy, dw, dh = code * STD + MEAN
    w, h = x2 - x1 + 1, y2 - y1 + 1
    cx, cy, nw, nh = (x1 + x2) / 2 + dx * w, (y1 + y2) / 2 + dy * h, w * math.exp(dw), h * math.exp(dh)
    return [cx - (nw - 1) / 2, cy - (nh - 1) / 2, cx + (nw - 1) / 2, cy + (nh - 1) / 2]


PLACES = np.array([[0, 10, 10, 30, 40], [1, 5, 8, 50, 20], [0, 20, 20, 20, 21]])


def test_decode(make):
    codes = np.random.default_rng(1).normal(size=(3, 8))
    layer = make(f"type: 'DecodeBBox' {REG} }}", (3, 8), (3, 5), phase="TEST")
    found = layer(*tensors(codes, PLACES))
    expected = [[row[0], *decoded(row[1:], code[4:])] for row, code in zip(PLACES, codes, strict=True)]
    np.testing.assert_allclose(found.reshape(3, 5), expected, rtol=1e-5)


def test_decode_in_training_leaves_out(make):
    """What an object matches too well, and what is turned inside out."""
    codes = np.zeros((3, 8))
    codes[2, 6] = -40  # of width 0
    matched = np.array([[1, 0, 0, 0, 0, 0.96], [1, 0, 0, 0, 0, 0.5], [1, 0, 0, 0, 0, 0.1]])
    layer = make(f"type: 'DecodeBBox' {REG} }} decode_bbox_param {{ gt_iou_thr: 0.95 }}", (3, 8), (3, 5), (3, 6))
    assert layer(*tensors(codes, PLACES, matched))[:, 0].tolist() == [[[1.0]]]
    with pytest.raises(CaffeError, match="no box is left"):
        layer(*tensors(codes[[0, 0]], PLACES[[0, 0]], matched[[0, 0]]))
    with pytest.raises(CaffeError, match="for TRAIN"):
        make(f"type: 'DecodeBBox' {REG} }}", (3, 8), (3, 5), (3, 6), phase="TEST")


def field(code, place, size, stride, xyr, whr):
    """x, y, width, height of a field at place (row, column), moved by a code."""
    dx, dy, dw, dh = code * STD + MEAN
    dx, dy = (min(max(v, -1 / xyr), 1 / xyr) for v in (dx, dy))
    dw, dh = (min(max(v, -math.log(whr)), math.log(whr)) for v in (dw, dh))
    w, h = size[0] * math.exp(dw), size[1] * math.exp(dh)
    return dx * size[0] + (place[1] + 0.5) * stride - w / 2, dy * size[1] + (place[0] + 0.5) * stride - h / 2, w, h


def test_box_output(make):
    rng = np.random.default_rng(2)
    maps = [3 * rng.normal(size=(2, 7, 4, 5)), 3 * rng.normal(size=(2, 7, 2, 3))]
    text = f"""type: 'BoxOutput' {REG} }} box_output_param {{ fg_thr: 0.5 iou_thr: 0.4 nms_type: "IOMU" field_w: 20
               field_w: 40 field_h: 30 field_h: 50 downsample_rate: 8 downsample_rate: 16 field_whr: 1.5 field_xyr: 4
               max_nms_num: 12 max_post_nms_num: 4 min_size: 12 }}"""
    expected = []
    for image in range(2):
        found = []
        for x, size, stride in zip(maps, ((20, 30), (40, 50)), (8, 16), strict=True):
            for i, j in np.ndindex(*x.shape[2:]):
                score = x[image, 1:3, i, j].max() - x[image, 0, i, j]
                left, top, w, h = field(x[image, 3:, i, j], (i, j), size, stride, 4, 1.5)
                left, top = max(left, 0), max(top, 0)
                w, h = min(w, x.shape[3] * stride - left), min(h, x.shape[2] * stride - top)
                if score >= 0.5 and min(w, h) >= 12:
                    found.append((score, [left, top, left + w, top + h]))
        assert len(found) > 12
        expected += [[image, *box, score] for score, box in kept(found, 0.4, "IOMU", 12, 4, 0)]
    layer = make(text, *(x.shape for x in maps), tops=2)
    boxes, scored = layer(*tensors(*maps))
    np.testing.assert_allclose(scored.reshape(-1, 6), expected, rtol=1e-4, atol=1e-4)  # pixels in float32
    np.testing.assert_array_equal(boxes.reshape(-1, 5), scored.reshape(-1, 6)[:, :5])
    nothing = layer(*tensors(*(np.zeros_like(x) for x in maps)))
    assert nothing[0].flatten().tolist() == [0, 1, 1, 10, 10] and not nothing[1].any()


def test_box_group_output(make):
    rng = np.random.default_rng(3)
    prob, codes = rng.random((4, 2, 3, 4)), 3 * rng.normal(size=(4, 4, 3, 4))
    text = f"""type: 'BoxGroupOutput' {REG} }} box_group_output_param {{ fg_thr: 0.3 iou_thr: 0.4 min_size: 10
               field_whr: 1.5 field_xyr: 4
               box_group_param {{ field_w: 20 field_w: 30 field_h: 25 field_h: 10 stride: 8 }} }}"""
    expected = []
    for image in range(2):
        found = []
        for k, size in enumerate(((20, 25), (30, 10))):
            for i, j in np.ndindex(3, 4):
                x, y, w, h = field(codes[2 * image + k, :, i, j], (i, j), size, 8, 4, 1.5)
                box = [max(x, 0), max(y, 0), min(x + w - 1, 32), min(y + h - 1, 24)]
                score = 1 - prob[2 * image + k, 0, i, j]
                if score >= 0.3 and min(box[2] - box[0] + 1, box[3] - box[1] + 1) >= 10:
                    found.append((score, box))
        expected += [[image, *box] for _, box in kept(found, 0.4, "IOU", 100, 100, 1)]
    layer = make(text, prob.shape, codes.shape)
    np.testing.assert_allclose(layer(*tensors(prob, codes)).reshape(-1, 5), expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(CaffeError, match="half as many box_group_param"):
        make(text, prob.shape, codes.shape, prob.shape, codes.shape)


def test_scale_route(make):
    """Areas of 100, 1600 and 10000."""
    regions = np.array([[0, 0, 0, 9, 9], [0, 0, 0, 39, 39], [0, 5, 5, 104, 104]])
    extra = np.arange(6).reshape(3, 2)
    for bounds, rows in (("low_scale: 10 high_scale: 40", [0]), ("low_scale: 40", [1, 2]), ("high_scale: 5", [0])):
        layer = make(f"type: 'ScaleRoute' scale_route_param {{ {bounds} }}", (3, 5), (3, 2), tops=2)
        found = layer(*tensors(regions, extra))
        np.testing.assert_array_equal(found[0], regions[rows])
        np.testing.assert_array_equal(found[1], extra[rows])
    layer = make("type: 'ScaleRoute' scale_route_param { low_scale: 42 high_scale: 50 }", (3, 5))
    assert layer(*tensors(regions))[0].tolist() == regions[1:2].tolist()


@pytest.mark.parametrize("aware", [True, False])
def test_frcnn_output(aware, make):
    rng = np.random.default_rng(4)
    corners = rng.uniform(0, 60, (20, 2))
    regions = np.concatenate([np.zeros((20, 1)), corners, corners + rng.uniform(20, 60, (20, 2))], 1)
    prob, codes = rng.random((20, 3)), rng.normal(size=(20, 12 if aware else 8))
    text = f"""type: 'FrcnnOutput' {REG} cls_aware: {str(aware).lower()} }}
               frcnn_output_param {{ conf_thr: 0.2 iou_thr: 0.3 max_det_num: 9 }}"""
    layer = make(text, prob.shape, codes.shape, regions.shape, (1, 2), phase="TEST")
    expected = []
    for label in (1, 2):
        found = []
        for p, code, region in zip(prob, codes, regions, strict=True):
            box = decoded(region[1:], code[4 * label : 4 * label + 4] if aware else code[4:])
            box = [max(box[0], 0), max(box[1], 0), min(box[2], 100), min(box[3], 90)]
            if p[label] >= 0.2:
                found.append((p[label], box))
        expected += [[0, *box, label, score] for score, box in kept(found, 0.3, "IOU", 100, 100, 1)]
    assert len(expected) > 9
    least = sorted(row[6] for row in expected)[-9]
    expected = [[0, *[-1] * 6]] + [row for row in expected if row[6] >= least]
    found = layer(*tensors(prob, codes, regions, [[90, 100]])).reshape(-1, 7)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_bbox_accuracy(make):
    """A perfect code, none, one that overlaps too much to count, and background."""
    regions = np.array([[0, 0, 0, 9, 9], [0, 0, 0, 9, 9], [0, 0, 0, 9, 9], [0, 0, 0, 9, 9]])
    objects = np.array([[2, 5, 0, 14, 9, 0.4], [1, 5, 0, 14, 9, 0.4], [1, 0, 0, 9, 9, 1], [0, 0, 0, 9, 9, 0]])
    codes = np.zeros((4, 12))
    codes[0, 8] = 5  # of 0.1: half a width
    std = "bbox_reg_param { bbox_mean: 0 bbox_mean: 0 bbox_mean: 0 bbox_mean: 0 " + "bbox_std: 0.1 " * 4 + "}"
    layer = make(f"type: 'BboxAccuracy' {std}", (4, 12), (4, 5), (4, 6), tops=2)
    after, before = layer(*tensors(codes, regions, objects))
    assert before.item() == pytest.approx(1 / 3) and after.item() == pytest.approx((1 + 1 / 3) / 2)
    assert layer(*tensors(codes[3:], regions[3:], objects[3:]))[0].item() == -1
