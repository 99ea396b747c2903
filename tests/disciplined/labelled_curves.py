"""Curves whose clue is known, made from nine shapes random in size, noise and length; and how the clues judge them.

python tests/disciplined/labelled_curves.py     prints the table of docs/results.md
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from pysolver.disciplined.clues import INSTABILITY, OVERFITTING, PLATEAU, UNDERFITTING, Clue, find_clues
from pysolver.logs.reader import Reader
from pysolver.logs.run import Run

NOTHING = "nothing"
KINDS = (UNDERFITTING, OVERFITTING, INSTABILITY, PLATEAU, NOTHING)
SEEDS = range(8)
TAG = "I0321 09:01:36.326753  7379 solver.cpp:239] "


def run_of(test: np.ndarray, train: np.ndarray, lr: np.ndarray) -> Run:
    """A run whose log tells these losses, a test and a display every 100 iterations."""
    text = ""
    for i in range(len(test)):
        text += f"{TAG}Iteration {100 * i}, Testing net (#0)\n"
        text += f"{TAG}    Test net output #0: loss = {test[i]:g} (* 1 = {test[i]:g} loss)\n"
        text += f"{TAG}Iteration {100 * i}, loss = {train[i]:g}\n"
        text += f"{TAG}    Train net output #0: loss = {train[i]:g} (* 1 = {train[i]:g} loss)\n"
        text += f"{TAG.replace('solver', 'sgd_solver')}Iteration {100 * i}, lr = {lr[i]:g}\n"
    reader = Reader("made")
    reader.feed(text)
    return reader.finish()


def curves(shape: str, seed: int) -> tuple[str, Run]:
    """The clue that a person would name, and the run. Shapes: SHAPES."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(30, 120))
    x = np.linspace(0, 1, n)
    low, first = rng.uniform(0.2, 0.8), rng.uniform(2.0, 5.0)
    descent = low + (first - low) * np.exp(-x / rng.uniform(0.02, 0.05))
    test, train, lr, label = descent.copy(), descent - rng.uniform(0.02, 0.15), np.full(n, 0.1), PLATEAU
    at, noise = rng.uniform(0.4, 0.7), rng.uniform(0.005, 0.02) * (first - low)
    past = np.maximum(0, x - at)
    match shape:
        case "falls through the run":
            test, train, label = first - (first - low) * x, first - 1.1 * (first - low) * x, UNDERFITTING
        case "rises, train falls":
            test, train, label = test + rng.uniform(0.8, 2) * past, train - 0.1 * x, OVERFITTING
        case "both rise":
            test, train, label = test + 2 * past, train + 2 * past, INSTABILITY
            lr = 0.1 + x
        case "ramp to NaN":  # the test loss begins to rise a few tests before the train loss is seen to
            near = 3 * np.maximum(0, x - at + 0.05)
            dead = x > at
            test, train, label = np.where(dead, np.nan, test + near), np.where(dead, np.nan, train), INSTABILITY
            lr = 0.05 + x
        case "ramp to chance":
            dead = x > at
            test, train, label = np.where(dead, first, test), np.where(dead, first, train), INSTABILITY
            lr = 0.05 + x
        case "zigzag":
            lr = 0.03 + 0.17 * np.abs((6 * x) % 2 - 1)
            wave = rng.uniform(0.3, 0.5) * (lr / 0.2)
            test, train, label = test + wave, train + wave, NOTHING
        case "rate is lowered":
            lr = np.linspace(1.0, 0.01, n)
            test, train, label = first - (first - low) * x, first - 1.1 * (first - low) * x, NOTHING
        case "spikes":
            test[rng.integers(n // 4, n, 3)] += 9
    scatter = rng.normal(0, noise, (2, n))
    return label, run_of(test + scatter[0], train + scatter[1], lr)


SHAPES = ("level", "falls through the run", "rises, train falls", "both rise", "ramp to NaN", "ramp to chance",
          "zigzag", "rate is lowered", "spikes")  # fmt: skip


def named(clues: list[Clue]) -> str:
    """The one clue that weighs most: what is dying, then what rises, then what falls, then what is level."""
    found = {clue.kind for clue in clues}
    order = (INSTABILITY, OVERFITTING, UNDERFITTING, PLATEAU)
    return next((kind for kind in order if kind in found), NOTHING)


def table() -> Counter[tuple[str, str]]:
    """(what it is, what is said) of all curves. Of a zigzag, level is as right as nothing."""
    counts: Counter[tuple[str, str]] = Counter()
    for shape in SHAPES:
        for seed in SEEDS:
            label, run = curves(shape, seed)
            said = named(find_clues(run))
            counts[label, label if shape == "zigzag" and said == PLATEAU else said] += 1
    return counts


def main() -> None:
    counts = table()
    print("| it is \\ said |", " | ".join(KINDS), "|")
    print("| --- " * (len(KINDS) + 1) + "|")
    for label in KINDS:
        print(f"| {label} |", " | ".join(str(counts[label, said] or "-") for said in KINDS), "|")


if __name__ == "__main__":
    main()
