"""What is found about a solver file, and what finds it: a generator over a case, under @check."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from pysolver.logs.run import Run
from pysolver.policies import CYCLICAL
from pysolver.proto.caffe_pb2 import NetParameter, SolverParameter

CYCLES = tuple(policy for policy in CYCLICAL if policy != "1cycle")  # again and again


@dataclass(frozen=True)
class Finding:
    """level: `error` (the run cannot do what is meant), `warning`, or `note`; field: where in the solver or net."""

    level: str
    field: str
    text: str

    def __str__(self) -> str:
        return f"{self.level}: {self.field}: {self.text}"


@dataclass(frozen=True)
class Case:
    """What there is to judge. table: iteration, lr, momentum of the whole run, None if it has no valid schedule."""

    solver: SolverParameter
    net: NetParameter | None
    log: Run | None
    table: tuple[np.ndarray, np.ndarray, np.ndarray] | None

    @property
    def cyclical(self) -> bool:
        """Whether the rate goes up and down."""
        return self.solver.lr_policy in CYCLICAL

    @property
    def is_range_test(self) -> bool:
        """A ramp that ends at its top, on purpose."""
        return self.solver.lr_policy in CYCLES and 0.9 <= self.solver.max_iter / max(self.solver.stepsize, 1) <= 1.0


def error(field: str, text: str) -> Finding:
    """The run cannot do what is meant."""
    return Finding("error", field, text)


def warning(field: str, text: str) -> Finding:
    """Probably a slip."""
    return Finding("warning", field, text)


def note(field: str, text: str) -> Finding:
    """Worth knowing."""
    return Finding("note", field, text)


Check = Callable[[Case], Iterator[Finding]]
CHECKS: list[Check] = []


def check(function: Check) -> Check:
    """Registers a check."""
    CHECKS.append(function)
    return function
