"""Runs cases in a process that may die, and tells what was found.

A finding is an exception that is not the project's clear error, more than 10 s of the processor, more than 1 GB above
the start, the end of the process, or damage that a checksum should have seen.
"""

from __future__ import annotations

import contextlib
import faulthandler
import multiprocessing
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HANG = 10  # seconds of the processor: other processes on the machine do not count
STUCK = 120  # seconds on the clock, for one that waits
MEMORY = 1 << 30
_START_AFRESH = 3  # exit status of a child whose memory has grown
_CEILING = 3 << 30  # bytes of address space above the start: more is refused by the system, before the machine suffers


@dataclass(frozen=True)
class Finding:
    """what: one line that equal findings share. case: its number; content: the input."""

    target: str
    case: int
    what: str
    details: str
    content: bytes


@dataclass
class Tally:
    """What came of the cases of one target. refused: the clear errors; the others were taken."""

    cases: int = 0
    refused: int = 0
    findings: list[Finding] = field(default_factory=list)

    @property
    def kinds(self) -> Counter:
        return Counter(finding.what for finding in self.findings)


def hunt(target: str, first: int, last: int, seed: int = 0, until: float | None = None) -> Tally:
    """Run the cases first <= n < last of a target; until: stop at this time.monotonic()."""
    tally, case = Tally(), first
    while case < last and (until is None or time.monotonic() < until):
        case = _one_process(target, case, last, seed, until, tally)
    return tally


def case_content(target: str, case: int, seed: int = 0) -> bytes:
    """The input of a case, which its three names decide."""
    from tests.fuzz.targets import TARGETS

    chosen = TARGETS[target]
    rng = random.Random(f"{target}/{seed}/{case}")
    seeds = chosen.seeds()
    return chosen.mutate(rng, rng.choice(seeds), seeds)


def _one_process(target: str, first: int, last: int, seed: int, until: float | None, tally: Tally) -> int:
    """Cases in one child, up to its end or death; the number of the next one."""
    here, there = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(target=_work, args=(there, target, first, last, seed, until))
    child.start()
    there.close()
    running = first - 1
    while True:
        try:
            message = here.recv() if here.poll(STUCK) else None
        except EOFError:
            break
        if message is None:
            os.kill(child.pid, signal.SIGKILL)
            child.join()
            tally.findings.append(_died(target, running, seed, f"waited for {STUCK} s"))
            return running + 1
        kind, running, *rest = message
        if kind == "broken":
            child.join()
            raise RuntimeError(f"{target}: a good input is not read:\n{running}")
        if kind == "finding":
            tally.findings.append(Finding(target, running, *rest, case_content(target, running, seed)))
        elif kind == "done":
            tally.cases += 1
            tally.refused += rest[0]
    child.join()
    if child.exitcode == _START_AFRESH:
        return running + 1
    if child.exitcode == 0:
        return max(running + 1, first + 1) if until is not None and time.monotonic() >= until else last
    name = signal.Signals(-child.exitcode).name if child.exitcode < 0 else f"exit {child.exitcode}"
    hung = child.exitcode == -signal.SIGPROF
    tally.findings.append(_died(target, running, seed, f"more than {HANG} s" if hung else f"the process died: {name}"))
    tally.cases += 1
    return running + 1


def _died(target: str, case: int, seed: int, what: str) -> Finding:
    return Finding(target, case, what, "", case_content(target, case, seed))


# ---- in the child --------------------------------------------------------------------------------------------------


def _work(pipe: Any, target: str, first: int, last: int, seed: int, until: float | None) -> None:
    from tests.fuzz.targets import TARGETS

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    faulthandler.disable()
    chosen = TARGETS[target]
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with tempfile.TemporaryDirectory(prefix="fuzz_") as folder, _silence():
        os.chdir(folder)
        try:
            chosen.warm_up()
        except BaseException:  # noqa: BLE001
            pipe.send(("broken", traceback.format_exc()))
            os._exit(1)
        limit = _address_space() + _CEILING
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        start = _peak()
        for case in range(first, last):
            if until is not None and time.monotonic() >= until:
                break
            pipe.send(("started", case))
            content = case_content(target, case, seed)
            signal.setitimer(signal.ITIMER_PROF, HANG)  # not caught: it ends the process even inside a C function
            refused, found = _attempt(chosen, content)
            signal.setitimer(signal.ITIMER_PROF, 0)
            peak = _peak()
            if found is None and peak - start > MEMORY:
                found = (f"{(peak - start) >> 20} MB", "")
            if found:
                pipe.send(("finding", case, *found))
            pipe.send(("done", case, refused))
            if peak - start > MEMORY:
                os._exit(_START_AFRESH)
    pipe.close()
    os._exit(0)


def _attempt(target: Any, content: bytes) -> tuple[bool, tuple[str, str] | None]:
    """Whether it was refused with a clear error, and the finding."""
    try:
        target.run(content)
    except target.clear:
        return True, None
    except BaseException as error:  # noqa: BLE001  whatever else it is, it is a finding
        return False, (_place(error), traceback.format_exc())
    return False, None


def _place(error: BaseException) -> str:
    """The kind of an error and the project's line that it came through last."""
    root = str(Path(__file__).resolve().parents[2])
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(root)]
    frame = frames[-1]
    return f"{type(error).__name__} at {os.path.relpath(frame.filename, root)}:{frame.lineno}"


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout, sys.stderr = (open(n, "w", closefd=False, errors="backslashreplace") for n in (1, 2))  # noqa: SIM115
    yield


def _status(name: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) << 10


def _address_space() -> int:
    return _status("VmSize")


def _peak() -> int:
    """Bytes of memory at most since the last call."""
    peak = _status("VmHWM")
    Path("/proc/self/clear_refs").write_text("5")
    return peak
