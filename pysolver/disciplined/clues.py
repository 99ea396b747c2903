"""What the curves of a run tell about its hyper-parameters (arXiv 1803.09820, sections 3 and 4).

The paper reads the test loss, and looks early: falling steadily through much of the run is underfitting; rising
while the train loss falls is overfitting; a rise of both is instability; the horizontal part is the sought balance.
A loss that falls because the learning rate is being lowered tells nothing of the kind and is left out. Near a
divergence, and after it, nothing else is read: no advice there raises the rate.

A clue is a function below `@clue`, with its name, colour, meaning and advice in one place: what it finds is what
`find_clues`, the pictures and the documentation know.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pysolver.disciplined.reading import rates_at, running_median
from pysolver.errors import CaffeError
from pysolver.logs.header import many
from pysolver.logs.run import Run

MINIMUM_TESTS = 8
LONG = 0.2  # part of the run that a stretch must last to mean something
DESCENT = 0.1  # part of the run in which any loss falls
CHANGE = 0.06  # part of the whole drop of the loss, within a window, that counts as a change
NEAR = 0.1  # part of the run before a divergence that belongs to it
STEADY = 1.5  # a steady fall is so many times the scatter around its line


@dataclass(frozen=True)
class Kind:
    """A kind of clue: its name, its colour in pictures, what shows, and what to move."""

    name: str
    colour: str
    meaning: str
    advice: str


@dataclass(frozen=True)
class Clue:
    """A finding: what (kind) shows from iteration start to end, at which rates, in words, and what to move."""

    kind: str
    start: int
    end: int
    rates: tuple[float, float] | None
    text: str
    advice: str

    def __str__(self) -> str:
        at = f", lr {self.rates[0]:.3g} to {self.rates[1]:.3g}" if self.rates else ""
        return f"{self.kind}: iterations {self.start} to {self.end}{at}: {self.text}\n    {self.advice}"


@dataclass(frozen=True)
class Case:
    """A run with what is measured on it. lr: at each test; stretches: rows first to last in which the losses do one
    thing; dies: the row of the test from which on the net is dead, len(tests) if it lives."""

    run: Run
    trends: Trends
    lr: np.ndarray
    stretches: tuple[tuple[str | None, int, int], ...]
    dies: int

    def of(self, movement: str) -> Iterator[tuple[int, int]]:
        """The stretches of one movement that end before the net is near its death."""
        for kind, first, last in self.stretches:
            if kind == movement:
                yield first, last

    def length(self, first: int, last: int) -> float:
        """Part of the run that a stretch lasts."""
        x = self.trends.iteration
        return float(x[last] - x[first]) / max(1, int(x[-1]))

    def rates(self, first: int, last: int) -> tuple[float, float] | None:
        """The rates of a stretch: from its first to its last, from the lowest to the highest if they turn within."""
        lr = self.lr[first : last + 1]
        if not np.isfinite(lr).all():
            return None
        ends = float(lr[0]), float(lr[-1])
        low, high = float(lr.min()), float(lr.max())
        return ends if {low, high} == set(ends) else (low, high)


KINDS: dict[str, Kind] = {}
_CLUES: list[tuple[Kind, Callable[[Kind, Case], Iterator[Clue]]]] = []
Finder = Callable[[Kind, Case], Iterator[Clue]]


def clue(name: str, colour: str, meaning: str, advice: str) -> Callable[[Finder], Finder]:
    """Registers a function that finds clues of this kind."""

    def add(function: Finder) -> Finder:
        KINDS[name] = Kind(name, colour, meaning, advice)
        _CLUES.append((KINDS[name], function))
        return function

    return add


def find_clues(run: Run) -> list[Clue]:
    """The clues in the order of iterations; CaffeError if the run has too few tests to tell."""
    if len(run.test) < MINIMUM_TESTS:
        raise CaffeError(f"{run.name}: {len(run.test)} tests are too few for clues, {MINIMUM_TESTS} are needed")
    case = look_at(run)
    gap = int(0.08 * case.trends.iteration[-1])
    found = [one for kind, function in _CLUES for one in _joined(list(function(kind, case)), gap)]
    return sorted(found, key=lambda one: one.start)


def look_at(run: Run) -> Case:
    """What the clues are read from."""
    trends = measure(run)
    finite = np.isfinite(run.test.main_loss)  # a loss that is no number is neither level nor rising
    dies = _death(run)
    near = (
        int(np.searchsorted(trends.iteration, trends.iteration[dies] - NEAR * trends.iteration[-1]))
        if dies < len(finite)
        else dies
    )
    moves = [_movement(trends, i) if finite[i] and i < near else None for i in range(len(trends.iteration))]
    told = run.train.select(run.train.told & np.isfinite(run.train.lr))
    lr = rates_at(told, trends.iteration) if len(told) > 1 else run.test.lr
    return Case(run, trends, lr, tuple(_stretches(moves)), dies)


def _death(run: Run) -> int:
    """The first test of a net that never lives again: its loss is no number, or that of the beginning or worse."""
    loss = _level(run.test.main_loss)
    first, low = float(np.median(loss[:3])), float(loss.min())
    dead = ~np.isfinite(run.test.main_loss) | (loss > low + 0.7 * (first - low))
    if run.nan_from is not None:
        dead |= run.test.iteration >= run.nan_from
    has_learned = np.minimum.accumulate(loss) < first - 0.3 * abs(first)
    alive = np.flatnonzero(~(dead & (has_learned | ~np.isfinite(run.test.main_loss))))
    if run.nan_from is not None:
        alive = alive[run.test.iteration[alive] < run.nan_from]
    return int(alive[-1]) + 1 if len(alive) else 0


FALLS, LEVEL, RISES, RISES_ALONE = "falls", "level", "rises", "rises alone"

# kinds that others look for
UNDERFITTING, OVERFITTING, INSTABILITY, PLATEAU = "underfitting", "overfitting", "instability", "plateau"
STATISTICS = "train and test disagree"


@clue(UNDERFITTING, "#56B4E9", "test loss keeps falling steadily",
      "raise max_lr (a range test shows how far), or lower weight_decay, or take a larger net")  # fmt: skip
def _underfitting(kind: Kind, case: Case) -> Iterator[Clue]:
    """A long steady fall that is not the first descent, nor that of a rate that is being lowered."""
    x, loss = case.trends.iteration, case.run.test.main_loss
    for first, last in case.of(FALLS):
        length = (x[last] - max(x[first], DESCENT * x[-1])) / max(1, x[-1])
        lowered = case.lr[last] < 0.95 * case.lr[first]
        if length >= LONG and not lowered and _is_steady(x[first : last + 1], loss[first : last + 1]):
            yield _clue(kind, case, first, last)


@clue(OVERFITTING, "#D55E00", "test loss rises while train loss does not",
      "raise max_lr if a range test allows it (large rates regularise); else weight_decay, threefold")  # fmt: skip
def _overfitting(kind: Kind, case: Case) -> Iterator[Clue]:
    """Section 3.2: the test loss rises, the train loss does not. Not where the net dies soon after."""
    for first, last in case.of(RISES_ALONE):
        if _lasts(case, first, last):
            yield _clue(kind, case, first, last)


@clue(INSTABILITY, "#CC79A7", "test and train loss rise together",
      "lower max_lr, or momentum: what counts is rate / (1 - momentum); or clip gradients")  # fmt: skip
def _instability(kind: Kind, case: Case) -> Iterator[Clue]:
    """Both losses rise; or the net dies, by a loss that is no number or one as if it had never learned."""
    x, end = case.trends.iteration, len(case.trends.iteration) - 1
    for first, last in case.of(RISES):
        if _lasts(case, first, last):
            sharp = case.trends.test[first : last + 1].max() > 0.5 * case.trends.drop
            yield _clue(kind, case, first, last, kind.meaning + (", sharply: it diverges" if sharp else ""))
    if case.dies <= end:
        at = x[case.dies]
        nan = case.run.nan_from
        if nan is None:
            text = "the loss is as if nothing had been learned, and stays there: it diverges"
        else:
            text = f"the loss is no number any more from iteration {nan} on: it diverges"
            at = min(at, nan)
        dying = _clue(kind, case, case.dies, end, text)
        yield replace(dying, start=int(at))
    elif case.run.nan_from is not None:
        text = f"the loss is no number any more from iteration {case.run.nan_from} on: it diverges"
        yield Clue(kind.name, case.run.nan_from, max(int(x[-1]), case.run.nan_from), None, text, kind.advice)


@clue(PLATEAU, "#009E73", "test loss is level: the balance that is sought",
      "keep these values; finish with the rate going down to far below base_lr")  # fmt: skip
def _plateau(kind: Kind, case: Case) -> Iterator[Clue]:
    """Section 3: the horizontal part of the test loss."""
    for first, last in case.of(LEVEL):
        if case.length(first, last) >= LONG:
            lowered = case.lr[last] < 0.7 * case.lr[first]
            text = "test loss is level although the rate is lowered: the run could end here"
            yield _clue(kind, case, first, last, text if lowered else kind.meaning)


@clue(STATISTICS, "#777777", "good in training, near nothing in tests",
      "lower BatchNorm's moving_average_fraction; prepare train and test data alike")  # fmt: skip
def _statistics(kind: Kind, case: Case) -> Iterator[Clue]:
    """BatchNorm's averages, not the weights, are wrong."""
    train, test = case.run.train, case.run.test
    fractions = batch_norm_fractions(case.run)
    if not (train.accuracy_name and test.accuracy_name and fractions):
        return
    trained = np.interp(test.iteration, train.iteration, train[train.accuracy_name])
    bad = np.flatnonzero((trained > 0.5) & (test[test.accuracy_name] < 0.4 * trained))
    if len(bad) < 3:
        return
    text = f"train accuracy {trained[bad].mean():.2f}, test accuracy {test[test.accuracy_name][bad].mean():.2f}"
    advice = (
        f"BatchNorm's running averages (moving_average_fraction {', '.join(f'{f:g}' for f in fractions)}) do not "
        "follow the weights at these rates: try 0.95 or less, and check that train and test data are prepared alike"
    )
    yield Clue(kind.name, int(test.iteration[bad[0]]), int(test.iteration[bad[-1]]), None, text, advice)


