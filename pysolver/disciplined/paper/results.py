"""What is kept of a run: its parsed curves and where it comes from, small enough to commit.

experiments/results/NAME.jsonl has one run a line, in the order of curve, scale and run.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from pysolver.disciplined.paper.experiment import Curve, Experiment
from pysolver.disciplined.paper.lock import alone
from pysolver.disciplined.paper.trials import Variation, settings_of
from pysolver.disciplined.reading import rates_at, read_curve, running_median
from pysolver.errors import CaffeError
from pysolver.files import read_bytes, write_atomic
from pysolver.logs.run import Run

LARGEST_FILE = 1 << 26
DIGITS = 5


@dataclass(frozen=True)
class Origin:
    """Where a run was made."""

    commit: str
    date: str
    machine: str


@dataclass(frozen=True)
class Result:
    """One run. test: columns iteration, loss, accuracy, rate, momentum; train: iteration, loss. NaN is null.

    scale: of the length, 1 is the experiment's. seconds: at work, from the first to the last line of each part of the
    log. machine: says too at which iterations a run went on from a snapshot. settings: digits of what was trained
    (settings_of), which tell when the experiment says something else by now.
    """

    curve: str
    seed: int
    scale: float
    batch: int
    filler: str
    iterations: int
    seconds: float
    commit: str
    date: str
    machine: str
    settings: str
    test: dict[str, list[float | None]]
    train: dict[str, list[float | None]]

    def column(self, what: str) -> tuple[np.ndarray, np.ndarray]:
        """Iterations and values of `test loss`, `test accuracy`, `train loss` or `gap`."""
        if what == "gap":
            at = _array(self.test["iteration"])
            step = at[1] - at[0] if len(at) > 1 else 0
            return at, np.array([self._gap(iteration - step, iteration + step) for iteration in at])
        table = getattr(self, what.split()[0])
        return _array(table["iteration"]), _array(table[what.split()[1]])

    def _gap(self, begin: float, end: float) -> float:
        """Mean test loss less mean train loss of these iterations: of single batches the latter is noisy."""
        means = []
        for table in (self.test, self.train):
            at, loss = _array(table["iteration"]), _array(table["loss"])
            within = loss[(at >= begin) & (at <= end) & np.isfinite(loss)]
            means.append(float(within.mean()) if len(within) else np.nan)
        return means[0] - means[1]

    def value(self, measure: str, moving: str = "rate") -> float:
        """One of claims.MEASURES; a diverged run has infinite losses, and minus infinity for its accuracy.

        moving: what `breaks` is told in; infinity if no break was seen. NaN where the run does not say.
        """
        loss, accuracy = _array(self.test["loss"]), 100 * _array(self.test["accuracy"])
        if measure == "breaks":
            return self._break(_array(self.test[moving]), loss)
        if not np.isfinite(loss).any() or measure in ("accuracy", "loss", "gap") and not np.isfinite(loss[-1]):
            return -np.inf if measure.endswith("accuracy") else np.inf
        if measure.endswith("accuracy"):
            known = accuracy[np.isfinite(accuracy)]
            return float(accuracy[-1]) if measure == "accuracy" else max(known.tolist(), default=np.nan)
        if measure == "lowest loss":
            return float(np.nanmin(loss))
        return float(loss[-1]) if measure == "loss" else self._gap(0.75 * self.iterations, self.iterations)

    def _break(self, moving: np.ndarray, loss: np.ndarray) -> float:
        """Where the reading sees it, else where the run lived last; of a flat loss NaN, for nobody knows."""
        reading = read_curve(self.curve, "test loss", moving, loss)
        if reading.broke is not None:
            return reading.broke
        alive = np.flatnonzero(loss <= _bound(loss))
        if not len(alive):
            return float(moving[0])
        beyond = loss[alive[-1] + 1 :]
        if len(beyond) > 1 or len(beyond) and not np.isfinite(beyond[-1]):  # one high value at the end may be noise
            return float(moving[alive[-1]])
        return np.copysign(np.inf, moving[-1] - moving[0]) if reading.worked else np.nan


def _bound(loss: np.ndarray) -> float:
    """A loss above which a net is dead: half-way up from its lowest, a tenth above its first if it never learned."""
    finite = loss[np.isfinite(loss)]
    if not len(finite):
        return -np.inf
    first = float(finite[0])
    drop = first - float(running_median(np.where(np.isfinite(loss), loss, np.inf), 3).min())
    return first - 0.5 * drop if drop > 0.1 * abs(first) else first + 0.1 * abs(first)


def result_of(run: Run, curve: Curve, scale: float, variation: Variation, origin: Origin, settings: str) -> Result:
    """What is kept of a finished run; CaffeError if it has no tests, or a machine that went down took some with it."""
    if not len(run.test):
        raise CaffeError(f"{run.name}: has no test results")
    if len(set(np.diff(run.test.iteration).tolist())) > 1:
        raise CaffeError(f"{run.name}: lacks some of its tests; without its folder the run begins anew")
    told = run.train.select(run.train.told & np.isfinite(run.train.lr))
    test = run.test
    accuracy = np.full(len(test), np.nan) if test.accuracy_name is None else test.main_accuracy
    momentum = np.interp(test.iteration, told.iteration, told.momentum)
    columns = {
        "iteration": test.iteration,
        "loss": test.main_loss,
        "accuracy": accuracy,
        "rate": rates_at(told, test.iteration) if len(told) > 1 else np.full(len(test), np.nan),
        "momentum": momentum,
    }
    resumed = "".join(f", resumed at {resume.iteration}" for resume in run.resumes if resume.iteration)
    train = {"iteration": run.train.iteration, "loss": run.train.main_loss}
    return Result(
        curve=curve.name,
        scale=scale,
        **vars(variation),
        iterations=int(test.iteration[-1]),
        seconds=round(_seconds(run), 1),
        **vars(replace(origin, machine=origin.machine + resumed)),
        settings=settings,
        test=_lists(columns),
        train=_lists(train),
    )


def _seconds(run: Run) -> float:
    """Of each part up to the snapshot from which the next goes on, without what passed between them."""
    begins = [0.0, *(resume.seconds for resume in run.resumes)]
    ends = list(begins)
    for table in (run.train, run.test, run.old_train, *run.old_tests.values()):
        for part, iteration, time in zip(table.part.tolist(), table.iteration.tolist(), table.seconds.tolist()):
            if all(iteration <= resume.iteration for resume in run.resumes[part:]):
                ends[part] = max(ends[part], time)
    return sum(ends) - sum(begins)


def read_results(folder: Path, experiment: Experiment) -> list[Result]:
    """All runs that are kept of an experiment; none is no error. CaffeError for a line that is no run, or another's."""
    path = folder / f"{experiment.name}.jsonl"
    if not path.exists():
        return []
    found: dict[tuple[str, int, float], tuple[int, Result]] = {}
    for number, line in enumerate(read_bytes(path, LARGEST_FILE).decode("utf-8", "replace").splitlines(), 1):
        if not line.strip():
            continue
        try:
            result = _result(json.loads(line))
        except (ValueError, TypeError, KeyError, RecursionError, OverflowError) as error:
            raise CaffeError(f"{path}:{number}: is no result: {error}") from None
        before, same = found.setdefault((result.curve, result.seed, result.scale), (number, result))
        if same != result:  # as a merge may leave it; it would count as one run more
            told = f"is run {result.seed} of '{result.curve}' at {result.scale:g} of the length"
            raise CaffeError(f"{path}:{number}: {told}, as line {before} is; one of the two must go")
    return [result for _, result in found.values()]


