"""Runs trials side by side: nothing is lost and nothing is done twice, at whatever moment the machine goes down.

The trials' folders are the only memory: a whole log is a result. Each worker is a process of its own with its share of
the cores; it keeps torch and the decoded data between trials. A worker that dies costs its trial one retry.
"""

from __future__ import annotations

import contextlib
import fcntl
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from pysolver import memory
from pysolver.disciplined.children import HEED, ended_by_signals
from pysolver.disciplined.judges import Judge
from pysolver.disciplined.trial import Trial
from pysolver.errors import CaffeError, OutOfMemory
from pysolver.files import write_atomic
from pysolver.logs.run import Run

RETRIES = 1
LOCK = ".lock"  # in a tuning's folder; it stays, and so tells such a folder from others


@dataclass(frozen=True)
class Progress:
    """How it stands with one trial: `waiting`, `running`, `known`, `done`, `failed` or `again` after a death."""

    trial: Trial
    state: str
    words: str = ""


Listener = Callable[[Progress], None]


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """The folder is this process's alone; CaffeError if another one is at work there, or it cannot be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / LOCK, "a")  # noqa: SIM115  closed below
    except FileExistsError:
        raise CaffeError(f"{folder}: a file is there, where a folder is needed") from None
    except OSError as error:
        raise CaffeError(f"{error.filename}: cannot be written: {error.strerror}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise CaffeError(f"{folder}: another tuning is at work in this folder") from None
        yield


class Engine:
    """Runs trials on workers.

    jobs: worker processes on this machine. executor: an executor of concurrent.futures in their stead, a
    `dask.distributed` client's for instance, with `jobs` trials at a time.
    """

    def __init__(self, jobs: int, listener: Listener = lambda progress: None, executor: Executor | None = None) -> None:
        self._listener = listener
        self._signals = contextlib.ExitStack()
        self._ours = executor is None
        shares = share_cores(jobs)
        self._shares = list(zip(shares, share_gpus(jobs)))
        self._slots: list[Executor] = (
            [_worker(*share) for share in self._shares] if executor is None else [executor] * jobs
        )

    def run(
        self,
        trials: Sequence[Trial],
        judges: Mapping[Trial, Judge] | None = None,
        may_be_too_large: Collection[Trial] = (),
    ) -> dict[Trial, Run]:
        """The runs of all trials, in their order; a whole log is read, not run again. CaffeError if one fails.

        may_be_too_large: those that are given up where memory is at its end, or their workers die again and again.
        """
        results: dict[Trial, Run] = {}
        waiting: list[Trial] = []
        for trial in dict.fromkeys(trials):
            known = trial.result()
            if known is None:
                waiting.append(trial)
                self._listener(Progress(trial, "waiting"))
            else:
                results[trial] = known
                self._listener(Progress(trial, "known"))
        running: dict[Future, tuple[int, Trial]] = {}
        free, deaths = list(range(len(self._slots))), dict.fromkeys(waiting, 0)
        while waiting or running:
            while waiting and free:
                slot, trial = free.pop(0), waiting.pop(0)
                running[self._submit(slot, trial, (judges or {}).get(trial))] = slot, trial
                self._listener(Progress(trial, "running"))
            done, _ = wait(running, HEED, FIRST_COMPLETED)
            for future in done:
                slot, trial = running.pop(future)
                free.append(slot)
                error = future.exception()
                if error is not None and _is_death(error):
                    self._renew(slot)
                    deaths[trial] += 1
                    if deaths[trial] <= RETRIES:
                        self._listener(Progress(trial, "again", "its worker died"))
                        waiting.insert(0, trial)
                        continue
                    # most likely the kernel killed it, as it does when memory is at its end
                    error = OutOfMemory(f"{trial.folder}: its worker process died {deaths[trial]} times")
                if error is None:
                    results[trial] = self._take(trial, future.result())
                elif isinstance(error, OutOfMemory) and trial in may_be_too_large:
                    self._renew(slot)  # the old one may hold what it had
                    results[trial] = trial.give_up(str(error))
                else:
                    raise error
                self._listener(Progress(trial, "done"))
        return {trial: results[trial] for trial in dict.fromkeys(trials)}  # not in the order of their ends

    def _submit(self, slot: int, trial: Trial, judge: Judge | None) -> Future:
        """Give a trial to a worker; one that died while it had nothing to do is replaced, which costs no retry."""
        try:
            return self._slots[slot].submit(_train, trial, judge, not self._ours)
        except BrokenExecutor:
            self._renew(slot)
            return self._slots[slot].submit(_train, trial, judge, not self._ours)

    def _renew(self, slot: int) -> None:
        """A new worker in place of a dead one; a cluster sees to its own."""
        if self._ours:
            _end([self._slots[slot]])
            self._slots[slot] = _worker(*self._shares[slot])

    def _take(self, trial: Trial, log: bytes) -> Run:
        """The result of a trial that a worker has run, wherever that was."""
        run = trial.result()
        if run is None and log:  # on another machine: its log came back
            trial.write()
            write_atomic(trial.log, log)
            run = trial.result()
        if run is None:
            raise CaffeError(f"{trial.log}: not the log of a whole training")
        return run

    def close(self) -> None:
        """End the workers, in the midst of a trial too."""
        if self._ours:
            _end(self._slots)

    def __enter__(self) -> Engine:
        self._signals.enter_context(ended_by_signals())  # unheard they would leave the workers to find out
        return self

    def __exit__(self, *_: object) -> None:
        with self._signals:  # they are as before, even if a second Ctrl-C comes
            self.close()


def share_cores(jobs: int) -> list[set[int]]:
    """The cores of this process, dealt out; with more jobs than cores several share one."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    each = max(1, len(cores) // jobs)
    return [{cores[(job * each + i) % len(cores)] for i in range(each)} for job in range(jobs)]


def share_gpus(jobs: int) -> list[str]:
    """The GPU of each worker, as CUDA_VISIBLE_DEVICES wants it; empty where there are none to deal out."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        gpus = sorted(path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*"))
    else:
        gpus = [name.strip() for name in named.split(",") if name.strip()]
    return [gpus[job % len(gpus)] if gpus else "" for job in range(jobs)]


def _is_death(error: BaseException) -> bool:
    """Whether a worker is gone rather than its trial wrong; dask says so by a class of its own, which may be absent."""
    return isinstance(error, BrokenExecutor) or type(error).__name__ == "KilledWorker"


def _worker(cores: set[int], gpu: str) -> ProcessPoolExecutor:
    # spawned, not forked: the parent has threads; one process a pool, so that a death is known to be of its own trial
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, mp_context=context, initializer=_begin, initargs=(cores, gpu))


def _end(pools: Sequence[Executor]) -> None:
    """Kill their processes, and wait for the threads that see to them: one that is still closing its pipes when Python
    ends makes Python write into them."""
    for pool in pools:
        for process in list((getattr(pool, "_processes", None) or {}).values()):
            process.kill()
    for pool in pools:
        pool.shutdown(cancel_futures=True)


def _begin(cores: set[int], gpu: str) -> None:
    """What a worker does first: it keeps to its cores and GPU, leaves Ctrl-C to its parent, and does not outlive it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(len(cores))
    if gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    memory.keep_freed()
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)


def _train(trial: Trial, judge: Judge | None, elsewhere: bool) -> bytes:
    """In a worker: run it, and bring the log back from another machine.

    On this one nothing but the end is told: a pool whose worker is killed within a message waits for its rest for ever.
    """
    trial.run(judge)
    return trial.log.read_bytes() if elsewhere else b""
