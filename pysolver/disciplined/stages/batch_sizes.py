"""Batch sizes against each other (section 4.2, Fig. 6): at constant time, each with its own rates."""

from __future__ import annotations

from dataclasses import replace

from pysolver.disciplined.plan import CYCLE, Plan
from pysolver.disciplined.stages import LOW, Comparison, Decision, Situation, batch_size, final_loss, learning_rate
from pysolver.disciplined.stages.cycle import ITERATIONS, RATIO

NAME = batch_size.NAME


def decide(s: Situation) -> Decision | list[Plan]:
    """The speeds; a range test for each size; a cycle for each, to half of its own bound, of as many seconds."""
    plans = batch_size.trials(s)
    if missing := s.missing(plans):
        return missing
    speeds = batch_size.speeds(s)
    own = s.facts.batch
    if own not in speeds or len(speeds) < 2:
        return batch_size.decide(s)
    bounds = {size: learning_rate.decide(replace(s, values={**s.values, "batch_size": size})) for size in speeds}
    if asked := [plan for step in bounds.values() if not isinstance(step, Decision) for plan in step]:
        return asked
    rates = {
        size: step.values.get("max_lr", s.facts.rate) / 2 for size, step in bounds.items() if isinstance(step, Decision)
    }
    span = max(s.facts.short(ITERATIONS, own), s.facts.epochs / 6) * s.facts.images / speeds[own]
    cycles = {size: _cycles(s, size, rates[size], span * speeds[size] / s.facts.images) for size in speeds}
    if missing := s.missing([plan for row in cycles.values() for plan in row]):
        return missing
    scores = {size: [final_loss(run) for run in s.runs(row).values()] for size, row in cycles.items()}
    full = {size: row for size, row in scores.items() if len(row) == s.facts.runs}
    if len(full) < 2:
        return batch_size.decide(s)
    comparison = Comparison({float(size): row for size, row in full.items()})
    value, sure, reason = comparison.choose(robust=lambda size: (abs(size - own), size))
    table = tuple(
        (f"batch size {size:g}, {cycles[size][0].epochs:.3g} epochs to {rates[size]:.3g}", score)
        for size, (_, score) in zip(sorted(full), comparison.table("batch size"))
    )
    words = f"in {span:.3g} seconds each, with rates of its own: {reason}"
    evidence = tuple(plan for size in full for plan in cycles[size])
    notes = tuple(f"batch size {size}: {step.reason}" for size, step in bounds.items() if isinstance(step, Decision))
    return Decision(NAME, {"batch_size": int(value)}, words, sure if s.more else LOW, evidence, table, notes)


def _cycles(s: Situation, size: int, rate: float, epochs: float) -> list[Plan]:
    f, rate = s.facts, float(f"{rate:.3g}")
    low = float(f"{rate / RATIO:.3g}")
    plan = Plan(NAME, CYCLE, round(epochs, 2), low, rate, (f.momentum, f.momentum), f.weight_decay, size)
    return s.variations(plan)