def find(results: Sequence[Result], experiment: Experiment, curve: Curve, number: int, scale: float) -> Result | None:
    """The run among them, if it was made with the settings of today."""
    named = [r for r in results if (r.curve, r.seed, r.scale) == (curve.name, number, scale)]
    return next((r for r in named if r.settings == settings_of(experiment, curve, number, scale)), None)


def outdated(experiment: Experiment, results: Sequence[Result]) -> list[Result]:
    """Those that were made with other settings than the experiment's of today, or of a curve that it has no more."""
    curves = {curve.name: curve for curve in experiment.curves}
    return [
        r
        for r in results
        if r.curve not in curves or r.settings != settings_of(experiment, curves[r.curve], r.seed, r.scale)
    ]


_KINDS = {"str": (str,), "int": (int,), "float": (int, float)}
_TABLES = {"test": ("iteration", "loss", "accuracy", "rate", "momentum"), "train": ("iteration", "loss")}


def _result(told: Any) -> Result:
    """The run of a line; TypeError or ValueError if anything in it is of another kind."""
    made = Result(**told)
    for field in fields(Result):
        value = getattr(made, field.name)
        if field.name not in _TABLES:
            if type(value) not in _KINDS[str(field.type)]:
                raise ValueError(f"{field.name} is {value!r:.40}")
            continue
        lengths = {len(value[name]) if isinstance(value[name], list) else 0 for name in _TABLES[field.name]}
        if len(lengths) != 1 or not all(lengths):
            raise ValueError(f"the columns of {field.name} have not all the same length")
        for name in _TABLES[field.name]:
            if not all(entry is None or type(entry) in (int, float) for entry in value[name]):
                raise ValueError(f"{field.name}: {name} has something else than numbers")
    return made


def keep(folder: Path, experiment: Experiment, results: Sequence[Result]) -> None:
    """Add runs to what is kept; a run of the same curve, seed and scale is replaced."""
    with alone(folder):  # two that read, add and write would lose what the first has added
        every = {(r.curve, r.scale, r.seed): r for r in [*read_results(folder, experiment), *results]}
        order = {curve.name: i for i, curve in enumerate(experiment.curves)}
        rows = sorted(every.values(), key=lambda r: (order.get(r.curve, len(order)), r.curve, -r.scale, r.seed))
        text = "".join(json.dumps(asdict(row), allow_nan=False) + "\n" for row in rows)
        write_atomic(folder / f"{experiment.name}.jsonl", text.encode())


def _lists(columns: dict[str, np.ndarray]) -> dict[str, list[float | None]]:
    return {name: [_short(value) for value in values.tolist()] for name, values in columns.items()}


def _short(value: float) -> float | None:
    if isinstance(value, int):
        return value
    return float(f"{value:.{DIGITS}g}") if np.isfinite(value) else None


def _array(values: Sequence[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], float)
