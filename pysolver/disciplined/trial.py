"""A trial: one training as a folder that anyone can repeat, with its log as the result.

    folder/solver.prototxt        names the net beside it, and the folder for snapshots, if it writes any
    folder/train_test.prototxt
    folder/train.log              a Caffe log, whoever trained

All paths in these files are seen from the working directory, as in every prototxt, so from there

    pysolver train --solver=folder/solver.prototxt

does the same again, and so does a Caffe.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from google.protobuf.message import Message

from pysolver.cores import usable_cores
from pysolver.disciplined.judges import Judge
from pysolver.errors import CaffeError, OutOfMemory
from pysolver.files import write_atomic
from pysolver.lifetime import end_with_parent
from pysolver.logs.events import GaveUp
from pysolver.logs.reader import read_log
from pysolver.logs.run import Run
from pysolver.logs.writer import CaffeLog
from pysolver.memory import is_shortage
from pysolver.proto.caffe_pb2 import NetParameter, SolverParameter
from pysolver.proto.text import to_text
from pysolver.proto.upgrade import read_net, read_solver

M = TypeVar("M", bound=Message)
LOOK = 2.0  # seconds between two looks at the log of another process


class Backend(Protocol):
    """Trains a solver file and writes its log; CaffeError if that fails.

    judge: asked after each test. start: the solver state that it goes on from.
    """

    def __call__(self, solver: Path, log: Path, judge: Judge | None, start: Path | None = None) -> None: ...


def changed(message: M, **fields: object) -> M:
    """A copy with other values: a list replaces a repeated field, None clears a field. ValueError if there is none."""
    copy = type(message)()
    copy.CopyFrom(message)
    for name, value in fields.items():
        copy.ClearField(name)
        if isinstance(value, (list, tuple)):
            getattr(copy, name).extend(value)
        elif value is not None:
            setattr(copy, name, value)
    return copy


def here(solver: Path, log: Path, judge: Judge | None = None, start: Path | None = None) -> None:
    """Train in this process. All of its stderr goes into the log, so one training at a time."""
    from pysolver.disciplined.in_process import train_into  # brings torch

    train_into(solver, log, judge, start)


@dataclass(frozen=True)
class Command:
    """Train in a process of its own: pysolver's by default, or a Caffe binary.

    argv: what `train --solver=FILE` and the arguments are appended to. folder: the working directory.
    processes: of pysolver's that train each net together, on the cores that this one may use.
    """

    argv: Sequence[str] = (sys.executable, "-m", "pysolver")
    arguments: Sequence[str] = ()
    folder: Path | None = None
    processes: int = 1

    @property
    def words(self) -> list[str]:
        """What a person types, but for the solver."""
        return [
            *self.argv,
            "train",
            *self.arguments,
            *([f"--processes={self.processes}"] if self.processes > 1 else []),
        ]

    def __call__(self, solver: Path, log: Path, judge: Judge | None = None, start: Path | None = None) -> None:
        command = [*self.words, f"--solver={solver}", *([f"--snapshot={start}"] if start else [])]
        environment = {**os.environ, "GLOG_logtostderr": "1"}  # else a Caffe logs into files of glog's
        if self.processes > 1:
            environment["OMP_NUM_THREADS"] = str(max(1, usable_cores() // self.processes))
        with open(log, "w") as file:
            try:
                process = subprocess.Popen(
                    command,
                    env=environment,
                    stdout=subprocess.DEVNULL,
                    stderr=file,
                    cwd=self.folder,
                    start_new_session=True,
                    preexec_fn=end_with_parent,
                )  # in a session of its own, so that Ctrl-C is ours alone to answer, but not without us
            except OSError as error:
                raise CaffeError(f"{self.argv[0]}: cannot be started: {error.strerror}") from None
            try:
                reason = self._watch(process, log, judge)
            finally:
                process.kill()
                process.wait()
        if reason:
            with open(log, "a") as file:
                CaffeLog(file)(GaveUp(reason))
        elif process.returncode:
            error = OutOfMemory if _is_short_of_memory(process.returncode, log) else CaffeError
            raise error(f"{log}: {command[0]} ended with status {process.returncode}: {_last_words(log)}")

    def _watch(self, process: subprocess.Popen, log: Path, judge: Judge | None) -> str | None:
        """Wait for the end, or for the judge's reason to end it."""
        while True:
            with suppress(subprocess.TimeoutExpired):
                process.wait(LOOK if judge else None)
                return None
            with suppress(CaffeError):  # not a log yet
                if judge and (reason := judge(read_log(log))):
                    process.terminate()
                    return reason