def _clue(kind: Kind, case: Case, first: int, last: int, text: str = "") -> Clue:
    x = case.trends.iteration
    return Clue(kind.name, int(x[first]), int(x[last]), case.rates(first, last), text or kind.meaning, kind.advice)


def _lasts(case: Case, first: int, last: int) -> bool:
    """Whether a rise is long, or short and steep; not one that a cycle of the rate makes and takes back."""
    steep = case.trends.test[first : last + 1].max() > 2 * case.trends.enough[first]
    is_long = case.length(first, last) >= (0.05 if steep else LONG)
    ways_up = [(start, end) for kind, start, end in case.stretches if kind in (RISES, RISES_ALONE)]
    for start, end in reversed(ways_up):  # the whole way up
        first = start if end == first - 1 else first
    for start, end in ways_up:
        last = end if start == last + 1 else last
    loss = _level(case.run.test.main_loss)
    before, rise = loss[first], loss[first : last + 1].max() - loss[first]
    comes_back = loss[last + 1 :].min(initial=np.inf) < before + 0.4 * rise
    lows = np.flatnonzero(loss[: first + 1] <= before + 0.3 * rise)
    came_back = loss[lows[0] : first + 1].max() > before + 0.7 * rise
    if case.lr[last] > case.lr[first] and (comes_back or came_back):
        return False
    return is_long


