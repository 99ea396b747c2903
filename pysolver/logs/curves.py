"""From runs to curves: which values against what, smoothed, grouped and labelled. No drawing here."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pysolver.errors import CaffeError
from pysolver.logs.run import Run, Table

TRAIN, TEST = "train", "test"
RATES = ("lr", "momentum", "weight_decay")


@dataclass(frozen=True)
class Curve:
    """One line of a picture. low and high bound its band; raw is the line before smoothing; faint: superseded."""

    label: str
    what: str  # `test accuracy`, `train loss`, ...
    run: int  # index of the run or group: its colour
    x: np.ndarray
    y: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    raw: np.ndarray | None = None
    faint: bool = False
    dead_from: float | None = None  # x from which on the loss of its run is no number any more

    @property
    def phase(self) -> str:
        """`train`, `test`, or neither (`gap`, `lr`)."""
        return self.what.partition(" ")[0]


@dataclass(frozen=True)
class Axis:
    """What runs along the x axis: its label and the values of a table's rows."""

    label: str
    of: Callable[[Run, Table], np.ndarray]


# -- what to draw -----------------------------------------------------------------------------------------------------


def series(run: Run, what: str, old: bool = False) -> tuple[Table, np.ndarray]:
    """The table and the values that a name stands for.

    `train loss` (the loss output, else the displayed one), `test accuracy`, `train NAME`, `test NAME` (any output),
    `test1 NAME` (second test net), `smoothed loss` (as displayed), `gap` (test loss minus train loss: the
    generalisation error), `lr`, `momentum`, `weight_decay`, `speed`, `gradient`. CaffeError if the run has none.
    """
    if what == "gap":
        return generalisation_error(run)
    if what in ("lr", "momentum", "weight_decay", "speed", "smoothed loss"):
        table = run.old_train if old else run.train
        if what in ("lr", "momentum", "weight_decay"):
            table = table.select(table.told)
        return table, table["loss" if what == "smoothed loss" else what]
    match = re.fullmatch(r"(train|test)(\d*)[ :](.+)", what)
    if match is None:
        raise CaffeError(f"{run.name}: cannot draw '{what}'; it has {_offer(run)}")
    phase, net, name = match.groups()
    tables = {TRAIN: (run.train, run.old_train)}
    if int(net or 0) in run.tests:
        tables[TEST] = run.tests[int(net or 0)], run.old_tests[int(net or 0)]
    if phase not in tables:
        raise CaffeError(f"{run.name}: has no results of test net #{net or 0}")
    table = tables[phase][old]
    full = tables[phase][0]
    if name == "loss" and name not in full:
        return table, table.main_loss
    if name == "accuracy" and name not in full and full.accuracy_name:
        name = full.accuracy_name
    if name not in full:
        raise CaffeError(f"{run.name}: no '{name}' in its {phase} outputs; it has {_offer(run)}")
    if name not in table:
        return table, np.full(len(table), np.nan)
    return table, table.main_accuracy if name == table.accuracy_name else table[name]


def generalisation_error(run: Run) -> tuple[Table, np.ndarray]:
    """Test loss minus train loss at the test iterations (Figure 1b of arXiv 1803.09820)."""
    train, test = run.train, run.test
    good = np.isfinite(train.main_loss)
    if not len(test) or not good.any():
        raise CaffeError(f"{run.name}: the generalisation error needs train and test losses")
    between = np.interp(test.iteration, train.iteration[good], train.main_loss[good], left=np.nan, right=np.nan)
    return test, test.main_loss - between


def available(run: Run) -> list[str]:
    """The names of all that can be drawn of a run."""
    names = [f"train {name}" for name in run.train.outputs]
    for net, table in run.tests.items():
        names += [f"test{net or ''} {name}" for name in table.outputs]
    names += [n for n in ("lr", "momentum", "weight_decay", "speed") if np.isfinite(run.train[n]).any()]
    if np.isfinite(run.train.loss).any():
        names.append("smoothed loss")
    return names


def _offer(run: Run) -> str:
    return ", ".join(available(run)) or "nothing"


def default_series(run: Run) -> list[str]:
    """Losses of both phases and the accuracies of the (first) test net, as far as the run has them."""
    names = []
    if run.test.accuracy_name and len(run.test):
        names.append(f"test {run.test.accuracy_name}")
    elif run.train.accuracy_name:
        names.append(f"train {run.train.accuracy_name}")
    if np.isfinite(run.train.main_loss).any():
        names.append(f"train {run.train.loss_name}" if run.train.loss_name else "smoothed loss")
    if len(run.test) and run.test.loss_name:
        names.append(f"test {run.test.loss_name}")
    return names


# -- against what -----------------------------------------------------------------------------------------------------


