"""A schedule as a picture: learning rate above momentum, against the iteration."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pysolver.schedule import Row


def plot_schedule(rows: Iterable[Row], file: str | Path, title: str = "") -> None:
    """Draw the rows of schedule.table into an image file; its suffix decides the format. Needs no display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from pysolver.logs.plot import save

    rows = list(rows)
    iterations = [row.iter for row in rows]
    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, 1, sharex=True)
    for panel, name, values, color in (
        (panels[0], "learning rate", [row.lr for row in rows], "tab:blue"),
        (panels[1], "momentum", [row.momentum for row in rows], "tab:orange"),
    ):
        panel.plot(iterations, values, color=color, linewidth=1.8)
        panel.set_ylabel(name)
        panel.grid(alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylim(bottom=min(0, *panels[0].get_ylim()))
    panels[1].set_xlabel("iteration")
    panels[1].margins(x=0.01)
    figure.suptitle(title)
    save(figure, file, dpi=120)
