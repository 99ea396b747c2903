"""Claims and rows of an experiment against the runs that are kept of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pysolver.disciplined.paper import claims
from pysolver.disciplined.paper.experiment import Curve, Experiment
from pysolver.disciplined.paper.results import Result


@dataclass(frozen=True)
class Judged:
    """A claim with its verdict, the numbers behind it, and the length of the runs (1 is the experiment's own).

    way: which way the runs point. measured: whether any of its curves has two runs, which tell the noise.
    """

    claim: claims.Claim
    verdict: claims.Verdict
    numbers: str
    scale: float
    way: claims.Way
    measured: bool

    @property
    def words(self) -> str:
        """The verdict with all that belongs to it: within the noise, as claimed; one run each; 0.1 of the length."""
        if self.verdict == "not run":
            return "not run"
        parts: list[str] = [self.verdict]
        if self.verdict == "within the noise":
            parts = [f"{self.verdict}, {self.way}"]
            parts += [] if self.measured else ["one run each"]
        return "; ".join(parts + ([] if self.scale == 1 else [length(self.scale)]))


def length(scale: float) -> str:
    """`full length`, `0.1 of the length`."""
    return "full length" if scale == 1 else f"{scale:g} of the length"


def epochs(experiment: Experiment, results: Sequence[Result], scale: float) -> str:
    """`6 epochs`, or `4.8 to 11.6 epochs` where curves differ, of those that were run at that part of the length."""
    run = [experiment.curve(name) for name in {r.curve for r in results if r.scale == scale}]
    whole = [c.epochs + (experiment.curve(c.after).epochs if c.after else 0) for c in run]
    each = sorted(scale * length for length in whole)
    told = " to ".join(f"{value:.3g}" for value in dict.fromkeys((each[0], each[-1])))
    return f"{told} epoch{'s' * (told != '1')}"


def scales(results: Sequence[Result]) -> list[float]:
    """Lengths of the runs, the longest first."""
    return sorted({result.scale for result in results}, reverse=True)


def values(results: Sequence[Result], measure: str, scale: float, moving: str = "rate") -> dict[str, list[float]]:
    """Of each curve the measure in all runs of that length."""
    found: dict[str, list[float]] = defaultdict(list)
    for result in results:
        if result.scale == scale:
            found[result.curve].append(result.value(measure, moving))
    return found


def without_looks(experiment: Experiment, results: Sequence[Result]) -> list[Result]:
    """Those but shortened runs of rows that have whole ones, whose numbers the paper has: they add nothing to these."""
    rows = {curve.name for curve in experiment.curves if curve.paper}
    whole = {result.curve for result in results if result.scale == 1} & rows
    return [result for result in results if result.scale == 1 or result.curve not in whole]


def rows_run(experiment: Experiment, results: Sequence[Result]) -> list[tuple[Curve, list[float]]]:
    """Rows of a table that have been run at full length, with the accuracy of each of their runs."""
    ours = values(results, "accuracy", 1) if experiment.name.startswith("table") else {}
    return [(curve, ours[curve.name]) for curve in experiment.curves if ours.get(curve.name)]


def judge(experiment: Experiment, results: Sequence[Result]) -> list[Judged]:
    """Each claim at the greatest length at which all of its curves have been run."""
    results = without_looks(experiment, results)
    names = [curve.name for curve in experiment.curves]
    moving = "momentum" if experiment.x == "momentum" else "rate"
    found = []
    for text in experiment.claims:
        claim = claims.parse(text, names)
        for scale in scales(results) or [1.0]:
            ours = values(results, claim.measure, scale, moving)
            verdict, numbers = claims.judge(claim, ours)
            way = claims.way(claim, ours)
            judged = Judged(claim, verdict, numbers, scale, way, any(len(ours[c]) > 1 for c in claim.curves))
            if verdict != "not run":
                break
        else:
            run = {result.curve for result in results}
            if run.issuperset(claim.curves):
                judged = replace(judged, numbers="its curves have runs, but not all of them at one length")
        found.append(judged)
    return found
