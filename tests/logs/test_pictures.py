"""What pictures show: the data of the lines, the labels, colours and limits, not the pixels."""

from __future__ import annotations

import gzip
import re
from html import escape

import numpy as np
import pytest
from log_texts import DATA, glog, lines
from matplotlib.figure import Figure

from pysolver.errors import CaffeError
from pysolver.logs import curves as c
from pysolver.logs import plot, read_log, style
from pysolver.logs.drawing import CHARTS, Wish, draw, wanted_curves

NEW = DATA / "new_format_1cycle.log.gz"
RESUMED = DATA / "multi_gpu_resumed_no_header.log.gz"


def picture(paths, **wish) -> Figure:
    runs = [read_log(path) for path in paths]
    drawn, x = wanted_curves(runs, Wish(**wish))
    return plot.figure(drawn, x.label)


def line(made: Figure, ending: str):
    """The line whose label ends so, and its axes."""
    return next((axes, drawn) for axes in made.axes for drawn in axes.lines if drawn.get_label().endswith(ending))


def test_one_run_on_twin_axes():
    run = read_log(NEW)
    made = picture([NEW], rates=True)
    left, losses = line(made, ": test loss")
    right, accuracies = line(made, ": test accuracy")
    assert left is not right and left.bbox.bounds == right.bbox.bounds
    assert np.array_equal(losses.get_xdata(), run.test.iteration) and np.array_equal(
        losses.get_ydata(), run.test["loss"]
    )
    assert np.array_equal(accuracies.get_ydata(), run.test["accuracy"])
    assert left.get_ylabel() == "train and test loss" and right.get_ylabel() == "test accuracy"
    below, rates = line(made, ": lr")
    assert below.get_ylabel() == "learning rate" and below.get_xlabel() == "iteration"
    assert rates.get_ydata().max() == pytest.approx(0.02)  # max_lr, which lies between two displays
    texts = [text.get_text() for text in made.legends[0].get_texts()]
    assert "test accuracy (best 0.5285)" in texts and len(set(texts)) == len(texts)


def test_the_rates_of_many_runs_have_panels_of_their_own():
    """There a colour is a run: rate and momentum on one pair of axes would look alike."""
    made = picture([NEW, NEW], rates=True)
    assert [axes.get_ylabel() for axes in made.axes][-2:] == ["learning rate", "momentum"]
    (rates, _), (momenta, _) = line(made, ": lr"), line(made, ": momentum")
    assert rates.bbox.y0 > momenta.bbox.y1 and len(rates.lines) == len(momenta.lines) == 2
    assert [[drawn.get_linestyle() for drawn in axes.lines] for axes in (rates, momenta)] == [["-", "--"]] * 2


def test_many_runs_are_told_apart_by_what_differs(log_file):
    text = (DATA / "new_format_1cycle.log.gz").read_bytes()
    import gzip

    plain = gzip.decompress(text).decode()
    other = log_file(
        plain.replace("max_lr: 0.02", "max_lr: 0.08").replace("weight_decay: 0.0006", "weight_decay: 1e-05")
    )
    made = picture([NEW, other])
    texts = [t.get_text() for t in made.legends[0].get_texts()]
    runs = ["max lr 0.02, wd 0.0006 (best 0.5285)", "max lr 0.08, wd 1e-05 (best 0.5285)"]
    assert texts == [*runs, "test (thick)", "train (thin)"]
    assert [axes.get_ylabel() for axes in made.axes] == ["test accuracy", "train and test loss"]
    colours = {drawn.get_color() for drawn in made.axes[0].lines}
    assert colours == set(style.PALETTE[:2])


def test_same_parameters_fall_back_to_file_names(log_file):
    runs = [read_log(log_file(lines(0, 50), name)) for name in ("a.log", "b.log")]
    assert c.labels(runs) == ["a", "b"]


def test_superseded_part_is_faint_and_the_place_marked(log_file):
    path = log_file(lines(0, 100) + lines(60, 120).replace("= 1.", "= 3."))
    run = read_log(path)
    drawn, x = wanted_curves([run], Wish())
    old = [curve for curve in drawn if curve.faint]
    assert {curve.what for curve in old} == {"train loss", "test loss", "test accuracy"}
    assert all(list(curve.x) == [60, 70, 80, 90] for curve in old)
    made = plot.figure(drawn, x.label, marks=[60])
    assert any(list(np.unique(drawn.get_xdata())) == [60] for drawn in made.axes[0].lines)
    assert "resumed" in [text.get_text() for text in made.axes[0].texts]


