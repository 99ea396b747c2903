"""From a wish to a picture: reads the logs, picks the curves, draws and writes. What `pysolver plot_log` does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pysolver.errors import CaffeError
from pysolver.files import replacing
from pysolver.logs import curves as c
from pysolver.logs.reader import follow_log, read_logs
from pysolver.logs.run import Run


@dataclass(frozen=True)
class Chart:
    """One of the chart types of Caffe's tools/extra/plot_training_log."""

    title: str
    what: str
    x: str


CHARTS = tuple(
    Chart(f"{name} vs. {'Iters' if x == 'iteration' else 'Seconds'}", what, x)
    for name, what in (
        ("Test accuracy", "test accuracy"),
        ("Test loss", "test loss"),
        ("Train learning rate", "lr"),
        ("Train loss", "train loss"),
    )
    for x in ("iteration", "seconds")
)


@dataclass(frozen=True)
class Wish:
    """What to draw and how; the options of `pysolver plot_log`."""

    output: str | None = None
    interactive: str | None = None
    names: Sequence[str] | None = None
    x: str = "iteration"
    epoch_size: int | None = None
    batch: int | None = None
    smooth: int = 1
    group: str | None = None
    rates: bool = False
    log_x: bool = False
    log_y: bool = False
    labels: Sequence[str] | None = None
    title: str | None = None
    size: str | None = None
    chart: int | None = None


def draw(paths: Sequence[str], wish: Wish, follow: float | None = None) -> None:
    """Writes the wished picture(s) of some logs; with `follow` (seconds) again whenever the one log has grown."""
    if not (wish.output or wish.interactive):
        raise CaffeError("nowhere to draw to: give -o FILE or --interactive FILE")
    if follow is not None and len(paths) != 1:
        raise CaffeError("--follow takes one log")
    for runs in _runs(paths, follow):
        _write(runs, wish)


def _runs(paths: Sequence[str], follow: float | None) -> Iterator[Sequence[Run]]:
    if follow is None:
        yield read_logs(list(paths))
        return
    for run in follow_log(paths[0], follow):
        yield [run]


def _write(runs: Sequence[Run], wish: Wish) -> None:
    if wish.chart is not None:
        chart = CHARTS[wish.chart]
        wish = replace(wish, names=[chart.what], x=chart.x, title=wish.title or chart.title)
    drawn, x = wanted_curves(runs, wish)
    marks = _resume_marks(runs[0], x) if len(runs) == 1 else []
    if len({curve.run for curve in drawn}) == 1 and wish.title is None:
        wish = replace(wish, title=drawn[0].label)
    if wish.output:
        from pysolver.logs import plot  # here, as matplotlib takes its time

        made = plot.figure(drawn, x.label, title=wish.title, size=_size(wish.size), log_x=wish.log_x,
                           log_y=wish.log_y, marks=marks)  # fmt: skip
        swap_in(wish.output, lambda path: plot.save(made, path))
    if wish.interactive:
        from pysolver.logs import interactive

        page = interactive.page(drawn, x.label, title=wish.title, log_x=wish.log_x, log_y=wish.log_y, marks=marks)
        swap_in(wish.interactive, lambda path: Path(path).write_text(page, encoding="utf-8"))


def wanted_curves(runs: Sequence[Run], wish: Wish) -> tuple[list[c.Curve], c.Axis]:
    """The curves of a wish and their x axis."""
    names = list(wish.names or _common_series(runs))
    if wish.rates:
        names += [n for n in ("lr", "momentum") if n in {name for run in runs for name in c.available(run)}]
    if not names:
        raise CaffeError(f"{runs[0].name}: has no outputs to draw; try -y lr")
    if wish.labels and len(wish.labels) != len(runs):
        raise CaffeError(f"{len(wish.labels)} labels for {len(runs)} logs")
    axis = c.axis(wish.x, runs, wish.epoch_size, wish.batch)
    drawn = c.curves(runs, names, axis, wish.labels or c.labels(runs), wish.smooth)
    if wish.group:
        drawn = c.group(drawn, c.group_names(runs, wish.group))
    return drawn, axis


def _common_series(runs: Sequence[Run]) -> dict[str, None]:
    """What is drawn unless something else is asked for; CaffeError if no two of the logs share any of it."""
    offers = [c.default_series(run) for run in runs]
    if len(runs) > 1 and len(set().union(*offers)) == sum(map(len, offers)):
        has = "; ".join(f"{run.name} has {', '.join(offer) or 'nothing'}" for run, offer in zip(runs, offers))
        raise CaffeError(f"the logs have nothing in common to draw: {has}")
    return dict.fromkeys(name for offer in offers for name in offer)


def _resume_marks(run: Run, x: c.Axis) -> list[float]:
    """Where along the axis a run was resumed."""
    marks = []
    for number, _ in enumerate(run.resumes, 1):
        rows = run.train.select(run.train.part >= number)
        if len(rows):
            marks.append(float(x.of(run, run.train)[run.train.part >= number][0]))
    return marks


def _size(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        width, height = (float(part) for part in text.lower().split("x"))
    except ValueError:
        raise CaffeError(f"--size {text}: give inches as WIDTHxHEIGHT, such as 8x5") from None
    if not (0.5 < width < 100 and 0.5 < height < 100):
        raise CaffeError(f"--size {text}: inches between 1 and 100, please")
    return width, height


def swap_in(path: str, write: Callable[[str], object]) -> None:
    """The whole file or none, so that a viewer of a followed run never sees half a picture."""
    aside = Path()
    try:
        with replacing(path) as aside:
            write(str(aside))
    except CaffeError as error:
        raise CaffeError(str(error).replace(str(aside), path)) from None
