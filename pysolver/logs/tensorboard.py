"""Logs for TensorBoard: a subscriber that writes event files, live from a solver or from a log that was read."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from pysolver.extras import require
from pysolver.logs import events as e
from pysolver.logs.header import Message, parse_dump
from pysolver.logs.run import Run, Table


def _writer(folder: str | Path) -> Any:
    return require("tensorboardX").SummaryWriter(str(folder))


class TensorBoard:
    """Writes losses, outputs, rates and the solver's hyper-parameters as they are told; call it with each event."""

    def __init__(self, folder: str | Path) -> None:
        self.writer = _writer(folder)
        self.iteration, self.net = 0, 0
        self.solver: Message = {}
        self.last: dict[str, float] = {}

    def __call__(self, event: e.Event) -> None:
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
            case e.Output(phase, _, name, value):
                self._add(f"{_folder(phase.lower(), self.net)}/{name}", value)
            case e.Rate(_, lr, momentum, weight_decay):
                for name, value in (("lr", lr), ("momentum", momentum), ("weight decay", weight_decay)):
                    if value is not None:
                        self._add(f"schedule/{name}", value)
            case e.Done() | e.StoppedEarly():
                self.writer.flush()

    def _add(self, tag: str, value: float) -> None:
        self.last[tag] = value
        self.writer.add_scalar(tag, value, self.iteration)

    def close(self) -> None:
        """The hyper-parameters with the last results, and all that is left."""
        results = {tag: value for tag, value in self.last.items() if not tag.startswith("schedule")}
        _hyper_parameters(self.writer, self.solver, results)
        self.writer.close()


def write_run(run: Run, folder: str | Path) -> int:
    """A run that was read, with the log's own times where it has any; answers how many scalars were written."""
    writer = _writer(folder)
    start = time.time() - float(np.nanmax(run.train.seconds, initial=0))
    written = 0
    results = {}
    tables = [("train", run.train), *((_folder("test", net), table) for net, table in run.tests.items())]
    for place, table in tables:
        columns = {f"{place}/{name}": column for name, column in table.outputs.items()}
        if place == "train":
            columns["train/smoothed loss"] = table.loss
            columns |= {f"schedule/{name}": table[name] for name in ("lr", "momentum", "weight_decay")}
        for tag, column in columns.items():
            written += _scalars(writer, tag, table, column, start)
            if place != "train" and np.isfinite(column).any():
                results[tag] = float(column[np.isfinite(column)][-1])
    _hyper_parameters(writer, run.solver, results)
    writer.close()
    return written


def _scalars(writer: Any, tag: str, table: Table, column: np.ndarray, start: float) -> int:
    known = ~np.isnan(column)
    for iteration, seconds, value in zip(table.iteration[known], table.seconds[known], column[known]):
        when = start + seconds if np.isfinite(seconds) else start
        writer.add_scalar(tag, float(value), int(iteration), walltime=when)
    return int(known.sum())


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
