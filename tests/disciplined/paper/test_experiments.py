"""The paper's experiments: every file reads, every claim parses, every curve is a training that can start."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pysolver import schedule
from pysolver.disciplined.paper import claims
from pysolver.disciplined.paper.experiment import Experiment, read, read_all
from pysolver.disciplined.paper.run import Wish, choose
from pysolver.disciplined.paper.trials import (
    DATA,
    Variation,
    batches_of_test,
    fillers_of,
    net_of,
    solver_of,
    trial_of,
    write_fresh_state,
)
from pysolver.disciplined.trial import Command
from pysolver.errors import CaffeError
from pysolver.proto.caffe_pb2 import BlobProto, SolverParameter, SolverState
from pysolver.proto.text import parse_text

ROOT = Path(__file__).parents[3]


@pytest.fixture
def experiments(monkeypatch: pytest.MonkeyPatch) -> dict[str, Experiment]:
    monkeypatch.chdir(ROOT)  # nets are named from there
    return read_all("experiments")


def test_all_of_the_paper_is_there(experiments: dict[str, Experiment]):
    """20 rows of Table 1, 26 of Table 2, every figure."""
    rows = {name: sum(curve.paper is not None for curve in e.curves) for name, e in experiments.items()}
    assert rows["table1"] == 20
    assert sum(count for name, count in rows.items() if name.startswith("table2")) == 26
    figures = {int("".join(c for c in name if c.isdigit())) for name in experiments if name.startswith("fig")}
    assert figures == set(range(1, 17))


# Tables 1 and 2 as printed: rate, momentum, weight decay, batch, epochs: accuracy and deviation
TABLES = {
    "table1": """
0.0005-0.005/11 0.95-0.85/11 3e-3 128 25: 81.3 0.1 | 0.0005-0.005/11 0.90-1.00/11 3e-3 128 25: 80.2 0.1
0.0005-0.005/11 0.85 3e-3 128 25: 79.5 0.1 | 0.0005-0.005/11 0.90 3e-3 128 25: 80.2 0.4
0.0005-0.005/11 0.95 3e-3 128 25: 81.2 0.2
0.0005 0.95-0.85/11 3e-3 128 25: 80.8 0.3 | 0.0005 0.90-1.00/11 3e-3 128 25: 80.9 0.3
0.0005 0.85 3e-3 128 25: 80.2 0.3 | 0.0005 0.90 3e-3 128 25: 81.0 0.2 | 0.0005 0.95 3e-3 128 25: 81.0 0.1
0.08-0.80/41 0.95-0.80/41 1e-4 512 95: 92.0 0.2 | 0.08-0.80/41 0.90-1.00/41 1e-4 512 95: 91.4 0.1
0.08-0.80/41 0.85 1e-4 512 95: 90.8 0.3 | 0.08-0.80/41 0.90 1e-4 512 95: 91.4 0.3
0.08-0.80/41 0.95 1e-4 512 95: 92.1 0.1
0.1 0.95-0.85/41 1e-4 512 95: 89.1 0.3 | 0.1 0.90-1.00/41 1e-4 512 95: 88.1 0.5
0.1 0.85 1e-4 512 95: 87.8 0.3 | 0.1 0.90 1e-4 512 95: 88.1 0.1 | 0.1 0.95 1e-4 512 95: 88.8 0.3""",
    "table2_wide_resnet": """
0.1 0.9 1e-4 512 100: 86.7 0.6 | 0.1 0.9 1e-4 512 200: 88.7 0.6
0.1 0.9 1e-4 512 400: 89.8 0.4 | 0.1 0.9 1e-4 512 800: 90.3 1.0
0.1-0.5/12 0.95-0.85/12 1e-4 512 25: 87.3 0.8 | 0.1-1.0/23 0.95-0.85/23 1e-4 512 50: 91.3 0.1
0.1-1.0/45 0.95-0.85/45 1e-4 512 100: 91.9 0.2""",
    "table2_densenet": """
0.1 0.9 1e-4 512 100: 91.3 0.2 | 0.1 0.9 1e-4 512 200: 92.1 0.2 | 0.1 0.9 1e-4 512 400: 92.7 0.2
0.1-4.0/22 0.90-0.85/22 1e-6 512 50: 91.7 0.3 | 0.1-4.0/34 0.90-0.85/34 1e-6 512 75: 92.1 0.2
0.1-4.0/45 0.90-0.85/45 1e-6 512 100: 92.2 0.2 | 0.1-4.0/70 0.90-0.85/70 1e-6 512 150: 92.8 0.1""",
    "table2_lenet": """
