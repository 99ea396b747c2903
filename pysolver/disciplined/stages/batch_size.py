"""The batch size (section 4.2): the largest that pays, by images per second."""

from __future__ import annotations

import numpy as np

from pysolver.disciplined.plan import SPEED, Plan
from pysolver.disciplined.stages import FAIR, LOW, Decision, Situation
from pysolver.logs.run import Run

NAME = "batch"
FACTORS = (0.5, 1, 2, 4)
PAYS = 1.25  # times as many images a second: less is not worth fewer updates an epoch
UPDATES = 50  # an epoch of fewer updates is no epoch to schedule


def decide(s: Situation) -> Decision | list[Plan]:
    """Measure a few sizes around the person's own; leave that only for one that is clearly faster."""
    facts = s.facts
    sizes = sorted({max(1, round(facts.batch * f)) for f in FACTORS} | {facts.batch})
    sizes = [size for size in sizes if size <= max(facts.batch, facts.images // UPDATES)]
    plans = [_plan(s, size) for size in sizes]
    if missing := s.missing(plans):
        return missing
    speeds = {plan.batch: images_per_second(run, plan.batch) for plan, run in s.runs(plans).items()}
    speeds = {size: speed for size, speed in speeds.items() if speed}
    own = speeds.get(facts.batch)
    table = tuple((f"batch size {size}", f"{speed:.0f} images/s") for size, speed in sorted(speeds.items()))
    if not own or len(speeds) < 2:
        return Decision(NAME, {"batch_size": facts.batch}, "the speed was not measured: the file's batch size stays",
                        LOW, tuple(plans), table)  # fmt: skip
    fast = [size for size, speed in speeds.items() if speed >= PAYS * own and size > facts.batch]
    if not fast:
        words = (
            f"no larger batch is {PAYS:g} times as fast as {facts.batch}: it stays, more would only mean fewer updates"
        )
        return Decision(NAME, {"batch_size": facts.batch}, words, FAIR, tuple(plans), table)
    best = max(speeds[size] for size in fast)
    chosen = min(size for size in fast if speeds[size] >= 0.9 * best)
    words = f"{chosen} trains {speeds[chosen] / own:.1f} times as many images a second as {facts.batch}"
    return Decision(NAME, {"batch_size": chosen}, words, FAIR, tuple(plans), table)


def images_per_second(run: Run, batch: int) -> float | None:
    """The median over the stretches between two displays; the first one warms up."""
    table = run.train
    steps, times = np.diff(table.iteration), np.diff(table.seconds)
    good = (times > 0) & (steps > 0)
    rates = (steps[good] / times[good])[1:]
    return float(np.median(rates)) * batch if len(rates) else None


def _plan(s: Situation, batch: int) -> Plan:
    f = s.facts
    epochs = round(24 * batch / f.images, 4)
    return Plan(NAME, SPEED, epochs, f.rate / 100, f.rate / 100, (f.momentum, f.momentum), f.weight_decay, batch)
