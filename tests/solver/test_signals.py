"""Signals become actions, served within one iteration."""

from __future__ import annotations

import os
import signal

import pytest

from pysolver.errors import CaffeError
from pysolver.logs import events as e
from pysolver.solver.signals import Action, SignalHandler, parse_effect
from pysolver.solver.train import TrainOptions, main


@pytest.mark.parametrize(
    ("number", "options", "stops", "saves"),
    [
        (signal.SIGINT, {}, True, True),
        (signal.SIGHUP, {}, False, True),
        (signal.SIGTERM, {}, True, True),
        (signal.SIGINT, {"sigint_effect": "none"}, False, False),
        (signal.SIGINT, {"sigint_effect": "snapshot"}, False, True),
        (signal.SIGHUP, {"sighup_effect": "stop"}, True, True),
    ],
)
@pytest.mark.parametrize("when", [e.Display, e.Testing])
def test_signals_within_one_iteration(folder, capsys, number, options, stops, saves, when):
    here = folder("max_iter: 12 snapshot: 0 display: 4 test_interval: 4 snapshot_after_train: true")
    before = signal.getsignal(number)

    def send(event):
        if isinstance(event, when) and event.iteration == 4:
            os.kill(os.getpid(), number)

    main(TrainOptions("solver.prototxt", **options), subscribers=[send])
    log = capsys.readouterr().err
    saved = {int(file.stem.split("_")[-1]) for file in here.glob("*.solverstate")}
    served = 4 if when is e.Testing else 5
    assert ("Optimization stopped early." in log) == stops
    assert log.count("Optimization Done.") == (1 if stops else 2)
    assert (served in saved) == saves and (12 in saved) != stops
    assert ("Test interrupted." in log) == (stops and when is e.Testing)
    assert signal.getsignal(number) == before, "the handlers are put back"


def test_poll_order_and_counting():
    with SignalHandler() as poll:
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGHUP, signal.SIGTERM):
            os.kill(os.getpid(), number)
        assert [poll() for _ in range(4)] == [Action.PREEMPT, Action.SNAPSHOT, Action.STOP, Action.NONE]
    with pytest.raises(CaffeError, match='Invalid signal effect "halt" was specified'):
        parse_effect("halt")
