"""How a tuning shows itself while it goes: a table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

from pysolver.disciplined.engine import Progress
from pysolver.disciplined.plan import Plan
from pysolver.disciplined.stages import Decision, final_loss, lowest_loss
from pysolver.disciplined.trial import Trial
from pysolver.disciplined.tune import Tuning

TITLES = {
    "batch": "Batch size",
    "range": "Range test",
    "momentum": "Momentum",
    "weight_decay": "Weight decay",
    "cycle": "The cycle",
    "final": "Final training",
}


class Lines:
    """Plain lines: a stage, its trials as they end, its decision."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def stage(self, name: str, plans: Sequence[Plan], tuning: Tuning) -> None:
        """The stage is about to try these."""
        cost = sum(plan.epochs for plan in plans)
        self._say(f"{TITLES[name]}: {len(plans)} trial{'s' * (len(plans) > 1)}, {cost:.3g} epochs")

    def trial(self, progress: Progress) -> None:
        """News of one trial."""
        name = f"{progress.trial.folder.parent.name}/{progress.trial.folder.name}"
        if progress.state == "done":
            self._say(f"  {name}: {outcome(progress.trial)}")
        elif progress.state in ("again", "known"):
            self._say(f"  {name}: {progress.words or 'was done before'}")

    def decision(self, tuning: Tuning) -> None:
        """What was decided."""
        for line in decision_lines(tuning.decisions[-1]):
            self._say(line)

    def _say(self, text: str) -> None:
        print(text, file=self._stream, flush=True)


class Terminal(Lines):
    """The same, with a table of the stage's trials below that renews itself."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.live import Live

        super().__init__(stream)
        self._console = Console(file=stream)
        self._live = Live(console=self._console, refresh_per_second=4, transient=True)
        self._rows: dict[Trial, str] = {}
        self._tuning: Tuning | None = None
        self._title, self._start = "", time.monotonic()

    def __enter__(self) -> Terminal:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def stage(self, name: str, plans: Sequence[Plan], tuning: Tuning) -> None:
        self._title, self._tuning, self._rows = TITLES[name], tuning, {}

    def trial(self, progress: Progress) -> None:
        done = progress.state in ("done", "known")
        self._rows[progress.trial] = outcome(progress.trial) if done else progress.words or progress.state
        self._live.update(self._table())

    def _table(self) -> Any:
        from rich.table import Table

        minutes = (time.monotonic() - self._start) / 60
        cost = f"{self._tuning.epochs():.4g} epochs, {minutes:.1f} minutes so far" if self._tuning else ""
        table = Table(title=f"{self._title}   {cost}", title_justify="left")
        table.add_column("trial", overflow="fold")
        table.add_column("test loss")
        for trial, state in self._rows.items():
            table.add_row(trial.folder.name, state)
        return table

    def _say(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False)


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
    values = ", ".join(f"{name} {value:.4g}" for name, value in decision.values.items())
    return [f"=> {values or decision.stage}  ({decision.sure})", f"   {decision.reason}",
            *(f"   {note}" for note in decision.notes)]  # fmt: skip


@contextlib.contextmanager
def shown() -> Iterator[Lines]:
    """Terminal on a terminal, Lines elsewhere."""
    if sys.stdout.isatty():
        with Terminal(sys.stdout) as terminal:
            yield terminal
    else:
        yield Lines(sys.stdout)
