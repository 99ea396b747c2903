"""Each update on a 4 x 3 least-squares problem, against plain loops over numpy float64 numbers.

The problem is that of Caffe's own test_gradient_based_solver.cpp in shape: y = X w + b, loss 1/(2N) sum (y - t)^2.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from pysolver.errors import CaffeError
from pysolver.solver import updates
from pysolver.solver_types import TYPES, Hyper, add

RNG = np.random.default_rng(7)
X, T = RNG.normal(size=(4, 3)), RNG.normal(size=4)
W0 = [RNG.normal(size=3), RNG.normal(size=1)]  # weights, bias
MOMENTUM2, DELTA, RMS_DECAY = 1 - 2**-7, 2**-10, 1 - 2**-4  # floats that are exact


def gradient(w: list[np.ndarray]) -> list[np.ndarray]:
    residual = X @ w[0] + w[1] - T
    return [X.T @ residual / len(T), np.array([residual.mean()])]


class Reference:
    """One scalar at a time, straight from the formulas of the papers and of Caffe's documentation."""

    def __init__(self, kind, lr_mults, decay_mults, weight_decay, regularization, iter_size, clip):
        self.__dict__.update(locals())
        self.w = [w.copy() for w in W0]
        self.h1 = [np.zeros_like(w) for w in W0]
        self.h2 = [np.zeros_like(w) for w in W0]
        self.t = 0

    def step(self, rate, m):
        sums = [sum([g] * self.iter_size) for g in gradient(self.w)]
        norm = np.sqrt(sum((g**2).sum() for g in sums))
        scale = self.clip / norm if 0 <= self.clip < norm else 1
        self.t += 1
        moved = [w.copy() for w in self.w]
        for p, w in enumerate(self.w):
            for j in range(w.size):
                g = sums[p][j] * scale / self.iter_size
                decay = self.weight_decay * self.decay_mults[p]
                g += decay * (w[j] if self.regularization == "L2" else np.sign(w[j]))
                moved[p][j] -= self.rule(p, j, g, rate * self.lr_mults[p], m)
        self.w = moved

    def rule(self, p, j, g, r, m):
        h1, h2 = self.h1[p], self.h2[p]
        old = h1[j]
        if self.kind in ("SGD", "Nesterov"):
            h1[j] = m * old + r * g
            return h1[j] if self.kind == "SGD" else (1 + m) * h1[j] - m * old
        if self.kind == "AdaGrad":
            h1[j] += g * g
            return r * g / (np.sqrt(h1[j]) + DELTA)
        if self.kind == "RMSProp":
            h1[j] = RMS_DECAY * old + (1 - RMS_DECAY) * g * g
            return r * g / (np.sqrt(h1[j]) + DELTA)
        if self.kind == "AdaDelta":
            h1[j] = m * old + (1 - m) * g * g
            u = np.sqrt(h2[j] + DELTA) / np.sqrt(h1[j] + DELTA) * g
            h2[j] = m * h2[j] + (1 - m) * u * u
            return r * u
        h1[j] = m * old + (1 - m) * g
        h2[j] = MOMENTUM2 * h2[j] + (1 - MOMENTUM2) * g * g
        corrected = h1[j] / (1 - m**self.t) * np.sqrt(1 - MOMENTUM2**self.t)
        return r * corrected / (np.sqrt(h2[j]) + DELTA)


def ours(kind, lr_mults, decay_mults, weight_decay, regularization, iter_size, clip, schedule, dtype):
    params = [torch.tensor(w, dtype=dtype) for w in W0]
    history = [torch.zeros_like(p) for p in params * TYPES[kind].histories]
    steps = []
    for i, (rate, m) in enumerate(schedule):
        grads = [torch.tensor(g * iter_size, dtype=dtype) for g in gradient([p.double().numpy() for p in params])]
        hyper = Hyper(
            [np.float32(rate * mult) for mult in lr_mults],
            [np.float32(weight_decay) * np.float32(mult) for mult in decay_mults],
            np.float32(m), i, np.float32(MOMENTUM2), np.float32(DELTA), np.float32(RMS_DECAY),
            clip, iter_size, regularization,
        )  # fmt: skip
        before = [p.clone() for p in params]
        updates.step(kind, params, grads, history, hyper)
        steps.append([(b - p) for b, p in zip(before, params)])
        assert all(torch.allclose(s, g, atol=1e-6) for s, g in zip(steps[-1], grads)), "diffs hold the applied step"
    return params, history


MOVING = [(0.05 * (1 + i % 4), 0.9 - 0.05 * (i % 5)) for i in range(12)]
OPTIONS = {
    "plain": ([1, 1], [1, 1], 0.0, "L2", 1, -1),
    "L2": ([1, 2], [1, 0], 0.25, "L2", 1, -1),
    "L1": ([1, 2], [1, 3], 2**-6, "L1", 1, -1),
    "frozen": ([1, 0], [1, 1], 0.125, "L2", 1, -1),
    "iter_size": ([1, 1], [1, 1], 0.125, "L2", 3, -1),
    "clip": ([1, 2], [1, 0.5], 0.125, "L2", 1, 0.4),
    "clip and iter_size": ([1, 1], [1, 1], 0.125, "L2", 4, 0.9),
    "clip 0": ([1, 1], [1, 1], 0.125, "L2", 1, 0),
}


