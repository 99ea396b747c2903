"""The range test (section 4.1): the largest learning rate that all runs bear."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pysolver.disciplined.plan import RAMP, SCOUT, Plan
from pysolver.disciplined.range_test import RangeTest, analyse
from pysolver.disciplined.stages import FAIR, HIGH, LOW, Decision, Situation
from pysolver.errors import CaffeError
from pysolver.logs.run import Run

NAME = "range"
ITERATIONS = 300  # of a ramp, at least: then a test every 7 of them makes 40
SCOUTS = (1e-5, 10.0)  # the rates of the first look
FIRST = 0.3  # part of the ramp before which the break must not lie: there are too few tests below it
ATTEMPTS = 4
TOO_FAST = 1.5  # a ramp twice as long that breaks this much earlier: the first was too fast


def decide(s: Situation) -> Decision | list[Plan]:
    """Scout the order of magnitude, then ramps of a length and to a height that show the break well."""
    scout = _plan(s, SCOUT, *SCOUTS, epochs=s.facts.short(ITERATIONS // 2, _batch(s)))
    if missing := s.missing([scout]):
        return missing
    top = _first_top(s, scout)
    epochs = s.facts.short(ITERATIONS, _batch(s))
    notes: list[str] = []
    plans: list[Plan] = []
    seen: set[tuple[float, float]] = set()
    for _ in range(ATTEMPTS):
        seen.add((top, epochs))
        plans = s.variations(_plan(s, RAMP, top / 1000, top, epochs))
        if missing := s.missing(plans):
            return missing
        found = reading(list(s.runs(plans).values()))
        other = _next_top(found, top)
        if other is None:
            longer = _plan(s, RAMP, top / 1000, top, 2 * epochs)
            if missing := s.missing([longer]):
                return missing
            earlier = _earlier(found, s.runs([longer]))
            if earlier is None or earlier < TOO_FAST:
                plans += [longer] if longer in s.results else []
                break
            notes.append(f"a ramp of {epochs:g} epochs breaks {earlier:.1f} times later than one of {2 * epochs:g}")
            epochs *= 2
            continue
        notes.append(_why(found, top, other))
        if (other, epochs) in seen:
            break
        top = other
    return _decision(s, plans, notes, scout)


def reading(runs: Sequence[Run]) -> RangeTest | None:
    """What the ramps show together; None if they show nothing at all."""
    usable = []
    for run in runs:
        try:
            analyse([run])
            usable.append(run)
        except CaffeError:
            continue
    return analyse(usable) if usable else None


def _batch(s: Situation) -> int:
    return int(s.values["batch_size"])


def _plan(s: Situation, shape: str, low: float, high: float, epochs: float) -> Plan:
    momentum = s.facts.momentum
    return Plan(NAME, shape, epochs, low, float(f"{high:.3g}"), (momentum, momentum), s.facts.weight_decay, _batch(s))


def _first_top(s: Situation, scout: Plan) -> float:
    """Three times the rate where the scout broke, and where it began to be no better."""
    if scout not in s.results:
        return 10 * s.facts.rate or 1.0
    run = s.results[scout]
    losses, rates = run.test.main_loss, run.test.lr
    good = np.isfinite(losses) & np.isfinite(rates)
    if good.sum() < 4:
        return 1.0
    lowest = float(rates[good][np.argmin(losses[good])])
    return float(f"{min(max(3 * lowest, 1e-4), 10.0):.1g}")


def _next_top(found: RangeTest | None, top: float) -> float | None:
    """Another height of the ramp, None if this one is right."""
    if found is None or found.max_lr is None:
        return float(f"{top / 10:.2g}")
    breaks = [r.broke for r in found.readings if r.broke is not None]
    if not breaks:
        return top * 10
    earliest = min(breaks)
    return float(f"{2.5 * earliest:.1g}") if earliest < FIRST * top * 0.6 else None


def _why(found: RangeTest | None, top: float, other: float) -> str:
    if other > top:
        return f"no break up to {top:g}: the range goes to {other:g}"
    what = "training never worked" if found is None or found.max_lr is None else "the break came too early to be seen"
    return f"{what} on the way to {top:g}: the range goes to {other:g}"


def _earlier(found: RangeTest | None, longer: dict[Plan, Run]) -> float | None:
    """How many times earlier the longer ramp breaks."""
    slow = reading(list(longer.values()))
    if found is None or slow is None or slow.readings[0].broke is None:
        return None
    breaks = [r.broke for r in found.readings if r.broke is not None]
    return float(np.median(breaks)) / slow.readings[0].broke if breaks else None


def _decision(s: Situation, plans: list[Plan], notes: list[str], scout: Plan) -> Decision:
    runs = s.runs(plans)
    found = reading(list(runs.values()))
    evidence = (*s.runs([scout]), *runs)
    if found is None or found.max_lr is None:
        rate = s.facts.rate
        words = f"no ramp showed a rate that trains: the person's own {rate:g} stays"
        return Decision(NAME, {"max_lr": rate}, words, LOW, evidence, (), tuple(notes))
    breaks = sorted(r.broke for r in found.readings if r.broke is not None)
    max_lr = found.max_lr
    table = tuple(
        (f"run {plan.run}, {plan.epochs:g} epochs", "no break" if r.broke is None else f"breaks at {r.broke:.3g}")
        for plan, r in zip(runs, found.readings)
    )
    if not breaks:
        words, sure = f"no ramp broke up to {found.readings[0].highest:g}: at least this rate can be used", LOW
    else:
        span = breaks[-1] / breaks[0]
        sure = HIGH if len(breaks) >= 3 and span < 1.3 else FAIR if span < 2 else LOW
        words = (
            f"{len(breaks)} of {len(runs)} ramps break, between {breaks[0]:.3g} and {breaks[-1]:.3g}; "
            f"{max_lr:g} is what they bear"
        )
    return Decision(NAME, {"max_lr": max_lr}, words, sure, evidence, table, tuple(notes))
