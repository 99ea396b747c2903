"""Curves as a matplotlib figure, fit for a paper. No pyplot: it starts faster and needs no display."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, LogFormatter

from pysolver.errors import CaffeError
from pysolver.files import write_atomic
from pysolver.logs import style
from pysolver.logs.curves import Curve

STYLE: dict[Any, Any] = {
    "font.size": 10, "axes.spines.top": False, "axes.grid": True, "grid.color": "#e4e4e4", "axes.axisbelow": True,
         "pdf.fonttype": 42, "svg.fonttype": "none", "legend.frameon": False}  # fmt: skip


def figure(
    drawn: Sequence[Curve],
    x_label: str,
    *,
    title: str | None = None,
    size: tuple[float, float] | None = None,
    log_x: bool = False,
    log_y: bool = False,
    marks: Sequence[float] = (),
    spans: Sequence[style.Span] = (),
) -> Figure:
    """A figure of some curves: one panel a quantity, rates below; of a single run loss and accuracy share a panel.

    marks: x of dotted lines where a run was resumed. spans: shaded stretches.
    """
    if not any(np.isfinite(curve.y).any() for curve in drawn):
        raise CaffeError("nothing to draw: the wanted series have no values")
    runs = len({curve.run for curve in drawn})
    layout = style.panels(drawn, twin=runs == 1)
    order = list(dict.fromkeys(curve.what for curve in drawn))
    with matplotlib.rc_context(STYLE):
        height = sum(1.4 if panel.small else 3.4 for panel in layout) + 0.8
        made = Figure(figsize=size or (7.6, min(height, 12)), layout="constrained")
        ratios = [0.4 if panel.small else 1 for panel in layout]
        rows = made.subplots(len(layout), 1, sharex=True, squeeze=False, height_ratios=ratios)[:, 0]
        for panel, axes in zip(layout, rows):
            _panel(axes, panel, drawn, order, runs, log_y)
            _shade(axes, spans, named=axes is rows[0])
            for number, mark in enumerate(marks):
                axes.axvline(mark, color=style.GREY, linestyle=":", linewidth=1)
                if axes is rows[0] and number == 0:
                    axes.annotate("resumed", (mark, 1), xycoords=("data", "axes fraction"), color=style.GREY,
                                  xytext=(3, -2), textcoords="offset points", va="top", fontsize=8)  # fmt: skip
        _x_axis(rows[-1], x_label, log_x, drawn)
        _legend(made, drawn, order, runs)
        if title:
            made.suptitle(title, fontsize=12)
    return made


def check_name(path: str | Path) -> None:
    """CaffeError for a name that `save` would refuse, or in a folder that is not there."""
    if Path(path).suffix.lower() not in (".png", ".svg", ".pdf"):
        raise CaffeError(f"{path}: a picture's name ends in .png, .svg or .pdf")
    if not Path(path).parent.is_dir():
        raise CaffeError(f"{path}: cannot be written: No such folder: {Path(path).parent}")


def save(made: Figure, path: str | Path, dpi: int = 150) -> None:
    """PNG, SVG or PDF by the name's ending; CaffeError for another, or if the file cannot be written."""
    check_name(path)
    ending = Path(path).suffix.lower()
    _take_names_as_they_are(made)
    file = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        made.savefig(file, dpi=dpi, format=ending[1:])
    write_atomic(path, file.getvalue())


def _take_names_as_they_are(made: Figure) -> None:
    """`$` in the name of a file or of an output begins no formula; only the numbers along the axes may be some."""
    ends = [axis for axes in made.axes for axis in (axes.xaxis, axes.yaxis)]
    ticks = [tick for axis in ends for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks())]
    numbers = {text for tick in ticks for text in (tick.label1, tick.label2)}
    for text in made.findobj(Text):
        if text not in numbers:
            text.set_parse_math(False)  # type: ignore[attr-defined]


