"""How a tuning shows itself on a terminal and where there is none."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from pretend import LOG, Pretend
from surfaces import World

from pysolver.disciplined.engine import Progress
from pysolver.disciplined.plan import CYCLE, Plan
from pysolver.disciplined.recipe import Recipe
from pysolver.disciplined.show import Lines, Terminal
from pysolver.disciplined.stages import Decision
from pysolver.disciplined.trial import Trial
from pysolver.disciplined.tuning import Tuning
from pysolver.proto.caffe_pb2 import NetParameter, SolverParameter


class Screen(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True

    def text(self) -> str:
        """Without what moves the cursor or colours."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.getvalue())


@pytest.fixture
def scene(tmp_path: Path) -> tuple[Tuning, list[Plan], Trial, Trial]:
    """A tuning about to try two plans, one trial that runs, and one that is over."""
    tuning = Tuning(Recipe(SolverParameter(), NetParameter(), World().facts, tmp_path))
    plans = [Plan("momentum", CYCLE, 2.5, 0.01, 0.1, (0.9, 0.85), 1e-3, 128, run) for run in (0, 1)]
    running, over = (Trial(tmp_path / "momentum" / name, "", None, Pretend(loss=0.75)) for name in ("one", "other"))
    running.write()
    running.log.write_text("".join(LOG.format(loss=0.25).splitlines(True)[:3]))
    over.run()
    return tuning, plans, running, over


def test_a_terminal_shows_the_latest_losses_and_the_cost(scene, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "150")
    tuning, plans, running, over = scene
    screen = Screen()
    with Terminal(screen) as shown:
        shown.stage("momentum", plans, tuning)
        shown.trial(Progress(running, "running"))
        shown.trial(Progress(over, "done"))
        shown._live.refresh()
        shown.decision(Decision("momentum", {"momentum": 0.95}, "it is so", "high"))
    told = screen.text()
    # 5 epochs now; then 4 seeds of 10 epochs, twice
    assert "Momentum   5 epochs, 0 (0 minutes of training) so far, 80 for the final runs" in told
    assert re.search(r"one +0\.25 at iteration 0", told) and re.search(r"other +test loss 0\.75", told)
    assert "=> momentum 0.95  (sure)" in told


def test_elsewhere_there_are_plain_lines(scene):
    tuning, plans, running, over = scene
    stream = io.StringIO()
    shown = Lines(stream)
    shown.stage("momentum", plans, tuning)
    shown.trial(Progress(running, "running"))
    shown.trial(Progress(over, "done"))
    shown.trial(Progress(running, "again", "its worker died"))
    assert stream.getvalue().splitlines() == [
        "Momentum: 2 trials; 5 epochs, 0 (0 minutes of training) so far, 80 for the final runs",
        "  momentum/other: test loss 0.75",
        "  momentum/one: its worker died",
    ]
