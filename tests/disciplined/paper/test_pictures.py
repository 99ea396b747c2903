"""The pictures of made runs: what is drawn, where, and that nothing is cut off."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from made_runs import CURVES, EXPERIMENT, TABLE, made, results
from matplotlib.figure import Figure
from matplotlib.image import imread

from pysolver.disciplined.paper import pictures
from pysolver.disciplined.paper.experiment import Experiment
from pysolver.disciplined.paper.pictures import draw, draw_rows
from pysolver.disciplined.paper.results import Result


@pytest.mark.parametrize("draws", [("test loss",), ("test loss", "test accuracy", "gap")])
def test_picture(tmp_path: Path, draws: tuple[str, ...]):
    """Nothing is cut off: with names as long as Table 1's there is still no ink on the border."""
    names = [f"a row whose name is as long as that, {i}" for i in range(7)]
    curves = tuple(replace(CURVES[0], name=name, group=f"net {len(name) % 2 + i % 2}") for i, name in enumerate(names))
    many = replace(EXPERIMENT, curves=curves, claims=(), draw=draws)
    picture = imread(draw(many, [made(name, 1, 99.0) for name in names], tmp_path / "p.png"))
    for edge in (picture[0], picture[-1], picture[:, 0], picture[:, -1]):
        assert (edge == 1).all()


def test_a_title_wider_than_its_one_panel(tmp_path: Path):
    long = replace(EXPERIMENT, title="Figure 7c: momentum that moves while the rate rises, 0.2 of the length")
    picture = imread(draw(long, results(99.0, 99.25), tmp_path / "p.png"))
    assert (picture[:, 0] == 1).all() and (picture[:, -1] == 1).all()


def test_a_title_has_lines_of_about_the_same_length(tmp_path: Path):
    """Before, the last word stood alone below the others."""
    title = "Figure 7a: momentum in a range test of the 3-layer net"
    figure = drawn(replace(EXPERIMENT, title=title), results(99.0, 99.25))
    lines = figure.get_suptitle().splitlines()[:-1]  # below them: four runs each
    assert " ".join(lines) == title and len(lines) == 2 and min(map(len, lines)) > len(title) / 3


def drawn(experiment: Experiment, runs: list[Result]) -> Figure:
    """The picture before it is written."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "save", lambda figure, path, dpi: seen.append(figure))
        seen: list[Figure] = []
        draw(experiment, runs, Path("unused.png"))
    return seen[0]


@pytest.mark.parametrize(("x", "begins"), [("iteration", 100), ("epoch", 100 * 512 / 60_000), ("rate", 0.1)])
def test_a_branch_begins_where_its_first_part_ends(x: str, begins: float):
    """Of four runs each, whose first parts have 100 iterations of 512 images; a rate is where it is."""
    first, branch = CURVES[0], replace(CURVES[1], after="inv")
    runs = [replace(run, batch=512 if run.curve == "inv" else 64) for run in results(99.0, 99.25)]
    axes = drawn(replace(EXPERIMENT, curves=(first, branch), x=x), runs).axes[0]
    starts = [float(line.get_xdata()[0]) for line in axes.lines]
    assert starts == pytest.approx([0.1 if x == "rate" else 0] * 5 + [begins] * 5)


def test_a_diverged_run_is_marked_where_it_ends():
    """And counted in the legend: of four runs one, and one of the other curve that was never finite."""
    nan = {**TABLE, "loss": [2.3, 1.0, None], "accuracy": [0.1, 0.1, 0.1]}
    never = {**TABLE, "loss": [None] * 3, "accuracy": [None] * 3}
    runs = results(99.0, 99.25)
    runs[1] = replace(runs[1], test=nan)
    runs[4] = replace(runs[4], test=never)
    figure = drawn(EXPERIMENT, runs)
    crosses = [line for line in figure.axes[0].lines if line.get_marker() == "x"]
    assert [line.get_xydata().tolist() for line in crosses] == [[[50.0, 1.0]]]
    told = ["inv, 1 diverged", "cycle, 1 diverged"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == told
    two = drawn(replace(EXPERIMENT, draw=("test loss", "test accuracy")), runs)  # accuracies may stay numbers
    assert [text.get_text() for text in two.legends[0].get_texts()] == told


def test_panels_beside_each_other_have_one_axis():
    """Up to the end of the ramp, wherever a loss or an accuracy ends."""
    gone = {**TABLE, "loss": [2.3, None, None], "accuracy": [0.1, 0.1, None]}
    runs = [replace(run, test=gone) for run in results(99.0, 99.25)]
    axes = drawn(replace(EXPERIMENT, draw=("test loss", "test accuracy", "train loss"), x="rate"), runs).axes
    assert len({panel.get_xlim() for panel in axes[:3]}) == 1 and axes[0].get_xlim()[1] > 0.3


def test_a_loss_that_diverged_leaves_the_rest_in_sight():
    """As Figure 1 here: no number at first, 78 until the averages follow, then a fall to 1.8 and the break."""
    loss = [None, 78.0, 3.5, 2.0, 1.8, 1.8, 65.0, None]
    test = {name: [float(i) for i in range(8)] for name in TABLE} | {"loss": loss, "accuracy": [0.1] * 8}
    axes = drawn(EXPERIMENT, [replace(made("inv", 1, 99.0), test=test)]).axes[0]
    low, top = axes.get_ylim()
    assert 1.6 < low < 1.8 and top == 1.5 * 3.5  # what it is after a quarter, and half of that
    (cross,) = [line for line in axes.lines if line.get_marker() == "x"]
    assert cross.get_xydata().tolist() == [[6.0, top]]


def test_a_picture_of_all_rows(tmp_path: Path):
    """One of two rows, also where one has diverged and another has no number of the paper's."""
    curves = (*CURVES, replace(CURVES[0], name="none", paper=None, group="other"))
    runs = [
        *results(99.0, 99.25),
        made("none", 1, 99),
        replace(made("none", 2, 99), test={**TABLE, "loss": [2.3, 1, None], "accuracy": [0.1, 0.1, 0.1]}),
    ]
    picture = imread(draw_rows([replace(EXPERIMENT, curves=curves)], {"table9": runs}, tmp_path / "rows.png"))
    for edge in (picture[0], picture[-1], picture[:, 0], picture[:, -1]):
        assert (edge == 1).all()


def test_a_panel_for_each_group(tmp_path: Path):
    groups = tuple(replace(curve, group=curve.name) for curve in CURVES)
    one, two = (
        imread(draw(replace(EXPERIMENT, curves=curves), results(99.0, 99.25), tmp_path / "p.png"))
        for curves in (CURVES, groups)
    )
    assert two.shape[1] == one.shape[1] and two.shape[0] > 1.7 * one.shape[0]  # below each other


def test_a_longer_run_of_one_curve_does_not_hide_the_others(tmp_path: Path):
    every = [replace(result, scale=0.1) for result in results(99.0, 99.25)]
    alone = imread(draw(EXPERIMENT, every, tmp_path / "p.png"))
    both = imread(draw(EXPERIMENT, [replace(every[0], scale=0.3), *every], tmp_path / "p.png"))
    assert both.shape == alone.shape and (both == alone).all()


def test_a_quick_look_is_not_drawn():
    """Whole runs of one row come before shortened ones of two."""
    whole, look = results(99.0, 99.25)[:4], results(98.0, 97.0, 0.02)
    for looks in (look, look[4:]):
        title = drawn(EXPERIMENT, [*whole, *looks]).get_suptitle()
        assert title == drawn(EXPERIMENT, whole).get_suptitle() and "(4 runs each)" in title