def axis(kind: str, runs: Sequence[Run], epoch_size: int | None = None, batch: int | None = None) -> Axis:
    """The x axis: `iteration`, `epoch`, `seconds` (at work: gaps before a resume left out) or `lr`."""
    if kind == "iteration":
        return Axis("iteration", lambda run, table: table.iteration.astype(float))
    if kind == "lr":
        return Axis("learning rate", lambda run, table: table.lr)
    if kind == "epoch":
        factors = {id(run): _epochs_per_iteration(run, epoch_size, batch) for run in runs}
        return Axis("epoch", lambda run, table: table.iteration * factors[id(run)])
    longest = max((np.nanmax(working_time(r, r.train), initial=0.0) for r in runs), default=0.0)
    unit, size = ("h", 3600.0) if longest > 3 * 3600 else ("min", 60.0) if longest > 180 else ("s", 1.0)
    return Axis(f"time at work ({unit})", lambda run, table: working_time(run, table) / size)


def working_time(run: Run, table: Table) -> np.ndarray:
    """Seconds without the pauses between the parts of a resumed run, nor the work that was thrown away."""
    seconds, shift = table.seconds.copy(), 0.0
    for number, resume in enumerate(run.resumes, 1):
        before = run.train.select(run.train.iteration <= resume.iteration)
        before = before.select(before.part < number)
        reached = before.seconds[-1] - shift if len(before) else 0.0
        new_shift = resume.seconds - reached
        if np.isfinite(new_shift):
            rows = table.part >= number
            seconds[rows] = table.seconds[rows] - new_shift
            shift = new_shift
    return seconds


def _epochs_per_iteration(run: Run, epoch_size: int | None, batch: int | None) -> float:
    images, batch = epoch_size or run.images, batch or run.batch
    if not images:
        raise CaffeError(f"{run.name}: does not tell the size of the training set; give --epoch-size")
    if not batch:
        raise CaffeError(f"{run.name}: does not tell the batch size; give --batch")
    return batch / images


# -- smoothing and groups ---------------------------------------------------------------------------------------------