def _panel(
    axes: Axes, panel: style.Panel, drawn: Sequence[Curve], order: Sequence[str], runs: int, log_y: bool
) -> None:
    sides = [(axes, panel.left)]
    if panel.right:
        right = axes.twinx()
        right.grid(False)
        right.spines["right"].set_visible(True)
        sides.append((right, panel.right))
    for side, names in sides:
        curves = [curve for curve in drawn if curve.what in names]
        for number, curve in enumerate(curves):
            _line(side, curve, style.colour(curve, order, runs), dashed=_is_hidden(curve, curves[:number]))
            if curve.dead_from is not None:
                side.margins(y=0.12)  # room for the words at its last value
        side.set_ylabel(style.words(names))
        kind = style.quantity(names[0])
        if log_y and kind not in ("accuracy", *style.RATES):
            log_scale(side)
        elif kind == "accuracy" and (bounds := style.accuracy_limits([c.y for c in curves if not c.faint])):
            side.set_ylim(bounds)
        elif kind == "loss" and (bounds := style.limits([curve.y for curve in curves])):
            side.set_ylim(bounds)
            _beyond(side, curves, bounds[1])
        dead = [curve for curve in curves if curve.dead_from is not None and not curve.faint]
        first = {curve.run: curve for curve in sorted(dead, key=lambda curve: -(curve.dead_from or 0))}
        for curve in dead:
            _death(side, curve, style.colour(curve, order, runs), named=first[curve.run] is curve)


def _line(axes: Axes, curve: Curve, colour: str, dashed: bool) -> None:
    light = style.is_light(curve)
    look: dict[str, Any] = {"color": colour, "linewidth": 1.0 if light else 1.8, "linestyle": "--" if dashed else "-"}
    alpha = 0.3 if curve.faint else 0.6 if light else 1.0
    if curve.raw is not None:
        axes.plot(curve.x, curve.raw, color=colour, linewidth=0.7, alpha=0.25)
    if curve.low is not None:
        axes.fill_between(curve.x, curve.low, curve.high, color=colour, alpha=0.2, linewidth=0)
    few = np.isfinite(curve.y).sum() < 2
    axes.plot(curve.x, curve.y, alpha=alpha, marker="o" if few else None, zorder=2 if light else 3, **look,
              label=f"{curve.label}: {curve.what}{' (superseded)' if curve.faint else ''}")  # fmt: skip


def _is_hidden(curve: Curve, others: Sequence[Curve]) -> bool:
    """Whether a curve lies on one that is drawn already: then it is dashed, so that both are seen."""
    for other in others:
        if other.what == curve.what and other.run != curve.run and len(other.y) == len(curve.y):
            span = float(np.nanmax(curve.y, initial=-np.inf) - np.nanmin(curve.y, initial=np.inf))
            apart = np.abs(other.y - curve.y)
            if np.isfinite(apart).any() and np.nanquantile(apart, 0.9) <= 0.005 * max(span, 0.0):
                return True
    return False


def _death(axes: Axes, curve: Curve, colour: str, named: bool) -> None:
    """A cross at the last value of a run whose loss is no number any more, or below it where the axis ends; from where.

    named: of the curves of a run the one that dies first says so.
    """
    alive = np.flatnonzero(np.isfinite(curve.y))
    if not len(alive):
        return
    x, y = curve.x[alive[-1]], min(curve.y[alive[-1]], axes.get_ylim()[1])
    axes.plot([x], [y], "X", color=colour, markersize=8, zorder=4, label=f"{curve.label}: {curve.what} ends")
    if not named:
        return
    axes.annotate(f"NaN from {curve.dead_from:,g}", (x, y), color=colour, fontsize=8, xytext=(-7, -11),
                  ha="right" if alive[-1] else "left", textcoords="offset points", annotation_clip=False)  # fmt: skip


def _beyond(axes: Axes, curves: Sequence[Curve], top: float) -> None:
    """Small triangles where a curve leaves the axis upwards."""
    x = np.concatenate([c.x[(c.y > top) | np.isposinf(c.y)] for c in curves])
    axes.plot(x, np.full(len(x), top), "^", color=style.GREY, markersize=4, clip_on=False, label="beyond the axis")


