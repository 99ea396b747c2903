"""Faster R-CNN's region proposals and targets against their rules, box by box (py-faster-rcnn's lib/rpn)."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import pysolver.layers  # noqa: F401
from pysolver.errors import CaffeError
from pysolver.layers.forks import proposals

SCORES, CODES, IMAGE = (1, 18, 3, 4), (1, 36, 3, 4), (1, 3)
RPN = "type: 'Python' python_param { module: 'rpn.%s' layer: '%s' param_str: \"'feat_stride': 16\" }"


def overlap(a, b):
    """Of two boxes of pixels, both ends belonging to them."""
    sides = [min(a[i + 2], b[i + 2]) - max(a[i], b[i]) + 1 for i in (0, 1)]
    if min(sides) <= 0:
        return 0.0
    area = [(box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (a, b)]
    return sides[0] * sides[1] / (sum(area) - sides[0] * sides[1])


def test_anchors():
    """Those that generate_anchors.py lists in its comment, which counts pixels from 1."""
    first = [[-83, -39, 100, 56], [-175, -87, 192, 104], [-359, -183, 376, 200], [-55, -55, 72, 72]]
    found = proposals.anchors(16, [0.5, 1, 2], [8, 16, 32])
    assert (found[:4] + 1).tolist() == first
    assert (found[-1] + 1).tolist() == [-167, -343, 184, 360]


def test_codes_undo_moves():
    places = torch.tensor([[0.0, 0, 15, 31], [5, 6, 50, 20]])
    targets = torch.tensor([[3.0, 1, 20, 20], [0, 0, 60, 30]])
    moved = proposals.moved(places, proposals.codes(places, targets))
    # The way back lacks the pixel at the end that the way there counts: so in the original.
    torch.testing.assert_close(moved, targets + torch.tensor([0, 0, 1, 1]))


def proposed(scores, codes, image, before, after, threshold, least):
    """The proposals of one image, one after the other."""
    reference = proposals.anchors(16, [0.5, 1, 2], [8, 16, 32]).numpy().astype(float)
    found = []
    for j, i, a in np.ndindex(3, 4, 9):
        x1, y1, x2, y2 = reference[a] + [16 * i, 16 * j, 16 * i, 16 * j]
        dx, dy, dw, dh = codes[0, 4 * a : 4 * a + 4, j, i]
        w, h = x2 - x1 + 1, y2 - y1 + 1
        cx, cy, w, h = dx * w + x1 + w / 2, dy * h + y1 + h / 2, math.exp(dw) * w, math.exp(dh) * h
        box = [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]
        box = [min(max(v, 0), image[1 - k % 2] - 1) for k, v in enumerate(box)]
        if min(box[2] - box[0] + 1, box[3] - box[1] + 1) >= least * image[2]:
            found.append((scores[0, 9 + a, j, i], box))
    found = sorted(found, key=lambda one: -one[0])[:before]
    kept = []
    for score, box in found:
        if len(kept) < after and all(overlap(box, other) <= threshold for _, other in kept):
            kept.append((score, box))
    return kept


def test_proposal_layer(make):
    rng = np.random.default_rng(3)
    scores, codes = rng.random(SCORES), rng.normal(size=CODES) / 2
    image = [50.0, 70, 1.5]
    layer = make(RPN % ("proposal_layer", "ProposalLayer"), SCORES, CODES, IMAGE, tops=2, phase="TEST")
    rois, own = layer(*(torch.tensor(x, dtype=torch.float32) for x in (scores, codes, [image])))
    expected = proposed(scores, codes, image, 6000, 300, 0.7, 16)
    assert 5 < len(expected) < 60
    np.testing.assert_allclose(rois[:, 1:], [box for _, box in expected], rtol=1e-4, atol=1e-3)  # pixels in float32
    np.testing.assert_allclose(own[:, 0], [score for score, _ in expected], rtol=1e-6)
    assert not rois[:, 0].any()


def test_proposal_of_pvanet(make):
    """Small boxes stay with the score 0, and the scale may be one for y and one for x."""
    text = "ratio: 0.5 ratio: 1 ratio: 2 scale: 8 scale: 16 scale: 32 pre_nms_topn: 30 post_nms_topn: 4 nms_thresh: 0.5"
    rng = np.random.default_rng(4)
    scores, codes = rng.random(SCORES), rng.normal(size=CODES) / 2
    layer = make(f'type: "Proposal" proposal_param {{ {text} }}', SCORES, CODES, (1, 4))
    (rois,) = layer(*(torch.tensor(x, dtype=torch.float32) for x in (scores, codes, [[50, 70, 1.5, 1.5]])))
    expected = proposed(scores, codes, [50, 70, 1.5], 30, 4, 0.5, 16)
    np.testing.assert_allclose(rois[:, 1:], [box for _, box in expected], rtol=1e-4, atol=1e-3)


def test_anchor_targets(make):
    """An image of 600 x 800 and two objects, one of which no anchor overlaps by 0.7."""
    shape, objects = (1, 18, 38, 50), np.array([[100.0, 120, 260, 300, 3], [400, 30, 430, 590, 1]])
    layer = make(RPN % ("anchor_target_layer", "AnchorTargetLayer"), shape, (2, 5), IMAGE, tops=4)
    tops = layer(torch.zeros(shape), torch.tensor(objects, dtype=torch.float32), torch.tensor([[600.0, 800, 1]]))
    assert [tuple(top.shape) for top in tops] == [(1, 1, 9 * 38, 50)] + [(1, 36, 38, 50)] * 3
    label = tops[0].reshape(9, 38, 50).numpy()
    targets, inside, outside = (top.reshape(9, 4, 38, 50).numpy() for top in tops[1:])
    reference = proposals.anchors(16, [0.5, 1, 2], [8, 16, 32]).numpy()
    overlaps = np.full((9, 38, 50, 2), -1.0)
    for a, j, i in np.ndindex(9, 38, 50):
        box = reference[a] + [16 * i, 16 * j, 16 * i, 16 * j]
        if box[0] >= 0 and box[1] >= 0 and box[2] < 800 and box[3] < 600:
            overlaps[a, j, i] = [overlap(box, one) for one in objects]
    right = (overlaps.max(-1) >= 0.7) | np.isclose(overlaps, overlaps.max((0, 1, 2)), atol=1e-6).any(-1)
    assert ((label == 1) == right).all()  # fewer than 128
    assert 1 < right.sum() < 128
    assert (overlaps.max(-1)[label == 0] < 0.3).all()
    assert (overlaps.max(-1)[label == 0] >= 0).all()
    assert (label >= 0).sum() == 256
    assert (inside == (label == 1)[:, None]).all()
    np.testing.assert_allclose(outside, (label >= 0)[:, None] * np.ones((1, 4, 1, 1)) / 256)
    for a, j, i in np.argwhere(right):
        x1, y1, x2, y2 = reference[a] + [16 * i, 16 * j, 16 * i, 16 * j]
        gx1, gy1, gx2, gy2, _ = objects[overlaps[a, j, i].argmax()]
        w, h, gw, gh = x2 - x1 + 1, y2 - y1 + 1, gx2 - gx1 + 1, gy2 - gy1 + 1
        code = [(gx1 + gw / 2 - x1 - w / 2) / w, (gy1 + gh / 2 - y1 - h / 2) / h, math.log(gw / w), math.log(gh / h)]
        np.testing.assert_allclose(targets[a, :, j, i], code, rtol=1e-4, atol=1e-5)


def test_proposal_targets(make):
    text = RPN.replace("'feat_stride': 16", "'num_classes': 4") % ("proposal_target_layer", "ProposalTargetLayer")
    objects = torch.tensor([[10.0, 10, 50, 60, 3], [100, 20, 160, 90, 1]])
    rng = np.random.default_rng(5)
    near = objects[rng.integers(2, size=40), :4] + torch.from_numpy(rng.integers(-6, 7, size=(40, 4)))
    far = torch.tensor([[200.0, 200, 250, 260]]) + torch.arange(160)[:, None]
    regions = torch.cat([torch.zeros(200, 1), torch.cat([near, far])], 1).float()
    tops = make(text, (200, 5), (2, 5), tops=5)(regions, objects)
    assert all(top.shape[2:] == (1, 1) for top in tops)
    rois, labels, targets, inside, outside = (top.flatten(1) for top in tops)
    labels = labels.flatten()
    assert rois.shape == (128, 5)
    assert targets.shape == inside.shape == outside.shape == (128, 16)
    assert (labels[:32] > 0).all()
    assert (labels[32:] == 0).all()
    assert not targets[32:].any() and not inside[32:].any()
    for roi, label, target, weight in zip(rois[:32].tolist(), labels, targets, inside, strict=False):
        real = max(objects.tolist(), key=lambda one: overlap(roi[1:], one))
        assert overlap(roi[1:], real) >= 0.5
        assert label == real[4]
        at = slice(4 * int(label), 4 * int(label) + 4)
        assert weight.sum() == weight[at].sum() == 4
        (code,) = proposals.codes(torch.tensor([roi[1:]]), torch.tensor([real[:4]]))
        torch.testing.assert_close(target[at], code / torch.tensor([0.1, 0.1, 0.2, 0.2]))
    assert (outside == inside).all()


@pytest.mark.parametrize(
    "text, words",
    [
        ("'scales': 3", "param_str"),
        ("__import__('os')", "param_str is not understood"),
        ("'feat_stride': -1", "positive"),
    ],
)
def test_param_str(make, text, words):
    given = (RPN % ("proposal_layer", "ProposalLayer")).replace("'feat_stride': 16", text)
    with pytest.raises(CaffeError, match=words):
        make(given, SCORES, CODES, IMAGE)


def test_forms_of_param_str(make):
    for text in ("{'feat_stride': 8, 'scales': [4, 8]}", "'feat_stride': 8 \\n'scales': !!python/tuple [4, 8]"):
        given = (RPN % ("proposal_layer", "ProposalLayer")).replace("'feat_stride': 16", text)
        layer = make(given, (1, 12, 3, 4), (1, 24, 3, 4), IMAGE)
        assert (layer.stride, len(layer.reference)) == (8, 6)


def test_the_users_own_module_comes_first(make, tmp_path, monkeypatch):
    (tmp_path / "rpn").mkdir()
    (tmp_path / "rpn" / "proposal_layer.py").write_text("class ProposalLayer:\n    def __init__(self, param): 1 / 0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    text = RPN % ("proposal_layer", "ProposalLayer")
    assert isinstance(make(text, SCORES, CODES, IMAGE), proposals.ProposalLayer)  # its code may not run
    with pytest.raises(ZeroDivisionError):
        make(text, SCORES, CODES, IMAGE, allow_python_layers=True)
