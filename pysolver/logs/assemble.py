"""Values in the order of a log become tables: rows by iteration, resumed parts joined, dates turned into seconds."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from dataclasses import replace

import numpy as np

from pysolver.errors import CaffeError
from pysolver.logs import events as e
from pysolver.logs import notices
from pysolver.logs.clock import Clock
from pysolver.logs.header import Message, accuracies, parse_dump
from pysolver.logs.run import Resume, Run, Table

NAN = math.nan
_ALWAYS = 1 << 22  # values that a table may have
_THINNEST = 16  # places in a larger one for each value that was told


class Values:
    """One output's values: (row, value) pairs."""

    def __init__(self, index: str, name: str, weighted: bool) -> None:
        self.index, self.name, self.weighted = int(index), name, weighted
        self.rows, self.values = array("q"), array("d")
        self.filled = -1  # the last row that has a value


class Rows:
    """The rows of one table while the log is read."""

    def __init__(self) -> None:
        self.iteration, self.part = array("q"), array("q")
        self.seconds, self.loss, self.speed = array("d"), array("d"), array("d")
        self.row = -1
        self.outputs: dict[tuple[str, str], Values] = {}  # by index and name, as printed

    def start(self, iteration: int, seconds: float, part: int, loss: float = NAN, speed: float = NAN) -> None:
        """A new row; the outputs that follow belong to it."""
        self.row += 1
        self.iteration.append(iteration)
        self.seconds.append(seconds)
        self.part.append(part)
        self.loss.append(loss)
        self.speed.append(speed)

    def extend(
        self, iteration: np.ndarray, seconds: np.ndarray, part: int, loss: np.ndarray, speed: np.ndarray
    ) -> None:
        """Many new rows."""
        self.row += len(iteration)
        self.iteration.frombytes(iteration.tobytes())
        self.part.frombytes(np.full(len(iteration), part, np.int64).tobytes())
        for values, column in ((self.seconds, seconds), (self.loss, loss), (self.speed, speed)):
            values.frombytes(np.ascontiguousarray(column).tobytes())


