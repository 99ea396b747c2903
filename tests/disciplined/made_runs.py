"""Runs of a made-up experiment, whose numbers are known."""

from __future__ import annotations

from pysolver.disciplined.paper.experiment import Curve, Experiment
from pysolver.disciplined.paper.results import Result

CURVES = tuple(Curve(name, "net", "mnist", 512, 12, 0.1, 0.9, 5e-4, paper=(99.25, 0.03)) for name in ("inv", "cycle"))
EXPERIMENT = Experiment("table9", "Table 9", "one cycle is better", CURVES, ("accuracy: inv < cycle",), ("test loss",))
TABLE = {
    "iteration": [0, 50, 100],
    "loss": [2.3, 0.5, 0.25],
    "rate": [0.1, 0.2, 0.3],
    "momentum": [0.9, 0.9, 0.9],
}


def made(curve: str, seed: int, accuracy: float, scale: float = 1) -> Result:
    test = {**TABLE, "accuracy": [0.1, 0.9, accuracy / 100]}
    train = {"iteration": [0, 50, 75, 80, 100], "loss": [2.3, 0.4, 0.1, 0.2, None]}
    return Result(curve, seed, scale, 512, "xavier", 100, 60.0, "abc", "2026-11-24", "x86_64", "0a1b", test, train)


def results(inv: float, cycle: float, scale: float = 1) -> list[Result]:
    return [made(c, s, v + s / 100, scale) for c, v in (("inv", inv), ("cycle", cycle)) for s in (1, 2, 3, 4)]
