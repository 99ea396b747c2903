"""The range test (section 4.1): the largest learning rate that all runs bear."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pysolver.disciplined.plan import RAMP, SCOUT, Plan
from pysolver.disciplined.reading import RangeTest, analyse
from pysolver.disciplined.stages import FAIR, HIGH, LOW, Decision, Situation
from pysolver.errors import CaffeError
from pysolver.logs.run import Run

NAME = "range"
ITERATIONS = 300  # of a ramp, at least: then a test every 7 of them makes 40
SCOUTS = (1e-5, 10.0)  # the rates of the first look
FIRST = 0.2  # part of the ramp before which the break must not lie: there are too few tests below it
ATTEMPTS = 7
TOO_FAST = 1.5  # a ramp twice as long that breaks this much earlier: the first was too fast


def decide(s: Situation, top: float | None = None, epochs: float | None = None) -> Decision | list[Plan]:
    """Scout the order of magnitude, then ramps of a length and to a height that show the break well.

    top, epochs: ramps to just this rate, of just this length; what they show is taken as it is.
    """
    if top is not None:
        length = epochs or s.facts.short(ITERATIONS, _batch(s))
        plans = s.variations(_plan(s, RAMP, top / 1000, top, length))
        return s.missing(plans) or _decision(s, plans, [], None, None)
    scout = _plan(s, SCOUT, *SCOUTS, epochs=s.facts.short(ITERATIONS // 2, _batch(s)))
    if missing := s.missing([scout]):
        return missing
    top = _first_top(s, scout)
    epochs = epochs or s.facts.short(ITERATIONS, _batch(s))
    notes: list[str] = []
    plans = []
    seen: set[tuple[float, float]] = set()
    lengthened, borne = False, None
    for _ in range(ATTEMPTS):
        seen.add((top, epochs))
        plans = s.variations(_plan(s, RAMP, top / 1000, top, epochs))
        if missing := s.missing(plans):
            return missing
        if not s.runs(plans):  # the budget was spent
            break
        found = reading(list(s.runs(plans).values()))
        other = _next_top(found, top, list(s.runs(plans).values()), may_be_longer=not (lengthened or borne))
        if other is None and (found is None or found.max_lr is None):
            break
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
        borne = found.max_lr if found is not None and other > top else borne
        if other == top:
            epochs, lengthened = 2 * epochs, True
        if (other, epochs) in seen:
            break
        top = other
    return _decision(s, plans, notes, scout, borne)


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
    return Plan(NAME, shape, epochs, low, high, (momentum, momentum), s.facts.weight_decay, _batch(s))


def _first_top(s: Situation, scout: Plan) -> float:
    """Twice the rate at which the scout breaks. If it does not, twice the last at which it still did well: half of its
    whole way down."""
    if scout not in s.results:
        return 10 * s.facts.rate or 1.0
    found = reading([s.results[scout]])
    if found is not None and (broke := found.readings[0].broke) is not None:
        return _round(2 * broke)
    table = s.results[scout].test
    good = np.isfinite(table.main_loss) & np.isfinite(table.lr)
    losses, rates = table.main_loss[good], table.lr[good]
    if len(losses) < 4:
        return 1.0
    first, lowest = losses[0], losses.min()
    bound = (first + lowest) / 2 if lowest < 0.9 * first else 1.05 * first
    return _round(2 * rates[np.flatnonzero(losses <= bound)[-1]])


def _next_top(found: RangeTest | None, top: float, runs: Sequence[Run], may_be_longer: bool) -> float | None:
    """Another height of the ramp, None if this one is right or no other one would be; the same if it must be longer.

    A ramp that never trained and rose was dead before it could begin to train: it tells nothing of a break. Nets that
    begin on a plateau (weights next to zero) sit there while a ramp passes all rates at which they would leave it.
    """
    if 2 * sum(map(_is_dead, runs)) >= len(runs):
        return _round(top / 10)
    if found is None or found.max_lr is None:
        return top if may_be_longer else None
    breaks = [r.broke for r in found.readings if r.broke is not None]
    half = 2 * len(breaks) >= len(runs) and all(r.worked for r in found.readings)  # else it may be noise
    if not (found.break_seen or half):
        return _round(top * 10)
    return _round(2.5 * min(breaks)) if min(breaks) < FIRST * top else None


def _is_dead(run: Run) -> bool:
    """Whether it never trained, and its loss rose."""
    found = reading([run])
    return _rose(run) and (found is None or found.max_lr is None)


def _rose(run: Run) -> bool:
    """Whether the test loss ended above where it began."""
    losses = run.test.main_loss
    return bool(len(losses)) and not losses[-1] <= 1.1 * losses[0]


def _round(rate: float) -> float:
    return float(f"{rate:.2g}")


def _why(found: RangeTest | None, top: float, other: float) -> str:
    if other == top:
        return f"the loss did not move on the way to {top:g}: the ramp gets longer"
    if other > top:
        return f"no break up to {top:g}: the range goes to {other:g}"
    early = found is not None and found.max_lr is not None
    what = "the break came too early to be seen well" if early else "training did not work"
    return f"{what} on the way to {top:g}: the range goes to {other:g}"


def _earlier(found: RangeTest | None, longer: dict[Plan, Run]) -> float | None:
    """How many times earlier the longer ramp breaks."""
    slow = reading(list(longer.values()))
    if found is None or slow is None or slow.readings[0].broke is None:
        return None
    breaks = [r.broke for r in found.readings if r.broke is not None]
    return float(np.median(breaks)) / slow.readings[0].broke if breaks else None


def _decision(s: Situation, plans: list[Plan], notes: list[str], scout: Plan | None, borne: float | None) -> Decision:
    runs = s.runs(plans)
    found = reading(list(runs.values()))
    evidence = (*s.runs([scout] if scout else []), *runs)
    if found is None or found.max_lr is None:
        if borne:
            words = f"ramps bear {borne:g}, but on the way further up none trained: at least {borne:g} can be used"
            return Decision(NAME, {"max_lr": borne}, words, LOW, evidence, (), tuple(notes))
        words = "no ramp showed a rate that trains" if runs else "the budget bore no ramp"
        return Decision(NAME, {}, f"{words}: the file's {s.facts.rate:g} stays", LOW, evidence, (), tuple(notes))
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
        sure = LOW if not found.break_seen or span >= 2 else HIGH if len(breaks) >= 3 and span < 1.3 else FAIR
        words = (
            f"{len(breaks)} of {len(runs)} ramps break, between {breaks[0]:.3g} and {breaks[-1]:.3g}; "
            f"{max_lr:g} is what they bear"
        )
    return Decision(NAME, {"max_lr": max_lr}, words, sure, evidence, table, tuple(notes))