class Assembler:
    """Collects one rank's values; the reader calls it in the order of the log."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.train, self.tests = Rows(), dict[int, Rows]()
        self.testing: Rows | None = None
        self.net = 0
        # outputs whose iteration is not known yet
        self.waiting: dict[str, list[tuple[Values, float]]] = {"Train": [], "Test": []}
        self.dropped = 0  # those whose iteration will never be known
        self.rates = {name: array("d") for name in ("iteration", "part", "lr", "momentum", "weight_decay")}
        self.clips = {name: array("d") for name in ("iteration", "norm", "clip", "scale")}
        self.norms = {name: array("d") for name in ("iteration", "norm")}
        self.first: list[int | None] = [None]  # first iteration of each part
        self.last: dict[str, int] = {}
        self.now, self.reached = 0, 0
        self.resumes: list[Resume] = []
        self.solver: Message = {}
        self.nets: list[Message] = []
        self.shapes: dict[str, str] = {}
        self.tops: list[str] = []
        self.devices = 1
        self.images: int | None = None
        self.counts: Counter[str] = Counter()
        self.displays, self.norm_lines = 0, 0
        self.failure: str | None = None
        self.finished, self.stopped = False, False
        self.dump: list[str] | None = None  # the record that spans lines, while it lasts
        self.dump_size = 0  # its characters

    # -- what the reader says ----------------------------------------------------------------------------------------

    def display(self, iteration: int, seconds: float, loss: float, speed: float) -> None:
        """An iteration line of training."""
        self._reach("display", iteration, seconds)
        self.displays += 1
        if iteration <= self.last.get("test", iteration):
            self._place("Test", iteration, seconds)
        self.train.start(iteration, seconds, len(self.first) - 1, loss, speed)

    def test(self, iteration: int, seconds: float, net: int) -> None:
        """The beginning of a test. What waits is of an earlier one, whose beginning is missing."""
        self._reach("test", iteration, seconds)
        self.dropped += len(self.waiting["Test"])
        self.waiting["Test"].clear()
        if net not in self.tests:
            self.tests[net] = Rows()
        self.testing, self.net = self.tests[net], net
        self.testing.start(iteration, seconds, len(self.first) - 1)

    def output(self, phase: str, key: tuple[str, str], weighted: bool, value: float) -> None:
        """An output of the present row; one that the row already has belongs to a row whose head is missing.

        key: index and name, both as printed.
        """
        rows = self.train if phase == "Train" else self.testing
        if rows is None:
            rows = self.testing = self.tests.setdefault(0, Rows())
        column = rows.outputs.get(key)
        if column is None:
            column = rows.outputs[key] = Values(*key, weighted)
        row = rows.row
        if column.filled == row:
            self.waiting[phase].append((column, value))
        else:
            column.filled = row
            column.rows.append(row)
            column.values.append(value)

    def rate(self, iteration: int, seconds: float, lr: float, momentum: float, weight_decay: float) -> None:
        """The rate line; it also gives the iteration to train outputs that had none."""
        self._reach("rate", iteration, seconds)
        self._place("Train", iteration, seconds)
        values = (iteration, len(self.first) - 1, lr, momentum, weight_decay)
        for column, number in zip(self.rates.values(), values):
            column.append(number)

    def _place(self, phase: str, iteration: int, seconds: float) -> None:
        """Gives waiting outputs a row: a log without its beginning, or a resumed part without it."""
        if self.waiting[phase]:
            rows = self.train if phase == "Train" else self.tests[min(self.tests)]
            rows.start(iteration, seconds, len(self.first) - 1)
            for column, value in self.waiting[phase]:
                column.filled = rows.row
                column.rows.append(rows.row)
                column.values.append(value)
            self.waiting[phase].clear()

    def clip(self, norm: float, clip: float, scale: float) -> None:
        """A clipped gradient, at or after the last iteration that was told."""
        for column, number in zip(self.clips.values(), (self.now, norm, clip, scale)):
            column.append(number)

    def norm(self, norm: float) -> None:
        """The gradient's norm; every rank prints the same, the first of an iteration is kept."""
        self.norm_lines += 1
        if not self.norms["iteration"] or self.norms["iteration"][-1] != self.now:
            self.norms["iteration"].append(self.now)
            self.norms["norm"].append(norm)

    def head(self, event: e.Event) -> None:
        """All the rarer events."""
        self.counts[type(event).__name__] += 1
        match event:
            case e.InitializingSolver(parameters):
                self.solver = parse_dump(parameters)
                self._new_part()
            case e.Resuming() | e.RestoringStatus():
                self._new_part()
            case e.InitializingNet(parameters) if len(self.nets) < 8:
                self.nets.append(parse_dump(parameters))
            case e.UseGpus(ids):
                self.devices = len([i for i in ids.split(",") if i.strip()]) or 1
            case e.Top(_, blob) if len(self.nets) == 1:
                self.tops.append(blob)
            case e.TopShape(dims) if self.tops:
                self.shapes.setdefault(self.tops.pop(0), dims.strip())
            case e.TestLoss(value) if self.testing is not None and self.testing.loss:
                self.testing.loss[-1] = value
            case notices.ListedImages(count) | notices.ConvertingImages(count):
                self.images = self.images or count
            case e.Done() | e.StoppedEarly():
                self.finished = True
                self.stopped |= isinstance(event, e.StoppedEarly)

    # -- parts of a resumed run --------------------------------------------------------------------------------------

    def _new_part(self) -> None:
        if self.first[-1] is not None:
            self.first.append(None)
            self.last.clear()
            self.testing, self.failure = None, None
        self.finished, self.stopped = False, False

    def _reach(self, kind: str, iteration: int, seconds: float) -> None:
        shown_again = kind == "display" and iteration == self.last.get("display") == self.last.get("rate")
        if shown_again or iteration < self.last.get(kind, iteration):
            self._new_part()
        self.last[kind] = iteration
        self.reach(iteration, seconds)
        self.reached = max(self.reached, iteration)
        self.now = iteration

    def reach(self, iteration: int, seconds: float) -> None:
        """The first iteration of a part, if this is it."""
        if self.first[-1] is None:
            self.first[-1] = iteration
            if len(self.first) > 1:
                self.resumes.append(Resume(iteration, round(seconds, 6), self.reached))
            self.reached = iteration

    def count(self) -> Counter[str]:
        """Understood lines by event."""
        columns = [c for rows in (self.train, *self.tests.values()) for c in rows.outputs.values()]
        frequent = {
            "Output": sum(len(c.values) for c in columns) + self.lost,
            "Display": self.displays,
            "Testing": sum(len(rows.iteration) for rows in self.tests.values()),
            "Rate": len(self.rates["lr"]),
            "Clipping": len(self.clips["norm"]),
            "GradientNorm": self.norm_lines,
        }
        return self.counts + Counter(frequent)

    @property
    def waits(self) -> bool:
        """Whether there are outputs whose iteration is not known yet."""
        return any(self.waiting.values())

    @property
    def lost(self) -> int:
        """Outputs whose iteration the log does not tell."""
        return self.dropped + sum(map(len, self.waiting.values()))

    # -- the tables --------------------------------------------------------------------------------------------------

    def run(self, name: str) -> Run:
        """Everything so far, as tables; the assembler can go on afterwards."""
        phases = {str(_phase(net)): net for net in reversed(self.nets)}
        scores = [accuracies(phases.get(phase, {})) for phase in ("TRAIN", "TEST")]
        train, old_train = (
            replace(table.believed(table.is_alive), scores=scores[0]) for table in self._tables(self.train)
        )
        tests = {
            net: tuple(
                replace(_believed(table, train), scores=scores[1]) for table in self._tables(rows, complete=True)
            )
            for net, rows in sorted(self.tests.items())
            if rows.iteration
        }
        return Run(
            name=name,
            train=train,
            tests={net: new for net, (new, _) in tests.items()},
            old_train=old_train,
            old_tests={net: old for net, (_, old) in tests.items()},
            resumes=list(self.resumes),
            clipping={k: np.array(v) for k, v in self.clips.items()},
            gradients=_first_of_each({k: np.array(v) for k, v in self.norms.items()}),
            solver=self.solver,
            train_net=phases.get("TRAIN", {}),
            test_net=phases.get("TEST", {}),
            shapes=dict(self.shapes),
            devices=self.devices,
            images=self.images,
            counts=dict(self.count()),
            failure=self.failure,
            finished=self.finished,
            stopped=self.stopped,
        )

    def _tables(self, rows: Rows, complete: bool = False) -> tuple[Table, Table]:
        """The valid rows and the superseded ones. complete: without rows that have no output (a test cut short)."""
        table = self._table(rows)
        if complete:
            table = table.select(
                np.unique(
                    np.concatenate([np.array(v.rows, int) for v in rows.outputs.values()] or [np.zeros(0)])
                ).astype(int)
            )
        limits = [
            min((f for f in self.first[k + 1 :] if f is not None), default=math.inf) for k in range(len(self.first))
        ]
        superseded = table.iteration >= np.array(limits)[table.part]
        last = np.zeros(len(table), bool)  # of rows with equal iteration within a part the last one holds
        valid = np.flatnonzero(~superseded)
        last[valid[::-1][np.unique(table.iteration[valid][::-1], return_index=True)[1]]] = True
        return table.select(np.flatnonzero(last)), table.select(np.flatnonzero(superseded))

    def _table(self, rows: Rows) -> Table:
        size = len(rows.iteration)
        known, cells = sum(len(values.rows) for values in rows.outputs.values()), size * len(rows.outputs)
        if cells > _ALWAYS and cells > _THINNEST * known:
            raise CaffeError(f"{len(rows.outputs)} outputs in {size} rows, hardly any of them told: no solver's log")
        iteration, part = np.array(rows.iteration, np.int64), np.array(rows.part, np.int64)
        outputs, weighted = {}, []
        labels = Counter(name for _, name in rows.outputs)
        for values in sorted(rows.outputs.values(), key=lambda v: v.index):
            label = values.name if labels[values.name] == 1 else f"{values.name}#{values.index}"
            outputs[label] = np.full(size, NAN)
            outputs[label][np.array(values.rows, np.int64)] = np.array(values.values)
            if values.weighted:
                weighted.append(label)
        lr, momentum, weight_decay, told = self._rates_at(iteration, part)
        seconds, loss, speed = np.round(rows.seconds, 6), np.array(rows.loss), np.array(rows.speed)
        return Table(iteration, seconds, part, lr, momentum, weight_decay, told, loss, speed, outputs, tuple(weighted))

    def _rates_at(self, iteration: np.ndarray, part: np.ndarray) -> list[np.ndarray]:
        """lr, momentum, weight decay and `told` at rows: of the iteration itself, else the last before it in its part.

        Before a part's first rate line it is that one, as for Caffe's own parser.
        """
        rates = {name: np.array(column) for name, column in self.rates.items()}
        count = len(rates["iteration"])
        if not count:
            return [*(np.full(len(iteration), NAN) for _ in range(3)), np.zeros(len(iteration), bool)]
        far = 1e12  # parts apart, so that one sorted search serves all
        keys, wanted = rates["part"] * far + rates["iteration"], part * far + iteration
        before = np.searchsorted(keys, wanted, side="right") - 1
        first = np.minimum(np.searchsorted(rates["part"], part), count - 1)
        at = np.where((before >= 0) & (rates["part"][before] == part), before, first)
        known = rates["part"][at] == part
        values = [np.where(known, rates[name][at], NAN) for name in ("lr", "momentum", "weight_decay")]
        return [*values, keys[at] == wanted]


def _believed(test: Table, train: Table) -> Table:
    """A test table without the outputs of a dead net; where the test has no loss, the train loss tells."""
    alive = test.is_alive
    if not (test.loss_name or np.isfinite(test.loss).any()) and len(train):
        last = np.flatnonzero(np.isfinite(train.main_loss) | np.isfinite(train.loss))
        if len(last) < len(train) and (not len(last) or last[-1] + 1 < len(train)):
            alive = test.iteration < train.iteration[last[-1] + 1 if len(last) else 0]
    return test.believed(alive)


def _phase(net: Message) -> str:
    state = net.get("state", {})
    return str(state.get("phase", "TRAIN")) if isinstance(state, dict) else "TRAIN"


def _first_of_each(table: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """One row an iteration: every rank prints the same norm."""
    _, rows = np.unique(table["iteration"], return_index=True)
    return {name: column[np.sort(rows)] for name, column in table.items()}
