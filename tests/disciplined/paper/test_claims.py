"""Claims: the grammar, the test, and what the numbers must be for each verdict."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from pysolver.disciplined.paper import claims
from pysolver.errors import CaffeError

CURVES = ["a", "b", "1cycle 12"]


@pytest.mark.parametrize(("t", "freedom"), [(0.0, 3), (2.015, 5), (6.314, 1), (-1.3, 2), (40.0, 7), (1.7, 300)])
def test_tail_of_students_distribution(t: float, freedom: int):
    assert claims.student_tail(t, freedom) == pytest.approx(stats.t.sf(t, freedom), abs=1e-9)  # Simpson, 2000 steps


def test_one_pair_is_the_t_test():
    """The chance behind a verdict is scipy's, for samples of different sizes."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        low, high = rng.normal(0, 1, 3), rng.normal(1, 1, 4)
        chance = stats.ttest_ind(low, high, alternative="less").pvalue
        verdict, _ = claims.judge(claims.parse("loss: a < b", CURVES), {"a": low, "b": high})
        reverse = stats.ttest_ind(high, low, alternative="less").pvalue
        assert verdict == ("holds" if chance < 0.05 else "does not" if reverse < 0.05 else "within the noise")


@pytest.mark.parametrize(
    ("text", "values", "verdict"),
    [
        ("accuracy: a < b", {"a": [99.0, 99.02], "b": [99.2, 99.25]}, "holds"),
        ("accuracy: b < a", {"a": [99.0, 99.02], "b": [99.2, 99.25]}, "does not"),
        ("accuracy: a < b", {"a": [99.0, 99.2], "b": [99.1, 99.3]}, "within the noise"),
        ("accuracy: a < b", {"a": [99.0], "b": [99.3]}, "within the noise"),  # nothing tells the noise
        ("accuracy: a < b", {"a": [99.0, 99.01]}, "not run"),
        ("loss: a < b < 1cycle 12", {"a": [1, 1.1], "b": [2, 2.1], "1cycle 12": [3, 3.1]}, "holds"),
        ("loss: a < b < 1cycle 12", {"a": [1, 1.1], "b": [4, 4.1], "1cycle 12": [3, 3.1]}, "does not"),
        ("loss: a < *", {"a": [1, 1.1], "b": [2, 2.1], "1cycle 12": [0.2, 0.3]}, "does not"),
        ("loss: a < b", {"a": [1, 1.1], "b": [math.inf, math.inf]}, "holds"),  # b diverged
        ("loss: a < b", {"a": [math.inf, math.inf], "b": [1, 1.1]}, "does not"),
        ("loss: a < b", {"a": [1, 1.1], "b": [5.0, math.inf]}, "within the noise"),
        ("loss: a < b", {"a": [1.0], "b": [math.inf]}, "within the noise"),  # of one run each
        ("accuracy: a < b", {"a": [99.0, 99.1], "b": [-math.inf, -math.inf]}, "does not"),
        ("accuracy: b < a", {"a": [99.0, 99.1], "b": [-math.inf, -math.inf]}, "holds"),
        ("accuracy: a = b +- 0.5", {"a": [80.0, 80.1, 80.2], "b": [80.1, 80.2, 80.3]}, "holds"),
        ("accuracy: a = b +- 0.5", {"a": [80.0, 80.1, 80.2], "b": [82.1, 82.2, 82.3]}, "does not"),
        ("accuracy: a = b +- 0.5", {"a": [79.0, 80.1, 81.2], "b": [79.1, 80.2, 81.3]}, "within the noise"),
    ],
)
def test_verdicts(text: str, values: dict[str, list[float]], verdict: str):
    assert claims.judge(claims.parse(text, CURVES), values)[0] == verdict


def test_every_other():
    assert claims.parse("loss: b < *", CURVES).pairs == (("b", "a"), ("b", "1cycle 12"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("speed: a < b", "begins with none of accuracy"),
        ("a < b", "begins with none of"),
        ("loss: a > b", "neither `A < B`"),
        ("loss: a < c", "no curve 'c'; there are: a, b, 1cycle 12"),
        ("loss: a = b +- much", "'much' is no number"),
    ],
)
def test_what_is_no_claim(text: str, words: str):
    with pytest.raises(CaffeError, match=words):
        claims.parse(text, CURVES)


def test_a_row_against_the_papers():
    """Welch's test of scipy from means and deviations, four runs of the paper's."""
    for ours in ([99.05, 99.01, 99.08, 99.13], [99.21, 99.25, 99.25, 99.24], [99.2, 99.3]):
        told = stats.ttest_ind_from_stats(np.mean(ours), np.std(ours, ddof=1), len(ours), 99.25, 0.03, 4, False)
        agrees = claims.against_paper(ours, (99.25, 0.03)) == "agrees"
        assert agrees == (told.pvalue >= 0.05)
    assert claims.against_paper([99.05, 99.01, 99.08, 99.13], (99.25, 0.03)) == "lower by 0.18"
    assert claims.against_paper([], (99.25, 0.03)) == "not run"
    assert claims.against_paper([99.2], (99.25, 0.03)) == "one run"