0.01 0.9 5e-4 512 85: 99.03 0.04 | 0.01 0.9 5e-4 512 85: 99.00 0.04
0.01-0.10/5 0.95-0.80/5 5e-4 512 12: 99.25 0.03 | 0.01-0.10/12 0.95-0.80/12 5e-4 512 25: 99.28 0.06
0.01-0.10/23 0.95-0.80/23 5e-4 512 50: 99.27 0.07 | 0.02-0.20/40 0.95-0.80/40 5e-4 512 85: 99.35 0.03""",
    "table2_cifar100": """
0.005 0.9 1e-4 512 100: 60.8 0.4 | 0.005 0.9 1e-4 512 200: 61.6 0.9 | 0.005 0.9 1e-4 512 400: 61.0 0.2
0.10-0.50/12 0.95-0.85/12 1e-4 512 25: 65.4 0.2 | 0.10-0.50/23 0.95-0.85/23 1e-4 512 50: 66.4 0.6
0.09-0.90/45 0.95-0.85/45 1e-4 512 100: 69.0 0.4""",
}


def test_rows_are_the_papers(experiments: dict[str, Experiment]):
    def number(text: str) -> float | str:
        return text if "-" in text.lstrip("0123456789.") and "e-" not in text else float(text)

    for name, table in TABLES.items():
        printed = [row.replace(":", "").split() for row in table.strip().replace("\n", "|").split("|")]
        ours = [
            (c.rate, c.momentum, c.weight_decay, c.batch, c.epochs, *(c.paper or ())) for c in experiments[name].curves
        ]
        assert ours == [tuple(map(number, row)) for row in printed]


def test_every_claim_and_every_curve(experiments: dict[str, Experiment], tmp_path: Path):
    for e in experiments.values():
        for text in e.claims:
            claims.parse(text, [curve.name for curve in e.curves])
        for curve in e.curves:
            for scale in (1, 0.02):
                trial = trial_of(e, curve, 3, tmp_path, scale)
                solver = parse_text(trial.solver, SolverParameter)
                schedule.check_schedule(solver)
                assert solver.max_iter % solver.test_interval == 0  # the last weights are tested
                assert solver.test_interval % solver.display == 0


def test_a_cycle_is_the_papers(experiments: dict[str, Experiment]):
    """12 epochs of 512 images with a step of 5: as the author's logs count (4882 iterations, 50 epochs, step 2246)."""
    e = experiments["table2_wide_resnet"]
    curve = e.curve("1cycle 50")
    solver = solver_of(e, curve, Variation.of(curve, 1), 1)
    assert solver.max_iter == pytest.approx(4882, rel=0.02)  # whole test intervals: a fiftieth of the run at most
    assert solver.stepsize / solver.max_iter == pytest.approx(2246 / 4882, rel=1e-3)
    assert (solver.base_lr, solver.max_lr) == pytest.approx((0.1, 1.0))
    assert (solver.momentum, solver.cyclical_momentum[0]) == pytest.approx((0.95, 0.85))
    assert solver.cyclical_momentum[1] == solver.stepsize


def test_a_range_test_ends_at_its_highest_rate(experiments: dict[str, Experiment]):
    e = experiments["fig10"]
    curve = e.curve("1e-2")
    solver = solver_of(e, curve, Variation.of(curve, 1), 0.1)
    table = list(schedule.table(solver))
    assert table[0].lr == pytest.approx(0.001)
    assert table[-1].lr == pytest.approx(0.01, rel=0.01)
    assert table[0].momentum == pytest.approx(0.98)
    assert table[-1].momentum == pytest.approx(0.8, rel=0.01)


def test_variations_are_those_of_the_appendix(experiments: dict[str, Experiment]):
    curve = experiments["table2_lenet"].curve("1cycle 12")
    told = [Variation.of(curve, number) for number in (1, 2, 3, 4)]
    assert [(v.seed, v.batch, v.filler) for v in told] == [
        (1, 512, "xavier"),
        (2, 512, "msra"),
        (3, 508, "xavier"),
        (4, 516, "msra"),
    ]


def test_a_batch_of_one_stays_one(experiments: dict[str, Experiment]):
    curve = replace(experiments["fig9"].curves[0], batch=1)
    assert [Variation.of(curve, number).batch for number in (1, 2, 3, 4)] == [1, 1, 1, 2]


