"""What a log tells, as tables: the result of reading one."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pysolver.logs.header import Message, batch_size, many

if TYPE_CHECKING:
    import pandas

Column = np.ndarray
_ACCURACY = re.compile(r"acc|top.?\d|prec|mAP|eval", re.IGNORECASE)


def is_accuracy(name: str) -> bool:
    """Whether an output of this name, without a loss weight, is taken for an accuracy."""
    return _ACCURACY.search(name) is not None


@dataclass(frozen=True)
class Table:
    """One row an iteration, rising. Missing values are NaN.

    iteration: int64; seconds: by the clock, since the log's first `Solving`; part: which part of a resumed
    run the row is from; lr, momentum, weight_decay: of that iteration, or the last ones printed before it;
    told: whether the log has a rate line of that very iteration;
    loss: the displayed (smoothed) loss of training, or `Test loss`; speed: iterations per second as printed;
    outputs: the net's outputs by name (`name#index` where one name has several elements);
    weighted: names of the outputs that have a loss weight; scores: of those that the net's Accuracy layers give, the
    one to look at first.
    """

    iteration: Column
    seconds: Column
    part: Column
    lr: Column
    momentum: Column
    weight_decay: Column
    told: Column
    loss: Column
    speed: Column
    outputs: dict[str, Column]
    weighted: tuple[str, ...] = ()
    scores: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.iteration)

    def __getitem__(self, name: str) -> Column:
        """An output, or another column by its name."""
        if name in self.outputs:
            return self.outputs[name]
        if name in ("iteration", "seconds", "lr", "momentum", "weight_decay", "loss", "speed"):
            return getattr(self, name)
        raise KeyError(f"{name}; the outputs are: {', '.join(self.outputs) or 'none'}")

    def __contains__(self, name: str) -> bool:
        return name in self.outputs

    def select(self, rows: Column) -> Table:
        """The rows of a mask or an index."""
        columns = {k: v[rows] for k, v in vars(self).items() if isinstance(v, np.ndarray)}
        return replace(self, **columns, outputs={k: v[rows] for k, v in self.outputs.items()})

    @property
    def loss_name(self) -> str | None:
        """The output that is the loss: one with a loss weight, best one that says so; else one named so."""
        named = [n for n in self.outputs if "loss" in n.lower()]
        heads = [n for n in self.weighted if n in named] or list(self.weighted) or named
        return heads[-1] if heads else None  # auxiliary losses come first in Caffe's nets

    @property
    def accuracy_name(self) -> str | None:
        """The output of an Accuracy layer, else the first that has the name of one.

        Of several it is one beside the loss (`loss3/top-1` beside `loss3/loss3`), then the one of the smallest top_k.
        """
        rest = [n for n in self.outputs if n not in self.weighted]
        found = [n for n in self.scores if n in rest] or [n for n in rest if is_accuracy(n)]
        head = (self.loss_name or "").rpartition("/")[0]
        beside = [n for n in found if head and n.startswith(f"{head}/")]
        return next(iter(beside or found), None)

    @property
    def main_loss(self) -> Column:
        """The values of the loss: of the output loss_name, or the displayed loss where there is none."""
        return self.loss if self.loss_name is None else self.outputs[self.loss_name]

    @property
    def main_accuracy(self) -> Column:
        """The values of accuracy_name."""
        return self.outputs[self.accuracy_name]

    @property
    def is_alive(self) -> Column:
        """Whether there is a finite loss in a row, or none at all that could tell."""
        losses = [self.outputs[n] for n in self.outputs if n in self.weighted or "loss" in n.lower()]
        told = losses or ([self.loss] if np.isfinite(self.loss).any() else [])
        finite = [np.isfinite(column) for column in told]
        return np.logical_and.reduce(finite) if finite else np.ones(len(self), bool)

    def believed(self, alive: Column) -> Table:
        """The table with its outputs as NaN in the rows of a dead net: Caffe counts NaN scores as right answers."""
        outputs = {
            name: np.where(alive | ~np.isfinite(column), column, np.nan) for name, column in self.outputs.items()
        }
        return replace(self, outputs=outputs)

    def to_pandas(self) -> pandas.DataFrame:
        """The table as a DataFrame indexed by iteration."""
        import pandas

        columns = {k: v for k, v in vars(self).items() if isinstance(v, np.ndarray) and k not in ("part", "told")}
        return pandas.DataFrame({**columns, **self.outputs}).set_index("iteration")


@dataclass(frozen=True)
class Resume:
    """A place where the iterations went back, or the head of a log began anew."""

    iteration: int
    seconds: float
    before: int  # the last iteration before it


@dataclass(frozen=True)
class Oddity:
    """A line that seems to bear a value but that nobody understood."""

    line: int
    text: str


@dataclass
class Run:
    """One log. `test` is the first test net's table; `tests` has them by number."""

    name: str
    train: Table
    tests: dict[int, Table]
    old_train: Table  # superseded by a resumed part
    old_tests: dict[int, Table]
    resumes: list[Resume]
    clipping: dict[str, Column]  # iteration, norm, clip, scale
    gradients: dict[str, Column]  # iteration, norm
    solver: Message  # the solver's parameters as dumped
    train_net: Message
    test_net: Message
    shapes: dict[str, str]  # blob -> `64 8 24 24` of the first net
    devices: int  # GPUs at work, 1 if the log does not say
    images: int | None  # of the training set, if the log says it
    counts: dict[str, int]  # understood lines by event
    unknown: int = 0  # value-bearing lines not understood, with the first of them in `oddities`
    oddities: list[Oddity] = field(default_factory=list)
    other_ranks: int = 0  # lines of other ranks of a run over MPI
    failure: str | None = None  # the text of a failed check
    finished: bool = False
    stopped: bool = False  # it was asked to end before its time

    @property
    def test(self) -> Table:
        """The first test net's results; an empty table if there are none."""
        return self.tests[min(self.tests)] if self.tests else self.train.select(np.zeros(len(self.train), bool))

    @property
    def nan_from(self) -> int | None:
        """The first iteration from which on a loss is no finite number any more; None if the end is finite."""
        starts = []
        for table in (self.train, *self.tests.values()):
            alive = np.isfinite(table.main_loss) | np.isfinite(table.loss)
            if len(table) and (table.loss_name or np.isfinite(table.loss).any()) and not alive[-1]:
                last = np.flatnonzero(alive)
                starts.append(int(table.iteration[last[-1] + 1 if len(last) else 0]))
        return min(starts, default=None)

    @property
    def batch(self) -> int | None:
        """Images an update: batch size x devices x iter_size; None if the log does not say."""
        size = batch_size(self.train_net)
        passes = self.solver.get("iter_size", 1)
        return None if size is None or not isinstance(passes, int) else size * self.devices * passes

    def parameters(self) -> dict[str, Any]:
        """What characterises the run, for legends: scalar solver fields, the batch size and the net's name.

        Where the log has no head, the rates and the decay that it printed stand in.
        """
        found = {k: v for k, v in self.solver.items() if not isinstance(v, dict) and k not in _PLACES}
        if len(cm := many(self.solver, "cyclical_momentum")) == 2:
            found["cyclical_momentum"] = cm[0]
        for name in ("lr", "momentum", "weight_decay"):
            values = self.train[name][np.isfinite(self.train[name])]
            if not self.solver and len(values):
                span = float(values.min()), float(values.max())
                found[name] = span[0] if span[0] == span[1] else f"{span[0]:g} to {span[1]:g}"
        if self.batch:
            found["batch"] = self.batch
        if self.train_net.get("name"):
            found["name"] = self.train_net["name"]
        return found

    def summary(self) -> str:
        """A few lines for a person: what was read, and what was not."""
        rows = [f"{self.name}: {len(self.train)} train rows"]
        rows += [
            f"{len(table)} test rows" + (f" (net #{k})" if len(self.tests) > 1 else "")
            for k, table in self.tests.items()
        ]
        text = ", ".join(rows)
        if len(self.train):
            text += f", iterations {self.train.iteration[0]} to {self.train.iteration[-1]}"
        for resume in self.resumes:
            text += f"\n  resumed at iteration {resume.iteration} (had reached {resume.before})"
        if old := len(self.old_train) + sum(map(len, self.old_tests.values())):
            text += f"\n  {old} rows superseded by the resumed part"
        if self.other_ranks:
            text += f"\n  {self.other_ranks} lines of other ranks left aside"
        if self.failure:
            text += f"\n  ended by: {self.failure}"
        if self.unknown:
            text += f"\n  {self.unknown} lines not understood:"
            text += "".join(f"\n    line {odd.line}: {odd.text}" for odd in self.oddities)
        return text


_PLACES = ("snapshot_prefix", "net", "train_net", "test_net", "device_id", "display", "test_interval", "test_iter",
           "snapshot", "test_initialization", "snapshot_after_train", "cyclical_momentum")  # fmt: skip
