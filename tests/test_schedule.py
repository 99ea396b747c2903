"""Schedules against what a real Caffe used (every bit) and what the method's author's logs print (six digits)."""

from __future__ import annotations

import io
import itertools
import json
import math
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from pysolver import schedule
from pysolver.commands.schedule import plot_schedule
from pysolver.errors import CaffeError
from pysolver.proto import caffe_pb2
from pysolver.proto.text import parse_text

DATA = Path(__file__).parent / "golden" / "schedules"


def runs(file: str) -> list:
    return [pytest.param(run, id=run["run"]) for run in json.loads((DATA / file).read_text())["runs"]]


def solver(text: str):
    return parse_text(text, caffe_pb2.SolverParameter)


def stepwise(param, iterations: int) -> list[tuple[np.float32, np.float32]]:
    """lr and momentum as the solver asks for them: one iteration after the other."""
    rows, current_step = [], 0
    for i in range(iterations):
        current_step = schedule.next_step(param, i, current_step)
        rows.append((schedule.learning_rate(param, i, current_step), schedule.momentum(param, i)))
    return rows


@pytest.mark.parametrize("run", runs("caffe.json"))
def test_every_bit_of_caffes_rates(run):
    expected = list(zip(np.float32(run["lr"]), np.float32(run["momentum"])))
    param = solver(run["solver"])
    assert stepwise(param, len(expected)) == expected
    assert [(row.lr, row.momentum) for row in schedule.table(param)] == expected


@pytest.mark.parametrize("run", runs("author.json"))
def test_points_of_the_authors_logs(run):
    """Among them a run with unordered stepvalues. Where a log did not print its solver, weight decay is not known."""
    param = caffe_pb2.SolverParameter(**run["solver"])
    every = math.gcd(*(point[0] for point in run["points"]))
    rows = {row.iter: row for row in schedule.table(param, every)}
    for iteration, lr, momentum, weight_decay in run["points"]:
        got = rows[iteration]
        assert f"{got.lr:g}" == f"{lr:g}"
        assert momentum is None or f"{got.momentum:g}" == f"{momentum:g}"
        assert not param.HasField("weight_decay") or f"{got.weight_decay:g}" == f"{weight_decay or got.weight_decay:g}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [  # analytic values
        ('lr_policy: "triangular" base_lr: 1 max_lr: 3 stepsize: 4', [1, 1.5, 2, 2.5, 3, 2.5, 2, 1.5, 1, 1.5]),
        ('lr_policy: "triangular2" base_lr: 1 max_lr: 3 stepsize: 2', [1, 2, 3, 2, 1, 1.5, 2, 1.5, 1, 1.25]),
        ('lr_policy: "exp_range" base_lr: 0 max_lr: 8 stepsize: 2 gamma: 0.5', [0, 2, 2, 0.5, 0, 0.125]),
        ('lr_policy: "1cycle" base_lr: 1 max_lr: 5 stepsize: 4', [1, 2, 3, 4, 5, 3.75, 2.5, 1.25, 0.001, 0.001]),
        ('lr_policy: "triangular" base_lr: 1 max_lr: 3 stepsize: 2 start_lr_policy: 3', [1, 1, 1, 1, 2, 3, 2]),
        ('lr_policy: "triangular" base_lr: 3 max_lr: 1 stepsize: 2', [3, 2, 1, 2, 3]),
        ('lr_policy: "multistep" base_lr: 1 gamma: 0.5 stepvalue: [2, 2, 1]', [1, 1, 0.5, 0.25, 0.125, 0.125]),
        ('lr_policy: "step" base_lr: 1 gamma: 0.5 stepsize: 2', [1, 1, 0.5, 0.5, 0.25]),
        ('lr_policy: "step" base_lr: 1 stepsize: 2', [1, 1, 0, 0]),
        ('lr_policy: "sigmoid" base_lr: 2 gamma: 100 stepsize: 2', [0, 0, 1, 2, 2]),
        ('lr_policy: "stepdecr" base_lr: 2 gamma: 0.375 stepsize: 2', [2, 2, 1.25, 1.25, 0.5, 0.5, -0.25]),
        ('lr_policy: "stepdecr" base_lr: 2 gamma: 0.375 stepsize: 2 min_lr: 0.75', [2, 2, 1.25, 1.25, 0.75, 0.75]),
        ('lr_policy: "smoothstep" base_lr: 2 gamma: 0.25 stepsize: 4', [2, 2**0.5, 1, 0.5**0.5, 0.5]),
        ('lr_policy: "smoothstep" base_lr: 2 gamma: 0.25 stepsize: 2 min_lr: 0.75', [2, 1, 0.75, 0.75]),
        ('lr_policy: "fixed"', [0, 0]),
    ],
)
def test_laws(text, expected):
    param = solver(f"{text} max_iter: {len(expected)}")
    assert [row.lr for row in schedule.table(param)] == pytest.approx(expected, abs=1e-30)
    assert [lr for lr, _ in stepwise(param, len(expected))] == [row.lr for row in schedule.table(param)]