@pytest.mark.parametrize(("kind", "option"), list(itertools.product(TYPES, OPTIONS)))
def test_update(kind, option):
    schedule = MOVING if TYPES[kind].takes_momentum else [(rate, 0) for rate, _ in MOVING]
    reference = Reference(kind, *OPTIONS[option])
    for rate, m in schedule:
        reference.step(float(np.float32(rate)), float(np.float32(m)))
    params, history = ours(kind, *OPTIONS[option], schedule, torch.float64)
    for got, want in zip(params, reference.w):
        np.testing.assert_allclose(got.numpy(), want, rtol=2e-6)
    expected = reference.h1 + (reference.h2 if TYPES[kind].histories == 2 else [])
    for got, want in zip(history, expected, strict=True):
        np.testing.assert_allclose(got.numpy(), want, rtol=2e-6)


def test_momentum_of_a_moving_rate_is_not_torchs():
    """h = m h + r g keeps the rates of old gradients; torch.optim.SGD applies today's rate to all of them."""
    schedule = [(0.1, 0.9), (0.0, 0.9)]
    params, _ = ours("SGD", *OPTIONS["plain"], schedule, torch.float32)
    first = W0[0] - 0.1 * gradient(W0)[0]
    np.testing.assert_allclose(params[0].numpy(), first - 0.9 * 0.1 * gradient(W0)[0], rtol=1e-5)


@pytest.mark.parametrize("rate", [0.1, 3.0, 2**-20 / 3, 1e-10, 0.0])
def test_sgd_at_once_is_the_chain(rate: float):
    """On lengths that fill a vector register and that do not; a rate that no double holds beside 1 goes apart."""
    generator = torch.Generator().manual_seed(3)
    three = [[torch.randn(n, generator=generator) for n in range(1, 70)] for _ in range(3)]
    mults = [(index % 3, index % 2) for index in range(69)]
    hyper = Hyper(
        [np.float32(rate) * np.float32(lr) for lr, _ in mults],
        [np.float32(0.05) * np.float32(decay) for _, decay in mults],
        np.float32(0.93),
    )
    assert updates.is_at_once(hyper) == (rate != 1e-10)
    params, grads, history = ([x.clone() for x in column] for column in three)
    updates.step("SGD", params, grads, history, hyper)
    chained = [[x.clone() for x in column] for column in three]
    updates.regularise(chained[1], chained[0], hyper.decays, "L2")
    TYPES["SGD"].rule(chained[1], chained[2], hyper)
    updates.apply(chained[0], chained[1])
    for found, expected in zip((params, grads, history), chained, strict=True):
        for one, other in zip(found, expected, strict=True):
            # a product up to 16 is rounded in one of the two and not in the other: half a unit of its last place
            torch.testing.assert_close(one, other, rtol=2e-7, atol=16 * 2**-24)


def test_clip_reports_what_it_did_and_leaves_short_and_nan_gradients():
    grads = [torch.tensor([3.0]), torch.tensor([[0.0, 4.0]])]
    assert updates.clip(grads, 6) == 5 and updates.clip(grads, -1) is None
    assert [g.tolist() for g in grads] == [[3], [[0, 4]]]
    assert updates.clip(grads, 2.5) == 5
    assert [g.tolist() for g in grads] == [[1.5], [[0, 2]]]
    several = [torch.tensor([float("nan")]), torch.tensor([2.0])]
    assert updates.clip(several, 1).isnan() and several[1] == 2


def test_the_mean_over_ranks_is_taken_before_the_clip_and_the_scale_out_after_it():
    """Two ranks with gradients 8 (5, 0) and 8 (1, 8): their mean, without the scale, is (3, 4), clipped to length 1."""
    params, history, seen = [torch.zeros(2)], [torch.zeros(2)], []

    def average(grads):
        grads[0].add_(torch.tensor([8.0, 64.0])).div_(2)

    def unscale(grads):
        seen.append(grads[0].tolist())
        grads[0].div_(8)
        return torch.zeros(())

    hyper = Hyper([np.float32(1)], [np.float32(0)], np.float32(0), clip_gradients=1)
    norm = updates.step("SGD", params, [torch.tensor([40.0, 0.0])], history, hyper, average=average, unscale=unscale)
    assert seen == [[24, 32]] and norm == 5
    assert params[0].tolist() == pytest.approx([-0.6, -0.8])


@pytest.mark.parametrize("kind", TYPES)
def test_an_overflow_leaves_everything_and_is_no_clipping(kind: str):
    params, history = [torch.ones(3)], [torch.full((3,), 0.5) for _ in range(TYPES[kind].histories)]
    hyper = Hyper([np.float32(1)], [np.float32(0.1)], np.float32(0.9), clip_gradients=1)
    grads = [torch.tensor([1.0, float("inf"), float("nan")])]
    assert updates.step(kind, params, grads, history, hyper, unscale=lambda grads: torch.ones(())) == 0
    assert params[0].tolist() == [1, 1, 1] and all(blob.tolist() == [0.5, 0.5, 0.5] for blob in history)


def test_l1_has_no_pull_at_zero():
    grads = [torch.zeros(3)]
    updates.regularise(grads, [torch.tensor([-2.0, 0.0, 5.0])], [np.float32(0.5)], "L1")
    assert grads[0].tolist() == [-0.5, 0, 0.5]


def test_unknown_regularisation_matters_only_with_a_decay():
    grads, params = [torch.zeros(1)], [torch.ones(1)]
    updates.regularise(grads, params, [np.float32(0)], "L3")
    with pytest.raises(CaffeError, match="Unknown regularization type: L3"):
        updates.regularise(grads, params, [np.float32(0.1)], "L3")


def test_a_factor_that_is_no_number_makes_the_weights_none():
    """NaN is not equal to itself: it must be found among the factors all the same."""
    totals = [torch.ones(2), torch.ones(2), torch.ones(2)]
    add(totals, [torch.ones(2)] * 3, [float("nan"), 2.0, float("nan")])
    assert [bool(total.isnan().all()) for total in totals] == [True, False, True] and (totals[1] == 3).all()