def _is_steady(x: np.ndarray, loss: np.ndarray) -> bool:
    """Whether a fall is more than the scatter of the losses around its line: a zigzag is not."""
    good = np.isfinite(loss)
    if good.sum() < 3:
        return True
    slope, start = np.polyfit(x[good].astype(float), loss[good], 1)
    scatter = 1.4826 * float(np.median(np.abs(loss[good] - (slope * x[good] + start))))
    return -slope * (x[good][-1] - x[good][0]) > STEADY * scatter


def _joined(clues: Sequence[Clue], gap: int) -> list[Clue]:
    """Clues of one kind with little between them are one."""
    joined: list[Clue] = []
    for one in clues:
        last = joined[-1] if joined else None
        if last and one.start - last.end <= gap:
            rates = (last.rates[0], one.rates[1]) if last.rates and one.rates else last.rates or one.rates
            text = max(last.text, one.text, key=len)
            joined[-1] = replace(last, end=max(last.end, one.end), rates=rates, text=text)
        else:
            joined.append(one)
    return joined


@dataclass(frozen=True)
class Trends:
    """At each test: change of test and train loss within the window around it, and what counts as a change.

    drop: how far the test loss fell after its first descent.
    """

    iteration: np.ndarray
    test: np.ndarray
    train: np.ndarray
    enough: np.ndarray
    drop: float


