"""Range tests: synthetic curves whose break is known, and the paper's author's own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pysolver.disciplined import range_plot
from pysolver.disciplined.reading import RangeTest, analyse, read_curve
from pysolver.errors import CaffeError
from pysolver.logs import read_log
from pysolver.logs.assemble import Assembler

LOGS = Path(__file__).resolve().parent.parent / "golden" / "logs"
LINEAR = np.linspace(0, 3, 60)
GEOMETRIC = np.geomspace(1e-4, 10, 80)


def curve(lr, brk, start=0.1, low=0.4, first=2.3, steep=20.0, power=1.0, noise=0.0, seed=0):
    """A loss that falls around `start` from `first` to `low`, and rises from `brk` on."""
    loss = low + (first - low) / (1 + (lr / start) ** 2) + steep * np.maximum(0, lr / brk - 1) ** power
    return loss + np.random.default_rng(seed).normal(0, noise, len(lr))


def with_values(loss, places, values):
    loss = loss.copy()
    loss[places] = values
    return loss


def chance_level(lr):
    """A net that dies: its loss jumps to that of guessing and stays there."""
    return np.where(lr > 1.0, 2.30, curve(lr, 99)) + np.random.default_rng(0).normal(0, 0.05, len(lr))


KNOWN = {
    "clean": (LINEAR, curve(LINEAR, 1.2), 1.2),
    "noisy": (LINEAR, curve(LINEAR, 1.2, noise=0.08), 1.2),
    "very noisy upwards": (LINEAR, curve(LINEAR, 1.5) + abs(np.random.default_rng(1).normal(0, 0.25, 60)), 1.5),
    "ramp by factors": (GEOMETRIC, np.minimum(curve(GEOMETRIC, 0.5, start=0.01), 8), 0.5),
    "ramp by factors, noisy": (GEOMETRIC, np.minimum(curve(GEOMETRIC, 0.5, start=0.01, noise=0.1), 8), 0.5),
    "dies to chance level": (LINEAR, chance_level(LINEAR), 1.0),
    "slow break": (LINEAR, curve(LINEAR, 1.0, steep=1.0), 1.0),
    "slow, curved break": (LINEAR, curve(LINEAR, 1.0, steep=2.0, power=2), 1.0),
    "slow and noisy": (LINEAR, curve(LINEAR, 1.0, steep=1.5, noise=0.08), 1.0),
    "digits: tiny losses": (LINEAR, np.minimum(curve(LINEAR, 1.0, start=0.02, low=0.03, steep=3), 2.3), 1.0),
    "NaN tail": (LINEAR, with_values(curve(LINEAR, 1.2), LINEAR > 1.4, np.nan), 1.2),
    "NaN from one test to the next": (LINEAR, with_values(curve(LINEAR, 99), LINEAR > 1.4, np.nan), 1.4),
    "inf at the very end": (LINEAR, with_values(curve(LINEAR, 99, noise=0.05), [-1], np.inf), 3.0),
    "early spikes": (LINEAR, with_values(curve(LINEAR, 1.2, noise=0.05), [0, 3, 4, 9], [87, 40, 30, 15]), 1.2),
    "late single spikes": (LINEAR, with_values(curve(LINEAR, 1.8, noise=0.05), [25, 30], [9, 12]), 1.8),
    "two basins, the second as deep": (
        LINEAR, curve(LINEAR, 2.0, noise=0.05) + np.where((LINEAR > 0.6) & (LINEAR < 1.0), 1.5, 0), 2.0
    ),
    "two basins, the second shallow": (
        LINEAR, curve(LINEAR, 2.2) + np.where(LINEAR > 0.9, 1.6, 0) - np.where(LINEAR > 1.5, 0.5, 0), 0.9
    ),
    "contrastive: collapses far below its first loss": (
        LINEAR / 10, with_values(curve(LINEAR, 99, 0.03, 0.09, 5.96, noise=0.004), LINEAR > 1.6, 0.215), 0.16
    ),
    "few points": (LINEAR[::5], curve(LINEAR[::5], 1.5, start=0.2), 1.5),
}  # fmt: skip


@pytest.mark.parametrize("name", KNOWN)
def test_known_break(name):
    lr, loss, known = KNOWN[name]
    found = read_curve(name, "test loss", lr, loss)
    assert found.worked and found.broke is not None
    assert 1 / 1.5 < found.broke / known < 1.5
    assert found.start < found.broke and found.best <= 1.1 * found.broke


@pytest.mark.parametrize(
    "loss",
    [curve(LINEAR, 99), curve(LINEAR, 99, noise=0.1), with_values(curve(LINEAR, 99, noise=0.05), [-1], 8.0),
     with_values(curve(LINEAR, 99, noise=0.02), [10, 20, 40], 9.0),
     curve(LINEAR, 99, low=0.09, first=5.96) + np.where(LINEAR > 1.6, 0.03, 0)],  # a third above: may be its noise
)  # fmt: skip
def test_no_break_is_said_honestly(loss):
    found = RangeTest((read_curve("a", "test loss", LINEAR, loss),))
    assert not found.break_seen and found.max_lr == 3.0
    assert "no break seen up to 3" in found.text() and "extend the range" in found.text()


@pytest.mark.parametrize("loss", [2.3 + np.zeros(60), np.append(2.3, np.full(59, 87.3)), np.full(60, np.nan),
                                  2.3 + np.random.default_rng(0).normal(0, 0.02, 60)])  # fmt: skip
def test_nothing_ever_worked(loss):
    found = RangeTest((read_curve("a", "test loss", LINEAR, loss),))
    assert found.max_lr is None and found.min_lr is None and "no max_lr" in found.text()
    json.dumps(found.to_json(), allow_nan=False)


def test_hundred_random_curves():
    """Ramps, lengths, depths, noises and spikes at random: 19 of 20 answers within a factor of 1.5, and always one."""
    wrong = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        lr = LINEAR if seed % 2 else np.geomspace(1e-3, 10, int(rng.integers(30, 120)))
        brk = float(rng.uniform(0.3, 2.2))
        loss = curve(lr, brk, brk / rng.uniform(5, 30), rng.uniform(0.05, 1.2), steep=rng.uniform(2, 30))
        loss = np.minimum(loss, rng.choice([2.4, 9, 90])) + rng.normal(0, rng.uniform(0.01, 0.12), len(lr))
        loss[rng.integers(0, len(lr) - 4, 2)] += rng.uniform(1, 20)
        broke = read_curve("a", "test loss", lr, loss).broke
        wrong += not (broke and 1 / 1.5 < broke / brk < 1.5)
    assert wrong <= 5


def test_rules_of_the_paper():
    found = RangeTest((read_curve("a", "test loss", LINEAR, curve(LINEAR, 1.2)),))
    told = found.to_json()
    assert found.max_lr == told["max_lr"] == 0.93  # four fifths of the break at 1.17, rounded down
    assert found.min_lr == told["min_lr"] == 0.093 and found.min_lr_cycles == told["min_lr_cycles"] == 0.233
    assert told["min_lr_ranges"] == {"one_cycle": [0.0465, 0.093], "cycles": [0.233, 0.31]}
    assert "max/20 to max/10" in found.text() and "max/4 to max/3" in found.text()


def test_several_runs_make_it_surer():
    alike = [read_curve(str(n), "test loss", LINEAR, curve(LINEAR, 1.2, noise=0.02, seed=n)) for n in range(4)]
    apart = [
        read_curve(str(n), "test loss", LINEAR, curve(LINEAR, b, noise=0.02)) for n, b in enumerate((0.5, 1.5, 2.5))
    ]
    assert RangeTest(tuple(alike)).sure == "high" and RangeTest(tuple(alike[:1])).sure == "fair"
    assert RangeTest(tuple(apart)).sure == "low"
    for runs, words in ((alike, "(sure; 4 runs"), (alike[:1], "(fairly sure; 1 run"), (apart, "(not sure; ")):
        assert words in RangeTest(tuple(runs)).text()
    mixed = RangeTest((alike[0], read_curve("x", "test loss", LINEAR, curve(LINEAR, 99))))
    assert mixed.sure == "low" and "the runs disagree: 1 of 2 broke" in mixed.text()


def test_authors_range_test_with_clipping():
    """Accuracy falls from 0.45 to 0.16 between lr 0.54 and 0.58 (iterations 3600 to 3900, by eye)."""
    found = analyse([read_log(LOGS / "clipping_cut_off.log.gz")])
    assert found.break_seen and 0.54 / 1.5 < found.readings[0].broke < 0.58
    assert found.max_lr == 0.4  # below all that broke
    assert found.readings[0].what == "test loss" and found.readings[0].start < 0.1


def test_authors_range_test_without_a_break():
    found = analyse([read_log(LOGS / "range_test.log.gz")])
    assert not found.break_seen and found.max_lr == 3.0


def test_rates_between_displays_and_beyond_the_last():
    """Tests at other iterations than the displayed ones still get their own rate."""
    run = read_log(LOGS / "range_test.log.gz")
    lr = analyse([run]).readings[0].lr
    assert np.allclose(lr, run.test.iteration * 3 / 5000, atol=1e-6)  # base_lr 0, max_lr 3, stepsize 5000


@pytest.mark.parametrize(
    "name, message", [("lenet_clip_gradients", "stays at"), ("lenet_resume_multistep", "in steps")]
)
def test_other_logs_are_refused(name, message):
    with pytest.raises(CaffeError, match=message):
        analyse([read_log(LOGS / f"{name}.log.gz")])


def test_picture_marks_the_findings():
    runs = [read_log(LOGS / "clipping_cut_off.log.gz")]
    found = analyse(runs)
    made = range_plot.figure(found, runs, ["a"])
    top, below = made.axes
    texts = [text.get_text() for text in top.texts]
    assert texts == ["starts 0.03", "lowest 0.39", f"breaks {found.readings[0].broke:.3g}"]
    assert (
        below.get_xlabel() == "learning rate" and "accuracy" in below.get_ylabel() and top.get_ylabel() == "test loss"
    )
    raw = top.lines[0]
    assert np.array_equal(raw.get_ydata(), runs[0].test["loss"]) and top.get_xscale() == "linear"
    assert made.get_suptitle().startswith(f"max_lr {found.max_lr:g}")


def test_a_net_that_dies_is_marked_where_it_does():
    """In the words and in the picture; iterations as the log has them: its last number at 40, NaN from 45 on."""
    tables = Assembler()
    for number in range(12):
        tables.display(5 * number, float(number), 1.0, 1.0)
        tables.rate(5 * number, float(number), number / 100, 0.9, 0.0)
        tables.test(5 * number, float(number), 0)
        tables.output("Test", ("0", "loss"), True, 2.3 - number / 10 if number < 9 else np.nan)
    run = tables.run("dies")
    found = analyse([run])
    assert "breaks at 0.08, NaN from iteration 45" in found.text() and found.to_json()["runs"][0]["nan_from"] == 45
    made = range_plot.figure(found, [run], ["dies"])
    made.draw_without_rendering()
    top = made.axes[0]
    (words,) = [text for text in top.texts if text.get_text() == "NaN from iteration 45"]
    assert words.xy == (pytest.approx(0.08), pytest.approx(1.5))
    inside, seen = top.get_window_extent(), words.get_window_extent()
    assert inside.x0 <= seen.x0 and seen.x1 <= inside.x1 and inside.y0 <= seen.y0


def test_max_lr_is_what_all_runs_bear():
    """The issue's four digits seeds: one of them alone broke at 0.617, so no advice may lie above it."""
    breaks = (0.617, 0.633, 0.667, 0.783)
    lr = np.linspace(0, 1, 100)
    runs = [read_curve(str(b), "test loss", lr, curve(lr, b, start=0.02, noise=0.01)) for b in breaks]
    found = RangeTest(tuple(runs))
    assert 0.617 / 1.5 < found.max_lr < 0.617 / 1.2
    lone = RangeTest((*runs[:1], *(read_curve("n", "test loss", lr, curve(lr, 99, start=0.02)) for _ in range(3))))
    assert lone.max_lr <= found.max_lr and lone.sure == "low"


def test_few_points_up_to_the_break_are_not_sure():
    """Seven finite losses cannot say where the break is, however well they agree."""
    lr = np.linspace(0, 1, 14)
    few = [read_curve(str(n), "test loss", lr, with_values(curve(lr, 99), lr > 0.5, np.nan)) for n in range(4)]
    found = RangeTest(tuple(few))
    assert found.sure == "low" and "not sure" in found.text() and "only 7 losses" in found.text()


@pytest.mark.parametrize("name", ["new_format_1cycle", "old_format_triangular", "lenet_nesterov_1cycle_cm"])
def test_a_cycle_is_no_range_test(name):
    """Its rate goes up and down, and training survives it: nothing to extend."""
    with pytest.raises(CaffeError, match="a cycle: its learning rate rises to"):
        analyse([read_log(LOGS / f"{name}.log.gz")])
