"""Weight decay (section 4.4): combined runs of rising rate and falling momentum, on a grid that is then refined."""

from __future__ import annotations

import numpy as np

from pysolver.disciplined.clues import OVERFITTING, UNDERFITTING
from pysolver.disciplined.plan import RAMP, Plan
from pysolver.disciplined.stages import LOW, SOME, Comparison, Decision, Situation, lowest_loss
from pysolver.disciplined.stages.learning_rate import ITERATIONS
from pysolver.disciplined.stages.signs import signs, told

NAME = "weight_decay"
SHALLOW = (1e-2, 1e-3, 1e-4)
DEEP = (1e-4, 1e-5, 1e-6, 0.0)
SMALLEST, LARGEST = 1e-7, 0.1
REFINEMENTS = 3
STEP = 3.0  # what a clue moves the decay by


def decide(s: Situation) -> Decision | list[Plan]:
    """The grid of this kind of net; beyond its edge, or between its two best, as long as the noise allows to tell."""
    values = list(DEEP if s.facts.deep else SHALLOW)
    notes: list[str] = []
    for refinement in range(REFINEMENTS + 1):
        if missing := s.missing([plan for value in values for plan in _plans(s, value)]):
            return missing
        comparison = s.compared({v: _plans(s, v) for v in values}, lowest_loss)
        if comparison is None:
            return Decision(NAME, {}, "not tried: the file's value stays", LOW)
        if refinement == REFINEMENTS:
            break
        another, note = refine(comparison), ""
        if another is None:
            another, note = _asked_for(s, comparison)
        if another is None or not s.bears(_plans(s, another)):
            break
        notes += [note] if note else []
        values.append(another)
    value, sure, reason = choose(s, comparison)
    evidence = tuple(plan for v in comparison.scores for plan in _plans(s, v))
    return Decision(NAME, {"weight_decay": value}, reason, sure, evidence, comparison.table("weight decay"),
                    tuple(notes))  # fmt: skip


def _asked_for(s: Situation, comparison: Comparison) -> tuple[float | None, str]:
    """What the clues on the ramps of a best value at the edge ask for, and why: overfitting more, underfitting less."""
    best = comparison.best()
    seen = signs(list(s.runs(_plans(s, best)).values()))
    edges = {OVERFITTING: (max(comparison.scores), STEP), UNDERFITTING: (min(comparison.scores), 1 / STEP)}
    for kind, (edge, factor) in edges.items():
        wanted = rounded(best * factor)
        if kind in seen and best == edge and SMALLEST <= wanted <= LARGEST:
            return wanted, f"{told(seen[kind])} on all ramps with {best:g}: {wanted:g} is tried too"
    return None, ""


def choose(s: Situation, comparison: Comparison) -> tuple[float, str, str]:
    """The decay, how sure, and why; where noise decides, the one nearest to the file's."""
    return comparison.choose(robust=lambda v: abs(exponent(v) - exponent(s.facts.weight_decay)))


def refine(comparison: Comparison) -> float | None:
    """The next value to try: past the edge where the best lies, else between the two best; None if noise hides it.

    Two that are equally good are bisected where the one beyond them shows how much better it is between them.
    """
    values = sorted(comparison.scores)
    best = comparison.best()
    place = values.index(best)
    neighbours = [v for v in (values[place - 1] if place else None, *values[place + 1 : place + 2]) if v is not None]
    if not neighbours or not np.isfinite(comparison.mean(best)):
        return None
    rival = min(neighbours, key=comparison.mean)
    if not comparison.distance(rival, best) >= SOME and not _dips(comparison, best, neighbours):
        return None
    if place == len(values) - 1 and best * 10 <= LARGEST:
        return rounded(best * 10)
    if place == 0 and best / 10 >= SMALLEST:
        return rounded(best / 10)
    if best <= 0 or rival <= 0 or max(best, rival) / min(best, rival) < 2:
        return None
    return rounded(10 ** ((np.log10(best) + np.log10(rival)) / 2))


def _dips(comparison: Comparison, best: float, neighbours: list[float]) -> bool:
    """Whether the parabola through the best and both beside it is lower halfway to the better one, beyond the noise."""
    means = {v: float(np.log(comparison.mean(v))) for v in (best, *neighbours)}
    if len(means) < 3 or not np.isfinite([*means.values()]).all():
        return False
    parabola = np.polyfit([exponent(v) for v in means], list(means.values()), 2)
    halfway = (exponent(best) + exponent(min(neighbours, key=comparison.mean))) / 2
    return bool(means[best] - np.polyval(parabola, halfway) >= SOME * comparison.standard_error())


def _plans(s: Situation, value: float) -> list[Plan]:
    batch, top = int(s.values["batch_size"]), s.values["max_lr"]
    momentum = (s.values["momentum"], s.values["momentum_low"])
    epochs = s.facts.short(ITERATIONS, batch)
    return s.variations(Plan(NAME, RAMP, epochs, top / 1000, top, momentum, value, batch))


def exponent(value: float) -> float:
    """Of ten, by which decays are told apart; 0 counts as the smallest."""
    return float(np.log10(max(value, SMALLEST)))


def rounded(value: float) -> float:
    """To two digits: nobody knows a decay better."""
    return float(f"{value:.2g}")
