"""How often the stages of `pysolver tune` are right in made-up worlds, by how sure they say they are.

python benchmarks/stages.py              the worlds that the stages were made with
python benchmarks/stages.py --fresh 10   ten times as many that nobody has looked at: other noise, other answers
"""

from __future__ import annotations

import argparse
import sys
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
LIMITS = {"decays": (1.5, 3.2), "momenta": (1.0,), "balances": (1.5, 3.2)}  # 3.2: half a decade, else 1.5 alone


def off(decided: float, answer: float) -> float:
    """By how many times a decision misses."""
    return max(decided / answer, answer / decided)


def ranges(dice: Dice, seed: int) -> list[tuple[str, float]]:
    """30 worlds that break between 0.005 and 5."""
    found = []
    for middle, noise in product(np.geomspace(0.005, 5, 10), (0.02, 0.1, 0.2)):
        breaks = middle * dice(1.0)
        world = World(breaks=breaks, noise=noise, seeds=noise / 2, seed=seed)
        decision = play(world, learning_rate.decide, batch_size=128)
        found.append((decision.sure, off(decision.values.get("max_lr", world.facts.rate), breaks)))
    return found


def decays(dice: Dice, seed: int) -> list[tuple[str, float]]:
    """30 worlds."""
    found = []
    for number, (middle, noise, curve) in enumerate(product((1e-2, 3e-3, 1e-3, 3e-4, 1e-4), NOISE, (0.3, 1.0))):
        decay = middle * dice(0.5)
        world = World(decay=decay, noise=noise, seeds=noise / 2, curve=curve, breaks=0.3 + number / 1000, seed=seed)
        decision = play(world, weight_decay.decide, **EARLIER)
        found.append((decision.sure, off(decision.values["weight_decay"], decay)))
    return found


def balances(dice: Dice, seed: int) -> list[tuple[str, float]]:
    """30 worlds whose short runs favour 1e-4, and short cycles that tell the noise."""
    found = []
    before = short_cycles((EARLIER["momentum"], EARLIER["momentum_low"]))
    for middle, noise, curve in product((1e-2, 3e-3, 1e-3, 3e-4, 1e-4), NOISE, (0.3, 1.0)):
        decay = middle * dice(0.5)
        world = World(decay=decay, early=1e-4 / decay, noise=noise, seeds=noise / 2, curve=curve, seed=seed)
        decision = play(world, balance.decide, before, **EARLIER, base_lr=0.02, weight_decay=1e-4, epochs=10)
        found.append((decision.sure, off(decision.values["weight_decay"], decay)))
    return found


def momenta(dice: Dice, seed: int) -> list[tuple[str, float]]:
    """24 worlds, whose answer is one of the four values that are tried."""
    found = []
    for number, (value, noise, bend) in enumerate(product(momentum.VALUES, NOISE, (1.0, 3.0))):
        breaks = (1.0 + number / 1000) * dice(0.3)
        world = World(momentum=value, noise=noise, seeds=noise / 2, bend=bend, breaks=breaks, seed=seed)
        decision = play(world, momentum.decide, batch_size=128, max_lr=0.3 * breaks)
        found.append((decision.sure, off(decision.values["momentum"], value)))
    return found


def as_they_are(width: float) -> float:
    """No change of an answer."""
    return 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fresh", type=int, default=0, metavar="N", help="N times as many, new ones")
    fresh = parser.parse_args().fresh
    for worlds in (ranges, decays, momenta, balances):
        found: list[tuple[str, float]] = []
        for seed in range(1, fresh + 1):
            rng = np.random.default_rng([1803_09820, seed])
            found += worlds(lambda width, rng=rng: float(10 ** rng.uniform(-width / 2, width / 2)), seed)
        found = found if fresh else worlds(as_they_are, 0)
        for limit in LIMITS.get(worlds.__name__, (1.5,)):
            rows = {sure: [away <= limit for s, away in found if s == sure] for sure in (HIGH, FAIR, LOW)}
            told = ", ".join(f"{sure}: {sum(row)} of {len(row)}" for sure, row in rows.items())
            print(f"{worlds.__name__:8} within {limit:g} times: {told}", flush=True)


if __name__ == "__main__":
    main()
