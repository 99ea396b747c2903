"""What MS-CNN and Cascade R-CNN train with, against their rules place by place and region by region."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from pysolver.errors import CaffeError

MEAN, STD = np.array([0.1, 0, -0.1, 0]), np.array([0.1, 0.2, 0.3, 0.4])
REG = "bbox_reg_param { " + " ".join([f"bbox_mean: {v}" for v in MEAN] + [f"bbox_std: {v}" for v in STD])
FIELD, STRIDE = (20, 30), 8
RNG = np.random.default_rng(4)


def tensors(*arrays):
    return [torch.tensor(np.asarray(array), dtype=torch.float32) for array in arrays]


def world(maps: int, classes: int, height: int = 3, width: int = 4):
    """Scores, codes and truth with about a third of the places holding an object."""
    scores, codes = RNG.normal(size=(maps, classes, height, width)), RNG.normal(size=(maps, 4, height, width))
    label = RNG.integers(1, classes, (maps, 1, height, width)) * (RNG.random((maps, 1, height, width)) < 0.3)
    middle, size = RNG.uniform(0, 30, (maps, 2, height, width)), RNG.uniform(1, 40, (maps, 2, height, width))
    overlap = np.where(label > 0, RNG.uniform(0.5, 1, label.shape), RNG.uniform(0, 0.4, label.shape))
    return scores, codes, np.concatenate([label, middle, size, overlap], 1)


def log_softmax(x):
    return x - np.log(np.exp(x).sum())


def bound(value, index, xyr, whr):
    mean = MEAN[index // 2 * 2 : index // 2 * 2 + 2].mean()
    std = math.sqrt(np.prod(STD[index // 2 * 2 : index // 2 * 2 + 2]))
    most = 1 / xyr if index < 2 else math.log(whr)
    return min(max(value, (-most - mean) / std), (most - mean) / std)


def expected_loss(scores, codes, truth, fields, right, wrong, *, xyr, whr, trade_off, multiple, iou, weighted, smooth):
    """right, wrong: sets of (map, row, column)."""
    weight = {place: truth[place[0], 5, place[1], place[2]] if iou else 1.0 for place in right}
    weight |= dict.fromkeys(wrong, 1.0)
    if weighted:
        sums = [sum(weight[place] for place in places) for places in (right, wrong)]
        shares = 1 / (1 + multiple), 1 - 1 / (1 + multiple)
        for places, total, share in zip((right, wrong), sums, shares, strict=True):
            for place in places:
                weight[place] *= share * len(weight) / total
    by_class = by_code = 0.0
    for (m, i, j), own in weight.items():
        by_class -= own * log_softmax(scores[m, :, i, j])[int(truth[m, 0, i, j])]
    for m, i, j in right:
        field = fields[m % len(fields)]
        target = [
            (truth[m, 1, i, j] - (j + 0.5) * STRIDE) / field[0],
            (truth[m, 2, i, j] - (i + 0.5) * STRIDE) / field[1],
            math.log(max(truth[m, 3, i, j], 2) / field[0]),
            math.log(max(truth[m, 4, i, j], 2) / field[1]),
        ]
        for k in range(4):
            d = abs(bound(codes[m, k, i, j], k, xyr, whr) - (target[k] - MEAN[k]) / STD[k])
            by_code += d * d / 2 if d < 1 or not smooth else d - 0.5
    by_code *= trade_off / (4 * len(right))
    return [by_class / len(weight) + by_code, by_code]


def places(truth, low):
    """With an object, and without one and with an overlap below `low`."""
    every = list(np.ndindex(len(truth), *truth.shape[2:]))
    label, overlap = truth[:, 0], truth[:, 5]
    return {p for p in every if label[p] > 0}, {p for p in every if label[p] == 0 and overlap[p] < low}


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("smooth", [True, False])
def test_detection_loss_of_all(make, weighted, smooth):
    scores, codes, truth = world(2, 4)
    text = f"""type: "DetectionLoss" {REG} }} detection_loss_param {{ cls_num: 4 downsample_rate: 8 field_w: 20
        field_h: 30 field_xyr: 4 field_whr: 1.5 lambda: 0.5 bg_threshold: 0.2 bg_multiple: 3
        sample_mode: "all" iou_weighted: true
        bb_smooth: {str(smooth).lower()} pos_neg_weighted: {str(weighted).lower()} }}"""
    layer = make(text, (2, 8, 3, 4), truth.shape)
    found = layer(*tensors(np.concatenate([scores, codes], 1), truth))
    rules = dict(xyr=4, whr=1.5, trade_off=0.5, multiple=3, iou=True, weighted=weighted, smooth=smooth)
    expected = expected_loss(scores, codes, truth, [FIELD], *places(truth, 0.2), **rules)
    assert found.shape == (1, 1, 1, 2)
    np.testing.assert_allclose(found.flatten(), expected, rtol=1e-5)  # float32


def test_detection_loss_takes_the_worst(make):
    scores, codes, truth = world(2, 3)
    text = f"""type: "DetectionLoss" {REG} }} detection_loss_param {{ cls_num: 3 downsample_rate: 8 field_w: 20
        field_h: 30 bg_threshold: 0.3 bg_multiple: 2 sample_mode: "bootstrap" }}"""
    right, free = places(truth, 0.3)
    wrong = set()
    for m in range(2):
        for kind in (1, 2):
            count = max(4, 2 * int((truth[m, 0] == kind).sum()))
            own = sorted((p for p in free if p[0] == m), key=lambda p: -scores[p[0], kind, p[1], p[2]])  # noqa: B023
            wrong.update(own[:count])
    assert 0 < len(wrong) < len(free)
    found = make(text, (2, 7, 3, 4), truth.shape)(*tensors(np.concatenate([scores, codes], 1), truth))
    rules = dict(xyr=2, whr=2, trade_off=1, multiple=2, iou=False, weighted=False, smooth=True)
    np.testing.assert_allclose(
        found.flatten(), expected_loss(scores, codes, truth, [FIELD], right, wrong, **rules), rtol=1e-5
    )


@pytest.mark.parametrize("grouped", [False, True])
def test_gradients_of_the_losses(make, grouped):
    scores, codes, truth = (torch.from_numpy(x) for x in world(1, 3, 2, 2))
    truth[0, 0, 0] = torch.tensor([1, 2])
    rule = "cls_num: 3 field_w: 20 field_h: 30 field_xyr: 0.01 field_whr: 1e6 pos_neg_weighted: true bg_multiple: 2"
    if grouped:
        given, name = (scores, codes), f"DetectionGroupLoss' detection_group_loss_param {{ {rule} stride: 8"
    else:
        name = f"DetectionLoss' detection_loss_param {{ {rule} downsample_rate: 8 sample_mode: 'all' iou_weighted: true"
        given = (torch.cat([scores, codes], 1),)
    layer = make(f"type: '{name} }}", *(tuple(x.shape) for x in (*given, truth)))
    assert gradcheck(lambda *maps: layer(*maps, truth).flatten()[0], [x.clone().requires_grad_() for x in given])


def test_detection_loss_draws(make):
    """Equal scores cost log 2 wherever they stand; drawn are at most as many as asked for."""
    truth = np.zeros((1, 6, 10, 10))
    truth[0, 0, 0, :5] = 1
    truth[0, 5, 0, :5] = 1
    truth[0, 3:5] = 2
    text = """type: "DetectionLoss" detection_loss_param { cls_num: 2 downsample_rate: 8 field_w: 2 field_h: 2 lambda: 0
        sample_mode: "random" bg_multiple: 4 }"""
    layer = make(text, (1, 6, 10, 10), truth.shape)
    maps = torch.zeros(1, 6, 10, 10, requires_grad=True)
    loss = layer(maps, *tensors(truth)).flatten()[0]
    assert loss.item() == pytest.approx(math.log(2))
    loss.backward()
    drawn = (maps.grad[0, 0] != 0).sum().item() - 5
    assert 10 <= drawn <= 20  # 20 draws among 100 places meet some twice, most not


@pytest.mark.parametrize("text", ["batch_size: 6 bg_multiple: 2", "batch_size: -1 bg_multiple: 2 min_num_neg: 3"])
def test_group_loss(make, text):
    """As many places as asked for: the most probable objects among those without."""
    scores, codes, truth = world(4, 2)
    fields = [(20, 30), (40, 10)]
    right, free = places(truth, 0.3)
    chosen = ([], [])
    for image in range(2):
        objects, others = ([p for p in group if p[0] // 2 == image] for group in (right, free))
        others.sort(key=lambda p: log_softmax(scores[p[0], :, p[1], p[2]])[0])
        most = min(2, len(objects)) if "6" in text else len(objects)
        chosen[0].append((objects, most))
        chosen[1].extend(others[: 6 - most if "6" in text else max(2 * most, 3)])
    layer = make(
        f"""type: "DetectionGroupLoss" {REG} }} detection_group_loss_param {{ cls_num: 2 stride: 8 field_w: 20
        field_w: 40 field_h: 30 field_h: 10
        field_xyr: 4 field_whr: 1.5 lambda: 2 bg_threshold: 0.3 neg_mining_type: "bootstrap"
        pos_neg_weighted: true {text} }}""",
        *(x.shape for x in (scores, codes, truth)),
    )
    given = tensors(scores, codes, truth)
    given[0].requires_grad_()
    found = layer(*given)
    found.flatten()[0].backward()
    counted = {tuple(p) for p in given[0].grad[:, 0].nonzero().tolist()}
    own_right = counted & right
    for objects, most in chosen[0]:
        assert len(own_right & set(objects)) == most > 0
    assert counted - right == set(chosen[1])
    rules = dict(xyr=4, whr=1.5, trade_off=2, multiple=2, iou=False, weighted=True, smooth=True)
    expected = expected_loss(scores, codes, truth, fields, own_right, set(chosen[1]), **rules)
    np.testing.assert_allclose(found.detach().flatten(), expected, rtol=1e-5)


def test_group_loss_mixes(make):
    """Half of the negatives are the hardest."""
    scores, codes, truth = world(1, 2)
    truth[0, 0] = truth[0, 5] = 0
    text = """type: "DetectionGroupLoss" detection_group_loss_param { cls_num: 2 stride: 8 field_w: 20 field_h: 30
        batch_size: 6 neg_mining_type: "mixture" }"""
    given = tensors(scores, codes, truth)
    given[0].requires_grad_()
    make(text, *(x.shape for x in (scores, codes, truth)))(*given).flatten()[0].backward()
    counted = given[0].grad[0, 0].flatten().nonzero().flatten().tolist()
    hardest = (scores[0, 1] - scores[0, 0]).flatten().argsort()[::-1][:3]
    assert len(counted) == 6 and set(hardest.tolist()) <= set(counted)


@pytest.mark.parametrize("grouped", [False, True])
def test_accuracies(make, grouped):
    scores, codes, truth = world(2, 3)
    truth[:, 5][truth[:, 0] == 0] += 0.2
    right, free = places(truth, 0.5)
    best = {p: int(scores[p[0], :, p[1], p[2]].argmax()) for p in right | free}
    hits = (
        [best[p] == truth[p[0], 0, p[1], p[2]] for p in right | free],
        [best[p] == truth[p[0], 0, p[1], p[2]] for p in right],
    )
    overlaps = []
    for m, i, j in right:
        code = codes[m, :, i, j] * STD + MEAN
        move, grow = code[:2].clip(-0.25, 0.25) * FIELD, np.exp(code[2:].clip(-math.log(1.5), math.log(1.5))) * FIELD
        low = np.array([j + 0.5, i + 0.5]) * STRIDE + move - grow / 2
        other, other_low = truth[m, 3:5, i, j], truth[m, 1:3, i, j] - truth[m, 3:5, i, j] / 2
        sides = np.minimum(low + grow, other_low + other) - np.maximum(low, other_low)
        shared = sides.prod() if (sides > 0).all() and (not grouped or (sides >= 1).all()) else 0
        overlaps.append(shared / (grow.prod() + other.prod() - shared))
    stride = "stride" if grouped else "downsample_rate"
    rule = f"cls_num: 3 field_w: 20 field_h: 30 field_xyr: 4 field_whr: 1.5 {stride}: 8"
    if grouped:
        text, given = f"DetectionGroupAccuracy' {REG} }} detection_group_accuracy_param", (scores, codes, truth)
    else:
        text = f"DetectionAccuracy' {REG} }} detection_accuracy_param"
        given = np.concatenate([scores, codes], 1), truth
    shares, overlap = make(f"type: '{text} {{ {rule} }}", *(x.shape for x in given), tops=2)(*tensors(*given))
    np.testing.assert_allclose(shares.flatten(), [np.mean(hits[0]), np.mean(hits[1])], rtol=1e-6)
    np.testing.assert_allclose(overlap.item(), np.mean(overlaps), rtol=1e-5)
    truth[:, 0] = 0
    empty = make(f"type: '{text} {{ {rule} }}", *(x.shape for x in given), tops=2)(*tensors(*given))
    assert empty[0].flatten()[1] == empty[1].item() == -1


def test_what_the_losses_refuse(make):
    maps, truth = (1, 6, 2, 2), (1, 6, 2, 2)
    for rule, told in (
        ("side: 7", "needs 1470 numbers and 343 labels"),
        ("cls_num: 2 downsample_rate: 8", "must be positive"),
    ):
        with pytest.raises(CaffeError, match=told):
            make(f'type: "DetectionLoss" detection_loss_param {{ {rule} }}', maps, truth)
    rule = "cls_num: 2 downsample_rate: 8 field_w: 2 field_h: 2"
    with pytest.raises(CaffeError, match="needs .N 1, 6, H, W."):
        make(f'type: "DetectionLoss" detection_loss_param {{ {rule} }}', (1, 7, 2, 2), truth)
    layer = make(f'type: "DetectionLoss" detection_loss_param {{ {rule} }}', maps, truth)
    with pytest.raises(CaffeError, match=r"a label is outside \[0, 2\)"):
        layer(torch.zeros(maps), torch.full(truth, 2.0))


OBJECTS = np.array([[0, 10, 10, 29, 49, 2, 0], [0, 50, 50, 69, 69, 1, 1], [1, 0, 0, 19, 19, 1, 0]])
PROPOSALS = np.array(
    [
        [0, 10, 10, 29, 45],  # nearly the first object
        [0, 50, 50, 69, 65],  # the one to be ignored
        [1, 10, 10, 29, 49],  # the first object's place in the other image
        [1, 0, 0, 19, 9],  # half of the third
        [0, 70, 70, 79, 79],  # nothing
    ]
)


def test_proposal_targets(make):
    text = f"""type: "ProposalTarget" {REG} }} proposal_target_param {{ cls_num: 3 batch_size: 8 fg_fraction: 0.5
        fg_thr: 0.6 bg_thr_hg: 0.6 bg_thr_lw: 0.2 num_img_per_batch: 2 img_width: 100 img_height: 90 }}"""
    layer = make(text, PROPOSALS.shape, OBJECTS.shape, tops=7)
    regions, labels, targets, inside, outside, matched, weights = (
        top.reshape(8, -1).numpy() for top in layer(*tensors(PROPOSALS, OBJECTS))
    )
    # right: proposal 0, objects 0 and 2; wrong: proposal 3; then, too far away, 2 and 4; two made up
    assert labels.flatten().tolist() == [2, 2, 1, 0, 0, 0, 0, 0]
    np.testing.assert_array_equal(regions[:3], [[0, 10, 10, 29, 45], [0, 10, 10, 29, 49], [1, 0, 0, 19, 19]])
    np.testing.assert_array_equal(regions[3:6], PROPOSALS[[3, 2, 4]])
    assert ((regions[6:, 3:] - regions[6:, 1:3] + 1) >= 32).all() and (regions[6:, 1:] >= 0).all()
    assert (regions[6:, 3] < 100).all() and (regions[6:, 4] < 90).all()
    # 20 x 36 against 20 x 40: the middle moves by 2 of 36, the height grows by 10 / 9
    expected = (np.array([0, 2 / 36, 0, math.log(40 / 36)]) - MEAN) / STD
    np.testing.assert_allclose(targets[0], [0] * 8 + expected.tolist(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(targets[2, 4:8], -MEAN / STD, atol=1e-6)
    assert inside[0].tolist() == outside[0].tolist() == [0] * 8 + [1] * 4 and not inside[3:].any()
    np.testing.assert_allclose(matched[0], [2, 10, 10, 29, 49, 36 / 40], rtol=1e-6)
    assert not matched[3:].any()
    np.testing.assert_allclose(weights.flatten(), [4 / 3] * 3 + [4 / 5] * 5, rtol=1e-6)


def test_proposal_targets_of_cascade_rcnn(make):
    """Objects of 8 numbers, -1 for none: the batch is as large as it gets; one class for all; loose ones weigh 0."""
    objects = np.concatenate([OBJECTS, np.zeros((3, 1))], 1)
    objects[1, 0] = -1
    text = """type: "ProposalTarget" bbox_reg_param { cls_aware: false } proposal_target_param { cls_num: 3
        batch_size: 64 fg_thr: 0.5 bg_thr_lw: 0.2 num_img_per_batch: 2 append_gtbox: false
        pickup_discard: false bbox_thr_lw: 0.8 }"""
    layer = make(text, PROPOSALS.shape, objects.shape, tops=6)
    regions, labels, targets, inside, _, matched = layer(*tensors(PROPOSALS, objects))
    assert labels.flatten().tolist() == [2, 1]
    np.testing.assert_array_equal(regions.reshape(2, 5), PROPOSALS[[0, 3]])
    assert targets.shape[1] == 8 and inside.reshape(2, 8).tolist() == [[0] * 4 + [1] * 4, [0] * 8]
    assert matched[:, 5].flatten().tolist() == pytest.approx([0.9, 0.5])
    with pytest.raises(CaffeError, match="regions are missing"):
        layer(*tensors(PROPOSALS[4:], objects))


def test_hard_mining(make):
    costs = np.array([1, 3, 5, 8, 9, 7.0])  # the dearest come later: the rows keep their order
    regions = np.zeros((6, 5))
    regions[3:, 0] = 1
    extra = np.arange(12).reshape(6, 2)
    text = 'type: "HardMining" hard_mining_param { num_image: 2 num_roi_per_image: 2 }'
    found = make(text, (6,), (6, 5), (6, 2), tops=2)(*tensors(costs, regions, extra))
    assert found[1][:, 0].tolist() == [2, 4, 6, 8]
    regions[1:, 0] = 1  # image 0 has one: the third dearest of image 1 joins
    assert make(text, (6,), (6, 5), (6, 2), tops=2)(*tensors(costs, regions, extra))[1][:, 0].tolist() == [0, 6, 8, 10]
    with pytest.raises(CaffeError, match="3 bottoms need 2 tops"):
        make(text, (6,), (6, 5), (6, 2))