@pytest.mark.parametrize("name, told", [("fig9", "gaussian, gaussian"), ("table2_lenet", "xavier, msra")])
def test_what_a_result_says_of_fillers(experiments: dict[str, Experiment], name: str, told: str):
    """That of the net that was trained: of the 3-layer net none changes."""
    curve = experiments[name].curves[0]
    assert ", ".join(fillers_of(net_of(curve, Variation.of(curve, n), Path("D"))) for n in (1, 2)) == told


def test_a_caffe_begins_with_weights_by_a_solver_state(experiments: dict[str, Experiment], tmp_path: Path):
    """Caffe 1.0's solver has no field for them: it gets the other's state at iteration 0, without momentum."""
    e = experiments["fig12a"]
    ours, caffes = (trial_of(e, e.curve("1e-2"), 1, tmp_path, backend=Command(*a)) for a in ((), (("caffe",),)))
    (weights,) = map(Path, parse_text(ours.solver, SolverParameter).weights)
    assert not parse_text(caffes.solver, SolverParameter).weights and f"--snapshot={caffes.start}" in caffes.command
    weights.parent.mkdir(parents=True)
    assert caffes.start.parent == caffes.folder  # which this run has for itself, not the one of the weights
    caffes.folder.mkdir(parents=True)
    history = [BlobProto(shape={"dim": [2, 3]}, data=range(6)), BlobProto(shape={"dim": [1]}, double_data=[7])]
    state = SolverState(iter=3906, current_step=2, learned_net="else", history=history)
    weights.with_suffix(".solverstate").write_bytes(state.SerializeToString())
    write_fresh_state(caffes.start, weights)
    fresh = SolverState.FromString(caffes.start.read_bytes())
    assert (fresh.iter, fresh.current_step, fresh.learned_net) == (0, 0, str(weights))
    told = [(list(b.shape.dim), list(b.data), list(b.double_data)) for b in fresh.history]
    assert told == [([2, 3], [0] * 6, []), ([1], [], [0])]
    weights.with_suffix(".solverstate").write_bytes(b"no state")
    with pytest.raises(CaffeError, match="solverstate: is no solver state"):
        write_fresh_state(caffes.start, weights)


def test_a_net_gets_its_data(experiments: dict[str, Experiment]):
    curve = experiments["table2_cifar100"].curve("1cycle 25")
    net = net_of(curve, Variation.of(curve, 3), Path("D"))
    train, test = (layer for layer in net.layer if layer.type == "Data")
    assert train.data_param.source == "D/cifar100/cifar100_train_lmdb"
    assert test.data_param.source == "D/cifar100/cifar100_test_lmdb"
    assert train.data_param.batch_size == 508
    assert train.transform_param.mean_file == "D/cifar100/cifar100_mean.binaryproto"
    assert net.layer[-3].inner_product_param.num_output == 100
    assert batches_of_test(net, DATA["cifar100"].test) * test.data_param.batch_size == 10_000


def test_width(experiments: dict[str, Experiment]):
    e = experiments["fig2"]
    net = net_of(e.curve("width 0.5"), Variation.of(e.curves[0], 1), Path("D"))
    assert [x.convolution_param.num_output for x in net.layer if x.type == "Convolution"] == [16, 16, 32]


@pytest.mark.parametrize("experiment, row, count", [
    ("table1", "3-layer", 10), ("table1", "3-layer cycle", 5), ("table1", "3-layer cycle, 0.95", 1),
    ("table1", "3-layer c", 0), ("table2_lenet", "1cycle", 4), ("table2_lenet", "1cycle 5", 0),
    ("lenet_question", "SGD 512", 1), ("lenet_question", "SGD", 3),
])  # fmt: skip
def test_rows_by_group_by_name_and_by_how_that_begins(experiments, experiment: str, row: str, count: int):
    assert len(Wish(rows=(row,)).curves(experiments[experiment])) == count


