"""Claims: the grammar, the test, and what the numbers must be for each verdict."""

from __future__ import annotations

import math
from collections import Counter

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
        ("breaks: a < b", {"a": [0.01, 0.01], "b": [0.02, 0.02]}, "within the noise"),  # nor do rates on a grid
        ("accuracy: a < b", {"a": [99.0], "b": [99.3, 99.31]}, "holds"),  # b's noise is taken for a's
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
        ("breaks: a < b", {"a": [0.01, 0.02], "b": [math.inf, math.inf]}, "holds"),  # b never breaks
        ("breaks: a < b", {"a": [0.01, math.inf], "b": [math.inf, math.inf]}, "within the noise"),
        (
            "breaks: a < b",
            {"a": [math.nan, 0.01, 0.012], "b": [math.inf, math.inf]},
            "holds",
        ),  # a flat run is left out
        ("breaks: a < b", {"a": [math.nan, math.nan], "b": [0.01, 0.02]}, "not seen"),
        ("breaks: a < b", {"a": [math.nan, math.nan]}, "not run"),
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
    assert claims.against_paper([99.2], (99.25, 0.03)) == "one run, lower by 0.05"
    assert claims.against_paper([99.2, -math.inf], (99.25, 0.03)) == "diverged"


def test_a_row_just_at_five_percent():
    """Where scipy's chance crosses 5 %, so does the verdict: the degrees of freedom are Welch's, not rounded."""
    for shift in np.linspace(-0.05, 0.05, 201):
        ours = [99.2 - shift, 99.18 - shift]
        told = stats.ttest_ind_from_stats(np.mean(ours), np.std(ours, ddof=1), 2, 99.25, 0.03, 4, False)
        assert (claims.against_paper(ours, (99.25, 0.03)) == "agrees") == (told.pvalue >= 0.05)


def test_pooled_over_all_curves_of_the_claim():
    """As ordinary least squares of all runs, on one dummy a curve, tell each contrast; curves have 1 to 4 runs."""
    rng = np.random.default_rng(1)
    verdicts = Counter()
    for _ in range(200):
        sizes = rng.integers(1, 5, 3)
        sizes[0] = max(sizes[0], 2)
        samples = [rng.normal(mean, 1, size) for mean, size in zip((0, 1, 2.5), sizes)]
        y, x = np.concatenate(samples), np.repeat(np.eye(3), sizes, axis=0)
        fit, residual, *_ = np.linalg.lstsq(x, y, rcond=None)
        freedom = len(y) - 3
        covariance = np.linalg.inv(x.T @ x) * residual[0] / freedom
        tails = []
        for contrast in ([-1, 1, 0], [0, -1, 1]):
            t = np.dot(contrast, fit) / math.sqrt(contrast @ covariance @ contrast)
            tails.append((stats.t.sf(t, freedom), stats.t.cdf(t, freedom)))
        holds = all(up < 0.05 for up, _ in tails)
        fails = any(down < 0.05 / 2 for _, down in tails)
        values = dict(zip(CURVES, samples))
        verdict, _ = claims.judge(claims.parse("loss: a < b < 1cycle 12", CURVES), values)
        assert verdict == ("holds" if holds else "does not" if fails else "within the noise")
        verdicts[verdict] += 1
    assert min(verdicts["holds"], verdicts["within the noise"]) > 20


def test_how_often_it_errs():
    """Of 4000 made-up claims with nothing in them one in twenty holds, and one in twenty does not."""
    rng = np.random.default_rng(2)
    told = Counter()
    for _ in range(4000):
        values = {"a": rng.normal(0, 1, 2), "b": rng.normal(0, 1, 4)}
        told[claims.judge(claims.parse("loss: a < b", CURVES), values)[0]] += 1
    for verdict in ("holds", "does not"):
        assert told[verdict] == pytest.approx(200, abs=4 * math.sqrt(4000 * 0.05 * 0.95))  # four deviations


def test_which_way_it_points():
    inf, nan = math.inf, math.nan
    for text, a, b, way in (
        ("loss: a < b", [1.0, 1.1], [1.2], "as claimed"),
        ("loss: b < a", [1.0, 1.1], [1.2], "the other way"),
        ("loss: a < b", [1.0, 1.2], [1.1], "neither way"),
        ("loss: a = b +- 0.2", [1.0, 1.1], [1.2], "as claimed"),
        ("loss: a = b +- 0.1", [1.0, 1.1], [1.2], "the other way"),
        ("loss: a = b +- 9", [1.0, 1.1], [1.2, inf], "the other way"),
        ("breaks: a < b", [0.01, inf], [inf, inf], "as claimed"),  # fewer of a's runs do not break
        ("breaks: a < b", [inf, inf], [0.01, inf], "the other way"),
        ("breaks: a < b", [inf, inf], [inf, inf], "neither way"),
        ("breaks: a < b", [0.01, inf], [0.02, inf], "as claimed"),
        ("breaks: a < b", [0.01, nan], [0.02, 0.02], "as claimed"),  # of those that tell
        ("breaks: a < b", [nan, nan], [0.02, 0.02], "neither way"),
        ("accuracy: a < b", [99.0, -inf], [98.0, 98.0], "as claimed"),  # one of a's diverged
        ("accuracy: b < a", [99.0, -inf], [98.0, 98.0], "the other way"),
    ):
        assert claims.way(claims.parse(text, CURVES), {"a": a, "b": b}) == way, (text, a, b)


def test_numbers_in_words():
    assert claims.said([99.0, 99.2]) == "99.10 ± 0.14 (2)"
    assert claims.said([0.01, math.inf], "breaks") == "0.0100, no break in 1 of 2"
    assert claims.said([math.inf, math.inf], "breaks") == "no break in 2 of 2"
    assert claims.said([1.0, math.inf], "loss") == "diverged in 1 of 2"
    assert claims.said([0.01, math.inf, math.nan], "breaks") == "0.0100, no break in 1 of 3, flat in 1 of 3"
    assert claims.said([math.nan]) == "no accuracy in 1 of 1"


def test_a_claim_in_words():
    assert claims.parse("lowest loss: b < *", CURVES).words == "lowest test loss: `b` < every other"
    assert claims.parse("gap: a = b +- 0.50", CURVES).words == "generalisation error: `a` = `b` ± 0.5"
