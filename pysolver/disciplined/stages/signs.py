"""Clues (sections 3.1 to 3.3) as the stages read them: what all runs of a trial show. They propose, the test loss
decides: what follows from a clue is another trial, never a value."""

from __future__ import annotations

from collections.abc import Sequence

from pysolver.disciplined.clues import Clue, find_clues
from pysolver.errors import CaffeError
from pysolver.logs.run import Run


def signs(runs: Sequence[Run]) -> dict[str, Clue]:
    """By kind, the clue of the first run, of those kinds that every run shows; none if a run is too short to tell."""
    try:
        found = [find_clues(run) for run in runs]
    except CaffeError:
        return {}
    common = set.intersection(*({clue.kind for clue in clues} for clues in found)) if found else set()
    return {clue.kind: clue for clue in reversed(found[0]) if clue.kind in common} if found else {}


def told(clue: Clue) -> str:
    """A clue within a sentence."""
    at = f" at rates {clue.rates[0]:.3g} to {clue.rates[1]:.3g}" if clue.rates else ""
    return f"{clue.kind}{at} ({clue.text})"
