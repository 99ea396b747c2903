"""What a tuning makes of a person's solver and net: data layers, length, what it refuses at once."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from pretend import Pretend

from pysolver.commands import main
from pysolver.disciplined import answer
from pysolver.disciplined.plan import CYCLE, FINAL, Plan
from pysolver.disciplined.recipe import Recipe, recipe
from pysolver.disciplined.stages import Decision
from pysolver.disciplined.trial import Command
from pysolver.disciplined.tuning import Tuning, chosen, tune_recipe
from pysolver.errors import CaffeError
from pysolver.proto.caffe_pb2 import NetParameter, SolverParameter
from pysolver.proto.text import parse_text

SOLVER = 'net: "net.prototxt" base_lr: 0.01 lr_policy: "fixed" momentum: 0.9 max_iter: 100 test_interval: 10 '
PLAN = Plan(FINAL, CYCLE, 2, 0.01, 0.1, (0.9, 0.9), 1e-3, 32)


def images(rule: str, source: str, batch: int) -> str:
    """A data layer; its source is a list of images that nobody reads."""
    return (
        f'layer {{ name: "d" type: "ImageData" top: "x" top: "y" {rule} '
        f'image_data_param {{ source: "{source}.txt" batch_size: {batch} }} }}\n'
    )


def layers(count: int, filler: str = "") -> str:
    """Layers with weights."""
    return "".join(
        f'layer {{ name: "ip{i}" type: "InnerProduct" bottom: "x" top: "s" '
        f"inner_product_param {{ num_output: 2 {filler} }} }}\n"
        for i in range(count)
    )


BOTH = images("include { phase: TRAIN }", "train", 32) + images("include { phase: TEST }", "test", 10)


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Makes a recipe from a solver and a net, in a folder with 320 images for training and 50 for testing."""
    monkeypatch.chdir(tmp_path)
    for name, count in (("train", 320), ("test", 50), ("more", 90)):
        Path(f"{name}.txt").write_text("image.png 0\n" * count)

    def make(solver: str = SOLVER, net: str = BOTH + layers(1), **options) -> Recipe:
        Path("solver.prototxt").write_text(solver)
        Path("net.prototxt").write_text(net)
        return recipe("solver.prototxt", Path("out"), **options)

    return make


@pytest.mark.parametrize("solver, message", [
    (SOLVER + 'type: "Foo"', "solver.prototxt: Unknown solver type: Foo"),
    (SOLVER + 'type: "RMSProp"', "solver.prototxt: Momentum cannot be used with RMSProp"),
    (SOLVER.replace("fixed", "steps"), "solver.prototxt: Unknown learning rate policy: steps .*did you mean 'step'"),
    (SOLVER.replace("fixed", "step"), "solver.prototxt: .*stepsize"),
    (SOLVER.replace("max_iter: 100", ""), "solver.prototxt: max_iter is not set: say how long to train"),
])  # fmt: skip
def test_a_file_that_cannot_train_is_refused_at_once(made, solver, message):
    """Before, an unknown type was a KeyError, and a wrong lr_policy was told when the file was trained: at the end."""
    with pytest.raises(CaffeError, match=message):
        made(solver)


def test_a_length_that_the_command_gives_needs_no_max_iter(made):
    assert made(SOLVER.replace("max_iter: 100", "").replace("fixed", "poly"), epochs=3).facts.epochs == 3


@pytest.mark.parametrize("max_iter, epochs", [(100, 10), (123, 12.3), (7, 0.7), (1, 0.1)])
def test_the_files_length(made, max_iter, epochs):
    assert made(SOLVER.replace("100", str(max_iter))).facts.epochs == epochs


