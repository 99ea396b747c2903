"""Weight decay from a snapshot (section 4.4, Fig. 12): one run to the plateau, from there a branch for each value."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pysolver.disciplined.plan import FIXED, Plan
from pysolver.disciplined.stages import LOW, Decision, Situation
from pysolver.disciplined.stages.weight_decay import DEEP, NAME, REFINEMENTS, SHALLOW, choose, refine
from pysolver.logs.run import Run

ITERATIONS = 200  # of a piece of the trunk, and of a branch
PIECES = 8  # of the trunk, at most
MIDDLE = {False: 1e-3, True: 1e-5}  # the decay of the trunk, by whether the net is deep


def decide(s: Situation) -> Decision | list[Plan]:
    """Trunks, one a run, at half of max_lr until the test loss is level; then branches on the grid, refined."""
    trunks = []
    level = True
    for plan in s.variations(_piece(s, MIDDLE[s.facts.deep])):
        pieces = [plan]
        while _goes_on(s, pieces[-1]) and len(pieces) < PIECES and not _is_level(s, pieces):
            pieces.append(replace(plan, after=pieces[-1]))
        trunks.append(pieces)
        level &= _is_level(s, pieces)
    if missing := s.missing([pieces[-1] for pieces in trunks]):
        return missing
    if any(pieces[-1] not in s.results for pieces in trunks):
        return Decision(NAME, {}, "not tried: the file's value stays", LOW)
    ends = [pieces[-1] for pieces in trunks]
    if broken := [plan for plan in ends if not _goes_on(s, plan)]:
        words = f"{len(broken)} of {len(ends)} runs at {broken[0].high:g}, half of max_lr, broke before their plateau"
        pieces_tried = tuple(plan for pieces in trunks for plan in pieces)
        return Decision(NAME, {}, f"{words}: no branch begins there, the file's value stays", LOW, pieces_tried)
    values = list(DEEP if s.facts.deep else SHALLOW)
    for refinement in range(REFINEMENTS + 1):
        if missing := s.missing([plan for value in values for plan in _branches(ends, value)]):
            return missing
        comparison = s.compared({v: _branches(ends, v) for v in values}, score)
        if comparison is None:
            return Decision(NAME, {}, "not tried: the file's value stays", LOW)
        another = None if refinement == REFINEMENTS else refine(comparison)
        if another is None or not s.bears(_branches(ends, another)):
            break
        values.append(another)
    value, sure, reason = choose(s, comparison)
    evidence = tuple(p for pieces in trunks for p in pieces) + tuple(
        plan for v in comparison.scores for plan in _branches(ends, v)
    )
    where = "at the plateau" if level else "not at a plateau yet"
    notes = tuple(f"run {p.run} is {where} after {p.past + p.epochs:.3g} epochs: there they branch" for p in ends)
    return Decision(NAME, {"weight_decay": value}, reason, sure, evidence, comparison.table("weight decay"), notes)


def score(run: Run) -> float:
    """The test loss of a branch: the median of its second half. Infinite if it broke."""
    losses = run.test.main_loss
    if not len(losses) or not np.isfinite(losses[-1]) or "GaveUp" in run.counts:
        return float("inf")
    return float(np.median(losses[len(losses) // 2 :]))


def _goes_on(s: Situation, plan: Plan) -> bool:
    """Whether it came to its end: what was given up leaves no snapshot to go on from."""
    return plan in s.results and "GaveUp" not in s.results[plan].counts


def _is_level(s: Situation, pieces: list[Plan]) -> bool:
    """Whether the last piece is no lower than the one before it, beyond the scatter of the tests."""
    if len(pieces) < 2 or not all(_goes_on(s, piece) for piece in pieces[-2:]):
        return False
    before, last = (np.log(s.results[piece].test.main_loss) for piece in pieces[-2:])
    if not (np.isfinite(before).all() and np.isfinite(last).all()):
        return True  # it broke: longer helps nothing
    # medians of about ten tests each: 1.25 standard errors of a mean
    error = 1.25 * np.sqrt(np.var(before, ddof=1) / len(before) + np.var(last, ddof=1) / len(last))
    return bool(np.median(before) - np.median(last) < max(2 * error, 0.02))


def _piece(s: Situation, decay: float) -> Plan:
    batch, rate = int(s.values["batch_size"]), float(f"{s.values['max_lr'] / 2:.3g}")
    momentum = s.values["momentum_low"]
    return Plan(NAME, FIXED, s.facts.short(ITERATIONS, batch), rate, rate, (momentum, momentum), decay, batch)


def _branches(ends: list[Plan], value: float) -> list[Plan]:
    return [replace(end, weight_decay=value, after=end) for end in ends]
