"""The pictures of the report, after the paper's: inline SVG whose lines and letters take the page's colour."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pysolver.disciplined.plan import CYCLE, OWN, RAMP, WHOLE, Plan
from pysolver.disciplined.stages import Decision
from pysolver.logs.plot import legend_below, log_scale
from pysolver.logs.run import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from pysolver.disciplined.tuning import Tuning

INK = "#010203"  # stands for the colour of the page's text
COLOURS = ("#3b82d6", "#e07b39", "#3fa45b", "#c24d8d", "#8a6fd1", "#b59b2b", "#4aa9b5", "#cf4b4b")  # on white and black


class Curve(NamedTuple):
    """One run. dead: whether its loss became no number, or it was given up."""

    x: np.ndarray
    y: np.ndarray
    dead: bool


Lines = dict[str, list[Curve]]  # by label, one curve for each run, whose pieces are joined


def draw(decision: Decision, runs: Mapping[Plan, Run], tuning: Tuning) -> str:
    """The picture of a stage as an <svg> element; empty if it has none."""
    if decision.stage == "batch" and not any(plan.shape == CYCLE for plan in runs):
        return _bars(decision)
    lines = _lines(decision.stage, runs, tuning)
    if not any(len(curve.y) for curves in lines.values() for curve in curves):  # there may be tests, but all NaN
        return ""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 3.6), layout="constrained")
    axes = figure.subplots()
    _curves(axes, lines)
    axes.set_xlabel(_axis(decision.stage, runs))
    accuracy = decision.stage in WHOLE and _has_accuracy(runs)
    axes.set_ylabel("test error, %" if accuracy else "test loss")
    log_scale(axes)
    _fit(axes, lines)
    _deaths(axes, lines)
    if decision.stage == "range" and "max_lr" in decision.values:
        rate = decision.values["max_lr"]
        axes.axvline(rate, color=INK, linewidth=1, linestyle=":", label=f"max_lr {rate:.3g}")
    return _svg(figure, axes, decision.stage)


def _axis(stage: str, runs: Mapping[Plan, Run]) -> str:
    """What the curves of a stage are drawn against: sizes of batches are compared at constant time."""
    if stage == "range" or stage == "weight_decay" and any(plan.shape == RAMP for plan in runs):
        return "learning rate"
    return "seconds" if stage == "batch" else "epoch"


def _lines(stage: str, runs: Mapping[Plan, Run], tuning: Tuning) -> Lines:
    found: dict[str, dict[int, Curve]] = {}
    accuracy, recipe = stage in WHOLE and _has_accuracy(runs), tuning.recipe
    trunks = {plan.after for plan in runs} - {None}
    for plan, run in runs.items():
        if stage == "range" and plan.shape != RAMP or stage == "momentum" and plan.shape == RAMP:
            continue
        table = run.test
        if not len(table):
            continue
        x = table.seconds if stage == "batch" else table.iteration * recipe.batch(plan) / recipe.sizes(plan)[0]
        x = table.lr if plan.shape == RAMP else x
        least = 0.5 / recipe.sizes(plan)[1]  # half an image where none is wrong: the axis is logarithmic
        y = 100 * np.maximum(1 - table.main_accuracy, least) if accuracy else table.main_loss
        good = np.isfinite(x) & np.isfinite(y) & (y > 0)
        label = "to the plateau" if plan in trunks else _label(stage, plan)
        runs_of = found.setdefault(label, {})
        begun = runs_of.get(plan.run, Curve(np.zeros(0), np.zeros(0), False))
        dead = run.nan_from is not None or "GaveUp" in run.counts
        runs_of[plan.run] = Curve(np.append(begun.x, x[good]), np.append(begun.y, y[good]), dead)
    return {label: list(runs_of.values()) for label, runs_of in found.items()}


def _label(stage: str, plan: Plan) -> str:
    if stage == "range":
        return f"run {plan.run}, {plan.epochs:.3g} epochs"
    if stage in WHOLE:
        return "as it came" if plan.shape == OWN else "tuned"
    name, value = {
        "batch": ("batch size", plan.batch),
        "momentum": ("momentum", plan.momentum[0]),
        "weight_decay": ("weight decay", plan.weight_decay),
        "cycle": ("max_lr", plan.high),
        "length": ("epochs", plan.epochs),
        "balance": ("weight decay", plan.weight_decay),
    }[stage]
    return f"{name} {value:g}"


def _has_accuracy(runs: Mapping[Plan, Run]) -> bool:
    return all(len(run.test) and run.test.accuracy_name is not None for run in runs.values())


def _curves(axes: Axes, lines: Lines) -> None:
    """Thin: each run; thick: their mean where there are several. A single test is a dot."""
    for colour, (label, runs) in zip(COLOURS * 3, lines.items()):
        runs = [curve for curve in runs if len(curve.x)]
        if not runs:
            continue
        if len(runs) == 1:
            axes.plot(runs[0].x, runs[0].y, color=colour, linewidth=1.6, marker=_marker(runs[0].x), label=label)
            continue
        for x, y, _ in runs:
            axes.plot(x, y, color=colour, linewidth=0.6, marker=_marker(x), markersize=3, alpha=0.7)
        end = min(curve.x[-1] for curve in runs)
        grid = np.linspace(max(curve.x[0] for curve in runs), end, 60)
        mean = np.exp(np.mean([np.interp(grid, curve.x, np.log(curve.y)) for curve in runs], axis=0))
        axes.plot(grid, mean, color=colour, linewidth=2, marker=_marker(np.unique(grid)), label=label)
    if any(sum(bool(len(curve.x)) for curve in runs) > 1 for runs in lines.values()):
        axes.plot([], [], color=INK, linewidth=0.6, label="one run (thin)")


def _marker(x: np.ndarray) -> str | None:
    return "o" if len(x) == 1 else None


def _deaths(axes: Axes, lines: Lines) -> None:
    """A cross where a curve ends before its run would have, at the edge if that is beyond."""
    top = axes.get_ylim()[1]
    for colour, runs in zip(COLOURS * 3, lines.values()):
        for curve in runs:
            if curve.dead and len(curve.x):
                axes.plot(curve.x[-1:], np.minimum(curve.y[-1:], top), "X", color=colour, markersize=6, clip_on=False)
    if any(curve.dead for runs in lines.values() for curve in runs):
        axes.plot([], [], "X", color=INK, markersize=6, label="NaN, or given up")


def _fit(axes: Axes, lines: Lines) -> None:
    """Diverged losses do not squeeze the rest: the axis ends a little above where the curves begin."""
    ys = [curve.y for runs in lines.values() for curve in runs if len(curve.y)]
    low, begin = min(y.min() for y in ys), max(y[0] for y in ys)
    high = min(max(y.max() for y in ys), 1.5 * begin)
    axes.set_ylim(low * 0.85, 1.05 * max(high, low * 1.5))


def _bars(decision: Decision) -> str:
    """Images a second at best, and as a line down to the worst turn: which sizes differ, whatever else was running."""
    rows = [
        (name.removeprefix("batch size "), *map(float, re.findall(r"\d+", value)[:2])) for name, value in decision.table
    ]
    if not rows:
        return ""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 2.2), layout="constrained")
    axes = figure.subplots()
    names, best, worst = zip(*rows, strict=True)
    axes.bar(names, best, color=COLOURS[0], width=0.5)
    axes.vlines(names, worst, best, color=INK, linewidth=1.2, label="from the worst turn to the best")
    axes.set_xlabel("batch size")
    axes.set_ylabel("images/s")
    return _svg(figure, axes, "batch")


def _svg(figure: Any, axes: Axes, name: str) -> str:
    import matplotlib

    for spine in ("top", "right"):
        axes.spines[spine].set_visible(False)
    for edge in axes.spines.values():
        edge.set_color(INK)
    axes.tick_params(colors=INK, which="both", labelsize=9)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    axes.grid(color=INK, alpha=0.15, linewidth=0.6)
    legend_below(figure, *axes.get_legend_handles_labels(), frameon=False, labelcolor=INK)
    out = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.family": "sans-serif"}):
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(
        r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1), count=1
    )
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font: \1 system-ui, sans-serif", text)
    text = re.sub(r'id="', f'id="{name}-', text).replace("url(#", f"url(#{name}-").replace('href="#', f'href="#{name}-')
    return text.replace(INK, "currentColor")