@pytest.mark.parametrize("max_iter", [1, 5, 37, 101])
def test_a_short_file_is_trained_as_long_as_it_says(made, max_iter):
    """Five iterations of one image are 0.016 epochs, not none, and not 0.02."""
    made = made(SOLVER.replace("100", str(max_iter)), BOTH.replace("32", "1"))
    own = Plan("beside", "own", made.facts.epochs, 0.01, 0.01, (0.9, 0.9), 0.0, 1)
    assert made.solver_of(own).max_iter == pytest.approx(max_iter, abs=max_iter // 24)


def test_a_loss_below_zero_is_refused(made):
    """Before, all such were equally good, and nothing said so."""
    states = tune_recipe(made(backend=Pretend(loss=-3.5)), stages=chosen(["final"]))
    with pytest.raises(
        CaffeError, match=r"train.log: the test loss 'loss' is -3.5: losses are compared by their ratio"
    ):
        next(states)


AUTOENCODER = """
test_state { stage: "test-on-train" } test_iter: 15 test_state { stage: "test-on-test" } test_iter: 3
"""
STAGED = (
    images("include { phase: TRAIN }", "train", 32)
    + images('include { phase: TEST stage: "test-on-train" }', "train", 20)
    + images('include { phase: TEST stage: "test-on-test" }', "test", 10)
)


def test_of_several_test_nets_the_one_on_other_data_is_tested(made):
    """As in Caffe's mnist_autoencoder; before, two data layers in phase TEST were refused. The answer has both."""
    made = made(SOLVER + AUTOENCODER, STAGED + layers(1))
    assert (made.facts.images, made.facts.tests) == (320, 50)
    solver = parse_text(made.trial(PLAN).solver, SolverParameter)
    assert list(solver.test_iter) == [5] and [list(state.stage) for state in solver.test_state] == [["test-on-test"]]
    net = parse_text(made.trial(PLAN).net, NetParameter)
    assert [layer.image_data_param.batch_size for layer in net.layer[:3]] == [32, 20, 10]
    tuning = Tuning(made, [Decision("range", {"max_lr": 0.3}, "so it is", "high")])
    left = answer.solver(tuning)
    assert list(left.test_iter) == [15, 3] and left.test_state == made.solver.test_state


def test_test_nets_of_which_none_stands_out_are_refused(made):
    two = STAGED + images('include { phase: TEST stage: "more" }', "more", 10)
    more = AUTOENCODER + 'test_state { stage: "more" } test_iter: 9'
    for solver, net, count in ((AUTOENCODER, STAGED.replace("test.txt", "train.txt"), "2 times, and 0"),
                               (more, two, "3 times, and 2")):  # fmt: skip
        with pytest.raises(CaffeError, match=f"solver.prototxt: test_state is given {count} of them read a data set"):
            made(SOLVER + solver, net + layers(1))


def test_the_stages_of_the_solver_choose_the_data_layers(made):
    """A net file for several purposes, as DIGITS writes them: stages alone tell the phases apart."""
    net = (
        images('include { stage: "train" }', "train", 32)
        + images('include { stage: "val" }', "test", 10)
        + images('exclude { stage: "train" } exclude { stage: "val" }', "more", 10)
    )
    made = made(SOLVER + 'train_state { stage: "train" } test_state { stage: "val" }', net + layers(1))
    assert (made.facts.images, made.facts.tests, made.facts.batch) == (320, 50, 32)
    trial = made.with_batch(64)
    assert [layer.image_data_param.batch_size for layer in trial.layer[:3]] == [64, 10, 10]


def test_a_layer_for_both_phases_is_tested_with_the_batch_of_the_trial(made):
    """Before, with half the batch half of the test set was shown."""
    made = made(net=images("", "train", 32) + layers(1))
    assert [made.test_iter(replace(PLAN, batch=batch)) for batch in (16, 32, 64)] == [20, 10, 5]


@pytest.mark.parametrize("words, message", [
    ("--epochs=-1", "--epochs -1: a length above 0"), ("--epochs=nan", "--epochs nan: a length above 0"),
    ("--max_lr=inf", "--max_lr inf: a rate above 0"), ("--max_lr=0", "--max_lr 0: a rate above 0"),
    ("-o=range.gif", "range.gif: a picture's name ends in .png, .svg or .pdf"),
    ("-o=gone/range.png", "gone/range.png: cannot be written: No such folder: gone"),
])  # fmt: skip
def test_a_range_test_refuses_before_it_trains(made, capsys, words, message):
    """Before, ramps of minus one epoch were trained, and the picture's name was looked at when all were over."""
    made()
    assert main(["range_test", "--solver=solver.prototxt", "--jobs=1", *words.split("=", 1)]) == 1
    assert message in capsys.readouterr().err and not Path("range_test").exists()


@pytest.mark.parametrize("option, stage", [("compare_batch_sizes", "batch"), ("from_snapshot", "weight_decay")])
def test_an_option_of_a_stage_needs_that_stage(option, stage):
    """Before, it was left aside without a word."""
    assert list(chosen([stage], **{option: True})) == [stage]
    with pytest.raises(CaffeError, match=f"--{option} is for the stage '{stage}', which --stages leaves out"):
        chosen(["range"], **{option: True})


def test_of_a_file_with_a_cycle_max_lr_is_its_rate(made):
    """Before, `--stages momentum` on a cycle from 0.01 to 0.1 left one from 0.001 to 0.01."""
    cycle = SOLVER.replace("fixed", "1cycle") + "max_lr: 0.1 stepsize: 45"
    tuning = Tuning(made(cycle))
    assert (tuning.values["max_lr"], tuning.values["base_lr"]) == (0.1, 0.01)
    tuning.decisions.append(Decision("momentum", {"momentum": 0.95, "momentum_low": 0.85}, "so it is", "high"))
    left = answer.solver(tuning)
    assert (left.max_lr, left.base_lr, left.momentum) == pytest.approx((0.1, 0.01, 0.95))
    plain = Tuning(made(SOLVER + "max_lr: 0.1"))
    assert plain.values["max_lr"] == 0.01, "its policy does not read it"


def test_the_depth_is_that_of_the_weights(made):
    """Also of those that a caffemodel fills (before, VGG's net, that has no fillers, was shallow); shared ones once."""
    filler = 'weight_filler { type: "xavier" }'
    shared = "".join(layers(6, filler).replace("ip", side) for side in ("left", "right"))
    shared = re.sub(r'(name: "(?:left|right)(\d)" )', r'\1param { name: "w\2" } ', shared)
    assert [made(net=BOTH + layers(12, words)).facts.depth for words in (filler, "")] == [12, 12]
    assert made(net=BOTH + layers(12)).facts.deep and made(net=BOTH + shared).facts.depth == 6


@pytest.mark.parametrize("command", ["tune", "range_test"])
def test_python_layers_are_allowed_to_each_trial(made, monkeypatch, command):
    """Before, what the error asked for was an option of other commands only."""
    made()
    asked = []

    def train(backend, solver, log, judge=None, start=None):
        asked.append(backend.words)
        raise CaffeError("seen")

    monkeypatch.setattr(Command, "__call__", train)
    monkeypatch.setattr("pysolver.disciplined.engine.Engine.run", lambda self, trials, *rest: trials[0].run())
    words = [command, "--solver=solver.prototxt", "--out=out", "--jobs=1"]
    assert main([*words, "--allow-python-layers"]) == 1
    assert asked == [[sys.executable, "-m", "pysolver", "train", "--allow-python-layers"]]
