"""The method of arXiv 1803.09820: range tests, clues of under- and overfitting, and what follows from them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pysolver.disciplined.session import tune as tune


def __getattr__(name: str) -> object:
    if name != "tune":
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    from pysolver.disciplined.session import tune  # only when asked for: a log is read without it

    return tune