@pytest.mark.parametrize(
    ("text", "iteration", "rate"),
    [  # what g++ 12 makes of Caffe's expressions, where a power in double, rounded, is another float
        ('lr_policy: "inv" base_lr: 0.01 gamma: 0.0001 power: 0.75', 9018, "0x1.94acca0000000p-8"),
        ('lr_policy: "inv" base_lr: 0.045 gamma: 0.98 power: 0.5', 286650, "0x1.641bd80000000p-14"),
        ('lr_policy: "inv" base_lr: 0.001 gamma: 0.0005 power: 1.5', 7000, "0x1.b761820000000p-14"),
        ('lr_policy: "poly" base_lr: 0.01 power: 0.75 max_iter: 10000', 75, "0x1.45d5c80000000p-7"),
        ('lr_policy: "poly" base_lr: 0.045 power: 0.5 max_iter: 450000', 352800, "0x1.56a8260000000p-6"),
        ('lr_policy: "sigmoid" base_lr: 0.01 gamma: 0.0001 stepsize: 5000', 8841, "0x1.85d9360000000p-8"),
    ],
)
def test_powers_are_those_of_the_c_library(text, iteration, rate):
    assert float(schedule.learning_rate(solver(text), iteration)) == float.fromhex(rate)


@pytest.mark.parametrize("step_size", [2.0**53, 1e19, 3e38])
def test_a_momentum_that_hardly_moves(step_size):
    param = solver(f'lr_policy: "fixed" momentum: 0.9 cyclical_momentum: [0.8, {step_size}] max_iter: 3')
    assert [row.momentum for row in schedule.table(param)] == [np.float32(0.9)] * 3


def test_cyclical_momentum_halves_with_each_cycle_and_ignores_the_rates_policy():
    param = solver(
        'lr_policy: "fixed" momentum: 1 cyclical_momentum: 0.5 cyclical_momentum: 2 start_lr_policy: 5 max_iter: 12'
    )
    expected = [1, 0.75, 0.5, 0.75, 1, 0.875, 0.75, 0.875, 1, 0.9375, 0.875, 0.9375]
    assert [row.momentum for row in schedule.table(param)] == expected


def test_reading_the_rate_changes_nothing():
    param = solver('lr_policy: "multistep" base_lr: 1 gamma: 0.5 stepvalue: 3')
    before = param.SerializeToString()
    assert [schedule.learning_rate(param, 3, schedule.next_step(param, 3, 0)) for _ in range(3)] == [0.5] * 3
    assert param.SerializeToString() == before


def test_poly_beyond_its_end_is_nan_as_in_caffe():
    param = solver('lr_policy: "poly" base_lr: 1 power: 0.5 max_iter: 4')
    assert np.isnan(schedule.learning_rate(param, 5))


