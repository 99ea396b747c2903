"""The cycle (section 5): its bounds confirmed by short runs, then the final training with several seeds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pysolver.disciplined.clues import INSTABILITY, UNDERFITTING
from pysolver.disciplined.plan import BESIDE, CYCLE, FINAL, OWN, RAMP, Plan
from pysolver.disciplined.stages import FAIR, HIGH, LOW, Comparison, Decision, Situation, final_accuracy, final_loss
from pysolver.disciplined.stages.signs import signs, told

NAME = "cycle"
ITERATIONS = 300
LOWER = 2.0  # the next rate that is tried is this much lower
STEPS = 4
HIGHER = 1.5  # the rate that is tried where the ramps fit too little to their end
LATE = 0.85  # part of a ramp that counts as its end
RATIO = 10  # max_lr / base_lr


def decide(s: Situation) -> Decision | list[Plan]:
    """Short cycles to max_lr and to lower rates, as long as lower is better: what a ramp bears a cycle may not."""
    batch = int(s.values["batch_size"])
    epochs = max(s.facts.short(ITERATIONS, batch), round(s.facts.epochs / 6, 2))
    top, notes = _top(s)
    rates = [_round(top / LOWER**step) for step in range(STEPS)]
    tried: list[float] = []
    for count in range(2, STEPS + 1):
        tried = rates[:count]
        if missing := s.missing([plan for rate in tried for plan in _plans(s, rate, epochs)]):
            return missing
        comparison = _compare(s, tried, epochs)
        if comparison is None:
            if s.values["max_lr"] == s.facts.rate:
                return Decision(NAME, {}, "not tried: the file's rate stays", LOW)
            top = _round(s.values["max_lr"] / LOWER)
            return Decision(NAME, _values(top), "not tried: half of what the range test bears, to be safe", LOW)
        if comparison.best() != tried[-1]:
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


def final(s: Situation) -> Decision | list[Plan]:
    """The whole training with several seeds, beside the person's own solver for as many images: the better one stays.

    Better is what has the lower test loss or the higher accuracy. Where the budget bore neither this nor a cycle before
    it, nothing shows that the values found are better than the file's, and so that stays, too.
    """
    f, batch, epochs = s.facts, int(s.values["batch_size"]), s.values["epochs"]
    plan = Plan(FINAL, CYCLE, epochs, s.values["base_lr"], s.values["max_lr"],
                (s.values["momentum"], s.values["momentum_low"]), s.values["weight_decay"], batch)  # fmt: skip
    own = Plan(BESIDE, OWN, epochs, f.rate, f.rate, (f.momentum, f.momentum), f.weight_decay, f.batch)
    ours = [replace(plan, run=run) for run in range(f.seeds)]
    theirs = [replace(own, run=run) for run in range(f.seeds)]
    if missing := s.missing([plan for pair in zip(ours, theirs) for plan in pair]):  # a budget may end them
        return missing
    tuned, before = list(s.runs(ours).values()), list(s.runs(theirs).values())
    if not tuned or not before:
        if any(plan.stage == NAME for plan in s.results):
            words = "the budget bore no final training: the cycle was not compared with the file as it came"
            return Decision(FINAL, {}, words, LOW)
        words = "the budget bore neither a cycle nor the final training: nothing shows that the file can be bettered"
        return Decision(FINAL, {}, words, LOW, file_stays=True)
    losses = [[final_loss(run) for run in runs] for runs in (tuned, before)]
    accuracies = [[a for run in runs if (a := final_accuracy(run)) is not None] for runs in (tuned, before)]
    values = {"test_loss": float(np.mean(losses[0])), "test_loss_before": float(np.mean(losses[1]))}
    better = values["test_loss"] < values["test_loss_before"]
    if accuracies[0] and accuracies[1]:
        values |= {"accuracy": float(np.mean(accuracies[0])), "accuracy_before": float(np.mean(accuracies[1]))}
        better |= values["accuracy"] > values["accuracy_before"]
    table = (("tuned", _summary(tuned)), ("the file as it came", _summary(before)))
    reason = f"{epochs:g} epochs: {table[0][1]}; the file as it came, in as many images: {table[1][1]}"
    if not better:
        reason += "; nothing was gained, so that stays"
    gap, error = _gap(*losses)
    sure = HIGH if error and abs(gap) > 3 * error else FAIR if error and abs(gap) > error else LOW
    return Decision(FINAL, values, reason, sure, (*s.runs(ours), *s.runs(theirs)), table, file_stays=not better)


def _gap(tuned: list[float], before: list[float]) -> tuple[float, float]:
    """By how much the mean loss fell, and the standard error of that; 0 where it is not known."""
    if len(tuned) < 2 or len(before) < 2 or not np.isfinite([*tuned, *before]).all():
        return 0.0, 0.0
    error = np.sqrt(np.var(tuned, ddof=1) / len(tuned) + np.var(before, ddof=1) / len(before))
    return float(np.mean(before) - np.mean(tuned)), float(error)


def _summary(runs: list) -> str:
    accuracies = [a for run in runs if (a := final_accuracy(run)) is not None]
    losses = [final_loss(run) for run in runs]
    words = f"test loss {np.mean(losses):.4g}{_spread(losses)}"
    if accuracies:
        words = f"test accuracy {100 * np.mean(accuracies):.2f}{_spread([100 * a for a in accuracies])} %, " + words
    return f"{words} ({len(runs)} seed{'s' * (len(runs) > 1)})"


def _spread(values: list[float]) -> str:
    return f" ± {np.std(values, ddof=1):.2g}" if len(values) > 1 and np.isfinite(values).all() else ""


def _compare(s: Situation, rates: list[float], epochs: float) -> Comparison | None:
    rows = {rate: [final_loss(run) for run in s.runs(_plans(s, rate, epochs)).values()] for rate in rates}
    full = {rate: row for rate, row in rows.items() if len(row) == s.facts.runs}
    return Comparison(full) if len(full) >= 2 else None


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
