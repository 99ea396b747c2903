"""caffe-yolo's DetectionLoss and EvalDetection against their rules place by place."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pysolver.errors import CaffeError

S, C, B = 3, 4, 2
SETTINGS = f"side: {S} num_class: {C} num_object: {B} "
# image, row, column, class, difficult, box
OBJECTS = [
    (0, 0, 1, 2, 0, (0.5, 0.2, 0.3, 0.2)),
    (0, 2, 2, 0, 1, (0.9, 0.8, 0.2, 0.5)),
    (0, 1, 1, 2, 0, (0.4, 0.5, 0.1, 0.3)),
    (1, 1, 0, 3, 0, (0.1, 0.5, 0.6, 0.1)),
]


def labels():
    label = np.zeros((2, 7 * S * S), np.float32)
    label[:, 2 * S * S : 3 * S * S] = -1
    for image, row, column, kind, difficult, box in OBJECTS:
        place = row * S + column
        label[image, place], label[image, S * S + place], label[image, 2 * S * S + place] = difficult, 1, kind
        label[image, 3 * S * S + 4 * place :][:4] = box
    return label


def overlap(a, b):
    sides = [
        min(a[i] + a[i + 2] / 2, b[i] + b[i + 2] / 2) - max(a[i] - a[i + 2] / 2, b[i] - b[i + 2] / 2) for i in (0, 1)
    ]
    shared = sides[0] * sides[1]
    return 0.0 if min(sides) < 0 else shared / (a[2] * a[3] + b[2] * b[3] - shared)


class Seen:
    """The numbers of one place of a map."""

    def __init__(self, values, image, row, column, sqrt, constriant):
        place, n = row * S + column, S * S
        self.classes = [values[image, c * n + place] for c in range(C)]
        self.scores = [values[image, (C + k) * n + place] for k in range(B)]
        self.raw = [[values[image, (C + B + 4 * k + i) * n + place] for i in range(4)] for k in range(B)]
        self.boxes = []
        for x, y, w, h in self.raw:
            if constriant:
                x, y = (column + x) / S, (row + y) / S
            self.boxes.append((x, y, w**2, h**2) if sqrt else (x, y, w, h))


def values(seed, at_objects=True):
    """Boxes near the objects, so that some overlap; else far away from them."""
    random = np.random.default_rng(seed)
    map_ = random.uniform(0, 1, (2, S * S * (C + 5 * B)))
    if not at_objects:
        map_[:, (C + B) * S * S :] = 3 + random.uniform(0, 1, map_[:, (C + B) * S * S :].shape)
    return map_


@pytest.mark.parametrize("sqrt, constriant", [(True, True), (True, False), (False, True), (False, False)])
@pytest.mark.parametrize("at_objects", [True, False])
def test_the_first_loss(sqrt, constriant, at_objects, make):
    x, label = values(3, at_objects), labels()
    scales = dict(object=1.5, noobject=0.25, **{"class": 0.75}, coord=4.0)
    rule = " ".join(f"{name}_scale: {value}" for name, value in scales.items())
    rule += f" sqrt: {str(sqrt).lower()} constriant: {str(constriant).lower()}"
    delta, sums = np.zeros_like(x), dict.fromkeys(scales, 0.0)
    n = S * S
    scores = slice(C * n, (C + B) * n)
    delta[:, scores] = scales["noobject"] * x[:, scores]
    sums["noobject"] = (x[:, scores] ** 2).sum()
    for image, row, column, kind, _, box in OBJECTS:
        seen, place = Seen(x, image, row, column, sqrt, constriant), row * S + column
        overlaps = [overlap(found, box) for found in seen.boxes]
        near = [math.dist(found, box) for found in seen.boxes]
        best = int(np.argmax(overlaps)) if max(overlaps) > 0 else int(np.argmin(near))
        for c in range(C):
            miss = seen.classes[c] - (c == kind)
            delta[image, c * n + place] = scales["class"] * miss
            sums["class"] += miss**2
        sums["object"] += (seen.scores[best] - 1) ** 2
        sums["noobject"] -= seen.scores[best] ** 2
        delta[image, (C + best) * n + place] = scales["object"] * (seen.scores[best] - overlaps[best])
        wanted = [*box]
        if constriant:
            wanted[:2] = box[0] * S - column, box[1] * S - row
        if sqrt:
            wanted[2:] = math.sqrt(box[2]), math.sqrt(box[3])
        for i in range(4):
            miss = seen.raw[best][i] - wanted[i]
            delta[image, (C + B + 4 * best + i) * n + place] = scales["coord"] * miss
            sums["coord"] += miss**2
    count = len(OBJECTS)
    expected = sum(scales[name] * sums[name] / count for name in ("object", "class", "coord"))
    expected += scales["noobject"] * sums["noobject"] / (2 * B * n - count)
    layer = make(f'type: "DetectionLoss" detection_loss_param {{ {SETTINGS} {rule} }}', x.shape, label.shape)
    tensor = torch.tensor(x, requires_grad=True)
    loss = layer(tensor, torch.tensor(label).double())
    loss.backward()
    np.testing.assert_allclose(loss.item(), expected, rtol=1e-6)  # the label is of float32
    np.testing.assert_allclose(tensor.grad, delta / 2, rtol=1e-5, atol=1e-7)


def test_nothing_there(make):
    """Every score is pulled to 0: 0.5 times the mean square, and no object to divide by."""
    x, label = torch.full((1, 126), 0.5, requires_grad=True), torch.zeros(1, 63)
    loss = make(f'type: "DetectionLoss" detection_loss_param {{ {SETTINGS} }}', x.shape, label.shape)(x, label)
    loss.backward()
    assert loss.item() == 0.5 * 0.25
    assert x.grad.sum().item() == 18 * 0.25


@pytest.mark.parametrize("score_type", ["OBJ", "PROB", "MULTIPLY"])
@pytest.mark.parametrize("nms", [-1, 0.2])
def test_the_first_evaluation(score_type, nms, make):
    x, label = values(8).astype(np.float32), labels()
    for image, row, column, kind, _, (bx, by, w, h) in OBJECTS:  # found, and found again beside it
        place, n = row * S + column, S * S
        x[image, kind * n + place] = 1.1
        for k, shift in ((0, 0.02), (1, -0.03)):
            raw = (bx * S - column + shift, by * S - row, math.sqrt(w), math.sqrt(h + abs(shift)))
            x[image, (C + B + 4 * k) * n + place :: n][:4] = raw
    rule = f"{SETTINGS} threshold: 0.2 sqrt: true constriant: true score_type: {score_type} nms: {nms}"
    text = f'type: "EvalDetection" eval_detection_param {{ {rule} }}'
    layer = make(text, x.shape, label.shape, (2, 3), phase="TEST")  # some files have a third bottom
    found = layer(torch.from_numpy(x), torch.from_numpy(label), torch.zeros(2, 3)).numpy()
    right = 0
    for image in (0, 1):
        candidates = []
        for row, column in np.ndindex(S, S):
            seen = Seen(x, image, row, column, True, True)
            kind, most = int(np.argmax(seen.classes)), max(seen.classes)
            for box, score in zip(seen.boxes, seen.scores, strict=True):
                by = {"OBJ": score, "PROB": most, "MULTIPLY": score * most}
                candidates.append((by[score_type], kind, box))
        candidates.sort(key=lambda one: -one[0])
        if nms >= 0:
            kept = []
            for one in candidates:
                if all(overlap(one[2], other[2]) < nms for other in kept):
                    kept.append(one)
            candidates = kept
        expected = np.zeros(C + 4 * B * S * S)
        real = [one for one in OBJECTS if one[0] == image]
        for one in real:
            expected[one[3]] += not one[4]
        rows, taken = [], set()
        for kind in range(C):
            there = [one for one in real if one[3] == kind]
            for score, own, box in candidates:
                if own != kind:
                    continue
                overlaps = [overlap(box, one[5]) for one in there]
                verdict = (0, 1)
                if there and max(overlaps) >= 0.2:
                    best = there[int(np.argmax(overlaps))]
                    verdict = (0, 0) if best[4] else (0, 1) if best[1:3] in taken else (1, 0)
                    taken |= set() if best[4] else {best[1:3]}
                right += verdict[0]
                rows.append((kind, score, *verdict))
        expected[C : C + 4 * len(rows)] = np.array(rows).flatten()
        np.testing.assert_allclose(found[image], expected, rtol=1e-5)
    assert right >= 2


def test_what_the_first_yolo_refuses(make):
    for kind, field in (("DetectionLoss", "detection_loss_param"), ("EvalDetection", "eval_detection_param")):
        text = f'type: "{kind}" {field} {{ {SETTINGS} }}'
        with pytest.raises(CaffeError, match="needs 126 numbers and 63 labels for each image, not 125 and 63"):
            make(text, (1, 125), (1, 63))
        layer, label = make(text, (1, 126), (1, 63)), torch.zeros(1, 63)
        label[0, 9], label[0, 18] = 1, C
        with pytest.raises(CaffeError, match="an object of class 4: there are 4"):
            layer(torch.zeros(1, 126), label)