@dataclass(frozen=True)
class Trial:
    """One training: texts of its solver and net, its folder, who trains. A value that any process can run.

    net: None where the solver's own net files are used as they are. start: the solver state that it goes on from.
    """

    folder: Path
    solver: str
    net: str | None = None
    backend: Backend = here
    start: Path | None = None

    @staticmethod
    def of(
        folder: str | Path,
        solver: SolverParameter,
        net: NetParameter | None = None,
        backend: Backend = here,
        start: Path | None = None,
    ) -> Trial:
        """The trial of a solver in a folder; with a net it is that one that is trained. Snapshots go to the folder."""
        folder = Path(folder)
        fields: dict[str, object] = {"snapshot_prefix": str(folder / "snapshot")}
        if net is not None:
            fields |= {name: None for name in _NETS} | {"net": str(folder / "train_test.prototxt")}
        text = to_text(changed(solver, **fields))
        if start:  # no field of a solver says so, but the file shall
            text = f"# Goes on from --snapshot={start}\n{text}"
        return Trial(folder, text, None if net is None else to_text(net), backend, start)

    @property
    def log(self) -> Path:
        """The log, which is there from the first moment of the training on."""
        return self.folder / "train.log"

    @property
    def command(self) -> str:
        """What a person types to do it again."""
        words = self.backend.words if isinstance(self.backend, Command) else ["pysolver", "train"]
        start = [f"--snapshot={self.start}"] if self.start else []
        return " ".join([*words, f"--solver={self.folder / 'solver.prototxt'}", *start])

    def result(self) -> Run | None:
        """What the log says if this very trial has run to its end or was given up; else None: it must be run."""
        try:
            for name, text in self._files():
                if text is not None and (self.folder / name).read_bytes() != text.encode():
                    return None
            run = read_log(self.log)
        except (CaffeError, OSError):
            return None
        interrupted = "StoppedEarly" in run.counts and "GaveUp" not in run.counts
        return run if (run.finished or "GaveUp" in run.counts) and not interrupted else None

    def run(self, judge: Judge | None = None) -> Run:
        """Train, unless that is done already; what the log says. CaffeError if the training fails.

        judge: asked after each test whether the run still has prospects; its reason to end it stands in the log.
        """
        known = self.result()
        if known is not None:
            return known
        self.write()
        self.backend(self.folder / "solver.prototxt", self.log, judge, self.start)
        return read_log(self.log)

    def give_up(self, reason: str) -> Run:
        """End its log with the reason why there is no more of it: then it is not run again."""
        if not self.log.exists():  # it ran on another machine
            self.write()
        whole_lines = self.log.exists() and self.log.read_bytes().endswith(b"\n")
        with open(self.log, "a") as file:
            file.write("" if whole_lines else "\n")
            CaffeLog(file)(GaveUp(reason))
        return read_log(self.log)

    def write(self) -> None:
        """Make the folder ready to be trained, without an old log."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.log.unlink(missing_ok=True)
        except OSError as error:
            raise CaffeError(f"{error.filename}: cannot be written: {error.strerror}") from None
        for name, text in self._files():
            if text is not None:
                write_atomic(self.folder / name, text.encode())

    def _files(self) -> tuple[tuple[str, str | None], ...]:
        return ("solver.prototxt", self.solver), ("train_test.prototxt", self.net)


_NETS = ("net", "net_param", "train_net", "train_net_param", "test_net", "test_net_param")


def read_pair(solver_file: str | Path) -> tuple[SolverParameter, NetParameter]:
    """A solver and the net it names, upgraded. CaffeError if it does not name one net file for training and testing."""
    solver = read_solver(str(solver_file))
    if not solver.net:
        raise CaffeError(f"{solver_file}: needs `net`: one file with the net for training and testing")
    if not Path(solver.net).exists():
        raise CaffeError(
            f"{solver_file}: net: {solver.net} is not there, seen from the working directory as all paths are"
        )
    return solver, read_net(solver.net)


def seconds(run: Run) -> float:
    """How long a run took from its first iteration to the last that its log tells."""
    tables = (run.train, *run.tests.values())
    return max((float(table.seconds[-1]) for table in tables if len(table)), default=0.0)


def _is_short_of_memory(status: int, log: Path) -> bool:
    """Whether the kernel killed it, as it does then, or its last lines say so."""
    end = log.read_text(errors="replace").splitlines()[-40:]  # a stack trace may follow
    return status == -signal.SIGKILL or is_shortage("\n".join(end))


def _last_words(log: Path) -> str:
    """The last line of a log that broke off."""
    lines = log.read_text(errors="replace").splitlines()
    return lines[-1] if lines else "it said nothing"
