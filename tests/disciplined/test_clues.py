"""Clues on curves made to show them, and on the author's own runs."""

from __future__ import annotations

from pathlib import Path

import labelled_curves
import numpy as np
import pytest

from pysolver.disciplined.clues import INSTABILITY, KINDS, OVERFITTING, PLATEAU, STATISTICS, UNDERFITTING, find_clues
from pysolver.errors import CaffeError
from pysolver.logs import read_log
from pysolver.logs.reader import Reader

LOGS = Path(__file__).resolve().parent.parent / "golden" / "logs"
N = 60
X = np.linspace(0, 1, N)
NOISE = np.random.default_rng(0).normal(0, 0.01, (2, N))


def run_of(test, train, lr=None, accuracy=None, head=""):
    """A run whose log tells these losses, a test and a display every 100 iterations."""
    lr = np.full(N, 0.1) if lr is None else lr
    text = head
    tag = "I0321 09:01:36.326753  7379 solver.cpp:239] "
    for i in range(N):
        text += f"{tag}Iteration {100 * i}, Testing net (#0)\n"
        if accuracy is not None:
            text += f"{tag}    Test net output #0: accuracy = {accuracy[1][i]:g}\n"
        text += f"{tag}    Test net output #1: loss = {test[i]:g} (* 1 = {test[i]:g} loss)\n"
        text += f"{tag}Iteration {100 * i}, loss = {train[i]:g}\n"
        if accuracy is not None:
            text += f"{tag}    Train net output #0: accuracy = {accuracy[0][i]:g}\n"
        text += f"{tag}    Train net output #1: loss = {train[i]:g} (* 1 = {train[i]:g} loss)\n"
        text += f"{tag.replace('solver', 'sgd_solver')}Iteration {100 * i}, lr = {lr[i]:g}\n"
    reader = Reader("made")
    reader.feed(text)
    return reader.finish()


def kinds(run) -> set[str]:
    return {clue.kind for clue in find_clues(run)}


DESCENT = 0.5 + 1.8 * np.exp(-X / 0.03)


@pytest.mark.parametrize("end", [np.nan, np.inf])
def test_a_loss_that_is_no_number_is_not_level(end):
    """Falling to half of the run, no number after it; and no number from the start."""
    falling = np.where(X < 0.5, 3 - 2 * X, end)
    clues = find_clues(run_of(falling, falling))
    assert [clue.kind for clue in clues] == [UNDERFITTING, INSTABILITY] and clues[1].start == 100 * N // 2
    assert clues[0].end < clues[1].start
    assert [clue.kind for clue in find_clues(run_of(np.full(N, end), np.full(N, end)))] == [INSTABILITY]


def test_a_level_test_loss_is_the_sought_balance():
    clues = find_clues(run_of(DESCENT + NOISE[0], DESCENT - 0.1 + NOISE[1]))
    assert [clue.kind for clue in clues] == [PLATEAU]
    assert clues[0].start < 2000 and clues[0].end > 4500


def test_steady_fall_is_underfitting():
    clues = find_clues(run_of(2.3 - 1.2 * X + NOISE[0], 2.3 - 1.3 * X + NOISE[1]))
    assert {clue.kind for clue in clues} == {UNDERFITTING} and "raise max_lr" in clues[0].advice
    assert clues[0].rates == (0.1, 0.1)


def test_a_fall_while_the_rate_is_lowered_is_none():
    lr = np.linspace(1.0, 0.01, N)
    assert UNDERFITTING not in kinds(run_of(2.3 - 1.2 * X + NOISE[0], 2.3 - 1.3 * X + NOISE[1], lr))


def test_test_loss_up_train_loss_down_is_overfitting():
    rising = np.where(X > 0.4, 0.8 * (X - 0.4), 0)
    clues = find_clues(run_of(DESCENT + rising + NOISE[0], DESCENT - 0.3 * X + NOISE[1]))
    found = [clue for clue in clues if clue.kind == OVERFITTING]
    assert len(found) == 1 and 1800 < found[0].start < 3200 and found[0].end > 5000
    assert INSTABILITY not in {clue.kind for clue in clues}


def test_both_up_is_instability():
    rising = np.where(X > 0.6, 8 * (X - 0.6), 0)
    clues = find_clues(run_of(DESCENT + rising + NOISE[0], DESCENT + rising + NOISE[1], 0.1 + X))
    found = [clue for clue in clues if clue.kind == INSTABILITY]
    assert len(found) == 1 and 2900 < found[0].start < 4200 and "diverges" in found[0].text
    assert found[0].rates[0] == pytest.approx(0.1 + found[0].start / 5900, abs=0.01)


