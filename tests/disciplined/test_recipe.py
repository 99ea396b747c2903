"""What a tuning makes of a person's solver and net: data layers, length, what it refuses at once."""

from __future__ import annotations

from pathlib import Path

import pytest
from pretend import Pretend

from pysolver.disciplined.plan import CYCLE, FINAL, Plan

from pysolver.disciplined.recipe import Recipe, recipe
from pysolver.disciplined.tuning import chosen, tune_recipe
from pysolver.errors import CaffeError

SOLVER = 'net: "net.prototxt" base_lr: 0.01 lr_policy: "fixed" momentum: 0.9 max_iter: 100 test_interval: 10 '
PLAN = Plan(FINAL, CYCLE, 2, 0.01, 0.1, (0.9, 0.9), 1e-3, 32)


def images(rule: str, source: str, batch: int) -> str:
    """A data layer; its source is a list of images that nobody reads."""
    return (
        f'layer {{ name: "d" type: "ImageData" top: "x" top: "y" {rule} '
        f'image_data_param {{ source: "{source}.txt" batch_size: {batch} }} }}\n'
    )


def layers(count: int, filler: str = "", name: str = "") -> str:
    """Layers with weights."""
    return "".join(
        f'layer {{ name: "ip{i}" type: "InnerProduct" bottom: "x" top: "s" {name} '
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
