"""Helpers: the tiny training in this process."""

from __future__ import annotations

import numpy as np

from pysolver.logs import events as e
from pysolver.proto.upgrade import read_solver
from pysolver.solver.signals import Action
from pysolver.solver.solver import Solver


def make_solver(**options) -> tuple[Solver, list]:
    told: list[e.Event] = []
    return Solver(read_solver("solver.prototxt"), subscribers=[told.append], **options), told


def weights_of(solver: Solver) -> list[np.ndarray]:
    return [parameter.detach().numpy().copy() for parameter in solver.net.learnable_params]


def same(a: list[np.ndarray], b: list[np.ndarray]) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


class Script:
    """An action function that gives the listed actions at the listed polls."""

    def __init__(self, actions: dict[int, Action]) -> None:
        self.actions, self.polls = actions, -1

    def __call__(self) -> Action:
        self.polls += 1
        return self.actions.get(self.polls, Action.NONE)