def test_epochs_seconds_and_rates():
    run = read_log(NEW)
    epochs = c.axis("epoch", [run], epoch_size=50_000)
    assert np.allclose(epochs.of(run, run.test), run.test.iteration * 512 / 50_000)  # 4 GPUs x batch 128
    with pytest.raises(CaffeError, match="--epoch-size"):
        c.axis("epoch", [run])
    with pytest.raises(CaffeError, match="--batch"):
        c.axis("epoch", [read_log(RESUMED)], epoch_size=1_281_167)
    rates = c.axis("lr", [run])
    assert np.array_equal(rates.of(run, run.train), run.train.lr)
    assert c.axis("seconds", [run]).label == "time at work (s)"


def test_time_at_work_leaves_out_pauses():
    """Three days lie between the parts of this run; at work it was 64.75 of 161.6 hours."""
    run = read_log(RESUMED)
    hours = c.working_time(run, run.train) / 3600
    assert hours[-1] == pytest.approx(64.75, abs=0.05) and (np.diff(hours) >= 0).all()
    assert run.train.seconds[-1] / 3600 == pytest.approx(161.6, abs=0.1)


def test_generalisation_error():
    run = read_log(NEW)
    table, gap = c.generalisation_error(run)
    shared = np.isin(run.train.iteration, run.test.iteration)
    assert np.allclose(gap, run.test["loss"] - run.train["loss"][shared])
    assert list(table.iteration) == list(run.test.iteration)


def test_groups_make_bands(log_file):
    paths = [log_file(lines(0, 100).replace("loss = 2.", f"loss = {n}."), f"lr1_seed{n}.log") for n in (2, 3, 4)]
    runs = [read_log(path) for path in paths]
    drawn, _ = wanted_curves(runs, Wish(group=r"(lr\d)_seed"))
    loss = next(curve for curve in drawn if curve.what == "test loss")
    assert loss.label == "lr1 (n=3)"
    assert np.allclose(loss.y, 3 + np.arange(0, 100, 10) / 1e4) and np.allclose(loss.high - loss.low, 2.0)
    with pytest.raises(CaffeError, match="does not match"):
        c.group_names(runs, "nothing")
    with pytest.raises(CaffeError, match="--group"):
        c.group_names(runs, "(")


def test_group_of_runs_with_nothing_in_common(log_file):
    paths = [log_file(lines(0, 50), "x1.log"), log_file(lines(100, 150), "x2.log")]
    with pytest.raises(CaffeError, match="no iterations in common"):
        wanted_curves([read_log(p) for p in paths], Wish(group="x"))


def test_smoothing():
    assert list(c.smooth(np.array([1.0, 2, 6, 2, 1]), 3)) == [1.5, 3, 10 / 3, 3, 1.5]
    holes = c.smooth(np.array([1.0, np.nan, 3]), 3)
    assert np.isnan(holes[1]) and list(holes[[0, 2]]) == [1, 3]
    long = np.random.default_rng(0).normal(size=200)
    wanted = [long[max(0, i - 10) : i + 11].mean() for i in range(200)]
    assert np.allclose(c.smooth(long, 21), wanted)


def test_wild_values_do_not_flatten_the_rest():
    usual = np.linspace(1, 2, 50)
    low, high = style.limits([np.append(usual, 87.3)])
    assert low < 1 and 2 < high < 4
    assert style.limits([usual]) is None


@pytest.mark.parametrize("number, what, x", [(0, "test accuracy", "iteration"), (3, "test loss", "seconds"),
                                             (4, "lr", "iteration"), (7, "train loss", "seconds")])  # fmt: skip
