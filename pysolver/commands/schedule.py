"""Print or plot a solver's learning rate, momentum and weight decay, without training.

The table goes to max_iter. Without one it goes as far as the policy takes to show, which a line on standard error says.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TextIO

from pysolver import schedule
from pysolver.commands import _options as o
from pysolver.errors import CaffeError, about
from pysolver.files import replacing
from pysolver.proto.upgrade import read_solver


def options(parser: argparse.ArgumentParser) -> None:
    o.solver(parser)
    o.flag(parser, "csv", metavar="FILE|-", help="write iter,lr,momentum,weight_decay there (default: standard output)")
    o.flag(parser, "every", type=o.positive, metavar="N", help="only every N-th iteration")
    o.flag(parser, "plot", metavar="FILE", help="draw the schedule (PNG, SVG or PDF)")


def call(args: argparse.Namespace) -> None:
    solver = read_solver(o.required(args.solver, "Need a solver definition: --solver=FILE"), args.emit)
    with about(args.solver):
        schedule.check_schedule(solver)
        end, every = schedule.extent(solver)
    if not solver.HasField("max_iter"):
        print(f"max_iter is not set: the table goes to iteration {end}, by {args.every or every}", file=sys.stderr)
    if solver.lr_policy == "plateau":
        print('lr_policy "plateau" goes by the loss: the table is that of a loss that never falls', file=sys.stderr)
    if args.csv or not args.plot:
        with _output(args.csv or "-") as file:
            schedule.write_csv(schedule.table(solver, args.every), file)
    if args.plot:
        plot_schedule(schedule.table(solver, max(args.every or 1, -(-end // 20_000))), args.plot, title=args.solver)


def _output(path: str) -> contextlib.AbstractContextManager[TextIO]:
    """A file to write, or standard output for `-`."""
    if path == "-":
        return contextlib.nullcontext(sys.stdout)
    return _replaced(path)


@contextlib.contextmanager
def _replaced(path: str) -> Iterator[TextIO]:
    """The whole file or none; of a device or a pipe there is nothing to replace."""
    with contextlib.ExitStack() as stack:
        try:
            plain = not os.path.exists(path) or os.path.isfile(path)
            place = stack.enter_context(replacing(path)) if plain else path
            with open(place, "w", encoding="utf-8") as file:
                yield file
            stack.close()
        except OSError as error:
            raise CaffeError(f"{path}: cannot be written: {error.strerror}") from None


def plot_schedule(rows: Iterable[schedule.Row], file: str | Path, title: str = "") -> None:
    """Draw learning rate above momentum against the iteration.

    rows: of schedule.table. file: an image, its suffix decides the format. Needs no display.
    """
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
