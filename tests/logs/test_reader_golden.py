"""Real logs: every line of a known kind is found, with the values that independent searches of the text find."""

from __future__ import annotations

import re

import numpy as np
import pytest
from log_texts import DATA, GOLDEN, golden_text

from pysolver.logs import read_log

NUMBER = r"(\S+?)"


@pytest.mark.parametrize("name", GOLDEN)
def test_no_line_is_missed(name):
    text = golden_text(name)
    run = read_log(DATA / name)
    counts = {
        "Output": len(re.findall(r"(?:Train|Test) net output #\d+:", text)),
        "Display": len(re.findall(r"Iteration \d+.*, loss = ", text)),
        "Testing": len(re.findall(r"Testing net \(#\d+\)", text)),
        "Rate": len(re.findall(r"Iteration \d+, lr = ", text)),
        "Clipping": text.count("Gradient clipping: scaling down"),
        "GradientNorm": text.count("Gradient: L2 norm"),
        "Snapshot": text.count("Snapshotting"),
        "Done": text.count("Optimization Done"),
        "MultiStep": text.count("MultiStep Status"),
        "DebugBlob": len(re.findall(r"\[(?:Forward|Backward)\] Layer", text)),
    }
    lost_tests = len(_headless_tests(text))  # tests whose first line is missing get a row all the same
    counts["Testing"] += lost_tests
    assert {k: run.counts.get(k, 0) for k in counts} == counts
    assert run.unknown == 0 and run.oddities == []


def _headless_tests(text: str) -> list[str]:
    lines = [line for line in text.splitlines() if re.search(r"Iteration \d|net output", line)]
    return [b for a, b in zip(lines, lines[1:]) if "Test net output #0" in b and "Testing net" not in a]


@pytest.mark.parametrize("name", GOLDEN)
def test_values_are_those_of_the_text(name):
    """Sums over all outputs of a phase, superseded ones included, against a plain search."""
    text = golden_text(name)
    run = read_log(DATA / name)
    for phase, tables in (
        ("Train", [run.train, run.old_train]),
        ("Test", [*run.tests.values(), *run.old_tests.values()]),
    ):
        wanted = [
            float(value)
            for row in text.split("Iteration ")  # of a row without a finite loss nothing is believed
            if not re.search(rf"{phase} net output #\d+: \S*loss\S* = \S*(nan|inf)", row)
            for value in re.findall(rf"{phase} net output #\d+: .*? = (\S+)", row)
        ]
        found = [column for table in tables for column in table.outputs.values()]
        values = np.concatenate([c[~np.isnan(c)] for c in found] or [np.zeros(0)])
        finite = [v for v in wanted if v == v]
        # a part that begins with the iteration at which another ended repeats rows; they are superseded, not lost
        assert np.isclose(values[np.isfinite(values)].sum(), sum(v for v in finite if abs(v) < np.inf))
        assert np.isinf(values).sum() == sum(abs(v) == np.inf for v in finite)


@pytest.mark.parametrize("name", GOLDEN)
def test_rates_are_those_of_the_text(name):
    text = golden_text(name)
    run = read_log(DATA / name)
    printed = {int(i): float(lr) for i, lr in re.findall(r"Iteration (\d+), lr = ([^,\s]+)", text)}  # the later wins
    told = run.train.select(run.train.told)
    assert dict(zip(told.iteration.tolist(), told.lr.tolist())) == {i: printed[i] for i in told.iteration.tolist()}
    assert len(told) >= len(printed) - 1


def test_new_format_by_hand():
    """Numbers taken from the text by eye."""
    run = read_log(DATA / "new_format_1cycle.log.gz")
    assert list(run.train.iteration[:3]) == [0, 200, 400] and len(run.train) == 25
    assert list(run.test.iteration[[0, -1]]) == [200, 4800]
    assert run.test["accuracy"][-1] == 0.5285 and run.train["loss"][-1] == 0.900231
    assert run.train.momentum[-1] == 0.939715 and run.train.weight_decay[0] == 0.0006 and run.train.lr[-1] == 2e-06
    assert run.solver["lr_policy"] == "1cycle" and run.solver["cyclical_momentum"] == [0.8, 2246]
    assert run.batch == 128 * 4 and run.devices == 4 and run.finished
    assert run.shapes["data"].split()[0] == "128"
    assert run.train.loss_name == "loss" and run.test.accuracy_name == "accuracy"


def test_resumed_without_head():
    run = read_log(DATA / "multi_gpu_resumed_no_header.log.gz")
    assert [(r.iteration, r.before) for r in run.resumes] == [(100000, 100000)]
    assert list(run.train.iteration) == list(range(0, 129501, 500))  # iteration 0 has its rate line only
    assert list(run.test.iteration) == list(range(500, 129501, 500))
    at = int(np.flatnonzero(run.test.iteration == 100000)[0])
    assert run.test["accuracy_top1"][at] == 0.4  # of the resumed part, whose own first line is missing
    assert len(run.old_train) == 1 and len(run.old_tests[0]) == 1
    assert run.solver == {} and run.batch is None


def test_cut_off_run_with_clipping():
    run = read_log(DATA / "clipping_cut_off.log.gz")
    assert not run.finished
    assert run.clipping["norm"].tolist()[:2] == [5.13019, 5.08998]
    assert run.clipping["iteration"].tolist()[:2] == [3700, 5300]
    assert run.solver["clip_gradients"] == 5


def test_two_test_nets():
    run = read_log(DATA / "lenet_two_test_nets_stages.log.gz")
    assert sorted(run.tests) == [0, 1] and run.test is run.tests[0]
    assert list(run.tests[0].iteration) == list(run.tests[1].iteration)


def test_a_run_that_diverges():
    run = read_log(DATA / "mlp_diverges.log.gz")
    assert not np.isfinite(run.train.loss).all() and run.unknown == 0


def test_two_parts_joined(log_file):
    """A run and its resumed continuation in one file: the later values win."""
    both = golden_text("lenet_resume_multistep.log.gz") + golden_text("lenet_resume_multistep_resumed.log.gz")
    run = read_log(log_file(both))
    assert [r.iteration for r in run.resumes] == [33]
    assert list(run.train.iteration) == list(range(0, 66, 5))
    assert (run.train.part[run.train.iteration >= 33] == 1).all() and (run.train.part[:7] == 0).all()
    assert sorted(run.old_train.iteration) == [35, 40, 45, 50, 55, 60, 65]
