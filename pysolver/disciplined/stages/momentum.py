"""Momentum (section 4.3): short runs with several values, cycling down while the rate goes up."""

from __future__ import annotations

from pysolver.disciplined.plan import CYCLE, RAMP, Plan
from pysolver.disciplined.stages import LOW, Comparison, Decision, Situation, final_loss, learning_rate

NAME = "momentum"
VALUES = (0.99, 0.97, 0.95, 0.9)
LOWEST = 0.85  # where it is when the rate is highest
ITERATIONS = 200


def decide(s: Situation) -> Decision | list[Plan]:
    """Short cycles from each value down; then the range test again with the winner's bounds."""
    f = s.facts
    if not f.takes_momentum:
        return Decision(NAME, {}, "this solver type takes no momentum", LOW)
    epochs = f.short(ITERATIONS, int(s.values["batch_size"]))
    plans = {value: s.variations(_cycle(s, value, epochs)) for value in VALUES}
    if missing := s.missing([plan for row in plans.values() for plan in row]):
        return missing
    scores = {v: [final_loss(run) for run in s.runs(row).values()] for v, row in plans.items()}
    full = {v: row for v, row in scores.items() if len(row) == f.runs}
    if not full:
        return Decision(NAME, {}, "not tried: the file's value stays", LOW)
    comparison = Comparison(full)
    value, sure, reason = comparison.choose(robust=lambda v: abs(v - 0.95))
    evidence = tuple(plan for v in full for plan in plans[v])
    values = {"momentum": value, "momentum_low": min(value, LOWEST)}
    ramp = s.variations(_ramp(s, value))
    if missing := s.missing(ramp):
        return missing
    found = learning_rate.reading(list(s.runs(ramp).values()))
    notes: tuple[str, ...] = ()
    if found is not None and found.max_lr is not None and found.break_seen:
        values["max_lr"] = found.max_lr
        notes = (f"with the momentum going down from {value:g} to {LOWEST:g} the range test bears {found.max_lr:g}",)
    return Decision(NAME, values, reason, sure, (*evidence, *s.runs(ramp)), comparison.table("momentum"), notes)


def _cycle(s: Situation, value: float, epochs: float) -> Plan:
    high = s.values["max_lr"] / 2  # a rate that surely trains: here only the momentum is asked about
    momentum = (value, min(value, LOWEST))
    return Plan(NAME, CYCLE, epochs, _round(high / 10), _round(high), momentum, s.facts.weight_decay,
                int(s.values["batch_size"]))  # fmt: skip


def _ramp(s: Situation, value: float) -> Plan:
    batch = int(s.values["batch_size"])
    top = _round(2.5 * s.values["max_lr"])
    epochs = s.facts.short(learning_rate.ITERATIONS, batch)
    return Plan(NAME, RAMP, epochs, top / 1000, top, (value, min(value, LOWEST)), s.facts.weight_decay, batch)


def _round(rate: float) -> float:
    return float(f"{rate:.3g}")
