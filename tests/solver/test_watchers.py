"""Who listens to a training beside its log."""

from __future__ import annotations

import io
import sys

import pytest

from pysolver.solver.train import TrainOptions, train


def test_tensorboard_and_no_bar_in_a_log(folder, capsys):
    pytest.importorskip("tensorboardX")
    here = folder("max_iter: 4")
    train(TrainOptions("solver.prototxt", tensorboard="board", progress=True))
    assert list((here / "board").glob("events*"))
    assert "\r" not in capsys.readouterr().err


def test_a_bar_on_a_terminal_leaves_the_log_lines_whole(folder, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    folder("max_iter: 4")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    train(TrainOptions("solver.prototxt"))
    pieces = terminal.getvalue().replace("\r", "\n").splitlines()
    assert any("4/4" in piece for piece in pieces)
    assert sum(piece.endswith("Optimization Done.") and piece.startswith("I") for piece in pieces) == 2
