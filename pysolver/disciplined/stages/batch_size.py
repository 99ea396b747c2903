"""The batch size (section 4.2): the largest that pays, by images per second."""

from __future__ import annotations

import numpy as np

from pysolver.disciplined.plan import SPEED, Plan
from pysolver.disciplined.stages import FAIR, LOW, Decision, Situation
from pysolver.logs.run import Run

NAME = "batch"
FACTORS = (0.5, 1, 2, 4)
PAYS = 1.25  # times as many images a second: less is not worth fewer updates an epoch
TURNS = 3
UPDATES = 50  # an epoch of fewer updates is no epoch to schedule


def decide(s: Situation) -> Decision | list[Plan]:
    """Measure a few sizes around the person's own in turns; leave that only for one that is clearly faster each turn.

    Other programs on the machine make a size look slow, seldom the same one in every turn.
    """
    facts, plans = s.facts, trials(s)
    if missing := s.missing(plans):
        return missing
    sizes = sorted({plan.batch for plan in plans})
    turns = [turn for turn in in_turns(s) if facts.batch in turn]
    if all(len(turn) < 2 for turn in turns):
        return Decision(NAME, {}, "the speed was not measured: the file's batch size stays", LOW, tuple(plans))
    gains = {size: min(turn.get(size, 0.0) / turn[facts.batch] for turn in turns) for size in sizes}
    spans = {size: [turn[size] for turn in turns if size in turn] for size in sizes}
    table = tuple((f"batch size {size}", _span(span)) for size, span in spans.items() if span)
    fast = [size for size, gain in gains.items() if gain >= PAYS and size > facts.batch]
    if not fast:
        words = (
            f"no larger batch is {PAYS:g} times as fast as {facts.batch}: it stays, more would only mean fewer updates"
        )
        return Decision(NAME, {"batch_size": facts.batch}, words, FAIR, tuple(plans), table)
    best = max(gains[size] for size in fast)
    chosen = min(size for size in fast if gains[size] >= 0.9 * best)
    words = f"{chosen} trains at least {gains[chosen]:.1f} times as many images a second as {facts.batch}"
    return Decision(NAME, {"batch_size": chosen}, words, FAIR, tuple(plans), table)


def trials(s: Situation) -> list[Plan]:
    """What measures the speed of each size, turn after turn."""
    f = s.facts
    sizes = sorted({max(1, round(f.batch * factor)) for factor in FACTORS} | {f.batch})
    sizes = [size for size in sizes if size <= max(f.batch, f.images // UPDATES)]
    return [_plan(s, size, turn) for turn in range(TURNS) for size in sizes]


def in_turns(s: Situation) -> list[dict[int, float]]:
    """Images a second by size, for each turn."""
    found: list[dict[int, float]] = [{} for _ in range(TURNS)]
    for plan, run in s.runs(trials(s)).items():
        if speed := images_per_second(run, plan.batch):
            found[plan.run][plan.batch] = speed
    return found


def speeds(s: Situation) -> dict[int, float]:
    """Images a second by size, the best of the turns."""
    turns = in_turns(s)
    return {size: max(turn.get(size, 0.0) for turn in turns) for size in sorted({k for turn in turns for k in turn})}


def images_per_second(run: Run, batch: int) -> float | None:
    """Of the fastest stretch between two displays, since other programs only slow a run down; the first warms up."""
    table = run.train
    steps, times = np.diff(table.iteration), np.diff(table.seconds)
    good = (times > 0) & (steps > 0)
    rates = (steps[good] / times[good])[1:]
    return float(rates.max()) * batch if len(rates) else None


def _span(speeds: list[float]) -> str:
    return f"{max(speeds):.0f} images/s at best, {min(speeds):.0f} at worst"


def _plan(s: Situation, batch: int, turn: int) -> Plan:
    f = s.facts
    epochs = round(24 * batch / f.images, 4)
    return Plan(NAME, SPEED, epochs, f.rate / 100, f.rate / 100, (f.momentum, f.momentum), f.weight_decay, batch,
                turn)  # fmt: skip
