"""Who listens to a training beside its log."""

from __future__ import annotations

import io
import re
import sys
from types import SimpleNamespace

import pytest

from pysolver.logs import events as e
from pysolver.logs.writer import CaffeLog
from pysolver.solver.progress import ProgressBar
from pysolver.solver.train import TrainOptions, train


def test_tensorboard_and_no_bar_in_a_log(folder, capsys):
    pytest.importorskip("tensorboardX")
    here = folder("max_iter: 4")
    train(TrainOptions("solver.prototxt", tensorboard="board", progress=True))
    assert list((here / "board").glob("events*"))
    assert "\r" not in capsys.readouterr().err


class Terminal(io.StringIO):
    def isatty(self):
        return True

    def rows(self) -> list[str]:
        """What stands there in the end, where a return and the code that wipes the rest of the screen are all."""
        text = re.sub(r"\x1b\[\?7[lh]", "", self.getvalue())
        return [row.rpartition("\r\x1b[J")[2] for row in text.split("\n")]


def test_a_bar_on_a_terminal_leaves_the_log_lines_whole(folder, monkeypatch):
    folder("max_iter: 4 snapshot: 2")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    train(TrainOptions("solver.prototxt"))
    *log, written, end = terminal.rows()
    assert sum(row.endswith("Optimization Done.") for row in log) == 2
    assert not [row for row in log if re.search(r" left\b|\x1b|\d/4", row)]
    assert re.fullmatch(r"Written: \S+_iter_4.caffemodel \S+_iter_4.solverstate and 2 earlier files", written)
    assert end == ""


def test_each_drawing_wipes_what_a_narrower_terminal_made_of_the_last(folder, monkeypatch):
    """The cursor stands at the bar's beginning, so that all rows it was broken into lie behind."""
    folder("max_iter: 4")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    train(TrainOptions("solver.prototxt"))
    drawn = re.findall(r"(.{0,4})\x1b\[\?7l([^\x1b]*)\x1b\[\?7h(.)", terminal.getvalue(), re.DOTALL)
    assert drawn and all(before == "\r\x1b[J" and after == "\r" for before, _, after in drawn)
    assert any(bar.startswith("4/4, 00:00 left") for _, bar, _ in drawn)


def test_what_the_bar_tells(folder, monkeypatch):
    folder("max_iter: 4")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    solver = SimpleNamespace(
        param=SimpleNamespace(max_iter=100, iter_size=2),
        iter=9,
        ranks=SimpleNamespace(size=3),
        net=SimpleNamespace(sources={"data": SimpleNamespace(records=600, top_shapes=lambda: [(10, 1)])}),
        add_callback=lambda *_: None,
    )
    with ProgressBar(solver, CaffeLog()) as bar:
        for event in [e.Display(8, 0.25), e.Rate(8, 0.125)]:
            bar(event)
        for iteration, net, accuracy in [(5, 0, 0.75), (8, 0, 0.5), (8, 1, 1.0)]:
            bar(e.Testing(iteration, net))
            bar(e.Output("Test", 0, "accuracy", accuracy))
        bar._count()
        bar._bar.refresh()
    assert "10/100, " in terminal.getvalue()
    assert "epoch 1.00, loss 0.25, test 0.5, lr 0.125, " in terminal.getvalue()  # 10 updates of 10 x 2 x 3 of 600
    assert terminal.rows()[-2] == "Best test accuracy 0.75 (iteration 5), final 0.5 (iteration 8)"


def test_a_terminal_that_is_closed_does_not_end_the_training(folder, monkeypatch):
    class Gone(Terminal):
        def write(self, text):
            raise OSError(5, "Input/output error")

    here = folder("max_iter: 4 snapshot: 4")
    monkeypatch.setattr(sys, "stdout", Gone())
    train(TrainOptions("solver.prototxt"))
    assert list(here.glob("*_iter_4.solverstate"))