def _shade(axes: Axes, spans: Sequence[style.Span], named: bool) -> None:
    for number, span in enumerate(spans):
        axes.axvspan(span.start, span.end, color=span.colour, alpha=0.13, linewidth=0)
        if named:
            axes.annotate(span.name, (span.start, 1), xycoords=("data", "axes fraction"), fontsize=8,
                          color=span.colour, xytext=(2, 3 + 10 * (number % 2)),
                          textcoords="offset points", va="bottom", annotation_clip=False)  # fmt: skip


def _x_axis(axes: Axes, label: str, log_x: bool, drawn: Sequence[Curve]) -> None:
    axes.set_xlabel(label)
    if log_x:
        axes.set_xscale("log")
        return
    if max((np.nanmax(curve.x, initial=0) for curve in drawn), default=0) >= 10_000:
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.margins(x=0.02)


def _legend(made: Figure, drawn: Sequence[Curve], order: Sequence[str], runs: int) -> None:
    """Of one run: its series. Of several: the runs by colour, then what thin and thick lines are."""
    seen: dict[str, Line2D] = {}
    for curve in drawn:
        name = _of_run(curve, drawn) if runs > 1 else _with_best(curve)
        if not curve.faint and name not in seen:
            light = runs == 1 and style.is_light(curve)
            colour = style.colour(curve, order, runs)
            seen[name] = Line2D([], [], color=colour, linewidth=1 if light else 2, alpha=0.6 if light else 1)
    phases = {curve.phase for curve in drawn if not curve.faint}
    if runs > 1 and "test" in phases and phases & {"train", "smoothed"}:
        seen["test (thick)"] = Line2D([], [], color=style.GREY, linewidth=1.8)
        seen["train (thin)"] = Line2D([], [], color=style.GREY, linewidth=1.0, alpha=0.6)
    if any(curve.faint for curve in drawn):
        seen["superseded by a resumed run"] = Line2D([], [], color=style.GREY, linewidth=1, alpha=0.3)
    legend_below(made, list(seen.values()), list(seen))


class _Plain(LogFormatter):
    """0.2, not 2 x 10^-1, at those places that matplotlib names."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:g}" if super().__call__(x, pos) else ""


def log_scale(axes: Axes) -> None:
    """A logarithmic y axis whose numbers are written out."""
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(_Plain())
    axes.yaxis.set_minor_formatter(_Plain())


def legend_below(made: Figure, handles: Sequence[Any], names: Sequence[str], size: float = 9, **look: Any) -> None:
    """A legend under the panels, in as many columns as the figure is wide enough for; longer names take several lines.

    size: of the letters, in points.
    """
    room = int((72 * made.get_figwidth() - 20) / (0.57 * size))  # characters side by side
    columns = max(1, min(len(names), room // (max(map(len, names)) + 8)))
    lines = ["\n".join(textwrap.wrap(name, max(10, room - 8))) for name in names]
    made.legend(list(handles), lines, loc="outside lower center", ncols=columns, fontsize=size, **look)


def _of_run(curve: Curve, drawn: Sequence[Curve]) -> str:
    """The name of a run, with the best value of its first accuracy that is drawn."""
    own = [c for c in drawn if c.run == curve.run and not c.faint and style.quantity(c.what) == "accuracy"]
    if not own or not np.isfinite(own[0].y).any():
        return curve.label
    return f"{curve.label} (best {np.nanmax(own[0].y):.4g})"


def _with_best(curve: Curve) -> str:
    """The series' name, of a test accuracy with the best value."""
    name = style.name(curve.what)
    if style.quantity(curve.what) != "accuracy" or not np.isfinite(curve.y).any():
        return name
    best = int(np.nanargmax(curve.y))
    return f"{name} (best {curve.y[best]:.4g})"
