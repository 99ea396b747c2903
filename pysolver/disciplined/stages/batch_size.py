"""The batch size (section 4.2): the largest that pays, by images per second."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from pysolver.disciplined.plan import SPEED, Plan
from pysolver.disciplined.stages import FAIR, LOW, Decision, Situation
from pysolver.logs.run import Run

NAME = "batch"
FACTORS = (0.5, 1, 2, 4)  # of the first look
PAYS = 1.25  # times as many images a second: less is not worth fewer updates an epoch
NEAR = 0.9  # of the most images a second: the smallest size that makes so many will do
TURNS = 3
UPDATES = 50  # an epoch of fewer updates is no epoch to schedule


def decide(s: Situation) -> Decision | list[Plan]:
    """Measure a few sizes around the person's own in turns, then twice the largest as long as that is the one to take
    and memory bears it; leave the person's own only for one that is clearly faster each turn.

    Other programs on the machine make a size look slow, seldom the same one in every turn.
    """
    own, plans = s.facts.batch, trials(s)
    if missing := s.missing(plans):
        return missing
    turns = in_turns(s, plans)
    if all(own not in turn or len(turn) < 2 for turn in turns.values()):
        return Decision(NAME, {}, "the speed was not measured: the file's batch size stays", LOW, tuple(plans))
    sizes = sorted({plan.batch for plan in plans})
    spans = {size: [turn[size] for turn in turns.values() if size in turn] for size in sizes}
    gains = _gains(s, plans)
    table = tuple((f"batch size {size}", _span(span) + _told(gains, own, size)) for size, span in spans.items() if span)
    beyond = [plan.batch for plan, run in s.runs(plans).items() if _is_too_large(run)]
    notes = tuple(f"batch size {size} does not fit into memory" for size in dict.fromkeys(beyond))
    chosen, gain = _choice(s, plans)
    words = f"{chosen} trains at least {gain:.1f} times as many images a second as {own}"
    if chosen == own:
        words = f"no larger batch is {PAYS:g} times as fast as {own} each turn: it stays, more means fewer updates"
    return Decision(NAME, {"batch_size": chosen}, words, FAIR, tuple(plans), table, notes)


def trials(s: Situation) -> list[Plan]:
    """What measures the speed of each size, as far as the results so far tell which sizes to ask for."""
    own = s.facts.batch
    most = max(own, s.facts.images // UPDATES)
    sizes = sorted({max(1, round(own * factor)) for factor in FACTORS} | {own})
    sizes = [size for size in sizes if size <= most]
    plans: list[Plan] = []
    for first_turn in itertools.count(0, TURNS):
        plans += _measured(s, sizes, first_turn)
        largest = max(sizes)
        if any(plan not in s.results for plan in plans) or _choice(s, plans)[0] < largest or 2 * largest > most:
            break
        sizes = [own, 2 * largest]  # the own size beside it again, as the machine may be another one by now
    return plans


def in_turns(s: Situation, plans: Sequence[Plan]) -> dict[int, dict[int, float]]:
    """By turn: images a second by size."""
    found: dict[int, dict[int, float]] = {}
    for plan, run in s.runs(plans).items():
        if speed := images_per_second(run, plan.batch):
            found.setdefault(plan.run, {})[plan.batch] = speed
    return found


def speeds(s: Situation) -> dict[int, float]:
    """Images a second by size, the best of the turns."""
    turns = list(in_turns(s, trials(s)).values())
    return {size: max(turn.get(size, 0.0) for turn in turns) for size in sorted({k for turn in turns for k in turn})}


def images_per_second(run: Run, batch: int) -> float | None:
    """Of the fastest stretch between two displays, since other programs only slow a run down; the first warms up."""
    table = run.train
    steps, times = np.diff(table.iteration), np.diff(table.seconds)
    good = (times > 0) & (steps > 0)
    rates = (steps[good] / times[good])[1:]
    return float(rates.max()) * batch if len(rates) else None


def _choice(s: Situation, plans: Sequence[Plan]) -> tuple[int, float]:
    """The size to take, and how many times as fast as the person's own it is at least."""
    own = s.facts.batch
    fast = {size: gain for size, gain in _gains(s, plans).items() if size > own and gain >= PAYS}
    if not fast:
        return own, 1.0
    chosen = min(size for size, gain in fast.items() if gain >= NEAR * max(fast.values()))
    return chosen, fast[chosen]


def _gains(s: Situation, plans: Sequence[Plan]) -> dict[int, float]:
    """How many times as fast as the person's own each size is, in the turn where that is least."""
    own, turns = s.facts.batch, in_turns(s, plans)
    gains = {own: 1.0}
    for plan in plans:
        turn = turns.get(plan.run, {})
        if own in turn:
            gain = turn.get(plan.batch, 0.0) / turn[own]
            gains[plan.batch] = min(gain, gains.get(plan.batch, gain))
    return gains


def _told(gains: dict[int, float], own: int, size: int) -> str:
    return f"; at least {gains[size]:.2f} times as fast as {own}" if size > own and gains.get(size) else ""


def _measured(s: Situation, sizes: Sequence[int], first_turn: int) -> list[Plan]:
    """Turns of some sizes; what does not fit into memory in the first is left out of the others."""
    plans = [_plan(s, size, first_turn) for size in sizes]
    if any(plan not in s.results for plan in plans):
        return plans
    fit = [plan.batch for plan in plans if not _is_too_large(s.results[plan])]
    return plans + [_plan(s, size, first_turn + turn) for turn in range(1, TURNS) for size in fit]


def _is_too_large(run: Run) -> bool:
    """Whether memory ended it: nothing else gives up a trial of this stage."""
    return "GaveUp" in run.counts


def _span(speeds: list[float]) -> str:
    return f"{max(speeds):.0f} images/s at best, {min(speeds):.0f} at worst"


def _plan(s: Situation, batch: int, turn: int) -> Plan:
    f = s.facts
    epochs = round(24 * batch / f.images, 4)
    return Plan(NAME, SPEED, epochs, f.rate / 100, f.rate / 100, (f.momentum, f.momentum), f.weight_decay, batch,
                turn)  # fmt: skip
