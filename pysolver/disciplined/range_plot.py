"""The picture of a range test: loss and accuracy against learning rate, with the findings marked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pysolver.disciplined.reading import ONE_CYCLE, RangeTest, Reading, ramp, rates_at
from pysolver.logs import style
from pysolver.logs.plot import STYLE, legend_below
from pysolver.logs.run import Run

MARKS = {"starts": "#56B4E9", "lowest": "#009E73", "breaks": "#D55E00"}


def figure(
    found: RangeTest,
    runs: Sequence[Run],
    labels: Sequence[str],
    *,
    title: str | None = None,
    log_x: bool | None = None,
    size: tuple[float, float] | None = None,
) -> Figure:
    """Loss above, accuracy below (if the logs have one), the same rates along both. log_x None: as the test ramped."""
    with_accuracy = [run for run in runs if run.test.accuracy_name or run.train.accuracy_name]
    count = 2 if with_accuracy else 1
    with matplotlib.rc_context(STYLE):
        made = Figure(figsize=size or (7.6, 3.2 * count + 0.9), layout="constrained")
        panels = list(made.subplots(count, 1, sharex=True, squeeze=False)[:, 0])
        for number, (reading, label) in enumerate(zip(found.readings, labels)):
            _loss(panels[0], reading, label, _colour(number, len(runs)))
        panels[0].set_ylabel(" and ".join(dict.fromkeys(r.what for r in found.readings)))
        if bounds := style.limits([reading.loss for reading in found.readings]):
            panels[0].set_ylim(bounds)
        elif any(reading.nan_from is not None for reading in found.readings):
            panels[0].margins(y=0.12)  # room for the words at a last value
        for number, reading in enumerate(found.readings):
            _death(panels[0], reading, _colour(number, len(runs)))
        if with_accuracy:
            for number, run in enumerate(runs):
                _accuracy(panels[1], run, _colour(number, len(runs)))
        for panel in panels:
            _marks(panel, found, named=panel is panels[0])
        panels[-1].set_xlabel("learning rate")
        if log_x or (log_x is None and all(_is_geometric(r.lr) for r in found.readings)):
            panels[-1].set_xscale("log")
        if len(runs) > 1:
            legend_below(made, *panels[0].get_legend_handles_labels())
        made.suptitle(title or _headline(found), fontsize=11)
    return made


def _headline(found: RangeTest) -> str:
    if found.max_lr is None:
        return "training did not work at any of these rates"
    if not found.break_seen:
        broke = sum(r.broke is not None for r in found.readings)
        some = f" by {len(found.readings) - broke} of {len(found.readings)} runs" if broke else ""
        return f"no break seen up to {found.max_lr:g}{some}: extend the range"
    low, high = (found.max_lr / part for part in ONE_CYCLE)
    return f"max_lr {found.max_lr:g} ({found.certainty}), min_lr for one cycle {low:.2g} to {high:.2g}"


def _colour(number: int, runs: int) -> str:
    return style.PALETTE[number % len(style.PALETTE)] if runs > 1 else style.PALETTE[0]


def _loss(axes: Axes, reading: Reading, label: str, colour: str) -> None:
    axes.plot(reading.lr, reading.loss, color=colour, linewidth=0.8, alpha=0.4, marker=".", markersize=3)
    axes.plot(reading.lr, np.where(np.isfinite(reading.loss), reading.smooth, np.nan), color=colour, linewidth=1.8,
              label=label)  # fmt: skip


def _death(axes: Axes, reading: Reading, colour: str) -> None:
    """A cross at the last loss that is a number, and from which iteration on there is none."""
    alive = np.flatnonzero(np.isfinite(reading.loss))
    if reading.nan_from is None or not len(alive):
        return
    x, y = reading.lr[alive[-1]], min(reading.loss[alive[-1]], axes.get_ylim()[1])
    axes.plot([x], [y], "X", color=colour, markersize=8, zorder=4)
    axes.annotate(f"NaN from iteration {reading.nan_from:,}", (x, y), color=colour, fontsize=8, xytext=(-7, -11),
                  ha="right" if alive[-1] else "left", textcoords="offset points", annotation_clip=False)  # fmt: skip


def _accuracy(axes: Axes, run: Run, colour: str) -> None:
    told = run.train.select(run.train.told)
    for phase, table in (("test", run.test), ("train", run.train)):
        if table.accuracy_name and len(table):
            lr = rates_at(told, table.iteration)
            way = ramp(lr)
            style: dict[str, Any] = {"linewidth": 1.6} if phase == "test" else {"linewidth": 0.9, "alpha": 0.4}
            axes.plot(lr[way], table.main_accuracy[way], color=colour, label=f"{phase} accuracy", **style)
    shown = [phase for phase, table in (("test", run.test), ("train", run.train)) if table.accuracy_name]
    axes.set_ylabel(f"{' (bold) and '.join(shown)} accuracy")


def _marks(axes: Axes, found: RangeTest, named: bool) -> None:
    rates = {
        "starts": [r.start for r in found.readings],
        "lowest": [r.best for r in found.readings],
        "breaks": [r.broke for r in found.readings],
    }
    for height, (name, values) in enumerate(rates.items()):
        known = [value for value in values if value is not None]
        if not known or (name == "breaks" and not found.break_seen):
            continue
        rate = float(np.median(known))
        axes.axvline(rate, color=MARKS[name], linestyle="--", linewidth=1.3)
        if len(known) > 1:
            axes.axvspan(min(known), max(known), color=MARKS[name], alpha=0.1, linewidth=0)
        if named:
            axes.annotate(f"{name} {rate:.3g}", (rate, 1), xycoords=("data", "axes fraction"), color=MARKS[name],
                          xytext=(4, -10 - 12 * height), textcoords="offset points", fontsize=9,
                          bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1})  # fmt: skip


def _is_geometric(lr: np.ndarray) -> bool:
    """Whether the rates rise by factors rather than by steps."""
    positive = lr[lr > 0]
    return len(positive) > 2 and positive[len(positive) // 2] < 0.2 * (positive[0] + positive[-1])
