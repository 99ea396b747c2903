"""A trial: one training as a folder that anyone can repeat, with its log as the result.

    folder/solver.prototxt        names the net beside it, and the folder for snapshots, if it writes any
    folder/train_test.prototxt
    folder/train.log              a Caffe log, whoever trained

All paths in these files are seen from the working directory, as in every prototxt, so from there

    pysolver train --solver=folder/solver.prototxt

does the same again, and so does a Caffe. A trial that broke off goes on from its newest snapshot, if its solver has any
written on the way; its log goes on, too.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

from google.protobuf.message import Message

from pysolver.cores import usable_cores
from pysolver.disciplined.children import Children
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
PATIENCE = 30.0  # seconds that a training has to stop: it does so between iterations, or within a test
SNAPSHOT = "snapshot"  # how the names of a trial's snapshots begin


class Backend(Protocol):
    """Trains a solver file and writes its log, behind what is there; CaffeError if that fails.

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
    keeps: descriptors that its process keeps open, of a lock for instance, which is held as long as it lives.
    """

    argv: Sequence[str] = (sys.executable, "-m", "pysolver")
    arguments: Sequence[str] = ()
    folder: Path | None = None
    processes: int = 1
    keeps: tuple[int, ...] = ()
    children: Children = field(default_factory=Children, compare=False, repr=False)

    def end(self) -> None:
        """Stop what it is training, from another thread, and train nothing any more."""
        self.children.end(PATIENCE)

    @property
    def is_pysolver(self) -> bool:
        """Whether it is no Caffe."""
        return tuple(self.argv) == tuple(Command.argv)

    def finds_gpu(self) -> bool:
        """Whether there is a GPU, and it is built for one."""
        try:
            return subprocess.run([*self.argv, "device_query", "-gpu", "0"], capture_output=True).returncode == 0
        except OSError:  # which is told when it shall train
            return False

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
        with open(log, "a") as file:
            try:
                with self.children.start(
                    command,
                    env=environment,
                    stdout=subprocess.DEVNULL,
                    stderr=file,
                    cwd=self.folder,
                    pass_fds=self.keeps,
                    preexec_fn=None if self.keeps else end_with_parent,  # to whom a lock is handed may go on alone
                ) as process:
                    reason = self._watch(process, log, judge)
            except OSError as error:
                raise CaffeError(f"{self.argv[0]}: cannot be started: {error.strerror}") from None
        if reason:
            with open(log, "a") as file:
                CaffeLog(file)(GaveUp(reason))
        elif process.returncode:
            kind = OutOfMemory if _is_short_of_memory(process.returncode, log) else CaffeError
            raise kind(f"{log}: {command[0]} ended with status {process.returncode}: {_last_words(log)}")

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
        fields: dict[str, object] = {"snapshot_prefix": str(folder / SNAPSHOT)}
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
        """What a person types into a shell to do it again."""
        words = self.backend.words if isinstance(self.backend, Command) else ["pysolver", "train"]
        start = [f"--snapshot={self.start}"] if self.start else []
        return shlex.join([*words, f"--solver={self.folder / 'solver.prototxt'}", *start])

    def result(self) -> Run | None:
        """What the log says if this very trial has run to its end or was given up; else None: it must be run."""
        try:
            run = read_log(self.log) if self._is_written() else None
        except CaffeError:
            return None
        whole = run is not None and ("GaveUp" in run.counts or run.finished and not run.stopped)
        return run if whole else None

    def run(self, judge: Judge | None = None) -> Run:
        """Train, unless that is done already; what the log says. CaffeError if the training fails.

        judge: asked after each test whether the run still has prospects; its reason to end it stands in the log.
        """
        known = self.result()
        if known is not None:
            return known
        state = self._state()
        if state is None:
            self.write()
        else:
            self._cut_log()
        self.backend(self.folder / "solver.prototxt", self.log, judge, state or self.start)
        run = read_log(self.log)
        if run.finished and not run.stopped:
            self._remove_snapshots_before(run)
        return run

    def give_up(self, reason: str) -> Run:
        """End its log with the reason why there is no more of it: then it is not run again."""
        if self.log.exists():
            self._cut_log()
        else:  # it ran on another machine
            self.write()
        with open(self.log, "a") as file:
            CaffeLog(file)(GaveUp(reason))
        return read_log(self.log)

    def write(self) -> None:
        """Make the folder ready to be trained: without an old log, and without snapshots that are another trial's."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for old in (self.log, *self.folder.glob(f"{SNAPSHOT}_iter_*")):
                old.unlink(missing_ok=True)
        except OSError as error:
            raise CaffeError(f"{error.filename}: cannot be written: {error.strerror}") from None
        for name, text in self._files():
            if text is not None:
                write_atomic(self.folder / name, text.encode())

    def _remove_snapshots_before(self, run: Run) -> None:
        """Those of its end alone may be of use."""
        last = int(run.test.iteration[-1]) if len(run.test) else 0
        for path in self.folder.glob(f"{SNAPSHOT}_iter_*"):
            if not path.name.startswith(f"{SNAPSHOT}_iter_{last}."):
                path.unlink(missing_ok=True)

    def _is_written(self) -> bool:
        """Whether the folder is this very trial's, and it has a log."""
        try:
            files = [(self.folder / name, text) for name, text in self._files() if text is not None]
            return self.log.exists() and all(path.read_bytes() == text.encode() for path, text in files)
        except OSError:
            return False

    def _state(self) -> Path | None:
        """The newest intact snapshot of a training that broke off."""
        if not self._is_written() or not any(self.folder.glob(f"{SNAPSHOT}_iter_*.solverstate*")):
            return None
        from pysolver.solver.snapshots import newest  # brings torch

        state = newest(str(self.folder / SNAPSHOT), lambda event: None)
        return None if state is None else Path(state)

    def _cut_log(self) -> None:
        """Without the last line, if it broke off: what follows would be taken for its rest."""
        with open(self.log, "rb+") as file:
            file.truncate(file.read().rfind(b"\n") + 1)

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
    """The last line of a log that broke off; of a Caffe the failed check, which a list of addresses follows."""
    lines = log.read_text(errors="replace").splitlines()
    return ([line for line in lines if re.match(r"F\d{4,8} ", line)] or lines or ["it said nothing"])[-1]