def test_table_every_and_weight_decay():
    param = solver('lr_policy: "fixed" base_lr: 0.1 momentum: 0.9 weight_decay: 0.0005 max_iter: 7')
    rows = list(schedule.table(param, every=3))
    assert [row.iter for row in rows] == [0, 3, 6]
    assert rows[0] == (0, np.float32(0.1), np.float32(0.9), np.float32(0.0005))
    with pytest.raises(CaffeError, match="at least 1"):
        list(schedule.table(param, every=0))


def test_a_table_without_max_iter_has_few_rows():
    """A step size of 640000 once gave 64 million rows."""
    rows = list(schedule.table(solver('lr_policy: "step" stepsize: 640000 base_lr: 1 gamma: 0.5')))
    assert [row.iter for row in rows] == list(range(0, 64_000_000, 5000))
    assert [row.lr for row in rows[::128]] == [0.5**k for k in range(100)]


def test_a_long_table_is_streamed():
    """Rows come before the last of five million is computed, in pieces that join."""
    param = solver('lr_policy: "multistep" stepvalue: [40000, 70000] gamma: 0.5 base_lr: 1 max_iter: 5000000')
    rows = list(itertools.islice(schedule.table(param), 80_000))
    assert [row.iter for row in rows] == list(range(80_000))
    assert [row.lr for row in rows] == [1] * 40_000 + [0.5] * 30_000 + [0.25] * 10_000
    tracemalloc.start()
    assert sum(1 for _ in schedule.table(param, 10)) == 500_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30 << 20


@pytest.mark.parametrize(
    ("policy", "length"),
    [('"1cycle" max_lr: 1 stepsize: 5', 15), ('"step" stepsize: 5', 500), ('"multistep" stepvalue: [10, 20]', 40)],
)
def test_a_table_without_max_iter_shows_what_the_policy_does(policy, length):
    assert len(list(schedule.table(solver(f"lr_policy: {policy}")))) == length


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["Unknown learning rate policy: ", "1cycle", "triangular2"]),
        ('lr_policy: "Triangular"', ["Unknown learning rate policy: Triangular", "fixed", "multistep"]),
        ('lr_policy: "step"', ["stepsize() > 0", "not set"]),
        ('lr_policy: "step" stepsize: -3', ["stepsize() > 0", "-3"]),
        ('lr_policy: "sigmoid" gamma: 1', ["stepsize"]),
        ('lr_policy: "exp" gamma: -1', ["gamma() >= 0", "-1"]),
        ('lr_policy: "multistep" gamma: -0.1 stepvalue: 3', ["gamma() >= 0"]),
        ('lr_policy: "1cycle" stepsize: 5', ["max_lr", "1cycle"]),
        ('lr_policy: "1cycle" max_lr: 5', ["stepsize"]),
        ('lr_policy: "triangular" max_lr: 1 stepsize: 0', ["stepsize", "is 0"]),
        ('lr_policy: "poly"', ["max_iter", "poly"]),
        ('lr_policy: "fixed" momentum: 1.01', ["momentum is 1.01", "between 0 and 1"]),
        ('lr_policy: "fixed" momentum: -0.1', ["momentum"]),
        ('lr_policy: "fixed" momentum: nan', ["momentum"]),
        ('lr_policy: "fixed" cyclical_momentum: 0.8', ["cyclical_momentum", "given 1 times", "twice"]),
        ('lr_policy: "fixed" cyclical_momentum: [0.8, 5, 1]', ["given 3 times"]),
        ('lr_policy: "fixed" cyclical_momentum: [0.8, 0]', ["cyclical_momentum", "is 0"]),
        ('lr_policy: "fixed" cyclical_momentum: [0.8, -7]', ["is -7"]),
        ('lr_policy: "fixed" cyclical_momentum: [95, 7]', ["is 95"]),
        ('lr_policy: "fixed" type: "AdaGrad" cyclical_momentum: [0.8, 7]', ["AdaGrad", "no momentum"]),
        ('lr_policy: "fixed" type: "RMSProp" cyclical_momentum: [0.8, 7]', ["RMSProp"]),
        ('lr_policy: "fixed"', ["max_iter"]),
    ],
)
def test_refusals_name_the_field_and_what_would_be_right(text, words):
    with pytest.raises(CaffeError) as caught:
        list(schedule.table(solver(text)))
    assert all(word in str(caught.value) for word in words) and "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["momentum: 1", "momentum: 0", "momentum: 1 cyclical_momentum: [0, 1]"])
