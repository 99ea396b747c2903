"""What the curves of a run tell about its hyper-parameters (arXiv 1803.09820, sections 3 and 4).

The paper reads the test loss, and looks early: falling steadily through much of the run is underfitting; rising
while the train loss falls is overfitting; a rise of both is instability; the horizontal part is the sought balance.
A loss that falls because the learning rate is being lowered tells nothing of the kind and is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pysolver.disciplined.reading import running_median
from pysolver.errors import CaffeError
from pysolver.logs.header import many
from pysolver.logs.run import Run

UNDERFITTING, OVERFITTING, INSTABILITY, PLATEAU = "underfitting", "overfitting", "instability", "plateau"
STATISTICS = "train and test disagree"
MINIMUM_TESTS = 8
LONG = 0.2  # part of the run that a stretch must last to mean something
DESCENT = 0.1  # part of the run in which any loss falls
CHANGE = 0.06  # part of the whole drop of the loss, within a window, that counts as a change

MEANING = {
    UNDERFITTING: "test loss keeps falling steadily",
    OVERFITTING: "test loss rises while train loss does not",
    INSTABILITY: "test and train loss rise together",
    PLATEAU: "test loss is level: the balance that is sought",
}
ADVICE = {
    UNDERFITTING: "raise max_lr (a range test shows how far), or lower weight_decay, or take a larger net",
    OVERFITTING: "raise max_lr if a range test allows it (large rates regularise); else weight_decay, threefold",
    INSTABILITY: "lower max_lr, or momentum: what counts is rate / (1 - momentum); or clip gradients",
    PLATEAU: "keep these values; finish with the rate going down to far below base_lr",
}


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
class Trends:
    """At each test: change of test and train loss within the window around it, and what counts as a change.

    drop: how far the test loss fell after its first descent.
    """

    iteration: np.ndarray
    test: np.ndarray
    train: np.ndarray
    enough: np.ndarray
    drop: float


def find_clues(run: Run) -> list[Clue]:
    """The clues in the order of iterations; CaffeError if the run has too few tests to tell."""
    if len(run.test) < MINIMUM_TESTS:
        raise CaffeError(f"{run.name}: {len(run.test)} tests are too few for clues, {MINIMUM_TESTS} are needed")
    trends = measure(run)
    finite = np.isfinite(run.test.main_loss)  # a loss that is no number is neither level nor rising
    kinds = [_kind(trends, i) if finite[i] else None for i in range(len(trends.iteration))]
    clues = []
    for kind, first, last in _stretches(kinds):
        clue = _clue(run, trends, kind, first, last) if kind else None
        if clue is not None:
            clues.append(clue)
    joined = _joined(clues, gap=int(0.08 * trends.iteration[-1]))
    return sorted([*joined, *_diverged(run), *_statistics(run)], key=lambda clue: clue.start)


def _joined(clues: Sequence[Clue], gap: int) -> list[Clue]:
    """Clues of one kind with little between them are one."""
    joined: list[Clue] = []
    for clue in clues:
        last = joined[-1] if joined else None
        if last and last.kind == clue.kind and clue.start - last.end <= gap:
            rates = (last.rates[0], clue.rates[1]) if last.rates and clue.rates else None
            text = max(last.text, clue.text, key=len)
            joined[-1] = replace(last, end=clue.end, rates=rates, text=text)
        else:
            joined.append(clue)
    return joined


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


def _kind(trends: Trends, i: int) -> str:
    test, train, enough = trends.test[i], trends.train[i], trends.enough[i]
    if test < -enough:
        return UNDERFITTING
    if test <= enough:
        return PLATEAU
    return INSTABILITY if train > max(0.25 * test, 0.5 * CHANGE * trends.drop) else OVERFITTING


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


def _clue(run: Run, trends: Trends, kind: str, first: int, last: int) -> Clue | None:
    """A stretch as a clue, or None if it means nothing."""
    test = run.test
    start, end = int(trends.iteration[first]), int(trends.iteration[last])
    total = max(1, int(trends.iteration[-1]))
    length = (end - start) / total
    if kind == UNDERFITTING:
        length = 2 * (end - max(start, DESCENT * total)) / total
    rise = float(trends.test[first : last + 1].max())
    short = length < (0.05 if kind in (OVERFITTING, INSTABILITY) and rise > 2 * trends.enough[first] else LONG)
    lr = test.lr[first : last + 1]
    known = np.isfinite(lr).all()
    annealed = known and lr[-1] < 0.7 * lr[0]
    if short or (kind == UNDERFITTING and known and lr[-1] < 0.95 * lr[0]):
        return None
    text = MEANING[kind]
    if kind == INSTABILITY and rise > 0.5 * trends.drop:
        text += ", sharply: it diverges"
    if kind == PLATEAU and annealed:
        text = "test loss is level although the rate is lowered: the run could end here"
    return Clue(kind, start, end, (float(lr[0]), float(lr[-1])) if known else None, text, ADVICE[kind])


def _diverged(run: Run) -> list[Clue]:
    """Losses that are no numbers."""
    shown = np.isfinite(run.train.loss)  # the last display of a run has no outputs
    for what, table, fine in (("train", run.train, shown), ("test", run.test, np.isfinite(run.test.main_loss))):
        bad = np.flatnonzero(~fine & ~np.isfinite(table.main_loss))
        if len(bad):
            row = int(bad[0])
            lr = float(table.lr[row])
            rates = (lr, lr) if np.isfinite(lr) else None
            at = int(table.iteration[row])
            text = f"the {what} loss is no number any more: it diverges"
            return [Clue(INSTABILITY, at, int(table.iteration[-1]), rates, text, ADVICE[INSTABILITY])]
    return []


def _statistics(run: Run) -> list[Clue]:
    """Good in training, near nothing in tests: BatchNorm's averages, not the weights, are wrong."""
    train, test = run.train, run.test
    if not (train.accuracy_name and test.accuracy_name):
        return []
    trained = np.interp(test.iteration, train.iteration, train[train.accuracy_name])
    bad = np.flatnonzero((trained > 0.5) & (test[test.accuracy_name] < 0.4 * trained))
    if len(bad) < 3 or not batch_norm_fractions(run):
        return []
    fractions = ", ".join(f"{f:g}" for f in batch_norm_fractions(run))
    text = f"train accuracy {trained[bad].mean():.2f}, test accuracy {test[test.accuracy_name][bad].mean():.2f}"
    advice = (
        f"BatchNorm's running averages (moving_average_fraction {fractions}) do not follow the weights at these "
        "rates: try 0.95 or less, and check that train and test data are prepared alike"
    )
    start, end = int(test.iteration[bad[0]]), int(test.iteration[bad[-1]])
    return [Clue(STATISTICS, start, end, None, text, advice)]


def batch_norm_fractions(run: Run) -> list[float]:
    """The moving average fractions of the train net's BatchNorm layers, each once; empty if there are none."""
    layers = [layer for layer in many(run.train_net, "layer") if layer.get("type") == "BatchNorm"]
    parameters = [layer.get("batch_norm_param", {}) for layer in layers]
    return sorted({float(p.get("moving_average_fraction", 0.999)) for p in parameters if isinstance(p, dict)})
