"""What lr_policy "plateau" of the SSD line remembers: it goes a step down where the loss has not fallen for a while.

Source: SGDSolver::GetLearningRate of weiliu89's and Intel's Caffe. The rate is base_lr gamma^current_step.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from pysolver import schedule
from pysolver.logs import notices
from pysolver.logs.events import Event, MultiStep
from pysolver.proto.caffe_pb2 import SolverParameter

_MOST = np.finfo(np.float32).max


class Plateau(NamedTuple):
    """The lowest smoothed loss yet, and the iteration of the last event: a new lowest loss, or a step."""

    minimum_loss: np.float32 = _MOST
    iter_last_event: int = 0

    def next(self, solver: SolverParameter, iteration: int, step: int, loss: np.float32) -> tuple[int, Plateau]:
        """current_step of this iteration, and what is remembered after it. loss: the smoothed one."""
        if solver.lr_policy != "plateau":
            return schedule.next_step(solver, iteration, step), self
        lowest, event = (loss, iteration) if loss < self.minimum_loss else self
        if step < len(solver.plateau_winsize) and iteration >= event + solver.plateau_winsize[step]:
            return step + 1, Plateau(lowest, iteration)
        return step, Plateau(lowest, event)

    def told(self, solver: SolverParameter, iteration: int, before: int, step: int) -> Iterator[Event]:
        """What the log says of the steps of an iteration after which this is remembered. before: its current_step."""
        if solver.lr_policy == "multistep" and step != before:
            yield MultiStep(iteration, step)
        if solver.lr_policy != "plateau":
            return
        if step != before:
            yield notices.PlateauStep(iteration, step)
        display = solver.display
        if display and iteration % display == 0 and self.iter_last_event > iteration - display:
            yield notices.PlateauMinimum(iteration, float(self.minimum_loss))