def test_caffes_chart_types(tmp_path, number, what, x):
    assert (CHARTS[number].what, CHARTS[number].x) == (what, x)
    draw([str(NEW)], Wish(output=str(tmp_path / "a.png"), chart=number))
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("ending, start", [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_picture_formats(tmp_path, ending, start):
    draw([str(RESUMED)], Wish(output=str(tmp_path / f"a.{ending}"), log_y=True, smooth=5, x="seconds"))
    assert (tmp_path / f"a.{ending}").read_bytes().startswith(start)
    assert len(list(tmp_path.iterdir())) == 1  # nothing left beside it


def test_labels_stay_text_in_svg(tmp_path):
    draw([str(NEW)], Wish(output=str(tmp_path / "a.svg"), title="LeNet & Co"))
    text = (tmp_path / "a.svg").read_text()
    assert "LeNet &amp; Co" in text and "test accuracy" in text


def test_interactive_page(tmp_path):
    pytest.importorskip("plotly")
    draw([str(NEW)], Wish(interactive=str(tmp_path / "a.html"), rates=True))
    text = (tmp_path / "a.html").read_text()
    assert "Plotly.newPlot" in text and "test accuracy" in text
    assert not re.search(r'<script[^>]+src="http', text)  # all inside


@pytest.mark.parametrize(
    "wish, message",
    [
        ({}, "nowhere to draw"),
        ({"output": "a.bmp"}, r"\.png, \.svg or \.pdf"),
        ({"output": "a.png", "names": ["test nothing"]}, "no 'nothing' in its test outputs; it has train accuracy"),
        ({"output": "a.png", "names": ["foo"]}, "cannot draw 'foo'"),
        ({"output": "a.png", "names": ["test3 loss"]}, "no results of test net #3"),
        ({"output": "a.png", "labels": ["a", "b"]}, "2 labels for 1 logs"),
        ({"output": "a.png", "size": "big"}, "8x5"),
        ({"output": "a.png", "group": "zzz"}, "does not match"),
    ],
)
def test_wishes_that_cannot_be_met(tmp_path, monkeypatch, wish, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CaffeError, match=message):
        draw([str(NEW)], Wish(**wish))
    assert list(tmp_path.iterdir()) == []


def test_series_of_one_log_only(log_file):
    """What only some of the logs have is drawn for those."""
    rich = log_file(lines(0, 50).replace("loss = 2", "extra = 2"), "rich.log")
    drawn, _ = wanted_curves(
        [read_log(rich), read_log(log_file(lines(0, 50), "plain.log"))], Wish(names=["test extra"])
    )
    assert [curve.run for curve in drawn] == [0]


def test_only_displayed_losses(log_file):
    """A train net without outputs still has its smoothed loss."""
    path = log_file("".join(glog(f"Iteration {i}, loss = 2.{i}") for i in range(5)))
    drawn, _ = wanted_curves([read_log(path)], Wish())
    assert [curve.what for curve in drawn] == ["smoothed loss"]


def test_a_curve_that_lies_on_another_is_dashed_and_the_legend_names_what_is_drawn(log_file):
    """As of two backends that agree: both must be seen, and no style is named that is not there."""
    again = log_file(NEW.read_bytes())
    made = picture([NEW, again], names=["train loss"])
    assert [drawn.get_linestyle() for drawn in made.axes[0].lines if drawn.get_label().endswith("loss")] == ["-", "--"]
    assert not {"test (thick)", "train (thin)"} & {text.get_text() for text in made.legends[0].get_texts()}


def test_nan_is_marked_where_it_begins():
    made = picture([DATA / "mlp_diverges.log.gz"])
    start = read_log(DATA / "mlp_diverges.log.gz").nan_from
    assert start is not None
    assert f"NaN from {start:,g}" in {text.get_text() for axes in made.axes for text in axes.texts}


def test_nan_beyond_the_axis_is_told_within_it_and_once_a_run(log_file):
    """Before, the words stood in a gap below the panel above, those of training and testing on each other."""
    text = ""
    for number, loss in enumerate([2.3, 0.5, *[0.1] * 20, 87.3, 87.3, np.nan]):
        for phase, head in (
            ("Test", f"Iteration {number}, Testing net (#0)"),
            ("Train", f"Iteration {number}, loss = 1"),
        ):
            text += glog(head) + glog(f"    {phase} net output #0: loss = {loss} (* 1 = {loss} loss)")
    made = picture([log_file(text)])
    made.draw_without_rendering()
    ((axes, words),) = [(a, t) for a in made.axes for t in a.texts if t.get_text().startswith("NaN from")]
    assert words.get_text() == "NaN from 24" and axes.get_ylim()[1] < 4
    assert axes.get_window_extent().y0 < words.get_window_extent().y0 < axes.get_window_extent().y1


def test_accuracies_that_differ_little_are_told_apart():
    climb = np.linspace(0.05, 0.97, 10)
    low, high = style.accuracy_limits([np.append(climb, np.full(30, top)) for top in (0.97, 0.98)])
    assert 0.9 < low < 0.97 and 0.98 < high < 1


def test_the_loss_of_the_beginning_stays_in_sight():
    """A training that begins at 2.3 and is soon at 0.1, beside tests that see only the latter, and one that broke."""
    train, tests = np.concatenate([[2.3, 1.5, 0.5], np.full(60, 0.1)]), np.full(6, 0.2)
    broken = np.concatenate([[2.3, 0.5], np.full(10, 0.1), [87.3, 87.3]])
    low, high = style.limits([train, tests, broken])
    assert 2.3 < high < 3


@pytest.fixture
def deep(tmp_path) -> list[str]:
    """Four logs of the same net and name, in deep folders with long names."""
    made = []
    for number in range(4):
        folder = (
            tmp_path / f"a folder with a name of {number}" / ("and one below that goes on and on " * 3) / f"end{number}"
        )
        folder.mkdir(parents=True)
        (folder / "train.log").write_text(lines(0, 100))
        made.append(str(folder / "train.log"))
    return made


def test_logs_in_deep_folders_have_legends_within_the_picture(deep):
    """Their names are what their paths differ in; on a narrow picture they take several lines."""
    runs = [read_log(path) for path in deep]
    names = c.labels(runs)
    assert len(set(names)) == 4 and all(n.startswith("a folder") and n.endswith(f"end{i}") for i, n in enumerate(names))
    drawn, x = wanted_curves(runs, Wish())
    for width in (4, 7.6, 14):
        made = plot.figure(drawn, x.label, size=(width, 8))
        made.draw_without_rendering()
        legend = made.legends[0].get_window_extent()
        assert legend.x0 >= 0 and legend.x1 <= made.bbox.width and legend.y0 >= 0
        assert all(axes.get_window_extent().height > 20 for axes in made.axes)


def test_the_only_point_before_a_nan_is_seen_whole(log_file):
    told = lines(0, 10) + glog("Iteration 10, loss = nan") + glog("    Train net output #0: loss = nan")
    made = picture([log_file(told)])
    made.draw_without_rendering()
    words = [(axes, text) for axes in made.axes for text in axes.texts if text.get_text().startswith("NaN from")]
    assert words
    for axes, text in words:
        assert text.get_window_extent().y0 > axes.get_window_extent().y0


def test_an_interactive_page_of_many_runs(tmp_path, log_file):
    """A row of the legend for each run, whatever is drawn of it; below, where long names leave room for the curves."""
    pytest.importorskip("plotly")
    paths = [str(log_file(lines(0, 100), f"run{n}.log")) for n in range(6)]
    draw(paths, Wish(interactive=str(tmp_path / "a.html"), rates=True))
    text = (tmp_path / "a.html").read_text()
    call = text[text.rindex("Plotly.newPlot") :]
    assert call.count('"showlegend":true') == 6 and '"orientation":"h"' in call
    draw([str(NEW)], Wish(interactive=str(tmp_path / "b.html"), rates=True))
    text = (tmp_path / "b.html").read_text()
    call = text[text.rindex("Plotly.newPlot") :]
    assert call.count('"overlaying"') == 2 and call.count('"tickmode":"auto"') == 4, "else a right axis has odd ticks"


def test_names_are_no_formulas_and_no_html(tmp_path):
    """A file, a layer may be called `$\\frac$`, which matplotlib would set as a formula, or <script>."""
    odd = r"$\frac$<script>x{y}"
    log = tmp_path / f"{odd.replace('/', '')}.log"
    text = gzip.decompress((DATA / "lenet_multi_loss.log.gz").read_bytes()).decode()
    quoted = odd.replace("\\", r"\\")  # as a Caffe's dump of the net has it
    text = re.sub(r'"accuracy"', lambda _: f'"accuracy{quoted}"', text)
    log.write_text(re.sub(r'(?<!")\baccuracy\b', lambda _: f"accuracy{odd}", text))
    draw([str(log)], Wish(str(tmp_path / "a.svg"), log_y=True))
    svg = (tmp_path / "a.svg").read_text()
    assert escape(rf"test accuracy{odd} (best 0.65)", quote=False) in svg and "<script" not in svg
    assert ">2</text>" in svg and "×" not in svg  # the numbers of a logarithmic loss are written out
    made = Figure()
    made.subplots().set(xscale="log", xlim=(1, 1000))
    plot.save(made, tmp_path / "b.svg")
    assert "font-size: 7px" in (tmp_path / "b.svg").read_text()  # 10^2: those of another axis are formulas still
    draw([str(log)], Wish(interactive=str(tmp_path / "a.html")))
    assert "<script>x" not in (tmp_path / "a.html").read_text()
