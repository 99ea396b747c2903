"""Weight decay over the whole length (sections 3 and 4.4): runs too short to overfit favour too little of it.

The total regularisation must balance where the training ends. Fig. 12 shows that the decay that is best early is not
the one that is best at the end; so the decay of the ramps is confirmed by whole trainings, of the first seed of those
that follow anyway.
"""

from __future__ import annotations

import math
from dataclasses import replace

from pysolver.disciplined.plan import CHOICE, FINAL, Plan
from pysolver.disciplined.stages import FAIR, HIGH, LOW, Comparison, Decision, Situation, cycle, final, final_loss
from pysolver.disciplined.stages.weight_decay import LARGEST, choose, refine, rounded

NAME = "balance"
LEAST = 1e-6  # what stands for none, which ten times as much is not more than
STEPS = 2  # trainings beyond the first two, at most


def decide(s: Situation) -> Decision | list[Plan]:
    """The decay so far and ten times as much; more as long as that is better, then between the two best."""
    first = s.values["weight_decay"]
    values = [first, rounded(10 * (first or LEAST))]
    if values[-1] > LARGEST:
        return Decision(NAME, {}, f"not tried: {first:g} is at the end of the grid", LOW)
    for step in range(STEPS + 1):
        if missing := s.missing([_plan(s, value) for value in values]):
            return missing
        comparison = _compare(s, values)
        if comparison is None:
            return Decision(NAME, {}, "not tried: the decay of the short runs stays", LOW)
        another = refine(comparison) if step < STEPS else None
        if another is None or another <= first:  # less than on the ramps is never better at the end
            break
        if not s.bears([_plan(s, another)]):  # the budget is spent
            break
        values.append(another)
    evidence, table = tuple(_plan(s, v) for v in comparison.scores), comparison.table("weight decay")
    if not math.isfinite(comparison.mean(comparison.best())):
        words = "no whole training came to its end: the decay of the short runs stays"
        return Decision(NAME, {}, words, LOW, evidence, table)
    value, sure, reason = choose(s, comparison)
    if value == first and sure == HIGH:
        sure = FAIR  # only more was tried: that it is not less, the ramps have to tell
    return Decision(NAME, {"weight_decay": value}, reason, sure, evidence, table)


def _plan(s: Situation, value: float) -> Plan:
    return replace(final.training(s, CHOICE if s.facts.set_aside else FINAL), weight_decay=value)


def _compare(s: Situation, values: list[float]) -> Comparison | None:
    """One run each, with the noise of the short cycles."""
    rows = {value: [final_loss(s.results[plan])] for value in values if (plan := _plan(s, value)) in s.results}
    return Comparison(rows, error=_noise(s)) if len(rows) >= 2 else None


def _noise(s: Situation) -> float:
    """Standard error of the difference of two runs of the same seed, as the cycle's stage has seen it."""
    tried: dict[float, list[Plan]] = {}
    for plan in s.results:
        if plan.stage == cycle.NAME:
            tried.setdefault(plan.high, []).append(plan)
    comparison = s.compared(tried, final_loss)
    return comparison.standard_error() * math.sqrt(s.facts.runs) if comparison else math.nan
