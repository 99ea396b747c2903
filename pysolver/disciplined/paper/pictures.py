"""The paper's pictures from the runs that are kept: the same axes, a colour a curve, a thin line a run.

And one of the tables: each row's number of the paper's and ours.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pysolver.disciplined.paper.experiment import Curve, Experiment
from pysolver.disciplined.paper.results import Result
from pysolver.disciplined.paper.trials import DATA
from pysolver.disciplined.paper.verdicts import length, rows_run, scales
from pysolver.logs.plot import save

WIDE, HIGH = 5.2, 3.8  # inches, of a panel
HANDLE, CHARACTER, LINE = 0.7, 0.085, 0.22  # inches, of a legend's entry at 10 points
TITLE = 0.1  # inches, of its characters at 11 points
DASHES = ("-", (0, (5, 1.5)), (0, (2, 1.2)), (0, (6, 1.5, 1.5, 1.5)))  # what lies below shows through
LABELS = {"rate": "learning rate", "gap": "generalisation error", "test accuracy": "test accuracy in %"}


def draw(experiment: Experiment, results: Sequence[Result], path: Path) -> Path:
    """One panel for each thing that the paper draws, of each group of rows, at the length that most curves have run."""
    rows = any(curve.paper for curve in experiment.curves)  # of a table whole runs come before many
    scale = max(
        scales(results), key=lambda scale: (rows and scale == 1, len({r.curve for r in results if r.scale == scale}))
    )
    shown = [result for result in results if result.scale == scale]
    groups = list(dict.fromkeys(c.group for c in experiment.curves if c.name in {result.curve for result in shown}))
    wanted = [(group, what) for group in groups for what in experiment.draw]
    across = 1 if len(wanted) <= 2 else 2  # two below each other can be read on a telephone, too
    down = -(-len(wanted) // across)
    figure = Figure(figsize=(WIDE * across, HIGH * down), layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(down, across, squeeze=False).ravel())
    counts = {sum(r.curve == curve for r in shown) for curve in {r.curve for r in shown}}
    for panel, (group, what) in zip(panels, wanted):
        _panel(panel, experiment, [c for c in experiment.curves if c.group == group], shown, what, len(counts) > 1)
        if len(groups) > 1:
            panel.set_title(group, fontsize=10)
    for panel in panels[len(wanted) :]:
        panel.set_visible(False)
    _legend(figure, panels)
    notes = [] if scale == 1 else [length(scale)]
    notes += [] if len(counts) > 1 else ["one run each" if counts == {1} else f"{counts.pop()} runs each"]
    title = _wrapped(experiment.title, int(figure.get_figwidth() / TITLE))
    figure.suptitle("\n".join([title, *([f"({', '.join(notes)})"] if notes else [])]), fontsize=11)
    save(figure, path, dpi=120)
    return path


def draw_rows(experiments: Sequence[Experiment], kept: Mapping[str, Sequence[Result]], path: Path) -> Path:
    """A panel for each group of rows of a table that has been run at full length: the paper's above, ours below."""
    rows = [(e, curve, ours) for e in experiments for curve, ours in rows_run(e, kept[e.name])]
    groups = list(dict.fromkeys((e.title, curve.group) for e, curve, _ in rows))
    lengths = [sum((e.title, curve.group) == group for e, curve, _ in rows) for group in groups]
    figure = Figure(figsize=(7.6, 0.34 * sum(lengths) + 0.95 * len(groups) + 0.3), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(groups), 1, squeeze=False, height_ratios=[n + 0.6 for n in lengths])[:, 0]
    for panel, group in zip(panels, groups):
        found = [(curve, ours) for e, curve, ours in rows if (e.title, curve.group) == group]
        for place, (curve, ours) in enumerate(found):
            if curve.paper:
                panel.errorbar(curve.paper[0], place - 0.13, xerr=curve.paper[1], fmt="o", color="0.45", capsize=3)
            finite = [value for value in ours if np.isfinite(value)]  # others diverged
            panel.plot(finite, [place + 0.17] * len(finite), "|", color="C0", alpha=0.6)
            if finite:
                panel.plot(np.mean(finite), place + 0.17, "D", color="C0", markersize=5)
        panel.set_yticks(range(len(found)), [f"{curve.name} ({len(ours)})" for curve, ours in found])
        panel.set_ylim(len(found) - 0.5, -0.5)
        panel.set_title(f"{group[0].partition(':')[0]}, {group[1]}", fontsize=10, loc="left")
        panel.grid(axis="x", alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    panels[-1].set_xlabel("test accuracy in %")
    marks = [Line2D([], [], marker="o", color="0.45"), Line2D([], [], marker="D", color="C0", linestyle="")]
    names = ["the paper, four runs and their deviation", "here, the runs (how many) and their mean"]
    figure.legend(marks, names, loc="outside lower center", ncols=2, frameon=False)
    save(figure, path, dpi=120)
    return path


def _wrapped(title: str, width: int) -> str:
    """In as few lines as it needs, of about the same length: no word stands alone."""
    needed = len(textwrap.wrap(title, width))
    return next(text for w in range(1, width + 1) if (text := textwrap.fill(title, w)).count("\n") < needed)


def _legend(figure: Figure, panels: Sequence[Axes]) -> None:
    """Below all panels, with as many columns as fit; the figure grows by its lines."""
    lines = {label: line for panel in panels for line, label in zip(*panel.get_legend_handles_labels())}
    if not lines:
        return
    width, height = figure.get_size_inches()
    columns = max(1, min(len(lines), int(width / (HANDLE + CHARACTER * max(map(len, lines))))))
    figure.set_size_inches(width, height + LINE * (-(-len(lines) // columns) - 1))
    figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=columns, frameon=False)


def _panel(
    axes: Axes, experiment: Experiment, curves: Sequence[Curve], results: Sequence[Result], what: str, count: bool
) -> None:
    """count: whether the legend says how many runs a curve has."""
    early, late, quarter, ends = [], [], [], []
    for index, curve in enumerate(curves):
        runs = [result for result in results if result.curve == curve.name]
        images = DATA[curve.data].train
        lines = [_line(r, experiment, what, images, _begin(r, curve, experiment.x, results, images)) for r in runs]
        colour = f"C{index % 10}"
        for x, y in lines if len(lines) > 1 else []:
            axes.plot(x, y, color=colour, alpha=0.3, linewidth=0.8)
        if lines:
            x, y = _mean(lines)
            ends += [(x, y, colour) for x, y in lines]
            dead = sum(not np.isfinite(r.value("loss")) for r in runs)
            label = curve.name + (f" ({len(lines)})" if count else "") + (f", {dead} diverged" if dead else "")
            axes.plot(x, y, color=colour, linewidth=1.6, linestyle=DASHES[index % len(DASHES)], label=label)
            early.append(y[: max(1, len(y) // 6)])
            late.append(y[len(y) // 6 + 1 :])
            quarter.append(y[len(y) // 4 : len(y) // 4 + 1])
    axes.set_xlabel(LABELS.get(experiment.x, experiment.x))
    axes.set_ylabel(LABELS.get(what, what))
    if experiment.log_x:
        axes.set_xscale("log")
    if what.endswith("loss") and early:  # a curve that broke must not flatten the others
        _cut_top(axes, early, 1.15)
        _cut_top(axes, quarter, 1.5)
    if what == "gap":
        _cut_gap(axes, [result for result in results if result.curve in {curve.name for curve in curves}])
    if what.endswith("accuracy") and late:  # nor must the first steps from chance
        _cut_bottom(axes, late)
    if ends:  # also where a run is no number any more: panels beside each other have one axis
        axes.update_datalim(np.column_stack([np.concatenate([x for x, _, _ in ends])] * 2), updatey=False)
        axes.autoscale_view(scaley=False)
    for x, y, colour in ends:
        _end(axes, x, y, colour)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _end(axes: Axes, x: np.ndarray, y: np.ndarray, colour: str) -> None:
    """Mark where a run diverged, with a cross at its last finite point, at the edge if that is beyond."""
    finite = np.flatnonzero(np.isfinite(y))
    if len(finite) and finite[-1] < len(y) - 1:
        last = np.clip(y[finite[-1]], *axes.get_ylim())
        axes.plot(x[finite[-1]], last, "x", color=colour, markersize=7, clip_on=False)


def _cut_top(axes: Axes, parts: Sequence[np.ndarray], margin: float) -> None:
    """Cut what lies above so many times the highest value of these parts of the curves; the axis ends a little below
    the lowest point that is drawn."""
    values = _finite(parts)
    top = margin * float(values.max()) if len(values) else np.inf
    if top < axes.get_ylim()[1]:
        lowest = float(_finite([np.asarray(line.get_ydata(), float) for line in axes.lines]).min())
        axes.set_ylim(lowest - 0.05 * (top - lowest), top)


def _cut_gap(axes: Axes, results: Sequence[Result]) -> None:
    """Where the test loss is far above what it is after a quarter of the run, its gap says nothing."""
    near = []
    for result in results:
        loss, gap = result.column("test loss")[1], result.column("gap")[1]
        near.append(gap[loss <= 1.5 * loss[len(loss) // 4]])
    values = _finite(near)
    if len(values) > 1:
        margin = 0.1 * (values.max() - values.min())
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, values.min() - margin), min(high, values.max() + margin))


def _cut_bottom(axes: Axes, parts: Sequence[np.ndarray]) -> None:
    """Cut what lies below the accuracies of these parts of the curves, and end a little above, at most at 100 %."""
    values = _finite(parts)
    if len(values):
        low, best = max(axes.get_ylim()[0], 0.995 * float(values.min())), float(values.max())
        axes.set_ylim(low, min(100.0, best + 0.06 * (best - low)))


def _finite(parts: Sequence[np.ndarray]) -> np.ndarray:
    values = np.concatenate(parts)
    return values[np.isfinite(values)]


def _begin(result: Result, curve: Curve, x: str, results: Sequence[Result], images: int) -> float:
    """Where on an axis of iterations or epochs a run begins: at the end of the run whose weights it goes on from."""
    first = next((r for r in results if (r.curve, r.seed) == (curve.after, result.seed)), None)
    return 0 if first is None else first.iterations * (first.batch / images if x == "epoch" else 1)


def _line(
    result: Result, experiment: Experiment, what: str, images: int, begin: float
) -> tuple[np.ndarray, np.ndarray]:
    iteration, y = result.column(what)
    if experiment.x in ("rate", "momentum"):
        at, values = result.column(f"test {experiment.x}")
        x = np.interp(iteration, at, values)
    else:
        x = begin + iteration * (result.batch / images if experiment.x == "epoch" else 1)
    return x, 100 * y if what.endswith("accuracy") else y


def _mean(lines: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """The runs' middle where all have points; their x differ a little, as their batch sizes do."""
    x = lines[0][0]
    return x, np.mean([np.interp(x, other, y) for other, y in lines], axis=0)
