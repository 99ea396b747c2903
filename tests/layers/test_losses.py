"""Losses where the stored cases do not reach: saturation, second tops, files, divisors, NaN."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from pysolver.proto.blobproto import from_array

FLT_MIN = 1.17549435e-38


def test_softmax_loss_is_capped_but_its_gradient_is_not(make):
    scores = torch.tensor([[200.0, 0.0]], requires_grad=True)
    loss = make('type: "SoftmaxWithLoss"', (1, 2), (1,))(scores, torch.tensor([1.0]))
    assert loss.item() == pytest.approx(-math.log(FLT_MIN), rel=1e-6)
    loss.backward()
    assert scores.grad.tolist() == [[1.0, -1.0]]


@pytest.mark.parametrize(
    ("text", "shapes"),
    [
        ('type: "SoftmaxWithLoss"', [(0, 3, 2), (0, 2)]),
        ('type: "SoftmaxWithLoss" softmax_param { axis: 0 }', [(3, 0), (3, 0)]),
        ('type: "SigmoidCrossEntropyLoss"', [(0, 3), (0, 3)]),
        ('type: "InfogainLoss"', [(0, 3), (0,), (3, 3)]),
        ('type: "Accuracy"', [(0, 3), (0,)]),
    ],
)
def test_a_batch_of_nothing_has_no_loss(make, text, shapes):
    """As behind a Filter that selects nothing: a sum over nothing, divided by at least 1."""
    assert make(text, *shapes)(*(torch.zeros(shape) for shape in shapes)).item() == 0


def test_infogain_loss_is_capped_but_its_gradient_is_not(make):
    scores = torch.tensor([[200.0, 0.0]], requires_grad=True)
    loss = make('type: "InfogainLoss"', (1, 2), (1,), (2, 2))(scores, torch.tensor([1.0]), torch.eye(2))
    assert loss.item() == pytest.approx(-math.log(1e-20), rel=1e-6)
    loss.backward()
    assert scores.grad.tolist() == [[1.0, -1.0]]


def test_infogain_matrix_from_a_file(make, tmp_path):
    matrix = np.random.default_rng(0).uniform(0, 1, (1, 1, 3, 3)).astype(np.float32)
    (tmp_path / "h.binaryproto").write_bytes(from_array(matrix).SerializeToString())
    scores, label = torch.randn(4, 3), torch.tensor([0.0, 2, 1, 2])
    by_file = make(f'type: "InfogainLoss" infogain_loss_param {{ source: "{tmp_path}/h.binaryproto" }}', (4, 3), (4,))
    by_bottom = make('type: "InfogainLoss"', (4, 3), (4,), (1, 1, 3, 3))
    assert by_file(scores, label) == by_bottom(scores, label, torch.from_numpy(matrix))


def test_infogain_with_the_identity_is_the_softmax_loss(make):
    scores, label = torch.randn(2, 3, 4), torch.randint(3, (2, 4)).float()
    text = "loss_param { ignore_label: 1 }"
    infogain = make(f'type: "InfogainLoss" {text}', (2, 3, 4), (2, 4), (3, 3))(scores, label, torch.eye(3))
    softmax = make(f'type: "SoftmaxWithLoss" {text}', (2, 3, 4), (2, 4))(scores, label)
    torch.testing.assert_close(infogain, softmax)


def test_probabilities_as_second_top(make):
    scores = torch.randn(2, 3, 4)
    _, p = make('type: "SoftmaxWithLoss"', (2, 3, 4), (2, 4), tops=2)(scores, torch.zeros(2, 4))
    torch.testing.assert_close(p, scores.softmax(1))


@pytest.mark.parametrize(
    ("kind", "said", "ignore"),
    list(
        itertools.product(
            ["SoftmaxWithLoss", "SigmoidCrossEntropyLoss"],
            [
                "",
                *(f"normalization: {m}" for m in ("FULL", "VALID", "BATCH_SIZE", "NONE")),
                "normalize: true",
                "normalize: false",
            ],
            ["", "ignore_label: 1"],
        )
    ),
)
def test_divisors(make, kind: str, said: str, ignore: str):
    """The table of loss normalisation, for scores (N, C, H) with labels (N, H), or targets like the scores."""
    n, c, h = 3, 4, 5
    mode = {
        "": "VALID" if kind == "SoftmaxWithLoss" else "BATCH_SIZE",
        "normalize: true": "VALID",
        "normalize: false": "BATCH_SIZE",
    }
    mode = mode.get(said, said.removeprefix("normalization: "))
    scores = torch.randn(n, c, h, dtype=torch.float64)
    if kind == "SoftmaxWithLoss":
        target = torch.randint(c, (n, h)).double()
        each = -scores.log_softmax(1).gather(1, target.long().unsqueeze(1)).squeeze(1)
    else:
        target = torch.randint(2, (n, c, h)).double()
        each = -(target * torch.sigmoid(scores).log() + (1 - target) * (1 - torch.sigmoid(scores)).log())
    counts = target != 1 if ignore else torch.ones_like(target, dtype=torch.bool)
    divisor = {"FULL": target.numel(), "VALID": int(counts.sum()), "BATCH_SIZE": n, "NONE": 1}[mode]
    layer = make(f'type: "{kind}" loss_param {{ {said} {ignore} }}', scores.shape, target.shape)
    torch.testing.assert_close(layer(scores, target), each[counts].sum() / divisor)


def test_nothing_valid_is_loss_zero(make):
    layer = make('type: "SoftmaxWithLoss" loss_param { ignore_label: 0 }', (2, 3), (2,))
    scores = torch.randn(2, 3, requires_grad=True)
    loss = layer(scores, torch.zeros(2))
    loss.backward()
    assert loss == 0 and not scores.grad.any()


def test_nan_scores_count_as_right_with_one_warning(make, capfd):
    layer = make('type: "Accuracy"', (2, 3), (2,), phase="TEST")
    for _ in range(2):
        assert layer(torch.full((2, 3), math.nan), torch.tensor([0.0, 1])) == 1
    assert capfd.readouterr().err.count("NaN") == 1


@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_accuracy_by_loops(make, top_k: int):
    scores, label = torch.randint(3, (50, 4)).float(), torch.randint(4, (50,)).float()
    right = [
        sum(scores[i, c] >= scores[i, int(true)] for c in range(4) if c != int(true)) < top_k
        for i, true in enumerate(label)
    ]
    layer = make(f'type: "Accuracy" accuracy_param {{ top_k: {top_k} }}', (50, 4), (50,), tops=2)
    accuracy, per_class = layer(scores, label)
    assert accuracy.item() == pytest.approx(np.mean(right))
    for c in range(4):
        assert per_class[c].item() == pytest.approx(np.mean([r for r, true in zip(right, label) if true == c]))


def test_hdf5_output_appends(make, tmp_path):
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "out.h5"
    layer = make(f'type: "HDF5Output" hdf5_output_param {{ file_name: "{path}" }}', (2, 3), (2,), tops=0)
    rows, labels = torch.randn(4, 3), torch.arange(4.0)
    layer(rows[:2], labels[:2])
    layer(rows[2:], labels[2:])
    with h5py.File(path) as file:
        assert file["data"].shape == (4, 3, 1, 1) and file["label"].shape == (4, 1, 1, 1)
        np.testing.assert_array_equal(file["data"][...].reshape(4, 3), rows.numpy())
        np.testing.assert_array_equal(file["label"][...].ravel(), labels.numpy())


def test_weighted_sigmoid_cross_entropy(make):
    """-log(1/2), -log(3/4) and -log(1/4) with the weights 1, 2, 0, by their sum; of no weight 0."""
    layer = make('type: "SigmoidCrossEntropyLoss"', (1, 3), (1, 3), (1, 3))
    x, target = torch.tensor([[0.0, math.log(3), math.log(3)]]), torch.tensor([[1.0, 1, 0]])
    loss = layer(x, target, torch.tensor([[1.0, 2, 0]]))
    assert loss.item() == pytest.approx((-math.log(0.5) - 2 * math.log(0.75)) / 3)
    assert layer(x, target, torch.zeros(1, 3)).item() == 0