def measure(run: Run) -> Trends:
    """Local straight-line fits of the losses, in windows of an eighth of the tests."""
    test, train = run.test, run.train
    x = test.iteration.astype(float)
    y = _level(test.main_loss)
    good = np.isfinite(train.main_loss)
    trained = running_median(train.main_loss[good], 5)
    t = np.interp(x, train.iteration[good], trained) if good.any() else np.zeros(len(x))
    whole = float(np.median(y[:3]) - y.min())
    later = float(np.quantile(y[len(y) // 8 :], 0.75) - y.min())  # the first descent would hide all that follows
    drop = max(min(whole, max(later, 0.1 * whole)), 0.05 * abs(float(y.min())), 1e-12)
    fine = np.isfinite(test.main_loss)
    noise = 1.4826 * float(np.median(np.abs(test.main_loss - y)[fine])) if fine.any() else 0.0
    half = max(2, len(x) // 16)
    rows = []
    for i in range(len(x)):
        window = slice(max(0, i - half), i + half + 1)
        enough = max(CHANGE * drop, 3 * noise * (12 / len(x[window])) ** 0.5)  # three standard errors of a fit's change
        rows.append((_change(x[window], y[window]), _change(x[window], t[window]), enough))
    changes = np.array(rows).T
    return Trends(test.iteration, changes[0], changes[1], changes[2], drop)


def _level(loss: np.ndarray) -> np.ndarray:
    """The loss without single spikes; what diverged is set to the largest finite value."""
    finite = loss[np.isfinite(loss)]
    top = float(finite.max()) if len(finite) else 1.0
    return running_median(np.where(np.isfinite(loss), loss, top), 5)


def _change(x: np.ndarray, y: np.ndarray) -> float:
    """How much y changes over the window, by a straight line."""
    centred = x - x.mean()
    return float((centred * y).sum() / (centred**2).sum() * (x[-1] - x[0]))


def _movement(trends: Trends, i: int) -> str:
    test, train, enough = trends.test[i], trends.train[i], trends.enough[i]
    if test < -enough:
        return FALLS
    if test <= enough:
        return LEVEL
    return RISES if train > max(0.25 * test, 0.5 * CHANGE * trends.drop) else RISES_ALONE


def _stretches(kinds: Sequence[str | None]) -> list[tuple[str | None, int, int]]:
    """Runs of the same kind as (kind, first, last); a single point between two alike is taken along."""
    kinds = list(kinds)
    for i in range(1, len(kinds) - 1):
        if kinds[i - 1] == kinds[i + 1]:
            kinds[i] = kinds[i - 1]
    found: list[tuple[str | None, int, int]] = []
    for i, kind in enumerate(kinds):
        if found and found[-1][0] == kind:
            found[-1] = kind, found[-1][1], i
        else:
            found.append((kind, i, i))
    return found


def batch_norm_fractions(run: Run) -> list[float]:
    """The moving average fractions of the train net's BatchNorm layers, each once; empty if there are none."""
    layers = [layer for layer in many(run.train_net, "layer") if layer.get("type") == "BatchNorm"]
    parameters = [layer.get("batch_norm_param", {}) for layer in layers]
    return sorted({float(p.get("moving_average_fraction", 0.999)) for p in parameters if isinstance(p, dict)})
