"""A training as a whole: how it starts, how it is refused."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest
import torch
from short_runs import Script, make_solver

from pysolver.errors import CaffeError
from pysolver.logs import events as e
from pysolver.logs import read_log
from pysolver.solver.signals import Action
from pysolver.solver.train import TrainOptions, train


def test_auto_takes_weights_at_the_first_start_only(folder, capsys):
    folder("max_iter: 3")
    make_solver()[0].solve()
    os.rename("snap_iter_3.caffemodel", "start.caffemodel")
    os.remove("snap_iter_3.solverstate")
    train(TrainOptions("solver.prototxt", snapshot="auto", weights="start.caffemodel"))
    assert "Finetuning from start.caffemodel" in capsys.readouterr().err
    folder("max_iter: 8")
    train(TrainOptions("solver.prototxt", snapshot="auto", weights="start.caffemodel"))
    log = capsys.readouterr().err
    assert "Finetuning" not in log and "Resuming from snap_iter_3.solverstate" in log


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ("type: 'Sgd'", "Unknown solver type: Sgd (known types: AdaDelta, AdaGrad, Adam, Nesterov, RMSProp, SGD)"),
        ("type: 'AdaGrad'", "Momentum cannot be used with AdaGrad."),
        ("type: 'RMSProp'", "Momentum cannot be used with RMSProp."),
        ("type: 'RMSProp' momentum: 0 rms_decay: 1", "rms_decay should lie between 0 and 1."),
        ("type: 'RMSProp' momentum: 0", "cyclical_momentum cannot be used with"),
        ("lr_policy: 'triangle'", "Unknown learning rate policy: triangle"),
        ("regularization_type: 'L3'", "Unknown regularization type: L3"),
        ("average_loss: 0", "average_loss should be non-negative"),
        ("iter_size: 0", "iter_size is 0"),
        ("test_iter: [0, 3]", "test_iter is 0 for test net #0"),
        ("test_interval: 0", "test_interval() > 0"),
        ("test_net: ['a', 'b', 'c']", "test_iter must be specified for each test network."),
        ("test_state { }", "test_state must be unspecified or specified once per test net."),
        ("train_net: 'x'", "must not contain more than one of these fields"),
        ("net: 'nowhere.prototxt'", "nowhere.prototxt: file not found"),
        ("snapshot_prefix: 'nowhere/snap'", "Cannot write to snapshot prefix 'nowhere/snap'."),
        ("snapshot_prefix: 'nowhere/snap' snapshot: 0", "Cannot write to snapshot prefix 'nowhere/snap'."),
    ],
)
def test_refusals_write_nothing(folder, extra, words):
    here = folder(extra)
    before = sorted(here.iterdir())
    with pytest.raises(CaffeError) as caught:
        train(TrainOptions("solver.prototxt"))
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert sorted(here.iterdir()) == before


def test_no_net(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.prototxt").write_text("lr_policy: 'fixed'")
    with pytest.raises(CaffeError, match="s.prototxt: SolverParameter must specify a train net"):
        train(TrainOptions("s.prototxt"))


def test_snapshot_and_weights(folder):
    folder()
    with pytest.raises(CaffeError, match="but not both"):
        train(TrainOptions("solver.prototxt", snapshot="a.solverstate", weights="b.caffemodel"))


def test_compile_on_a_cpu_is_said_and_changes_nothing(folder, capsys, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda *args, **kwargs: pytest.fail("compiled"))
    folder("max_iter: 4 snapshot: 0")
    losses = []
    for compiled in (False, True):
        run = train(TrainOptions("solver.prototxt", compile=compiled))
        losses.append(list(run.train.loss))
        told = [line for line in capsys.readouterr().err.splitlines() if "--compile" in line]
        assert len(told) == compiled
    assert told[0].startswith("W") and told[0].endswith("slower on a CPU, this one goes on uncompiled")
    assert losses[0] == losses[1] != []


def test_a_training_answers_with_what_its_log_says(folder, capsys, tmp_path):
    """The same tables, to the six digits of the log."""
    folder("max_iter: 14")
    run = train(TrainOptions("solver.prototxt"))
    (tmp_path / "log").write_text(capsys.readouterr().err)
    read = read_log(tmp_path / "log")
    assert run.finished and read.finished and run.solver == read.solver
    assert len(run.train) == 5 and run.tests.keys() == read.tests.keys() == {0, 1}
    for ours, theirs in ((run.train, read.train), *zip(run.tests.values(), read.tests.values(), strict=True)):
        assert ours.outputs.keys() == theirs.outputs.keys()
        for name in ("iteration", "loss", "lr", "momentum", "weight_decay", "told", *theirs.outputs):
            values = ours.told if name == "told" else ours[name]
            expected = theirs.told if name == "told" else theirs[name]
            np.testing.assert_allclose(values, expected, rtol=1e-5)


def test_every_iteration_tells_its_loss(folder):
    """As computed, not smoothed: the mean of the passes. It is no line of the log."""
    folder("max_iter: 5 test_interval: 0 test_iter: [] average_loss: 3 display: 1")
    told: list = []
    train(TrainOptions("solver.prototxt"), log=told.append)
    losses = [event for event in told if isinstance(event, e.Iteration)]
    shown = [event.loss for event in told if isinstance(event, e.Display)]
    assert [event.iteration for event in losses] == list(range(5))
    assert shown[:3] == pytest.approx([np.mean([event.loss for event in losses[: k + 1]]) for k in range(3)], rel=1e-6)


def test_two_trainings_in_one_process_have_two_logs_and_leave_the_signals_alone(folder, capsys):
    folder("max_iter: 3")
    logs: list[list] = [[], []]
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    for log in logs:
        seen = []
        train(
            TrainOptions("solver.prototxt"),
            log=log.append,
            action=lambda seen=seen: seen.append(signal.getsignal(signal.SIGINT)) or Action.NONE,
        )
        assert set(seen) == {handlers[0]}
    assert [event for event in logs[0] if isinstance(event, e.Iteration)] == [
        event for event in logs[1] if isinstance(event, e.Iteration)
    ]
    assert "Iteration" not in capsys.readouterr().err


def test_a_run_that_was_stopped_says_how_to_go_on(folder, capsys):
    """The line can be typed; its run ends as one that was never stopped."""
    here = folder("max_iter: 9 snapshot: 0")
    train(TrainOptions("solver.prototxt"))
    expected = (here / "snap_iter_9.caffemodel").read_bytes()
    (here / "snap_iter_9.solverstate").unlink()
    capsys.readouterr()
    train(TrainOptions("solver.prototxt"), action=Script({8: Action.STOP}))
    lines = [line.split("] ", 1)[-1] for line in capsys.readouterr().err.splitlines()]
    assert lines[-3:] == [
        "Optimization stopped early.",
        "To go on: pysolver train --solver=solver.prototxt --snapshot=snap_iter_4.solverstate",
        "Optimization Done.",
    ]
    train(TrainOptions("solver.prototxt", snapshot="snap_iter_4.solverstate"))
    assert (here / "snap_iter_9.caffemodel").read_bytes() == expected
