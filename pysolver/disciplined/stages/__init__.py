"""The stages of the method (arXiv 1803.09820, sections 4 and 5), each a pure function.

    stage(situation) -> list of plans   what must be tried before it can say more
                     -> Decision        what it found, why, and how sure it is

A stage is called again and again, with the results of all that it asked for so far; it keeps nothing. So a tuning
that was killed goes on by calling it again. When the budget is spent (`situation.more` is False) it decides from what
there is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from types import MappingProxyType

import numpy as np

from pysolver.disciplined.plan import Facts, Plan
from pysolver.logs.run import Run

HIGH, FAIR, LOW = "high", "fair", "not sure"
CLEAR, SOME = 3.0, 1.5  # differences in standard errors from which on a choice is sure, and from which on it is one


@dataclass(frozen=True)
class Decision:
    """What a stage found: values by the solver's field names, the reason in words, HIGH, FAIR or LOW, its trials.

    Without values it changes nothing. table: what was compared, as (what, its score) for the report; notes: what else
    was seen. file_stays: the person's file is the answer, whatever the other stages found.
    """

    stage: str
    values: Mapping[str, float]
    reason: str
    sure: str
    evidence: tuple[Plan, ...] = ()
    table: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    file_stays: bool = False

    @property
    def certainty(self) -> str:
        """For a person: sure, fairly sure, not sure."""
        return {HIGH: "sure", FAIR: "fairly sure"}.get(self.sure, self.sure)

    @property
    def headline(self) -> str:
        """What was decided, without the reason."""
        if self.file_stays:
            return "the file stays as it came"
        return ", ".join(f"{name} {value:.4g}" for name, value in self.values.items()) or "nothing decided"

    def _repr_html_(self) -> str:
        """In a notebook: without its picture, which the report has."""
        rows = "".join(f"<tr><td>{escape(a)}</td><td>{escape(b)}</td></tr>" for a, b in self.table)
        notes = "".join(f"<li>{escape(note)}</li>" for note in self.notes)
        return (
            f"<p>{escape(self.stage)}: <strong>{escape(self.headline)}</strong> ({self.certainty})<br>"
            f"{escape(self.reason)}</p><table>{rows}</table><ul>{notes}</ul>"
        )


@dataclass(frozen=True)
class Situation:
    """What is known: the problem, the values decided so far, the log of every plan that was tried."""

    facts: Facts
    values: Mapping[str, float]
    results: Mapping[Plan, Run] = field(default_factory=lambda: MappingProxyType({}))
    more: bool = True

    def missing(self, plans: Sequence[Plan]) -> list[Plan]:
        """Those still to be tried; none once the budget is spent."""
        return [plan for plan in dict.fromkeys(plans) if plan not in self.results] if self.more else []

    def bears(self, plans: Sequence[Plan]) -> bool:
        """Whether these were tried, or still may be."""
        return self.more or all(plan in self.results for plan in plans)

    def runs(self, plans: Sequence[Plan]) -> dict[Plan, Run]:
        """Those that were tried."""
        return {plan: self.results[plan] for plan in plans if plan in self.results}

    def compared(self, plans: Mapping[float, Sequence[Plan]], score: Callable[[Run], float]) -> Comparison | None:
        """The values of which all runs were tried, by the scores of these; None if there are fewer than two."""
        rows = {value: [score(run) for run in self.runs(row).values()] for value, row in plans.items()}
        full = {value: row for value, row in rows.items() if len(row) == self.facts.runs}
        return Comparison(full) if len(full) >= 2 else None

    def variations(self, plan: Plan) -> list[Plan]:
        """The same with other seeds, fillers and batch sizes."""
        return [replace(plan, run=run) for run in range(self.facts.runs)]


Stage = Callable[[Situation], "Decision | list[Plan]"]


def final_loss(run: Run) -> float:
    """Test loss at the end; infinite if the run diverged or was given up."""
    losses = run.test.main_loss
    if not len(losses) or not np.isfinite(losses[-1]) or "GaveUp" in run.counts:
        return float("inf")
    return float(losses[-1])


def final_accuracy(run: Run) -> float | None:
    """Test accuracy at the end, None if the net tells none."""
    if not len(run.test) or run.test.accuracy_name is None:
        return None
    return float(run.test.main_accuracy[-1])


def lowest_loss(run: Run) -> float:
    """The lowest test loss on the way, smoothed over three tests so that no single lucky one counts."""
    losses = run.test.main_loss
    finite = losses[np.isfinite(losses)]
    if len(finite) < 3:
        return float("inf")
    return float(min(np.median(finite[i : i + 3]) for i in range(len(finite) - 2)))


@dataclass(frozen=True)
class Comparison:
    """Several values, each with the scores (lower is better) of its runs, run i of one like run i of another.

    Scores are losses, compared by ratio: their logarithms have about the same spread everywhere. error: of the
    difference of two means, if it is known from other runs.
    """

    scores: Mapping[float, Sequence[float]]
    error: float | None = None

    def mean(self, value: float) -> float:
        """Geometric mean of its scores, infinite if any run broke."""
        return float(np.exp(np.mean(np.log(np.maximum(self.scores[value], 1e-12)))))

    def best(self) -> float:
        """The value of the lowest mean."""
        return min(self.scores, key=self.mean)

    def standard_error(self) -> float:
        """Of the difference of two means, from what is left of all runs besides the effects of value and run."""
        if self.error is not None:
            return self.error
        table = np.array([np.log(np.maximum(row, 1e-12)) for row in self.scores.values() if np.isfinite(row).all()])
        if table.ndim < 2 or table.shape[0] < 2 or table.shape[1] < 2:
            return float("nan")
        rest = table - table.mean(0, keepdims=True) - table.mean(1, keepdims=True) + table.mean()
        freedom = (table.shape[0] - 1) * (table.shape[1] - 1)
        return float(np.sqrt((rest**2).sum() / freedom * 2 / table.shape[1]))

    def distance(self, worse: float, better: float) -> float:
        """By how many standard errors one is better than the other; NaN if the noise is not known."""
        gap = np.log(self.mean(worse)) - np.log(self.mean(better))
        if not np.isfinite(gap):
            return float("inf")
        error = self.standard_error()
        return float(gap / max(error, 1e-9)) if np.isfinite(error) else float("nan")

    def choose(self, robust: Callable[[float], float | tuple[float, float]]) -> tuple[float, str, str]:
        """The value to take, how sure, and in words why. robust: a key, lower for what is taken when noise decides."""
        best = self.best()
        if not np.isfinite(self.mean(best)):
            value = min(self.scores, key=robust)
            return value, LOW, "no value trained to the end"
        if len(self.scores) > 1 and not any(np.isfinite(self.mean(v)) for v in self.scores if v != best):
            sure = HIGH if np.isfinite(self.standard_error()) else LOW
            return best, sure, f"only {best:g} trained to the end"
        near = [v for v in self.scores if v == best or not self.distance(v, best) >= SOME]
        if not np.isfinite(self.standard_error()):
            return best, LOW, f"{best:g} has the lowest test loss, but one run each does not tell the noise"
        if len(near) > 1:
            value = min(near, key=robust)
            others = ", ".join(f"{v:g}" for v in near if v != value)
            return value, LOW, f"{value:g} and {others} differ by less than the noise: the more robust value is taken"
        rivals = [self.distance(v, best) for v in self.scores if v != best]
        nearest = min(rivals) if rivals else float("inf")
        sure = HIGH if nearest >= CLEAR else FAIR
        return best, sure, f"{best:g} has the lowest test loss, {nearest:.1f} standard errors below the next"

    def table(self, name: str) -> tuple[tuple[str, str], ...]:
        """For the report."""
        return tuple((f"{name} {value:g}", _score(self.mean(value))) for value in sorted(self.scores))


def _score(value: float) -> str:
    return f"test loss {value:.4g}" if np.isfinite(value) else "broke"