def smooth(y: np.ndarray, window: int) -> np.ndarray:
    """Centred running mean over `window` points; NaNs are left out of the means and stay where they are."""
    if window < 2 or len(y) < 2:
        return y
    good = np.isfinite(y)
    kernel = np.ones(min(window, 2 * len(y) - 1))
    total = np.convolve(np.where(good, y, 0.0), kernel, "full")
    count = np.convolve(good.astype(float), kernel, "full")
    middle = slice((len(kernel) - 1) // 2, (len(kernel) - 1) // 2 + len(y))
    with np.errstate(invalid="ignore"):
        return np.where(good, total[middle] / count[middle], y)


def with_corners(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A schedule with the corners between its points: where two straight lines meet that have two steps each.

    A log tells the rate at its displays only, and the peak of a cycle lies between two of them.
    """
    slopes = np.diff(y) / np.diff(x)
    scale = float(np.abs(slopes[np.isfinite(slopes)]).max(initial=0.0)) or 1.0
    corners = []
    for i in range(2, len(slopes) - 2):
        before, after = slopes[i - 1], slopes[i + 1]
        bends = abs(before - after) > 0.05 * scale
        if not bends or abs(slopes[i - 2] - before) + abs(slopes[i + 2] - after) > 0.02 * scale:
            continue
        place = (y[i + 1] - y[i] + before * x[i] - after * x[i + 1]) / (before - after)
        if x[i] < place < x[i + 1]:
            corners.append((i + 1, place, y[i] + before * (place - x[i])))
    at = [i for i, _, _ in corners]
    return np.insert(x, at, [c[1] for c in corners]), np.insert(y, at, [c[2] for c in corners])


def curves(runs: Sequence[Run], names: Sequence[str], x: Axis, labels: Sequence[str], window: int = 1) -> list[Curve]:
    """Every wanted series of every run; superseded parts as faint ones. A series may lack in some runs, not in all."""
    drawn, missing = [], {}
    for number, (run, label) in enumerate(zip(runs, labels)):
        for what in names:
            try:
                table, y = series(run, what)
            except CaffeError as error:
                missing[what] = error
                continue
            width = 1 if what in ("lr", "momentum", "weight_decay") else window
            smoothed = smooth(y, width)
            raw = y if width > 1 else None
            places = x.of(run, table)
            dead = None
            if run.nan_from is not None and what not in RATES:
                dead = next((float(place) for place, i in zip(places, table.iteration) if i >= run.nan_from), None)
            elif what in RATES and x.label != "learning rate":
                places, smoothed = with_corners(places, smoothed)
            drawn.append(Curve(label, what, number, places, smoothed, raw=raw, dead_from=dead))
            if what != "gap":
                drawn += _old_parts(run, what, x, label, number)
    for what, reason in missing.items():
        if not any(curve.what == what for curve in drawn):
            raise reason
    return drawn


def _old_parts(run: Run, what: str, x: Axis, label: str, number: int) -> list[Curve]:
    old, y = series(run, what, old=True)
    places = x.of(run, old) if len(old) else np.zeros(0)
    rows = (old.part == part for part in np.unique(old.part))
    return [Curve(label, what, number, places[r], y[r], faint=True) for r in rows if r.sum() > 1]


def group(drawn: Sequence[Curve], names: Sequence[str]) -> list[Curve]:
    """Curves of one group (by run index) become their mean and a band of one standard deviation (n - 1).

    names: the group's name of each run. Runs are compared where all of a group have values, at the x of the first.
    """
    order = list(dict.fromkeys(names))
    grouped = []
    for number, name in enumerate(order):
        members = [c for c in drawn if names[c.run] == name and not c.faint]
        for what in dict.fromkeys(c.what for c in members):
            same = [c for c in members if c.what == what]
            grouped.append(_band(same, f"{name} (n={len(same)})" if len(same) > 1 else name, number))
    return grouped


def _band(same: Sequence[Curve], label: str, number: int) -> Curve:
    first = same[0]
    if len(same) == 1:
        return Curve(label, first.what, number, first.x, first.y)
    start, end = max(np.nanmin(c.x) for c in same), min(np.nanmax(c.x) for c in same)
    x = first.x[(first.x >= start) & (first.x <= end)]
    if not len(x):
        raise CaffeError(f"the runs of group '{label}' have no iterations in common")
    values = np.array([np.interp(x, c.x, c.y) for c in same])
    mean, deviation = values.mean(0), values.std(0, ddof=1)
    return Curve(label, first.what, number, x, mean, low=mean - deviation, high=mean + deviation)


def group_names(runs: Sequence[Run], pattern: str) -> list[str]:
    """The group of each run: what a regular expression captures in its file name (or matches, without a group)."""
    try:
        regex = re.compile(pattern)
    except re.error as error:
        raise CaffeError(f"--group {pattern}: {error}") from None
    names = []
    for run in runs:
        match = regex.search(Path(run.name).name)
        if match is None:
            raise CaffeError(f"--group {pattern}: does not match {Path(run.name).name}")
        names.append(" ".join(g for g in match.groups() if g) or match[0])
    return names


# -- labels -----------------------------------------------------------------------------------------------------------

_SHORT = {
    "base_lr": "lr",
    "max_lr": "max lr",
    "lr_policy": "",
    "weight_decay": "wd",
    "cyclical_momentum": "min. momentum",
    "stepsize": "step size",
    "max_iter": "iterations",
    "clip_gradients": "clip",
    "iter_size": "iter size",
    "random_seed": "seed",
    "name": "",
    "type": "",
}


_LONG = 90  # characters of a name in a legend: then the file alone tells runs apart


def labels(runs: Sequence[Run]) -> list[str]:
    """Names for a legend: the parameters in which the runs differ, else their files."""
    files = _files(runs)
    if len(runs) == 1:
        return files
    found = [run.parameters() for run in runs]
    keys = [k for k in _ordered(found) if len({str(p.get(k)) for p in found}) > 1][:5]
    texts = [", ".join(filter(None, (_say(k, p[k]) for k in keys if k in p))) for p in found]
    both = [text if text and texts.count(text) == 1 else f"{text} ({file})" if text else file
            for text, file in zip(texts, files)]  # fmt: skip
    return [file if len(name) > _LONG and len(file) < len(name) else name for name, file in zip(both, files)]


def _ordered(found: Sequence[dict]) -> list[str]:
    keys = dict.fromkeys(k for p in found for k in p)
    return sorted(keys, key=lambda k: list(_SHORT).index(k) if k in _SHORT else len(_SHORT))


def _say(key: str, value: object) -> str:
    name = _SHORT.get(key, key.replace("_", " "))
    text = f"{value:g}" if isinstance(value, float) else str(value)
    if isinstance(value, list):
        text = "/".join(map(str, value))
    return f"{name} {text}".strip()


def _files(runs: Sequence[Run]) -> list[str]:
    """File names; where some are the same, the parts of the paths between what all of them begin and end with."""
    names = [Path(run.name).name.removesuffix(".gz").removesuffix(".log") for run in runs]
    if len(set(names)) == len(names):
        return names
    paths = [Path(run.name).parts for run in runs]
    while len({path[:1] for path in paths}) == 1 and min(map(len, paths)) > 1:
        paths = [path[1:] for path in paths]
    while len({path[-1:] for path in paths}) == 1 and min(map(len, paths)) > 1:
        paths = [path[:-1] for path in paths]
    return ["/".join(path) for path in paths]
