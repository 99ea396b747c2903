"""Curves whose clue is known, made from nine shapes random in size, noise and length; and how the clues judge them.

python tests/disciplined/labelled_curves.py               the 72 that the clues were made with
python tests/disciplined/labelled_curves.py --held-out    260 others: the same shapes, and eight that were written when
                                                          the clues were finished, and never used to change them
"""

from __future__ import annotations

import sys
from collections import Counter

import numpy as np

from pysolver.disciplined.clues import INSTABILITY, OVERFITTING, PLATEAU, UNDERFITTING, Clue, find_clues
from pysolver.logs.reader import Reader
from pysolver.logs.run import Run

NOTHING = "nothing"
KINDS = (UNDERFITTING, OVERFITTING, INSTABILITY, PLATEAU, NOTHING)
SEEDS, FRESH = range(8), range(1000, 1020)
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
    scatter = rng.normal(0, noise, (2, n)) if shape in UNSEEN else None
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
        case "falls ever more slowly":
            way = (1 + 4 * x) ** -0.5  # 1 to 0.45, and at half of the run 0.58
            test, train, label = first * way, 0.98 * first * way, UNDERFITTING
        case "rises early, then ever more slowly":
            gap = rng.uniform(0.5, 1.5) * np.sqrt(np.maximum(0, x - rng.uniform(0.15, 0.3)))
            test, train, label = test + gap, train * (1 - 0.9 * x), OVERFITTING
        case "rises once the rate is lowered":
            lr = np.where(x < at, 0.1, 0.01)
            drop = 0.3 * low * (x >= at)
            test, train, label = test - drop + rng.uniform(0.8, 2) * past, train - drop - 0.1 * past, OVERFITTING
        case "swings ever wider":
            swing = np.exp(np.maximum(0, past) * 12) - 1
            wave = 0.1 * swing * (1 + np.sin(60 * x))
            test, train, label = test + np.minimum(wave, 20), train + np.minimum(wave, 20), INSTABILITY
            lr = 0.05 + x
        case "starts late, then NaN":
            late = low + (first - low) / (1 + np.exp((x - 0.2) * 40))
            test, train, label = np.where(x > at, np.nan, late), np.where(x > at, np.nan, late - 0.05), INSTABILITY
            lr = 0.001 + x
        case "one cycle":
            lr = 0.01 + 0.3 * np.maximum(0, 1 - np.abs(x / 0.45 - 1))
            test, train, label = test + 1.5 * lr, train + 1.5 * lr, NOTHING
        case "falls in steps":
            lr = 0.1 * 0.1 ** np.floor(3 * x)
            step = 0.3 * low * np.floor(3 * x)
            test, train = test - step, train - step
        case "level, with slow noise":
            for i in range(1, n):
                scatter[:, i] = 0.7 * scatter[:, i - 1] + 0.7 * scatter[:, i]
    scatter = rng.normal(0, noise, (2, n)) if scatter is None else scatter
    return label, run_of(test + scatter[0], train + scatter[1], lr)


SHAPES = ("level", "falls through the run", "rises, train falls", "both rise", "ramp to NaN", "ramp to chance",
          "zigzag", "rate is lowered", "spikes")  # fmt: skip
UNSEEN = ("falls ever more slowly", "rises early, then ever more slowly", "rises once the rate is lowered",
          "swings ever wider", "starts late, then NaN", "one cycle", "falls in steps",
          "level, with slow noise")  # fmt: skip
LEVEL_TOO = ("zigzag", "one cycle")  # level is as right of them as nothing


def named(clues: list[Clue]) -> str:
    """The one clue that weighs most: what is dying, then what rises, then what falls, then what is level."""
    found = {clue.kind for clue in clues}
    order = (INSTABILITY, OVERFITTING, UNDERFITTING, PLATEAU)
    return next((kind for kind in order if kind in found), NOTHING)


def table(held_out: bool = False) -> Counter[tuple[str, str, str]]:
    """How many curves there are of each (shape, what it is, what is said)."""
    counts: Counter[tuple[str, str, str]] = Counter()
    wanted = [(shape, seed) for shape in SHAPES for seed in (FRESH if held_out else SEEDS)]
    wanted += [(shape, seed) for shape in UNSEEN for seed in FRESH[:10]] if held_out else []
    for shape, seed in wanted:
        label, run = curves(shape, seed)
        said = named(find_clues(run))
        counts[shape, label, label if shape in LEVEL_TOO and said == PLATEAU else said] += 1
    return counts


def confusion(counts: Counter[tuple[str, str, str]]) -> Counter[tuple[str, str]]:
    """The same without the shapes."""
    summed: Counter[tuple[str, str]] = Counter()
    for (_, label, said), count in counts.items():
        summed[label, said] += count
    return summed


def main() -> None:
    counts = table(held_out="--held-out" in sys.argv)
    summed = confusion(counts)
    print(f"{sum(n for (label, said), n in summed.items() if label == said)} of {summed.total()} right")
    print("| it is, said to be |", " | ".join(KINDS), "|")
    print("| --- " * (len(KINDS) + 1) + "|")
    for label in KINDS:
        print(f"| {label} |", " | ".join(str(summed[label, said] or "-") for said in KINDS), "|")
    for (shape, label, said), count in counts.items():
        if label != said:
            print(f"{shape}: {count} said to be {said}, not {label}")


if __name__ == "__main__":
    main()