def test_nan_is_instability_from_its_iteration_on():
    train = DESCENT + NOISE[1]
    train[40:] = np.nan
    found = [clue for clue in find_clues(run_of(DESCENT + NOISE[0], train)) if "no number" in clue.text]
    assert [(clue.kind, clue.start) for clue in found] == [(INSTABILITY, 4000)]


def test_single_spikes_do_not_matter():
    test = DESCENT + NOISE[0]
    test[[20, 35, 50]] = 9.0
    assert kinds(run_of(test, DESCENT + NOISE[1])) == {PLATEAU}


def test_batch_norm_statistics_that_do_not_follow():
    """Ninety per cent in training and ten in tests: not the weights are wrong."""
    head = (
        "I0321 09:01:36.326753  7379 net.cpp:53] Initializing net from parameters: \n"
        'name: "net"\nlayer {\n  name: "bn"\n  type: "BatchNorm"\n  batch_norm_param {\n'
        "    moving_average_fraction: 0.999\n  }\n}\n"
    )
    accuracy = np.full(N, 0.9), np.full(N, 0.12)
    flat = np.full(N, 3.0) + NOISE[0]
    found = [c for c in find_clues(run_of(flat, DESCENT, accuracy=accuracy, head=head)) if c.kind == STATISTICS]
    assert len(found) == 1 and "0.999" in found[0].advice and "test accuracy 0.12" in found[0].text
    assert STATISTICS not in kinds(run_of(flat, DESCENT, accuracy=accuracy))  # without BatchNorm


def test_authors_unstable_run():
    """The momentum's step size was ten times too long: from lr 0.4 on, test and train loss rise together."""
    found = find_clues(read_log(LOGS / "multi_gpu_resumed_no_header.log.gz"))
    assert [clue.kind for clue in found] == [INSTABILITY]
    assert 0.3 < found[0].rates[0] < 0.6 and found[0].rates[1] > 0.9


@pytest.mark.parametrize("seed", range(2000, 2006))
def test_a_first_descent_is_not_underfitting(seed):
    """It takes up to a fifth of these runs."""
    _, run = labelled_curves.curves("level", seed)
    assert labelled_curves.named(find_clues(run)) == PLATEAU


def test_authors_range_test_diverges():
    found = [c for c in find_clues(read_log(LOGS / "clipping_cut_off.log.gz")) if c.kind == INSTABILITY]
    assert 0.35 < found[0].rates[0] < 0.6 and "sharply" in found[0].text


def test_too_few_tests():
    with pytest.raises(CaffeError, match="too few"):
        find_clues(read_log(LOGS / "lenet_debug_info.log.gz"))


def test_labelled_curves():
    """72 curves of nine shapes; a person's name for each against ours."""
    counts = labelled_curves.confusion(labelled_curves.table())
    right = sum(count for (label, said), count in counts.items() if label == said)
    assert counts.total() == 72 and right >= 65, counts
    assert not any(counts[INSTABILITY, said] for said in (UNDERFITTING, OVERFITTING)), counts


@pytest.mark.parametrize("shape", ["ramp to NaN", "ramp to chance"])
@pytest.mark.parametrize("seed", range(8))
def test_no_advice_near_a_divergence_raises_the_rate(shape, seed):
    _, run = labelled_curves.curves(shape, seed)
    clues = find_clues(run)
    (death,) = [clue for clue in clues if clue.kind == INSTABILITY and "diverges" in clue.text][-1:]
    for clue in clues:
        if "raise" in clue.advice:
            assert clue.end < death.start - 0.05 * run.test.iteration[-1]


def test_rates_of_a_stretch_are_those_of_its_tests():
    """Rates are displayed every tenth test only: the stretch's end is not the last rate that was printed."""
    text = ""
    for i in range(0, 400, 10):
        text += f"I0321 09:01:36.326753  7379 solver.cpp:347] Iteration {i}, Testing net (#0)\n"
        loss = 2.3 * np.exp(-i / 20) + 0.3
        text += f"I0321 09:01:36.326753  7379 solver.cpp:414]     Test net output #0: loss = {loss:g}\n"
        if i % 100 == 0:
            text += f"I0321 09:01:36.326753  7379 solver.cpp:239] Iteration {i}, loss = {loss:g}\n"
            text += f"I0321 09:01:36.326753  7379 sgd_solver.cpp:112] Iteration {i}, lr = {i / 400:g}\n"
    reader = Reader("made")
    reader.feed(text)
    (level,) = [clue for clue in find_clues(reader.finish()) if clue.kind == PLATEAU]
    assert level.rates == pytest.approx((level.start / 400, level.end / 400))


def test_every_kind_has_its_colour():
    assert len({kind.colour for kind in KINDS.values()}) == len(KINDS)
