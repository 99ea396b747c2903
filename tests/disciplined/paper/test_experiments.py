"""The paper's experiments: every file reads, every claim parses, every curve is a training that can start."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pysolver import schedule
from pysolver.disciplined.paper import claims
from pysolver.disciplined.paper.experiment import Experiment, read, read_all
from pysolver.disciplined.paper.run import choose
from pysolver.disciplined.paper.trials import DATA, Variation, batches_of_test, net_of, solver_of, trial_of
from pysolver.errors import CaffeError
from pysolver.proto.caffe_pb2 import SolverParameter
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


def test_choosing(experiments: dict[str, Experiment]):
    assert [e.name for e in choose(experiments, ["fig1"])] == ["fig1"]
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
    ],
)
def test_what_no_solver_takes(tmp_path: Path, old: str, new: str, error: str):
    (tmp_path / "fig1.toml").write_text(GOOD.replace(old, new))
    e = read(tmp_path / "fig1.toml")
    with pytest.raises(CaffeError, match=error):
        solver_of(e, e.curves[0], Variation.of(e.curves[0], 1), 1)