def test_choosing(experiments: dict[str, Experiment]):
    assert [e.name for e in choose(experiments, ["fig1"])] == ["fig1"]
    assert len(choose(experiments, ["fig"])) == 31 and len(choose(experiments, ["table", "table1"])) == 5
    assert [e.name for e in choose(experiments, ["fig7", "fig9"])] == ["fig7a", "fig7b", "fig7c", "fig7d", "fig9"]
    with pytest.raises(CaffeError, match="no experiment 'fig99'; there are: table1"):
        choose(experiments, ["fig99"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("title = 3 4", r"bad.toml: Expected newline"),
        ('title = "t"\nshows = "s"', "bad.toml: has no .curves.NAME."),
        ('title = "t"\nshows = "s"\nrate = 1\n[curves.a]', "bad.toml: curve 'a': missing 6 required positional"),
        ('title = "t"\nshows = "s"\n[curves.a]\nspeed = 1', "unknown key 'speed' .curve 'a'.; a curve has: after"),
        ('title = "t"\nshows = "s"\ndraw = ["loss"]\n[curves.a]\nnet = "n"\ndata = "d"\nbatch = 1\nepochs = 1\nrate = 1'
         "\nmomentum = 1\nweight_decay = 0", "'loss' cannot be drawn; there is: test loss"),
    ],
)  # fmt: skip
def test_what_is_no_experiment(tmp_path: Path, text: str, words: str):
    (tmp_path / "bad.toml").write_text(text)
    with pytest.raises(CaffeError, match=words):
        read(tmp_path / "bad.toml")


def test_reading_and_judging_need_no_torch():
    code = "import sys, pysolver.disciplined.paper.run, pysolver.disciplined.paper.page; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


GOOD = """title = "t"\nshows = "s"\nnet = "n"\ndata = "mnist"\nbatch = 64\nepochs = 1\nrate = 0.1\nmomentum = 0.9
weight_decay = 0.0\n[curves.a]\n"""


@pytest.mark.parametrize(
    "old, new, error",
    [
        ("batch = 64", "batch = 0", "batch must be a whole number from 1 to 1000000, not 0"),
        ("batch = 64", 'batch = "many"', "batch must be a whole number"),
        ("epochs = 1", "epochs = inf", "epochs must be a number above 0"),
        ("[curves.a]", "[curves.a]\nsolver = 3", "curve 'a': solver must be a table, not 3"),
        ("[curves.a]", "curves = 3", r"curves must be tables: \[curves.NAME\]"),
        ('shows = "s"', "", "has no shows"),
        ("rate = 0.1", "rate = " + "9" * 5000, "digits"),
        ("rate = 0.1", "rate = " + "9" * 400, "rate must be a number, or a text"),
        ("rate = 0.1", "rate = " + "[" * 5000, "nested too deeply|Invalid|recursion"),
        ("[curves.a]", '[curves.a]\nafter = "a"', "curve 'a': after: 'a' goes on from another itself"),
        ("[curves.a]", '[curves.a]\n[curves.b]\nafter = "a"\n[curves.c]\nafter = "b"', "curve 'c': after: 'b' goes on"),
        ("[curves.a]", '[curves.".."]', "curve '..': a name needs a letter or a digit"),
        ("[curves.a]", '[curves."a b"]\n[curves.a_b]', "curves 'a b' and 'a_b' would share the folder a_b"),
        ("[curves.a]", "[curves._a]", "curve '_a': a name needs a letter or a digit, and does not begin with _"),
        ("[curves.a]", "drops = [0.5]\n[curves.a]", "curve 'a': drops need solver.gamma"),
        ("[curves.a]", "drops = [0.5, 0.2]\n[curves.a]", "drops must be numbers between 0 and 1 in rising order"),
        ("[curves.a]", "drops = [1]\n[curves.a]", "drops must be numbers between 0 and 1 in rising order"),
    ],
)
def test_a_file_with_a_mistake_names_the_key(tmp_path: Path, old: str, new: str, error: str):
    (tmp_path / "fig1.toml").write_text(GOOD)
    read(tmp_path / "fig1.toml")
    (tmp_path / "fig1.toml").write_text(GOOD.replace(old, new))
    with pytest.raises(CaffeError, match=f"fig1.toml: .*({error})"):
        read(tmp_path / "fig1.toml")


@pytest.mark.parametrize(
    "old, new, error",
    [
        ("mnist", "minst", "fig1: curve 'a': data 'minst' is not known; there are: mnist"),
        ("[curves.a]", "[curves.a.solver]\nbas_lr = 1", "fig1: curve 'a': .*bas_lr"),
        ("rate = 0.1", 'rate = "0.1-0.2/1e999"', "fig1: curve 'a': "),
        ("[curves.a]", "[curves.a.solver]\nnet_param = 1", "fig1: curve 'a': .*net_param"),
    ],
)
def test_what_no_solver_takes(tmp_path: Path, old: str, new: str, error: str):
    (tmp_path / "fig1.toml").write_text(GOOD.replace(old, new))
    e = read(tmp_path / "fig1.toml")
    with pytest.raises(CaffeError, match=error):
        solver_of(e, e.curves[0], Variation.of(e.curves[0], 1), 1)
