"""The length of the cycle (section 5, Remark 4): doubled until the test accuracy stops to gain."""

from __future__ import annotations

import numpy as np

from pysolver.disciplined.plan import CYCLE, Plan
from pysolver.disciplined.stages import (
    CLEAR,
    FAIR,
    HIGH,
    LOW,
    SOME,
    Comparison,
    Decision,
    Situation,
    final_accuracy,
    final_loss,
)
from pysolver.disciplined.stages.cycle import ITERATIONS
from pysolver.logs.run import Run

NAME = "length"
PART = 0.25  # of the file's own length: where it begins
DOUBLINGS = 5
GAIN = 0.95  # of the error: a doubling that leaves more of it has gained nothing


def decide(s: Situation) -> Decision | list[Plan]:
    """Cycles of one length, twice, four times ... of it, each with all runs; the last that gained is the length."""
    shortest = max(s.facts.short(ITERATIONS, int(s.values["batch_size"])), round(PART * s.facts.epochs, 2))
    lengths = [round(shortest * 2**step, 2) for step in range(DOUBLINGS + 1)]
    for count in range(2, len(lengths) + 1):
        tried = lengths[:count]
        if missing := s.missing([plan for epochs in tried for plan in _plans(s, epochs)]):
            return missing
        comparison = s.compared({e: _plans(s, e) for e in tried}, lambda run: error(run, s.facts.tests))
        if comparison is None:
            return Decision(NAME, {}, "not tried: the file's length stays", LOW)
        done = sorted(comparison.scores)
        if not _gained(comparison, done[-2], done[-1]):
            return _decision(s, comparison, done[-2])
        if done != tried:  # the budget ended it
            break
    return _decision(s, comparison, max(comparison.scores))


def error(run: Run, tests: int) -> float:
    """Part of the test set that is wrong at the end, half an image more so that none is not zero; without an accuracy
    the test loss. Infinite if the run broke."""
    loss, accuracy = final_loss(run), final_accuracy(run)
    if accuracy is None or not np.isfinite(loss):
        return loss
    return 1 - accuracy + 0.5 / tests


def _gained(comparison: Comparison, shorter: float, longer: float) -> bool:
    if not comparison.mean(longer) < GAIN * comparison.mean(shorter):
        return False
    distance = comparison.distance(shorter, longer)
    return distance >= SOME or bool(np.isnan(distance))


def _decision(s: Situation, comparison: Comparison, length: float) -> Decision:
    longest = max(comparison.scores)
    table = tuple((f"{epochs:g} epochs", _percent(s, comparison, epochs)) for epochs in sorted(comparison.scores))
    evidence = tuple(plan for epochs in comparison.scores for plan in _plans(s, epochs))
    if length == longest:
        words = f"{longest:g} epochs still gained over {longest / 2:g}: the longest that was tried, more may gain more"
        return Decision(NAME, {"epochs": length}, words, LOW, evidence, table)
    distance = comparison.distance(longest, length)
    words = f"{longest:g} epochs gained nothing beyond the noise over {length:g}"
    if not np.isfinite(comparison.standard_error()):
        return Decision(NAME, {"epochs": length}, f"{words}, as far as one run each tells", LOW, evidence, table)
    # sure: a gain of a twentieth would have been seen
    error = comparison.standard_error()
    sure = HIGH if error * CLEAR < -np.log(GAIN) else FAIR if error * SOME < -np.log(GAIN) or distance > 0 else LOW
    return Decision(NAME, {"epochs": length}, words, sure, evidence, table)


def _percent(s: Situation, comparison: Comparison, epochs: float) -> str:
    first = next(iter(s.runs(_plans(s, epochs)).values()))
    value = comparison.mean(epochs)
    if not np.isfinite(value):
        return "broke"
    return f"test loss {value:.4g}" if final_accuracy(first) is None else f"test error {100 * value:.2f} %"


def _plans(s: Situation, epochs: float) -> list[Plan]:
    v = s.values
    momentum = (v["momentum"], v["momentum_low"])
    return s.variations(
        Plan(NAME, CYCLE, epochs, v["base_lr"], v["max_lr"], momentum, v["weight_decay"], int(v["batch_size"]))
    )
