"""Logs for TensorBoard: a subscriber that writes event files, live from a solver or from a log that was read."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pysolver.extras import require
from pysolver.logs import events as e
from pysolver.logs.header import Message, parse_dump
from pysolver.logs.run import Run


def _writer(folder: str | Path) -> Any:
    """tensorboardX's writer, without its warning at each value that is no number: of a dead run NaN is what is told."""
    logging.getLogger("tensorboardX.x2num").setLevel(logging.ERROR)
    return require("tensorboardX").SummaryWriter(str(folder))


class TensorBoard:
    """Writes losses, outputs, rates and the solver's hyper-parameters as they are told; call it with each event.

    now: the time of the next values, None for the clock's. The outputs of a net whose loss is no finite number are NaN,
    whatever the log says (Caffe counts NaN scores as right answers). written: how many scalars so far.
    """

    def __init__(self, folder: str | Path) -> None:
        self.writer = _writer(folder)
        self.iteration, self.net, self.written = 0, 0, 0
        self.now: float | None = None
        self.solver: Message = {}
        self.last: dict[str, float] = {}
        self._told: list[e.Output] = []  # of the row that is being told

    def __call__(self, event: e.Event) -> None:
        if isinstance(event, e.Output):
            if self._told and self._told[-1].phase != event.phase:
                self._write_outputs()
            self._told.append(event)
            return
        if not isinstance(event, (e.Testing, e.Display, e.Rate, e.Done, e.StoppedEarly, e.InitializingSolver)):
            return
        self._write_outputs()
        match event:
            case e.InitializingSolver(parameters):
                self.solver = parse_dump(parameters)
                self.writer.add_text("solver", "    " + parameters.replace("\n", "\n    "))  # as a block of code
            case e.Testing(iteration, net):
                self.iteration, self.net = iteration, net
            case e.Display(iteration, loss, speed):
                self.iteration = iteration
                self._add("train/smoothed loss", loss)
                if speed is not None:
                    self._add("schedule/iterations per second", speed)
            case e.Rate(_, lr, momentum, weight_decay):
                for name, value in (("lr", lr), ("momentum", momentum), ("weight decay", weight_decay)):
                    if value is not None:
                        self._add(f"schedule/{name}", value)
            case e.Done() | e.StoppedEarly():
                self.writer.flush()

    def _write_outputs(self) -> None:
        losses = [o.value for o in self._told if o.weight is not None or "loss" in o.name.lower()]
        is_alive = all(map(math.isfinite, losses))
        for output in self._told:
            place = _folder(output.phase.lower(), self.net)
            value = output.value if is_alive or not math.isfinite(output.value) else math.nan
            self._add(f"{place}/{output.name}", value)
        self._told.clear()

    def _add(self, tag: str, value: float) -> None:
        self.last[tag] = value
        self.written += 1
        self.writer.add_scalar(tag, value, self.iteration, walltime=self.now)

    def close(self) -> None:
        """The hyper-parameters with the last results, and all that is left."""
        self._write_outputs()
        results = {tag: value for tag, value in self.last.items() if not tag.startswith("schedule")}
        _hyper_parameters(self.writer, self.solver, results)
        self.writer.close()


def write_run(run: Run, folder: str | Path) -> int:
    """A run that was read, with the log's own times where it has any; answers how many scalars were written."""
    board = TensorBoard(folder)
    board.solver = run.solver
    start = time.time() - float(np.nanmax(run.train.seconds, initial=0))
    for seconds, event in replay(run):
        board.now = start + (seconds if math.isfinite(seconds) else 0.0)
        board(event)
    board.close()
    return board.written


def replay(run: Run) -> Iterator[tuple[float, e.Event]]:
    """The tables of a run as the events that made them, in the order of a run, with their seconds."""
    heads = [(int(i), 0, net, row) for net, t in run.tests.items() for row, i in enumerate(t.iteration)]
    heads += [(int(i), 1, 0, row) for row, i in enumerate(run.train.iteration)]
    for iteration, is_train, net, row in sorted(heads):
        table = run.train if is_train else run.tests[net]
        seconds = float(table.seconds[row])
        if is_train:
            yield seconds, e.Display(iteration, float(table.loss[row]), _known(table.speed[row]))
        else:
            yield seconds, e.Testing(iteration, net)
        for index, (name, column) in enumerate(table.outputs.items()):
            value = float(column[row])
            if not is_train or not math.isnan(value) or table.told[row]:
                weight = 1.0 if name in table.weighted else None
                yield seconds, e.Output("Train" if is_train else "Test", index, name, value, weight, weight)
        if is_train and (table.told[row] or math.isfinite(table.lr[row])):
            rates = (_known(table[name][row]) for name in ("lr", "momentum", "weight_decay"))
            yield seconds, e.Rate(iteration, *rates)  # type: ignore[arg-type]


def _known(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _hyper_parameters(writer: Any, solver: Message, results: dict[str, float]) -> None:
    scalars = {k: v for k, v in solver.items() if isinstance(v, (bool, int, float, str))}
    lists = {k: ", ".join(map(str, v)) for k, v in solver.items() if isinstance(v, list)}
    if scalars and results:
        from tensorboardX.summary import hparams

        finals = {f"final {tag}": value for tag, value in results.items()}
        for part in hparams({**scalars, **lists}, finals):  # writer.add_hparams would open a second file beside this
            writer.file_writer.add_summary(part)
        for tag, value in finals.items():
            writer.add_scalar(tag, value)


def _folder(phase: str, net: int) -> str:
    return phase if phase == "train" or net == 0 else f"{phase}{net}"
