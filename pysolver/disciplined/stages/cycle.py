"""The cycle (section 5): its bounds confirmed by short runs."""

from __future__ import annotations

import math

from pysolver.disciplined.clues import INSTABILITY, UNDERFITTING
from pysolver.disciplined.plan import CYCLE, RAMP, Plan
from pysolver.disciplined.stages import LOW, Decision, Situation, final_loss
from pysolver.disciplined.stages.signs import signs, told

NAME = "cycle"
ITERATIONS = 300
LOWER = 2.0  # the next rate that is tried is this much lower
STEPS = 4
HIGHER = 1.5  # the rate that is tried where the ramps fit too little to their end
LATE = 0.85  # part of a ramp that counts as its end
RATIO = 10  # max_lr / base_lr


def decide(s: Situation) -> Decision | list[Plan]:
    """Short cycles to max_lr and to lower rates, as long as lower is better or none has trained to its end: what a
    ramp bears a cycle may not."""
    batch = int(s.values["batch_size"])
    epochs = max(s.facts.short(ITERATIONS, batch), round(s.facts.epochs / 6, 2))
    top, notes = _top(s)
    rates = [_round(top / LOWER**step) for step in range(STEPS)]
    tried: list[float] = []
    for count in range(2, STEPS + 1):
        tried = rates[:count]
        if missing := s.missing([plan for rate in tried for plan in _plans(s, rate, epochs)]):
            return missing
        comparison = s.compared({rate: _plans(s, rate, epochs) for rate in tried}, final_loss)
        if comparison is None:
            if s.values["max_lr"] == s.facts.rate:
                return Decision(NAME, {}, "not tried: the file's rate stays", LOW)
            top = _round(s.values["max_lr"] / LOWER)
            return Decision(NAME, _values(top), "not tried: half of what the range test bears, to be safe", LOW)
        best = comparison.best()
        if best != tried[-1] and math.isfinite(comparison.mean(best)):
            break
    value, sure, reason = comparison.choose(robust=lambda rate: rate)
    evidence = tuple(plan for rate in comparison.scores for plan in _plans(s, rate, epochs))
    return Decision(NAME, _values(value), f"max_lr: {reason}", sure, evidence, comparison.table("max_lr"), notes)


def _top(s: Situation) -> tuple[float, tuple[str, ...]]:
    """The highest rate to try, by what the ramps with the chosen weight decay show on the way to max_lr."""
    top, decay = s.values["max_lr"], s.values["weight_decay"]
    ramps = [run for plan, run in s.results.items() if plan.shape == RAMP and plan.stage == "weight_decay"
             and plan.weight_decay == decay and plan.high == top]  # fmt: skip
    seen = signs(ramps)
    if clue := seen.get(INSTABILITY):
        begins = min(clue.rates) if clue.rates else top
        if top / 10 < begins < top:
            return begins, (f"{told(clue)} on all ramps to {top:.3g}: no rate above {begins:.3g} is tried",)
    elif (clue := seen.get(UNDERFITTING)) and clue.rates and max(clue.rates) > LATE * top:
        return HIGHER * top, (f"{told(clue)} to the end of all ramps: {HIGHER * top:.3g} is tried too",)
    return top, ()


def _plans(s: Situation, rate: float, epochs: float) -> list[Plan]:
    momentum = (s.values["momentum"], s.values["momentum_low"])
    batch = int(s.values["batch_size"])
    return s.variations(
        Plan(NAME, CYCLE, epochs, _round(rate / RATIO), rate, momentum, s.values["weight_decay"], batch)
    )


def _values(rate: float) -> dict[str, float]:
    return {"max_lr": rate, "base_lr": _round(rate / RATIO)}


def _round(rate: float) -> float:
    return float(f"{rate:.3g}")
