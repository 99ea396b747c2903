"""What a learning rate range test shows: where training starts to work, where it is best, where it breaks.

A range test raises the learning rate from run start to end (arXiv 1803.09820, section 4.1; 1506.01186, section 3.3).
The largest rate before the loss rises for good is max_lr. The smallest rate of a schedule follows from it: a third
to a quarter of max_lr for repeated cycles, a tenth to a twentieth for one cycle.

A single noisy curve is not to be trusted point by point, so the break is the place where the smoothed loss leaves
the neighbourhood of its minimum and never comes back, moved to the knee of a hinge fitted there. How far the answer
moves with the threshold, the smoothing and from run to run tells how sure it is. max_lr lies below the smallest break.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pysolver.errors import CaffeError
from pysolver.logs.run import Run, Table

ONE_CYCLE = (20.0, 10.0)  # max_lr / min_lr, from the smaller to the larger min_lr
CYCLES = (4.0, 3.0)
THRESHOLDS = (0.1, 0.2, 0.3)  # part of the whole drop of the loss by which it must rise again
WINDOWS = (3, 5, 7)  # points of the running median
MINIMUM_POINTS = 6
ENOUGH_POINTS = 12  # with fewer between the start of training and its break nothing is sure
MARGIN = 0.8  # of the smallest break: the rule that experiments chose, see docs/results.md


@dataclass(frozen=True)
class Reading:
    """One run's curve and what it shows; rates are None where it does not show.

    worked: whether the loss ever fell. nan_from: the iteration from which on the loss is no number.
    """

    name: str
    what: str
    lr: np.ndarray
    loss: np.ndarray
    smooth: np.ndarray
    start: float | None
    best: float | None
    breaks: tuple[float, ...]  # of all thresholds and windows; empty if no break was seen
    worked: bool
    nan_from: int | None = None

    @property
    def broke(self) -> float | None:
        """The rate of the break: the middle of all the answers."""
        return float(np.median(self.breaks)) if self.breaks else None

    @property
    def points(self) -> int:
        """How many finite losses there are up to the break."""
        upto = np.inf if self.broke is None else self.broke
        return int((np.isfinite(self.loss) & (self.lr <= upto)).sum())

    @property
    def highest(self) -> float:
        """The highest rate that was tried."""
        return float(self.lr.max())


@dataclass(frozen=True)
class RangeTest:
    """What one or more range tests of the same net show together."""

    readings: tuple[Reading, ...]

    @property
    def break_seen(self) -> bool:
        """Whether more than half of the runs broke."""
        return 2 * sum(r.broke is not None for r in self.readings) > len(self.readings)

    @property
    def max_lr(self) -> float | None:
        """The largest rate that all runs bear, with a margin; None if nothing trained.

        Four fifths of the smallest break, whether or not most runs broke; else the highest rate that all tried. Two
        significant digits, rounded down. (In a cycle the rate stays near its top for long; a ramp only passes by.)
        """
        working = [r for r in self.readings if r.worked]
        if not working:
            return None
        breaks = [r.broke for r in working if r.broke is not None]
        return _round_down(MARGIN * min(breaks) if breaks else min(r.highest for r in working))

    @property
    def min_lr(self) -> float | None:
        """The initial rate for one cycle: a tenth of max_lr."""
        return None if self.max_lr is None else float(f"{self.max_lr / ONE_CYCLE[1]:.3g}")

    @property
    def min_lr_cycles(self) -> float | None:
        """The lower bound for repeated cycles: a quarter of max_lr."""
        return None if self.max_lr is None else float(f"{self.max_lr / CYCLES[0]:.3g}")

    @property
    def spread(self) -> float:
        """Largest break found divided by the smallest, over all runs and ways to look at them; 1 is best."""
        every = [rate for r in self.readings for rate in r.breaks]
        return max(every) / min(every) if every and min(every) > 0 else float("inf" if every else 1)

    @property
    def sure(self) -> str:
        """`high`, `fair` or `low`; one run alone is never more than fair."""
        seen = sum(r.broke is not None for r in self.readings)
        if any(r.points < ENOUGH_POINTS for r in self.readings):
            return "low"
        if seen not in (0, len(self.readings)) or self.spread > 2:
            return "low"
        return "high" if len(self.readings) > 1 and self.spread <= 1.3 else "fair"

    @property
    def certainty(self) -> str:
        """For a person: sure, fairly sure, not sure."""
        return {"high": "sure", "fair": "fairly sure", "low": "not sure"}[self.sure]

    def text(self) -> str:
        """The findings for a person."""
        lines = [_line(r) for r in self.readings]
        if self.max_lr is None:
            return "\n".join([*lines, "no max_lr: training did not work at any of these rates; try smaller ones"])
        count = len(self.readings)
        if self.break_seen:
            span = f"answers differ by a factor of {self.spread:.2f}" if self.spread > 1 else "all answers agree"
            lines.append(f"max_lr: {self.max_lr:g}   ({self.certainty}; {count} run{'s' * (count > 1)}, {span})")
            lines.append("this is four fifths of the smallest break: what all runs bear")
        else:
            lines.append(f"max_lr: at least {self.max_lr:g}   (no break seen: extend the range)")
        few = [r for r in self.readings if r.points < ENOUGH_POINTS]
        if few:
            lines.append(
                f"only {min(r.points for r in few)} losses up to the break: test more often, or ramp more slowly"
            )
        broke = sorted(r.broke for r in self.readings if r.broke is not None)
        if 0 < len(broke) < count:
            lines.append(f"the runs disagree: {len(broke)} of {count} broke, the first at {broke[0]:.3g}")
        low, high = (self.max_lr / part for part in ONE_CYCLE)
        lines.append(f"min_lr for one cycle (max/20 to max/10): {low:.3g} to {high:.3g}")
        low, high = (self.max_lr / part for part in CYCLES)
        lines.append(f"min_lr for repeated cycles (max/4 to max/3): {low:.3g} to {high:.3g}")
        if count == 1:
            lines.append("one run only: average a few with other seeds to be sure")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """The same as plain data."""
        bounds = {
            name: None if self.max_lr is None else [float(f"{self.max_lr / part:.3g}") for part in parts]
            for name, parts in (("one_cycle", ONE_CYCLE), ("cycles", CYCLES))
        }
        return {
            "max_lr": self.max_lr,
            "min_lr": self.min_lr,
            "min_lr_cycles": self.min_lr_cycles,
            "min_lr_ranges": bounds,
            "break_seen": self.break_seen,
            "sure": self.sure,
            "spread": self.spread if np.isfinite(self.spread) else None,
            "runs": [
                {
                    "log": r.name,
                    "curve": r.what,
                    "start": r.start,
                    "best": r.best,
                    "break": r.broke,
                    "highest": r.highest,
                    "nan_from": r.nan_from,
                }
                for r in self.readings
            ],
        }


def analyse(runs: Sequence[Run]) -> RangeTest:
    """Reads range tests: the test loss, as the paper does, or the train loss where there are too few tests.

    CaffeError if a run is no range test: no rates in its log, one that stands still, or too few points.
    """
    if not runs:
        raise CaffeError("no range test to analyse")
    return RangeTest(tuple(replace(read_curve(run.name, *loss_curve(run)), nan_from=run.nan_from) for run in runs))


def loss_curve(run: Run) -> tuple[str, np.ndarray, np.ndarray]:
    """What is read of a run (`test loss` or `train loss`), the rates in rising order, and the losses there."""
    told = run.train.select(run.train.told & np.isfinite(run.train.lr))
    if len(told) < 2:
        raise CaffeError(f"{run.name}: prints no learning rates; a range test needs `display` to be set")
    if told.lr.max() <= told.lr.min():
        raise CaffeError(f"{run.name}: no range test, its learning rate stays at {told.lr[0]:g}")
    if np.mean(np.diff(told.lr) == 0) > 0.5:
        raise CaffeError(f"{run.name}: no range test, its learning rate moves in steps")
    _check_ramp(run, told)
    tables = [("test loss", run.test), ("train loss", run.train)]
    for what, table in tables:
        if np.isfinite(table.main_loss).sum() >= MINIMUM_POINTS or (what == "train loss" and len(table)):
            lr = rates_at(told, table.iteration)
            way = ramp(lr)
            if len(way) >= MINIMUM_POINTS:
                return what, lr[way], table.main_loss[way]
    raise CaffeError(f"{run.name}: fewer than {MINIMUM_POINTS} losses on the way up; display or test more often")


def _check_ramp(run: Run, told: Table) -> None:
    """CaffeError for a cycle: its way up is short, or nothing breaks on it and the way down is where it learns."""
    way = ramp(told.lr)
    if len(way) >= 0.7 * len(told) or way[0] > way[-1]:
        return
    top, end = told.iteration[way[-1]], told.iteration[-1]
    alive = run.nan_from is None or run.nan_from > top
    policy = run.solver.get("lr_policy")
    if alive and (policy == "1cycle" or told.lr[-1] < 0.5 * told.lr[way[-1]]):
        raise CaffeError(
            f"{run.name}: no range test but a cycle: its learning rate rises to {told.lr[way[-1]]:g} at iteration "
            f"{top} of {end} and falls again, and training survives it; a range test rises to its end"
        )


def rates_at(told: Table, iteration: np.ndarray) -> np.ndarray:
    """The rate at any iteration: between printed rates and one step beyond them along straight lines."""
    x, lr = told.iteration, told.lr
    rates = np.interp(iteration, x, lr)
    after = iteration > x[-1]
    rates[after] = np.maximum(0, lr[-1] + (lr[-1] - lr[-2]) / (x[-1] - x[-2]) * (iteration[after] - x[-1]))
    return rates


def ramp(lr: np.ndarray) -> np.ndarray:
    """Indices of the way up to the highest rate; of a test that only falls the whole way, in rising order."""
    top = int(np.argmax(lr))
    return np.arange(top + 1) if top else np.arange(len(lr))[::-1]


def read_curve(name: str, what: str, lr: np.ndarray, loss: np.ndarray) -> Reading:
    """Finds start, best rate and break of one curve; lr rising, losses may be NaN (diverged) or spike.

    A loss that begins far above what a collapsed net has (ContrastiveLoss and EuclideanLoss do) rises by a small part
    of its whole drop where it breaks: if the differences show no break, the ratios are asked.
    """
    ceiling = _ceiling(loss)
    level = np.where(np.isfinite(loss), np.minimum(loss, ceiling), ceiling)
    smoothed = running_median(level, WINDOWS[1])
    first, best, drop, noise = _drop(level)
    worked = drop > max(3 * noise, 0.02 * abs(first))
    if not worked:
        return Reading(name, what, lr, loss, smoothed, None, None, (), False)
    below = np.flatnonzero(smoothed <= first - max(0.1 * drop, 2 * noise))
    breaks = _breaks(lr, level, loss)
    if not breaks and level.min() > 0:
        breaks = _breaks(lr, np.log(level), loss)
    return Reading(name, what, lr, loss, smoothed, float(lr[below[0]]), float(lr[best]), breaks, True)


def _drop(level: np.ndarray) -> tuple[float, int, float, float]:
    """The first value, the place of the lowest, the drop from the one to the other, and the noise."""
    smoothed = running_median(level, WINDOWS[1])
    first = float(np.median(level[: _few(level)]))
    best = int(np.argmin(smoothed))
    drop = first - float(smoothed[best])
    return first, best, drop, _noise(level, smoothed, best, drop)


def _breaks(lr: np.ndarray, level: np.ndarray, loss: np.ndarray) -> tuple[float, ...]:
    """Where it breaks by each threshold and smoothing; nothing if most of them see no break."""
    _, _, drop, noise = _drop(level)
    rises = [(max(part * drop, 3 * noise), window) for part in THRESHOLDS for window in WINDOWS]
    found = [_break(lr, running_median(level, window), rise, loss) for rise, window in rises]
    seen = tuple(rate for rate in found if rate is not None)
    return seen if 2 * len(seen) > len(found) else ()


def _few(values: np.ndarray) -> int:
    """How many points count as the beginning: enough that one spike among them does not matter."""
    return max(1, min(3, len(values) // 8))


def _ceiling(loss: np.ndarray) -> float:
    """A value above all that matters: what a diverged loss is cut to."""
    finite = loss[np.isfinite(loss)]
    if not len(finite):
        return 1.0
    typical, low = float(np.median(finite)), float(finite.min())
    beginning = float(np.median(finite[: _few(finite)]))
    return max(beginning, typical + 5 * max(typical - low, 0.1 * abs(typical), 1e-6))


def _noise(level: np.ndarray, smoothed: np.ndarray, best: int, drop: float) -> float:
    """Standard deviation of the loss around its smoothed self where training goes well."""
    well = np.flatnonzero(smoothed <= smoothed[best] + 0.5 * max(drop, 0))
    if len(well) < 5:
        well = np.arange(max(0, best - 3), min(len(level), best + 4))
    return 1.4826 * float(np.median(np.abs(level[well] - smoothed[well])))


def _break(lr: np.ndarray, smoothed: np.ndarray, rise: float, loss: np.ndarray) -> float | None:
    """Where the smoothed loss leaves the neighbourhood of its minimum for good; None if it does not."""
    best = int(np.argmin(smoothed))
    bound = smoothed[best] + rise
    last = int(np.flatnonzero(smoothed <= bound)[-1])
    beyond = len(lr) - 1 - last
    if beyond < 2:  # one high value at the very end may be noise; losses that are no numbers are not
        finite = np.flatnonzero(np.isfinite(loss))
        return None if finite[-1] == len(lr) - 1 else float(lr[finite[-1]])
    begin = max(best, last - max(8, len(lr) // 4))
    knee = begin + _knee(np.minimum(smoothed[begin : last + 2], bound + rise))
    return float(lr[min(knee, last)])


def _knee(values: np.ndarray) -> int:
    """The index where a flat line turns upwards, by least squares of all hinges with a rising second leg."""
    x = np.arange(len(values), dtype=float)
    errors = []
    for knee in range(len(values) - 1):
        leg = np.maximum(0, x - knee)
        matrix = np.stack([np.ones_like(x), leg], axis=1)
        (level, slope), *_ = np.linalg.lstsq(matrix, values, rcond=None)
        errors.append(((matrix @ (level, slope) - values) ** 2).sum() if slope > 0 else np.inf)
    return int(np.argmin(errors)) if errors else 0


def running_median(values: np.ndarray, window: int) -> np.ndarray:
    """Median of the points around each; fewer of them at the ends."""
    half = window // 2
    return np.array([np.median(values[max(0, i - half) : i + half + 1]) for i in range(len(values))])


def _round_down(rate: float) -> float:
    digits = 10.0 ** (np.floor(np.log10(rate)) - 1)
    return float(f"{np.floor(rate / digits + 1e-9) * digits:.2g}")


def _line(reading: Reading) -> str:
    words = []
    if not reading.worked:
        words.append("never falls")
    else:
        words += [f"falls from lr {reading.start:.3g}", f"is lowest at {reading.best:.3g}"]
        broke = reading.broke
        words.append(f"no break seen up to {reading.highest:.3g}" if broke is None else f"breaks at {broke:.3g}")
    if reading.nan_from is not None:
        words.append(f"NaN from iteration {reading.nan_from:,}")
    return f"{reading.name}: {reading.what} {', '.join(words)}"
