"""What the paper says it shows, as something that runs can answer.

    accuracy: inv 85 < 1cycle 12            the right one is higher
    loss: 3.2e-3 < 1.8e-3 < 1e-2            each is below the next
    loss: 3.2e-3 < *                        below every other curve
    accuracy: a = b +- 0.5                  no more than half a percent apart

Measures: `accuracy` (last test, in %), `loss` (last test), `best accuracy`, `lowest loss`, `gap` (test loss minus train
loss, means of the last quarter of the run), `breaks` (rate, or momentum, at which the test loss has left its minimum
for good). A run that diverged has the loss infinity and the accuracy minus infinity, one that does not break breaks at
infinity: it is beyond any other if all runs of a curve, two at least, are. What a run does not tell is NaN, and left
out: of a flat loss where it breaks, of a net without one the accuracy.

The test: Student's t, one-sided at 5 %, with the variance pooled over all curves of the claim that have two runs or
more (at least one must, and they differ). A chain holds if each of its pairs does, and does not hold if one pair is the
other way round at 5 % divided by the number of pairs; everything between is within the noise. `=` holds if two
one-sided tests put the difference inside the margin, and does not if one puts it outside.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pysolver.errors import CaffeError

MEASURES = {  # and how a person calls them
    "accuracy": "accuracy",
    "loss": "test loss",
    "best accuracy": "best accuracy",
    "lowest loss": "lowest test loss",
    "gap": "generalisation error",
    "breaks": "where it breaks",
}
ALPHA = 0.05
Verdict = Literal["holds", "does not", "within the noise", "not seen", "not run"]
Way = Literal["as claimed", "the other way", "neither way"]
Values = Mapping[str, Sequence[float]]  # curve -> one value a run


@dataclass(frozen=True)
class Claim:
    """names: in the order of the text, `*` among them; pairs: (lower, higher) of curves.

    margin: of a claim that the two of the only pair are equal.
    """

    text: str
    measure: str
    names: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]
    margin: float | None = None

    @property
    def curves(self) -> tuple[str, ...]:
        """All that it speaks of."""
        return tuple(dict.fromkeys(name for pair in self.pairs for name in pair))

    @property
    def words(self) -> str:
        """As a line of Markdown: lowest test loss: `3.2e-3` < every other."""
        names = ["every other" if name == "*" else f"`{name}`" for name in self.names]
        told = " < ".join(names) if self.margin is None else f"{names[0]} = {names[1]} ± {self.margin:g}"
        return f"{MEASURES[self.measure]}: {told}"


def parse(text: str, curves: Sequence[str]) -> Claim:
    """A claim about curves of these names; CaffeError if it is none."""
    measure, colon, rest = text.partition(": ")
    if not colon or measure not in MEASURES:
        raise CaffeError(f"claim '{text}': begins with none of {', '.join(MEASURES)} and a colon")
    equal = re.fullmatch(r"(.+) = (.+) \+- (\S+)", rest)
    names = [equal[1], equal[2]] if equal else rest.split(" < ")
    if len(names) < 2:
        raise CaffeError(f"claim '{text}': is neither `A < B` nor `A = B +- MARGIN`")
    for name in names:
        if name not in curves and name != "*":
            raise CaffeError(f"claim '{text}': no curve '{name}'; there are: {', '.join(curves)}")
    others = [name for name in curves if name not in names]
    sides = [others if name == "*" else [name] for name in names]
    pairs = tuple((a, b) for low, high in zip(sides, sides[1:]) for a in low for b in high)
    try:
        return Claim(text, measure, tuple(names), pairs, float(equal[3]) if equal else None)
    except ValueError:
        raise CaffeError(f"claim '{text}': the margin '{equal and equal[3]}' is no number") from None


def judge(claim: Claim, values: Values) -> tuple[Verdict, str]:
    """The verdict and the numbers behind it: `not seen` if no run of a curve tells the measure."""
    missing = [name for name in claim.curves if not len(values.get(name, ()))]
    if missing:
        return "not run", f"no run of {', '.join(f'`{name}`' for name in missing)}"
    told = "; ".join(f"`{name}` {said(values[name], claim.measure)}" for name in claim.curves)
    values = _known(values)
    if not all(values[name] for name in claim.curves):
        return "not seen", told
    spread = _pooled([np.asarray(values[name], float) for name in claim.curves])
    if claim.margin is not None:
        (a, b), m = claim.pairs[0], claim.margin
        inside = [_below(values[a], values[b], spread, m), _below(values[b], values[a], spread, m)]
        outside = [_below(values[a], values[b], spread, -m), _below(values[b], values[a], spread, -m)]
        return _verdict(max(inside) < ALPHA, min(outside) < ALPHA), told
    chances = [_below(values[a], values[b], spread, 0) for a, b in claim.pairs]
    reverse = [_below(values[b], values[a], spread, 0) for a, b in claim.pairs]
    return _verdict(max(chances) < ALPHA, min(reverse) < ALPHA / len(chances)), told


def way(claim: Claim, values: Values) -> Way:
    """Which way the runs point, whatever the noise: a curve with more infinite runs is beyond, else the means tell."""
    values = _known(values)
    if not all(values.get(name) for name in claim.curves):
        return "neither way"
    centres = [(_centre(values[a]), _centre(values[b])) for a, b in claim.pairs]
    if claim.margin is not None:
        close = all(a[0] == b[0] and abs(a[1] - b[1]) <= claim.margin for a, b in centres)
        return "as claimed" if close else "the other way"
    if all(a == b for a, b in centres):
        return "neither way"
    return "as claimed" if all(a < b for a, b in centres) else "the other way"


def _known(values: Values) -> dict[str, list[float]]:
    return {name: [value for value in column if not math.isnan(value)] for name, column in values.items()}


def _centre(values: Sequence[float]) -> tuple[float, float]:
    """What part of the runs is infinite (below 0: minus infinity), and the mean of the others."""
    known = np.asarray(values, float)
    infinite, finite = np.isinf(known), known[np.isfinite(known)]
    return float(np.sign(known[infinite]).sum() / len(known)), float(finite.mean()) if len(finite) else 0.0


def said(values: Sequence[float], measure: str = "accuracy") -> str:
    """`99.05 ± 0.03 (4)`"""
    known = np.asarray(values, float)
    if not np.isfinite(known).all():
        infinite, unknown = ("no break", "flat") if measure == "breaks" else ("diverged", f"no {measure}")
        counts = [(infinite, int(np.isinf(known).sum())), (unknown, int(np.isnan(known).sum()))]
        finite = [f"{value:.4f}" for value in known[np.isfinite(known)] if measure == "breaks"]
        return ", ".join([*finite, *(f"{what} in {count} of {len(known)}" for what, count in counts if count)])
    digits = 2 if known.mean() >= 10 else 4
    spread = f" ± {known.std(ddof=1):.{digits}f}" if len(known) > 1 else ""
    return f"{known.mean():.{digits}f}{spread} ({len(known)})"


def _verdict(holds: bool, fails: bool) -> Verdict:
    return "holds" if holds else "does not" if fails else "within the noise"


def _pooled(samples: Sequence[np.ndarray]) -> tuple[float, int]:
    """Deviation and degrees of freedom, from the samples that are finite throughout."""
    usable = [s for s in samples if len(s) > 1 and np.isfinite(s).all()]
    freedom = sum(len(s) - 1 for s in usable)
    total = sum(float(((s - s.mean()) ** 2).sum()) for s in usable)
    return (math.sqrt(total / freedom) if freedom else math.nan), freedom


def _below(a: Sequence[float], b: Sequence[float], spread: tuple[float, int], margin: float) -> float:
    """The chance that means differ this much if a were not below b + margin. 1 where nothing can be said."""
    low, high = np.asarray(a, float), np.asarray(b, float)
    if not (np.isfinite(low).all() and np.isfinite(high).all()):  # that all runs of one diverged, and none of the other
        alike = all(len(set(np.isfinite(side))) == 1 and len(side) > 1 for side in (low, high))
        return 0.0 if alike and low.max() < high.min() else 1.0
    deviation, freedom = spread
    if deviation == 0 or not freedom:  # runs as alike as that lie on a grid: of rates, or of test images
        return 1.0
    gain = high.mean() + margin - low.mean()
    return student_tail(gain / (deviation * math.sqrt(1 / len(low) + 1 / len(high))), freedom)


def student_tail(t: float, freedom: float) -> float:
    """The chance of a value above t, of Student's distribution; by Simpson's rule over the angle atan(t / sqrt(n))."""
    angle = math.atan(t / math.sqrt(freedom))
    steps = 2000
    x = np.linspace(0, angle, steps + 1)
    y = np.cos(x) ** (freedom - 1)
    area = angle / steps / 3 * float(y[0] + y[-1] + 4 * y[1:-1:2].sum() + 2 * y[2:-1:2].sum())
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(math.pi)
    return 0.5 - scale * area


def against_paper(ours: Sequence[float], paper: tuple[float, float], runs: int = 4) -> str:
    """`agrees`, `lower by 0.15` or `higher by 0.15`: Welch's test, two-sided at 5 %, against the paper's runs."""
    if not len(ours):
        return "not run"
    known = np.asarray(ours, float)
    if not np.isfinite(known).all():
        return "no accuracy" if np.isnan(known).any() else "diverged"
    difference = float(known.mean()) - paper[0]
    differs = f"{'higher' if difference > 0 else 'lower'} by {abs(difference):.2f}"
    if len(known) < 2:
        return f"one run, {differs}"
    parts = known.var(ddof=1) / len(known), paper[1] ** 2 / runs
    if sum(parts) == 0:
        return "agrees" if difference == 0 else differs
    freedom = sum(parts) ** 2 / (parts[0] ** 2 / (len(known) - 1) + parts[1] ** 2 / (runs - 1))
    chance = 2 * student_tail(abs(difference) / math.sqrt(sum(parts)), freedom)
    return "agrees" if chance >= ALPHA else differs
