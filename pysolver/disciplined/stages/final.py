"""The cycle beside the file as it came, in as many images (section 5): which of them is the answer, and how good it is.

Better is what has the lower test loss or the higher accuracy. Unless records were set aside to decide on, that is read
off the final training, on the test set; else `choose` has decided before, and the final training only tells.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pysolver.disciplined.plan import BESIDE, CHOICE, CYCLE, FINAL, OWN, Plan
from pysolver.disciplined.stages import FAIR, HIGH, LOW, Decision, Situation, cycle, final_accuracy, final_loss
from pysolver.logs.run import Run


def choose(s: Situation) -> Decision | list[Plan]:
    """Whole trainings without the records set aside, judged on these: the better one is the answer."""
    ours, theirs = _pairs(s, CHOICE, CHOICE, s.facts.runs)
    if missing := s.missing([plan for pair in zip(ours, theirs) for plan in pair]):  # a budget may end them
        return missing
    return _decision(s, CHOICE, ours, theirs, decides=True)


def decide(s: Situation) -> Decision | list[Plan]:
    """The whole training with several seeds, beside the person's own solver for as many images."""
    ours, theirs = _pairs(s, FINAL, BESIDE, s.facts.seeds)
    if missing := s.missing([plan for pair in zip(ours, theirs) for plan in pair]):
        return missing
    return _decision(s, FINAL, ours, theirs, decides=not s.facts.set_aside)


def training(s: Situation, stage: str) -> Plan:
    """The whole training that the values so far amount to."""
    v = s.values
    momentum = (v["momentum"], v["momentum_low"])
    return Plan(stage, CYCLE, v["epochs"], v["base_lr"], v["max_lr"], momentum, v["weight_decay"], int(v["batch_size"]))


def _pairs(s: Situation, stage: str, beside: str, count: int) -> tuple[list[Plan], list[Plan]]:
    f, v, ours = s.facts, s.values, training(s, stage)
    own = Plan(beside, OWN, v["epochs"], f.rate, f.rate, (f.momentum, f.momentum), f.weight_decay, f.batch)
    return [replace(ours, run=run) for run in range(count)], [replace(own, run=run) for run in range(count)]


def _decision(s: Situation, stage: str, ours: list[Plan], theirs: list[Plan], decides: bool) -> Decision:
    tuned, before = list(s.runs(ours).values()), list(s.runs(theirs).values())
    if not tuned or not before:
        return _not_borne(s, stage, decides)
    losses = [[final_loss(run) for run in runs] for runs in (tuned, before)]
    accuracies = [[a for run in runs if (a := final_accuracy(run)) is not None] for runs in (tuned, before)]
    values = {"test_loss": float(np.mean(losses[0])), "test_loss_before": float(np.mean(losses[1]))}
    better = values["test_loss"] < values["test_loss_before"]
    if accuracies[0] and accuracies[1]:
        values |= {"accuracy": float(np.mean(accuracies[0])), "accuracy_before": float(np.mean(accuracies[1]))}
        better |= values["accuracy"] > values["accuracy_before"]
    table = (("tuned", _summary(tuned)), ("the file as it came", _summary(before)))
    reason = f"{ours[0].epochs:g} epochs: {table[0][1]}; the file as it came, in as many images: {table[1][1]}"
    if s.facts.set_aside:
        where = (
            f"{s.facts.set_aside} records set aside"
            if stage == CHOICE
            else "the test set, after training on all records"
        )
        reason = f"on {where}, {reason}"
    if decides and not better:
        reason += "; nothing was gained, so that stays"
    gap, error = _gap(*losses)
    sure = HIGH if error and abs(gap) > 3 * error else FAIR if error and abs(gap) > error else LOW
    evidence = (*s.runs(ours), *s.runs(theirs))
    return Decision(stage, values, reason, sure, evidence, table, _notes(s, ours), decides and not better)


def _notes(s: Situation, ours: list[Plan]) -> tuple[str, ...]:
    """That the first run is one of those that the weight decay was chosen by, if it is."""
    first = ours[0]
    others = [p for p in s.results if p != first and replace(p, weight_decay=first.weight_decay) == first]
    if not others:
        return ()
    return (
        f"the first of these runs helped to choose the weight decay, as one of {len(others) + 1}: its result, and so "
        "the mean, may look a little better than it is",
    )


def _not_borne(s: Situation, stage: str, decides: bool) -> Decision:
    """Where the budget bore neither this nor a cycle before it, nothing shows that the values found are better than the
    file's, and so that stays, too."""
    what = "whole training" if stage == CHOICE else "final training"
    if not decides:
        return Decision(stage, {}, f"the budget bore no {what}: the test set was not touched", LOW)
    if any(plan.stage == cycle.NAME for plan in s.results):
        words = f"the budget bore no {what}: the cycle was not compared with the file as it came"
        return Decision(stage, {}, words, LOW)
    words = f"the budget bore neither a cycle nor the {what}: nothing shows that the file can be bettered"
    return Decision(stage, {}, words, LOW, file_stays=True)


def _gap(tuned: list[float], before: list[float]) -> tuple[float, float]:
    """By how much the mean loss fell, and the standard error of that; 0 where it is not known."""
    if len(tuned) < 2 or len(before) < 2 or not np.isfinite([*tuned, *before]).all():
        return 0.0, 0.0
    error = np.sqrt(np.var(tuned, ddof=1) / len(tuned) + np.var(before, ddof=1) / len(before))
    return float(np.mean(before) - np.mean(tuned)), float(error)


def _summary(runs: list[Run]) -> str:
    accuracies = [a for run in runs if (a := final_accuracy(run)) is not None]
    losses = [final_loss(run) for run in runs]
    words = f"test loss {np.mean(losses):.4g}{_spread(losses)}"
    if accuracies:
        words = f"test accuracy {100 * np.mean(accuracies):.2f}{_spread([100 * a for a in accuracies])} %, " + words
    return f"{words} ({len(runs)} seed{'s' * (len(runs) > 1)})"


def _spread(values: list[float]) -> str:
    return f" ± {np.std(values, ddof=1):.2g}" if len(values) > 1 and np.isfinite(values).all() else ""
