"""Curves as one HTML page that zooms and hovers, with everything it needs inside: no server, no network."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from pysolver.extras import require
from pysolver.logs import style
from pysolver.logs.curves import Curve


def page(
    drawn: Sequence[Curve],
    x_label: str,
    *,
    title: str | None = None,
    log_x: bool = False,
    log_y: bool = False,
    marks: Sequence[float] = (),
) -> str:
    """The page's text. Panels, colours and names are those of the pictures. CaffeError without plotly."""
    go = require("plotly.graph_objects")
    runs = len({curve.run for curve in drawn})
    layout = style.panels(drawn, twin=runs == 1)
    order = list(dict.fromkeys(curve.what for curve in drawn))
    weights = [0.4 if panel.small else 1.0 for panel in layout]
    made = require("plotly.subplots").make_subplots(
        rows=len(layout), cols=1, shared_xaxes=True, vertical_spacing=0.05, row_heights=weights,
        specs=[[{"secondary_y": bool(panel.right)}] for panel in layout],
    )  # fmt: skip
    named: set[tuple[int, str, bool]] = set()  # one row of the legend for each run, or for each series of the one
    for row, panel in enumerate(layout, 1):
        for right, names in ((False, panel.left), (True, panel.right)):
            for curve in (c for c in drawn if c.what in names):
                key = (curve.run, "", curve.faint) if runs > 1 else (curve.run, curve.what, curve.faint)
                for trace in _traces(go, curve, style.colour(curve, order, runs), runs, key not in named):
                    made.add_trace(trace, row=row, col=1, secondary_y=right if panel.right else None)
                named.add(key)
            if names:
                scale = "log" if log_y and style.quantity(names[0]) not in ("accuracy", *style.RATES) else "linear"
                made.update_yaxes(title_text=_plain(style.words(names)), type=scale, showgrid=not right, row=row, col=1,
                                  tickmode="auto", range=_range(drawn, names) if scale == "linear" else None,
                                  secondary_y=right if panel.right else None)  # fmt: skip
    for mark in marks:
        made.add_vline(mark, line={"dash": "dot", "color": style.GREY})
    made.update_xaxes(title_text=x_label, type="log" if log_x else "linear", row=len(layout), col=1)
    height = 420 * sum(weights)
    below = {"orientation": "h", "x": 0, "yanchor": "top", "y": -60 / height}  # 60 px: under the axis' own words
    made.update_layout(title=_plain(title or ""), template="plotly_white", hovermode="x unified", legend=below,
                       height=int(height + 150 + 20 * len(named)), margin={"b": 90 + 20 * len(named)})  # fmt: skip
    return made.to_html(include_plotlyjs=True, full_html=True)


def _plain(text: str) -> str:
    """As it stands: plotly takes names for HTML, and what is in braces for a template."""
    return escape(text).replace("{", "&#123;")


def _range(drawn: Sequence[Curve], names: Sequence[str]) -> tuple[float, float] | None:
    """What of an axis is seen before one zooms: that of the pictures. None: everything."""
    values = [curve.y for curve in drawn if curve.what in names and not curve.faint]
    kind = style.quantity(names[0])
    return style.accuracy_limits(values) if kind == "accuracy" else style.limits(values) if kind == "loss" else None


def _traces(go, curve: Curve, colour: str, runs: int, named: bool):
    """The line of a curve, its band below it. named: it stands in the legend, for all curves of its name."""
    name = _plain(curve.label if runs > 1 else curve.what)
    if curve.faint:
        name += " (superseded)"
    if curve.low is not None:
        band = np.concatenate([curve.high, curve.low[::-1]])
        yield go.Scatter(x=np.concatenate([curve.x, curve.x[::-1]]), y=band, fill="toself", mode="none", opacity=0.25,
                         fillcolor=colour, hoverinfo="skip", showlegend=False)  # fmt: skip
    light = style.is_light(curve)
    line = {"color": colour, "width": 1 if light else 2}
    yield go.Scatter(x=curve.x, y=curve.y, name=name, mode="lines", line=line, legendgroup=name, showlegend=named,
                     hovertemplate=f"%{{y:.5g}} {_plain(curve.what)}<extra>{name}</extra>",
                     opacity=0.35 if curve.faint else 0.7 if light else 1.0)  # fmt: skip
