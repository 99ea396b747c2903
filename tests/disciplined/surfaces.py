"""A world with known answers for the stages of the method: a plan in, the log of a made-up training out.

The training is a formula, not a net: the test loss falls as fast as the effective rate lets it, down to a floor that
is lowest at the right weight decay and momentum, and it breaks where the rate passes what this world bears. Every
number that a stage should find is a field of the world.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from pysolver.disciplined.plan import CYCLE, FIXED, OWN, RAMP, SCOUT, SPEED, Facts, Plan
from pysolver.disciplined.stages import Decision, Situation
from pysolver.logs import events as e
from pysolver.logs.assemble import Assembler
from pysolver.logs.run import Run

TESTS = {SCOUT: 20, RAMP: 40, CYCLE: 5, FIXED: 10, OWN: 5, SPEED: 0}


@dataclass(frozen=True)
class World:
    """breaks: the rate at momentum 0.9 where training breaks. decay, momentum: where the floor is lowest.

    curve, bend: how much the logarithm of the floor rises for a factor of ten of the decay, for a factor of ten of
    1 - momentum. noise: standard deviation of a test loss's logarithm; seeds: that of a whole run's. early: the part
    of the right decay that looks best in runs shorter than the whole training.
    """

    breaks: float = 0.3
    decay: float = 1e-3
    momentum: float = 0.95
    curve: float = 0.5
    bend: float = 1.0
    noise: float = 0.05
    seeds: float = 0.03
    batch: int = 128
    images: int = 20_000
    knee: int = 256  # batch size up to which more images a second go through
    seed: int = field(default=0, repr=False)  # of the noise
    early: float = field(default=1.0, repr=False)

    @property
    def facts(self) -> Facts:
        """What a stage is told: a person's values that are not the answer."""
        return Facts(self.images, 2000, self.batch, 0.01, 0.9, 5e-4, depth=4, epochs=10)

    def train(self, plan: Plan) -> Run:
        """The log of a plan."""
        dice = np.random.default_rng(zlib.crc32(repr((plan, self)).replace(", after=None", "").encode()) + self.seed)
        luck = self.seeds * dice.standard_normal()
        end = max(1, round(plan.epochs * self.images / plan.batch))
        tests = TESTS[plan.shape]
        tables = Assembler()
        speed = self.speed(plan) / plan.batch
        for iteration in range(0, end, max(1, end // 60)):
            rate, momentum = self._schedule(plan, iteration / end)
            tables.display(iteration, iteration / speed, 1.0, speed)
            tables.rate(iteration, iteration / speed, rate, momentum, plan.weight_decay)
        distance, broken = 0.0, 0.0
        if plan.after:  # at a fixed rate
            distance = plan.past * self.images / plan.batch * plan.high / (1 - plan.momentum[0]) * (1 - 0.9)
        for number in range(0 if plan.shape in (RAMP, SCOUT) else 1, tests + 1):
            part = number / tests
            rate, momentum = self._schedule(plan, part)
            effective = rate / (1 - momentum) * (1 - 0.9)
            distance += plan.epochs * self.images / plan.batch / tests * effective if number else 0
            broken = min(broken + max(0.0, np.log(effective / self.breaks)) * 8, 50.0)
            loss = self._floor(plan) + (2.3 - self._floor(plan)) * np.exp(-distance / 2)
            loss = min(loss * np.exp(broken + luck + self.noise * dice.standard_normal()), 87.3)
            tables.test(round(part * end), part * end / speed, 0)
            tables.output("Test", ("0", "loss"), True, float(loss))
        tables.head(e.Done("tool"))
        return tables.run(plan.name)

    def speed(self, plan: Plan) -> float:
        """Images per second."""
        return 3000 * min(plan.batch, self.knee) / self.knee

    def _schedule(self, plan: Plan, part: float) -> tuple[float, float]:
        low, high = plan.low, plan.high
        if plan.shape == SCOUT:
            return low * (high / low) ** part, plan.momentum[0]
        up = part if plan.shape == RAMP else max(0.0, 1 - abs(part / 0.45 - 1)) if plan.shape == CYCLE else 0.0
        rate = low + up * (high - low)
        return rate, plan.momentum[0] + up * (plan.momentum[1] - plan.momentum[0])

    def _floor(self, plan: Plan) -> float:
        right = self.decay * (self.early if plan.epochs < self.facts.epochs else 1)
        away = np.log10(max(plan.weight_decay, 1e-8) / right)
        slow = np.log10((1 - plan.momentum[0]) / (1 - self.momentum))
        return 0.05 * float(np.exp(self.curve * away**2 + self.bend * slow**2))


def short_cycles(momentum: tuple[float, float] = (0.9, 0.9)) -> list[Plan]:
    """What the cycle's stage has tried before the whole trainings: two rates, two runs."""
    plan = Plan("cycle", CYCLE, 2.5, 0.02, 0.2, momentum, 1e-4, 128)
    return [replace(plan, high=high, run=run) for high in (0.2, 0.1) for run in (0, 1)]


def play(
    world: World,
    stage: Callable[[Situation], Decision | Sequence[Plan]],
    before: Sequence[Plan] = (),
    **values: float,
) -> Decision:
    """What a stage decides in a world, given the values and the trials of earlier ones."""
    results = {plan: world.train(plan) for plan in before}
    for _ in range(40):
        step = stage(Situation(world.facts, values, dict(results)))
        if isinstance(step, Decision):
            return step
        assert step and not set(step) & set(results), "it asks for nothing, or again for what it has"
        results |= {plan: world.train(plan) for plan in step}
    raise AssertionError("the stage never decides")
