"""How often the stages of `pysolver tune` are right in made-up worlds, by how sure they say they are.

python benchmarks/stages.py
"""

from __future__ import annotations

import sys
from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "disciplined"))

from surfaces import World, play

from pysolver.disciplined.stages import FAIR, HIGH, LOW, learning_rate, momentum, weight_decay

EARLIER = {"batch_size": 128, "max_lr": 0.2, "momentum": 0.95, "momentum_low": 0.85}
NOISE = (0.01, 0.05, 0.2)  # standard deviation of a test loss's logarithm


def ranges() -> list[tuple[str, bool]]:
    """30 worlds that break between 0.005 and 5; right: within 1.5 times."""
    found = []
    for breaks, noise in product(np.geomspace(0.005, 5, 10), (0.02, 0.1, 0.2)):
        world = World(breaks=float(breaks), noise=noise, seeds=noise / 2)
        decision = play(world, learning_rate.decide, batch_size=128)
        found.append((decision.sure, bool(1 / 1.5 < decision.values["max_lr"] / breaks < 1.5)))
    return found


def decays() -> list[tuple[str, bool]]:
    """30 worlds; right: within half a decade, the step of the refined grid."""
    found = []
    for number, (decay, noise, curve) in enumerate(product((1e-2, 3e-3, 1e-3, 3e-4, 1e-4), NOISE, (0.3, 1.0))):
        world = World(decay=decay, noise=noise, seeds=noise / 2, curve=curve, breaks=0.3 + number / 1000)
        decision = play(world, weight_decay.decide, **EARLIER)
        found.append((decision.sure, bool(1 / 3.2 < decision.values["weight_decay"] / decay < 3.2)))
    return found


def momenta() -> list[tuple[str, bool]]:
    """24 worlds; right: the very value, of the four that are tried."""
    found = []
    for number, (value, noise, bend) in enumerate(product(momentum.VALUES, NOISE, (1.0, 3.0))):
        world = World(momentum=value, noise=noise, seeds=noise / 2, bend=bend, breaks=1.0 + number / 1000)
        decision = play(world, momentum.decide, batch_size=128, max_lr=0.3)
        found.append((decision.sure, decision.values["momentum"] == value))
    return found


def main() -> None:
    for worlds in (ranges, decays, momenta):
        found = worlds()
        counts = Counter(found)
        told = (
            f"{sure}: {counts[sure, True]} of {counts[sure, True] + counts[sure, False]}" for sure in (HIGH, FAIR, LOW)
        )
        print(f"{worlds.__name__:8} {', '.join(told)} right")


if __name__ == "__main__":
    main()
