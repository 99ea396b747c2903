"""When a trial has no prospects and is given up; each is a picklable value, asked with the run so far."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pysolver.logs.run import Run

Judge = Callable[[Run], str | None]  # the run so far -> why it has no prospects, None if it may go on

BEYOND = 4.0  # times the lowest test loss (fastai's rule), and half of the whole way back up: no run returns from there
IN_A_ROW = 3
WORSE = 1.5  # times the loss that the best run had at the same part of the schedule


@dataclass(frozen=True)
class Diverged:
    """The test loss is no number, or far above all that it was, several times in a row."""

    def __call__(self, run: Run) -> str | None:
        losses = run.test.main_loss
        if not len(losses):
            return None
        if len(losses) >= 2 and not np.isfinite(losses[-2:]).any():
            return "the test loss is not a finite number"
        finite = losses[np.isfinite(losses)]
        if len(finite) <= IN_A_ROW:
            return None
        lowest = finite[:-IN_A_ROW].min()
        worked = lowest < finite[0] / 2
        bound = max((finite[0] + lowest) / 2, BEYOND * lowest) if worked else 1.5 * finite[0]
        if (losses[-IN_A_ROW:] > bound).all():
            return f"the test loss has been above {bound:.4g} for {IN_A_ROW} tests"
        return None


@dataclass(frozen=True)
class Behind:
    """Diverged, or clearly worse than others were after the same part of the run.

    loss: theirs, the best of them at each test; only runs that were over before this one began are among them.
    """

    loss: tuple[float, ...]

    def __call__(self, run: Run) -> str | None:
        if reason := Diverged()(run):
            return reason
        mine = run.test.main_loss
        place = len(mine) - 1
        if place < max(1, len(self.loss) // 2) or place >= len(self.loss) - 1:
            return None  # too early to tell, or all but over
        if mine[-1] > WORSE * self.loss[place] and mine[-2] > WORSE * self.loss[place - 1]:
            return f"test loss {mine[-1]:.4g}, others had {self.loss[place]:.4g} here"
        return None