def test_the_bounds_themselves_are_allowed(text):
    schedule.check_schedule(solver(f'lr_policy: "fixed" {text}'))


@pytest.mark.parametrize(
    "name, words", [("s.bmp", "ends in .png, .svg or .pdf"), ("no/s.png", "cannot be written: No")]
)
def test_a_plot_that_cannot_be_written(tmp_path, name, words):
    with pytest.raises(CaffeError, match=f"{name}: .*{words}"):
        plot_schedule([], tmp_path / name)


def test_plot(tmp_path):
    param = solver('lr_policy: "1cycle" base_lr: 0.1 max_lr: 1 stepsize: 10 max_iter: 22 momentum: 0.9')
    plot_schedule(schedule.table(param), tmp_path / "s.png", "1cycle")
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")


def test_csv():
    param = solver('lr_policy: "fixed" base_lr: 0.1 momentum: 0.5 max_iter: 4')
    file = io.StringIO()
    schedule.write_csv(schedule.table(param, 2), file)
    assert file.getvalue() == "iter,lr,momentum,weight_decay\n0,0.1,0.5,0.0\n2,0.1,0.5,0.0\n"


def test_no_torch():
    import subprocess
    import sys

    code = "import sys, pysolver.schedule, pysolver.commands.schedule; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("text", "end", "every"),
    [
        ('lr_policy: "step" gamma: 0.1 stepsize: 640000', 64_000_000, 5000),
        ('lr_policy: "multistep" gamma: 0.1 stepvalue: [100, 300]', 600, 1),
        ('lr_policy: "fixed" max_iter: 64000000', 64_000_000, 1),
    ],
)
def test_the_end_of_a_solver_that_has_none(text, end, every):
    """The row in which a table ends is its own choice, and there are at most 20,000 of them; max_iter is obeyed."""
    param = solver(f"base_lr: 1 {text}")
    assert schedule.extent(param) == (end, every)
    if not param.max_iter:
        rows = list(schedule.table(param))
        assert len(rows) == -(-end // every) <= 20_000


def _solver(**fields):
    return caffe_pb2.SolverParameter(**{"lr_policy": "fixed", "base_lr": 0.4, "max_iter": 100, **fields})


def test_warm_up_of_intels_caffe():
    solver = _solver(warmup_iter=4, warmup_start_lr=0.1, lr_policy="step", gamma=0.5, stepsize=10)
    rates = [float(schedule.learning_rate(solver, i, i // 10)) for i in (0, 1, 2, 3, 4, 9, 10)]
    assert rates == pytest.approx([0.1, 0.175, 0.25, 0.325, 0.4, 0.4, 0.2], rel=1e-6)
    solver = _solver(warmup_iter=4, warmup_start_lr=0.1, lr_policy="step", gamma=0.5, stepsize=4)
    assert float(schedule.learning_rate(solver, 4, 1)) == pytest.approx(0.2)  # here the policy rules


def test_ramp_and_least_rate_of_nvidias_caffe():
    solver = _solver(rampup_interval=4, rampup_lr=0.2)
    rates = [float(schedule.learning_rate(solver, i)) for i in range(6)]
    assert rates == pytest.approx([0.2, 0.2125, 0.25, 0.3125, 0.4, 0.4], rel=1e-6)
    solver = _solver(rampup_interval=4, rampup_lr=0.2, min_lr=0.24)  # the least rate holds in the ramp, too
    assert [float(schedule.learning_rate(solver, i)) for i in range(3)] == pytest.approx([0.24, 0.24, 0.25])
    solver = _solver(lr_policy="poly", power=2, min_lr=0.1)
    assert [float(schedule.learning_rate(solver, i)) for i in (0, 50, 100)] == pytest.approx([0.4, 0.175, 0.1])
    solver = _solver(lr_policy="exp", gamma=0.5, min_lr=0.1)
    assert [float(schedule.learning_rate(solver, i)) for i in range(4)] == pytest.approx([0.4, 0.2, 0.1, 0.1])


def test_stages_of_mobilenet_yolo():
    solver = _solver(lr_policy="multifixed", stagelr=[0.1, 0.01, 0.001], stageiter=[10, 20, 30])
    schedule.check_schedule(solver)
    got = np.asarray(schedule.learning_rate(solver, np.array([0, 10, 11, 20, 21, 30, 31, 99])))
    np.testing.assert_allclose(got, [0.1, 0.1, 0.01, 0.01, 0.001, 0.001, 0.001, 0.001], rtol=1e-6)
    with pytest.raises(CaffeError, match="as many stagelr as stageiter"):
        schedule.check_schedule(_solver(lr_policy="multifixed", stagelr=[0.1]))


def test_momentum_and_weight_decay_policies_of_nvidias_caffe():
    """sgd_solver.cpp, GetMomentum and GetWeightDecay."""
    solver = _solver(momentum=0.9, momentum_policy="poly", max_momentum=0.95, momentum_power=2)
    assert [float(schedule.momentum(solver, i)) for i in (0, 50, 100)] == pytest.approx([0.9, 0.9125, 0.95], rel=1e-6)
    solver = _solver(momentum_policy="opt")  # (1 - sqrt(0.4) / 2)^2
    assert float(schedule.momentum(solver, 7)) == pytest.approx(0.4675445, rel=1e-6)
    assert float(schedule.momentum(_solver(momentum_policy="opt", max_momentum=0.4), 7)) == pytest.approx(0.4)
    solver = _solver(momentum_policy="opt", lr_policy="step", gamma=0.1, stepsize=10)  # 0.04: (1 - 0.1)^2
    row = schedule.at(solver, 10, 1)
    assert (float(row.lr), float(row.momentum)) == pytest.approx((0.04, 0.81), rel=1e-6)
    solver = _solver(weight_decay=0.1, weight_decay_policy="poly", max_weight_decay=0.3, weight_decay_power=0.5)
    decays = [float(row.weight_decay) for row in schedule.table(solver, 25)]
    assert decays == pytest.approx([0.1, 0.2, 0.1 + 0.2 * 0.5**0.5, 0.1 + 0.2 * 0.75**0.5], rel=1e-6)
    for field in ("momentum_policy", "weight_decay_policy"):
        with pytest.raises(CaffeError, match="is one of fixed, poly"):
            schedule.check_schedule(_solver(**{field: "linear"}))
        with pytest.raises(CaffeError, match="max_iter is 0"):
            schedule.check_schedule(_solver(**{field: "poly", "max_iter": 0}))


def test_plateaus_without_a_training_come_as_early_as_they_can():
    solver = _solver(lr_policy="plateau", gamma=0.5, plateau_winsize=[3, 2], max_iter=7)
    rates = [float(row.lr) for row in schedule.table(solver)]
    assert rates == pytest.approx([0.4, 0.4, 0.4, 0.2, 0.2, 0.1, 0.1])


def test_a_policy_that_no_caffe_ever_had():
    with pytest.raises(CaffeError, match="never computed in any Caffe"):
        schedule.check_schedule(_solver(lr_policy="stepearly"))
