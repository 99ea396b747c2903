"""How often the stages of `pysolver tune` are right in made-up worlds, by how sure they say they are.

python benchmarks/stages.py              the worlds that the stages were made with
python benchmarks/stages.py --fresh 10   ten times as many that nobody has looked at: other noise, other answers
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "disciplined"))

from surfaces import World, play, short_cycles

from pysolver.disciplined.stages import FAIR, HIGH, LOW, balance, learning_rate, momentum, weight_decay

EARLIER = {"batch_size": 128, "max_lr": 0.2, "momentum": 0.95, "momentum_low": 0.85}
Dice = Callable[[float], float]  # the width of a range in decades -> by how much an answer is moved within it
NOISE = (0.01, 0.05, 0.2)  # standard deviation of a test loss's logarithm


def ranges(dice: Dice, seed: int) -> list[tuple[str, bool]]:
    """30 worlds that break between 0.005 and 5; right: within 1.5 times."""
    found = []
    for middle, noise in product(np.geomspace(0.005, 5, 10), (0.02, 0.1, 0.2)):
        breaks = middle * dice(1.0)
        world = World(breaks=breaks, noise=noise, seeds=noise / 2, seed=seed)
        decision = play(world, learning_rate.decide, batch_size=128)
        found.append((decision.sure, bool(1 / 1.5 < decision.values.get("max_lr", world.facts.rate) / breaks < 1.5)))
    return found


def decays(dice: Dice, seed: int) -> list[tuple[str, bool]]:
    """30 worlds; right: within half a decade, the step of the refined grid."""
    found = []
    for number, (middle, noise, curve) in enumerate(product((1e-2, 3e-3, 1e-3, 3e-4, 1e-4), NOISE, (0.3, 1.0))):
        decay = middle * dice(0.5)
        world = World(decay=decay, noise=noise, seeds=noise / 2, curve=curve, breaks=0.3 + number / 1000, seed=seed)
        decision = play(world, weight_decay.decide, **EARLIER)
        found.append((decision.sure, bool(1 / 3.2 < decision.values["weight_decay"] / decay < 3.2)))
    return found


def balances(dice: Dice, seed: int) -> list[tuple[str, bool]]:
    """30 worlds whose short runs favour 1e-4, and short cycles that tell the noise; right: within half a decade."""
    found = []
    before = short_cycles((EARLIER["momentum"], EARLIER["momentum_low"]))
    for middle, noise, curve in product((1e-2, 3e-3, 1e-3, 3e-4, 1e-4), NOISE, (0.3, 1.0)):
        decay = middle * dice(0.5)
        world = World(decay=decay, early=1e-4 / decay, noise=noise, seeds=noise / 2, curve=curve, seed=seed)
        decision = play(world, balance.decide, before, **EARLIER, base_lr=0.02, weight_decay=1e-4, epochs=10)
        found.append((decision.sure, bool(1 / 3.2 < decision.values["weight_decay"] / decay < 3.2)))
    return found


def momenta(dice: Dice, seed: int) -> list[tuple[str, bool]]:
    """24 worlds; right: the very value, of the four that are tried."""
    found = []
    for number, (value, noise, bend) in enumerate(product(momentum.VALUES, NOISE, (1.0, 3.0))):
        breaks = (1.0 + number / 1000) * dice(0.3)
        world = World(momentum=value, noise=noise, seeds=noise / 2, bend=bend, breaks=breaks, seed=seed)
        decision = play(world, momentum.decide, batch_size=128, max_lr=0.3 * breaks)
        found.append((decision.sure, decision.values["momentum"] == value))
    return found


def as_they_are(width: float) -> float:
    """No change of an answer."""
    return 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fresh", type=int, default=0, metavar="N", help="N times as many, new ones")
    fresh = parser.parse_args().fresh
    for worlds in (ranges, decays, momenta, balances):
        counts: Counter[tuple[str, bool]] = Counter()
        for seed in range(1, fresh + 1):
            rng = np.random.default_rng([1803_09820, seed])
            counts.update(worlds(lambda width, rng=rng: float(10 ** rng.uniform(-width / 2, width / 2)), seed))
        counts = counts if fresh else Counter(worlds(as_they_are, 0))
        told = (
            f"{sure}: {counts[sure, True]} of {counts[sure, True] + counts[sure, False]}" for sure in (HIGH, FAIR, LOW)
        )
        print(f"{worlds.__name__:8} {', '.join(told)} right", flush=True)


if __name__ == "__main__":
    main()
