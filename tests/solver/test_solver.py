"""The loop on a tiny net: what happens when, and what is told."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from short_runs import Script, make_solver, same, weights_of

from pysolver.logs import events as e
from pysolver.logs import notices
from pysolver.proto import caffe_pb2
from pysolver.proto.text import parse_text
from pysolver.proto.upgrade import read_solver
from pysolver.solver.signals import Action
from pysolver.solver.solver import Solver

# What nets and their sources tell.
OF_NETS = (e.InitializingNet, e.Top, e.SettingUp, e.TopShape, e.NetReady, e.RestartingData, e.WaitingForData)


def test_order_within_a_run(folder):
    """Caffe's list (Solver::Step, Solver::Solve), with events at common multiples."""
    folder("max_iter: 6 display: 3 test_interval: 3 snapshot: 3 stepvalue: [3, 4] iter_size: 1")
    solver, told = make_solver()
    solver.solve()
    told = [event for event in told if type(event).__module__ == e.__name__ and type(event) not in OF_NETS]
    names = [type(event).__name__ + (f"{event.iteration}" if hasattr(event, "iteration") else "") for event in told]
    start = names.index("Solving")
    assert [name for name in names[start:] if name != "Output" and not name.startswith("Iteration")] == [
        *("Solving", "Policy", "Testing0", "Testing0", "Display0", "Rate0", "Snapshot", "Snapshot"),
        *("Testing3", "Testing3", "Display3", "MultiStep3", "Rate3", "MultiStep4", "Snapshot", "Snapshot"),
        *("Display6", "Testing6", "Testing6", "Done"),
    ]
    assert names[:start] == [
        *("InitializingSolver", "CreatingTrainNet", "CreatingTestNet", "CreatingTestNet", "ScaffoldingDone"),
    ]


def test_unsorted_stepvalues_are_taken_one_an_iteration(folder):
    """As in an author's log with stepvalues 36619 and 35398: the rate drops at 36619, and again at 36620."""
    folder("display: 1 test_iter: [] test_interval: 0 stepvalue: [4, 2, 2] base_lr: 0.1 max_iter: 8")
    solver, told = make_solver()
    seen = []
    for _ in range(8):
        seen.append(float(solver.lr))
        solver.step(1)
    rates = [event.lr for event in told if isinstance(event, e.Rate)]
    assert np.allclose(rates, [0.1, 0.1, 0.1, 0.1, 0.05, 0.025, 0.0125, 0.0125], rtol=1e-6) and seen == rates
    assert [(event.iteration, event.step) for event in told if isinstance(event, e.MultiStep)] == [
        (4, 1),
        (5, 2),
        (6, 3),
    ]


def test_display_0_tells_tests_only(folder):
    folder("display: 0 max_iter: 6")
    solver, told = make_solver()
    solver.solve()
    assert not [
        event
        for event in told
        if isinstance(event, e.Display | e.Rate) or (isinstance(event, e.Output) and event.phase == "Train")
    ]
    assert sum(isinstance(event, e.Testing) for event in told) == 4


def test_test_initialization(folder):
    folder("test_initialization: false max_iter: 6")
    solver, told = make_solver()
    solver.solve()
    assert {event.iteration for event in told if isinstance(event, e.Testing)} == {5}


def test_callbacks_and_a_manual_update(folder):
    folder("type: 'SGD' cyclical_momentum: [] momentum: 0 weight_decay: 0 iter_size: 1 lr_policy: 'fixed' base_lr: 0.5")
    solver, _ = make_solver()
    calls = []
    solver.add_callback(lambda: calls.append(("start", solver.iter)), lambda: calls.append(("ready", solver.iter)))
    solver.step(2)
    assert calls == [("start", 0), ("ready", 0), ("start", 1), ("ready", 1)]
    before = weights_of(solver)
    for parameter in solver.net.learnable_params:
        parameter.grad.fill_(2)
    solver.apply_update()
    rates = [0.5 * mult for mult in solver.net.lr_mults]
    assert all(np.allclose(b - a, r * 2) for a, b, r in zip(weights_of(solver), before, rates))
    assert solver.iter == 3


def test_reading_lr_changes_nothing(folder):
    folder()
    solver, _ = make_solver()
    solver.iter = 9
    assert [solver.lr, solver.lr, solver.current_step] == [np.float32(0.005), np.float32(0.005), 0]


def test_seeds(folder):
    folder()
    a, b = make_solver()[0], make_solver()[0]
    assert same(weights_of(a), weights_of(b))
    folder("random_seed: 6")
    c = make_solver()[0]
    assert not same(weights_of(a), weights_of(c))
    folder("random_seed: -1")
    torch.seed()
    assert not same(weights_of(make_solver()[0]), weights_of(make_solver()[0]))


def test_stop_after_an_update(folder):
    here = folder("test_interval: 0 test_iter: [] max_iter: 20")
    solver, told = make_solver(action=Script({4: Action.STOP}))
    solver.solve()
    assert (solver.iter, [file.name for file in here.glob("*.solverstate")]) == (5, ["snap_iter_5.solverstate"])
    assert isinstance(told[-1], e.StoppedEarly) and e.Done("solver") not in told


def test_stop_within_a_test(folder):
    folder("max_iter: 20")
    solver, told = make_solver(action=Script({3: Action.STOP}))  # in the second test net
    solver.solve()
    assert solver.iter == 0
    kinds = [type(event).__name__ for event in told]
    assert kinds[-3:] == ["Output", "Testing", "TestInterrupted"] or kinds[-2:] == ["TestInterrupted", "StoppedEarly"]
    assert "Display" not in kinds, "no training pass after the stop"


@pytest.mark.parametrize("extra", ["", "snapshot_after_train: false", "snapshot: 0", "snapshot: 3"])
def test_preemption_saves_once_and_stops(folder, extra):
    here = folder("test_interval: 0 test_iter: [] max_iter: 20 " + extra)
    solver, told = make_solver(action=Script({2: Action.PREEMPT}))
    solver.solve()
    assert solver.iter == 3 and [file.name for file in here.glob("*.solverstate")] == ["snap_iter_3.solverstate"]
    assert sum(isinstance(event, e.Snapshot) for event in told) == 2
    assert isinstance(told[-1], e.StoppedEarly)


def test_a_net_without_a_loss_is_told():
    """Caffe trains it, and nothing changes."""
    net = 'layer { name: "d" type: "DummyData" top: "x" dummy_data_param { shape { dim: 1 } } }'
    param = parse_text(f'net_param {{ {net} }} lr_policy: "fixed" max_iter: 1', caffe_pb2.SolverParameter)
    told = []
    Solver(param, subscribers=[told.append])
    assert notices.NoLoss() in told


def test_a_fixed_type_ignores_the_parameters(folder):
    folder("momentum: 0.9")
    solver = Solver(read_solver("solver.prototxt"), subscribers=[], type="SGD")
    assert solver.type == "SGD" and len(solver.history) == len(solver.net.learnable_params)


def test_unknown_regularization_without_decay_is_fine(folder):
    folder("regularization_type: 'L3' weight_decay: 0 max_iter: 1")
    make_solver()[0].solve()
