"""Rates that forks take from the training itself: by each blob's norms, by the loss. Numbers written out by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from short_runs import make_solver

from pysolver.errors import CaffeError
from pysolver.logs import notices
from pysolver.proto.caffe_pb2 import SolverParameter
from pysolver.solver import updates
from pysolver.solver.layer_rates import adaptation
from pysolver.solver.plateau import Plateau

W = [np.array([3.0, 4.0]), np.array([1.0]), np.array([2.0]), np.array([0.0])]  # norms 5, 1, 2, 0
G = [np.array([0.6, 0.8]), np.array([2.0]), np.array([1.0]), np.array([1.0])]  # norms 1, 2, 1, 1
LR_MULTS = [2.0, 1.0, 0.0, 1.0]
RATE, MOMENTUM, DECAY = 0.5, 0.8, 0.01


def applied(**fields: object) -> list[np.ndarray]:
    """The steps of a first update with these fields."""
    solver = SolverParameter(base_lr=RATE, momentum=MOMENTUM, weight_decay=DECAY, **fields)
    row = updates.Row(0, np.float32(RATE), np.float32(MOMENTUM), np.float32(DECAY))
    params, grads = ([torch.tensor(x, dtype=torch.float32) for x in values] for values in (W, G))
    hyper = updates.hyper_of(solver, row, LR_MULTS, [1, 1, 1, 1])
    adapt = adaptation(solver, "SGD", LR_MULTS)(row.lr)
    updates.step("SGD", params, grads, [torch.zeros_like(p) for p in params], hyper, adapt=adapt)
    return [grad.numpy() for grad in grads]


@pytest.mark.parametrize(
    ("fields", "rates"),
    [
        # (1 - 0.8) 0.25 |w| / |g|: 0.25, 0.025, and 1 where w is 0; lr_mult 0 stays 0, other lr_mults mean nothing
        ({"larc": True, "larc_eta": 0.25}, [0.5 * 0.25, 0.5 * 0.025, 0, 0.5]),
        ({"larc": True, "larc_eta": 0.25, "larc_policy": "clip"}, [0.25, 0.025, 0, 0.5]),
        ({"larc": True, "larc_eta": 2, "larc_policy": "clip"}, [0.5, 0.2, 0, 0.5]),
        # 0.25 |w| / (|g| + 0.01 |w|): 1.25 / 1.05 and 0.25 / 2.01
        ({"local_lr_auto": True, "local_gw_ratio": 0.25}, [0.5 * 1.25 / 1.05, 0.5 * 0.25 / 2.01, 0, 0.5]),
    ],
)
def test_rates_by_the_norms_of_a_blob_and_its_gradient(fields, rates):
    """The gradient's norm is taken before the weight decay, the decay gets the same rate."""
    for step, rate, w, g in zip(applied(**fields), rates, W, G):
        np.testing.assert_allclose(step, rate * (g + DECAY * w), rtol=1e-6)


@pytest.mark.parametrize(
    ("fields", "kind", "words"),
    [
        ({"larc": True}, "Nesterov", 'only type "SGD"'),
        ({"local_lr_auto": True}, "Adam", 'only type "SGD"'),
        ({"larc": True, "larc_policy": "scales"}, "SGD", "Unknown larc policy: scales"),
        ({"larc": True, "local_lr_auto": True}, "SGD", "give one"),
    ],
)
def test_what_is_refused(fields, kind, words):
    with pytest.raises(CaffeError, match=words):
        adaptation(SolverParameter(**fields), kind, [1])


SSD = SolverParameter(lr_policy="plateau", plateau_winsize=[3, 2], display=2)


def test_a_step_comes_so_many_iterations_after_the_lowest_loss_or_the_last_step():
    """GetLearningRate of weiliu89's Caffe, followed by hand."""
    plateau, step, seen = Plateau(), 0, []
    for i, loss in enumerate([5, 4, 6, 6, 6, 6, 3, 3, 3, 3, 3]):
        step, plateau = plateau.next(SSD, i, step, np.float32(loss))
        seen.append((step, float(plateau.minimum_loss), plateau.iter_last_event))
    assert seen == [
        (0, 5, 0), (0, 4, 1), (0, 4, 1), (0, 4, 1),
        (1, 4, 4), (1, 4, 4),  # 1 + 3
        (1, 3, 6), (1, 3, 6), (2, 3, 8),  # 6 + 2
        (2, 3, 8), (2, 3, 8),  # no third
    ]  # fmt: skip


def test_what_the_log_says_of_it():
    told = [list(Plateau(np.float32(3), 8).told(SSD, i, 1, 2 if i == 8 else 1)) for i in (7, 8, 10)]
    assert told == [[], [notices.PlateauStep(8, 2), notices.PlateauMinimum(8, 3.0)], []]


def test_a_plateau_goes_on_from_its_snapshot(folder):
    """Stopped at 5 of 12 and continued, the same rates and weights; the state has the fields of the SSD line."""
    text = (
        'lr_policy: "plateau" plateau_winsize: [3, 2, 2] gamma: 0.5 display: 1 average_loss: 2 snapshot: 5 max_iter: 12'
    )
    folder(text)
    whole, told = make_solver()
    whole.step(12)
    halves, _ = make_solver()
    halves.restore("snap_iter_5.solverstate", always_continue=True)
    halves.step(7)
    assert halves.plateau == whole.plateau and halves.current_step == whole.current_step > 0
    for one, two in zip(whole.net.learnable_params, halves.net.learnable_params):
        assert torch.equal(one, two)
    assert any(isinstance(event, notices.PlateauStep) for event in told)
    assert dataclasses.asdict(next(e for e in told if isinstance(e, notices.PlateauStep)))["step"] == 1
