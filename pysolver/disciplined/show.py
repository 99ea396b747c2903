"""How a tuning shows itself while it goes: a table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol, TextIO

from pysolver.disciplined.engine import Progress
from pysolver.disciplined.plan import Plan
from pysolver.disciplined.stages import Decision, final_loss, lowest_loss
from pysolver.disciplined.trial import Trial
from pysolver.disciplined.tuning import Tuning, last_epochs
from pysolver.errors import CaffeError
from pysolver.logs.reader import read_log

if TYPE_CHECKING:
    from rich.table import Table

TITLES = {
    "batch": "Batch size",
    "range": "Range test",
    "momentum": "Momentum",
    "weight_decay": "Weight decay",
    "cycle": "The cycle",
    "length": "Its length",
    "balance": "Weight decay over the whole length",
    "choice": "The choice",
    "final": "Final training",
}
LOOK = 2.0  # seconds between two looks at the logs of the trials that run


class Watcher(Protocol):
    """Hears of a tuning as it goes."""

    def stage(self, name: str, plans: Sequence[Plan], tuning: Tuning) -> None:
        """The stage is about to try these."""

    def trial(self, progress: Progress) -> None:
        """News of one trial."""


class Silent:
    """Shows nothing."""

    def stage(self, name: str, plans: Sequence[Plan], tuning: Tuning) -> None:
        pass

    def trial(self, progress: Progress) -> None:
        pass


class Lines:
    """Plain lines: a stage, its trials as they end, its decision."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def stage(self, name: str, plans: Sequence[Plan], tuning: Tuning) -> None:
        """The stage is about to try these."""
        self.say(f"{TITLES[name]}: {len(plans)} trial{'s' * (len(plans) > 1)}; {cost(name, plans, tuning)}")

    def trial(self, progress: Progress) -> None:
        """News of one trial."""
        name = f"{progress.trial.folder.parent.name}/{progress.trial.folder.name}"
        if progress.state == "done":
            self.say(f"  {name}: {outcome(progress.trial)}")
        elif progress.state in ("again", "known"):
            self.say(f"  {name}: {progress.words or 'was done before'}")

    def decision(self, decision: Decision) -> None:
        """What was decided."""
        for line in decision_lines(decision):
            self.say(line)

    def say(self, text: str) -> None:
        """One line."""
        print(text, file=self._stream, flush=True)


class Terminal(Lines):
    """The same, with a table of the stage's trials below that renews itself."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.live import Live

        super().__init__(stream)
        self._console = Console(file=stream)
        self._rows: dict[Trial, Progress] = {}
        self._losses: dict[Trial, tuple[float, str]] = {}  # when it was looked for, and what it was
        self._title = ""
        self._live = Live(console=self._console, refresh_per_second=2, transient=True, get_renderable=self._table)

    def __enter__(self) -> Terminal:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._rows = {}
        self._live.stop()

    def stage(self, name: str, plans: Sequence[Plan], tuning: Tuning) -> None:
        self._title = f"{TITLES[name]}   {cost(name, plans, tuning)}"
        self._rows = {}

    def trial(self, progress: Progress) -> None:
        self._rows[progress.trial] = progress
        self._losses.pop(progress.trial, None)

    def _table(self) -> Table:
        from rich.table import Table

        table = Table(title=self._title, title_justify="left", show_header=bool(self._rows), box=None)
        table.add_column("trial", overflow="fold")
        table.add_column("test loss")
        for trial, progress in list(self._rows.items()):  # this runs in a thread of rich's
            table.add_row(trial.folder.name, self._state(trial, progress))
        return table

    def _state(self, trial: Trial, progress: Progress) -> str:
        if progress.state not in ("running", "done", "known"):
            return progress.words or progress.state
        seen, words = self._losses.get(trial, (float("-inf"), ""))
        now = time.monotonic()
        if progress.state == "running" and now - seen > LOOK:
            words = latest(trial)
        elif seen == float("-inf"):
            words = outcome(trial)
        else:
            return words
        self._losses[trial] = now, words
        return words

    def say(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False)


def cost(stage: str, plans: Sequence[Plan], tuning: Tuning) -> str:
    """What these trials cost, what was spent before, and what the final runs still will."""
    spent, minutes = tuning.epochs(), tuning.seconds() / 60
    words = f"{sum(plan.epochs for plan in plans):.3g} epochs, {spent:.4g} ({minutes:.2g} minutes of training) so far"
    rest = last_epochs(tuning, stage)
    return words if not rest else f"{words}, {rest:.4g} for the final runs"


def latest(trial: Trial) -> str:
    """The last test of a trial that is running."""
    try:
        test = read_log(trial.log).test
    except (CaffeError, OSError):  # no log yet
        return "begins"
    return f"{test.main_loss[-1]:.4g} at iteration {test.iteration[-1]}" if len(test) else "runs"


def outcome(trial: Trial) -> str:
    """One trial's result in a few words."""
    run = trial.result()
    if run is None:
        return ""
    if "GaveUp" in run.counts:
        return f"given up at iteration {run.train.iteration[-1] if len(run.train) else 0}"
    loss = final_loss(run)
    if not len(run.test):
        return "done"
    return f"test loss {loss:.4g}" if loss < float("inf") else f"diverged, lowest test loss {lowest_loss(run):.4g}"


def decision_lines(decision: Decision) -> list[str]:
    """A decision in words."""
    stage = "" if decision.values or decision.file_stays else f"{TITLES[decision.stage]}: "
    return [f"=> {stage}{decision.headline}  ({decision.certainty})", f"   {decision.reason}",
            *(f"   {note}" for note in decision.notes)]  # fmt: skip


@contextlib.contextmanager
def shown() -> Iterator[Lines]:
    """Terminal on a terminal, Lines elsewhere."""
    if sys.stdout.isatty():
        with Terminal(sys.stdout) as terminal:
            yield terminal
    else:
        yield Lines(sys.stdout)
