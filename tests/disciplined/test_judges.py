"""What is given up, and what is not."""

from __future__ import annotations

import numpy as np
import pytest

from pysolver.disciplined.judges import Behind, Diverged
from pysolver.logs.assemble import Assembler
from pysolver.logs.run import Run


def run(*losses: float) -> Run:
    tables = Assembler()
    for number, loss in enumerate(losses):
        tables.test(number, float(number), 0)
        tables.output("Test", ("0", "loss"), True, loss)
    return tables.run("made up")


GOES_ON = {
    "nothing yet": [],
    "falls": [2.3, 1.0, 0.5, 0.2, 0.1],
    "a single number that is none": [2.3, 1.0, np.nan],
    "two high tests in a row": [2.3, 1.0, 0.1, 0.1, 2.3, 2.3],
    "noise about a plateau": [2.3, 0.1, 0.09, 0.2, 0.15, 0.19, 0.2, 0.17],
    "slowly up again": [2.3, 0.3, 0.2, 0.4, 0.5, 0.6],
    "never down, not up either": [2.3, 2.31, 2.29, 2.3, 2.4, 2.35],
}
IS_OVER = {
    "no numbers": ([2.3, 1.0, np.nan, np.nan], "not a finite number"),
    "87.3": ([2.3, 0.5, 0.1, 87.3, 87.3, 87.3], "above"),
    "dead, at the loss of a guess": ([2.3, 0.5, 0.06, 2.3, 2.3, 2.3], "above"),
    "up from the start": ([2.3, 2.5, 3.0, 4.0, 5.0, 6.0], "above"),
}


@pytest.mark.parametrize("losses", GOES_ON.values(), ids=GOES_ON)
def test_what_may_go_on(losses):
    assert Diverged()(run(*losses)) is None


@pytest.mark.parametrize("losses, words", IS_OVER.values(), ids=IS_OVER)
def test_what_is_over(losses, words):
    assert words in Diverged()(run(*losses))
    assert words in Behind((1.0,) * 20)(run(*losses))


def test_clearly_behind_in_the_second_half_but_not_at_its_end():
    others = Behind((1.0, 0.5, 0.3, 0.2, 0.15, 0.1))
    assert others(run(1.0, 0.9, 0.8)) is None, "too early"
    assert others(run(1.0, 0.9, 0.8, 0.29)) is None, "not twice in a row"
    assert others(run(1.0, 0.9, 0.8, 0.7)) == "test loss 0.7, others had 0.2 here"
    assert others(run(1.0, 0.9, 0.29, 0.29, 0.22)) is None
    assert others(run(1.0, 0.9, 0.8, 0.7, 0.7, 0.7)) is None, "it is over anyway"
