"""Starts the processes of a training on this machine and watches over them, with torch's elastic agent.

The agent is what torchrun runs: it hands each process its rank, ends all when one fails, and starts them again if it
may. Here it also passes the signals of this process on, reports of all failures the one that began it, and starts
nothing again that would fail again. Importing it takes a tenth of torch's own time: only who starts ranks does.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import tempfile
import threading
import uuid
from collections import deque
from collections.abc import Iterator, Sequence

from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerSpec
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure
from torch.distributed.elastic.rendezvous import RendezvousParameters, registry

from pysolver.cores import check_crowd, usable_cores
from pysolver.errors import CaffeError
from pysolver.solver.ranks import STARTER

_PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_LOOK = 0.1  # seconds between two looks at the processes


def start(arguments: Sequence[str], processes: int, max_restarts: int = 0, answers: bool = True) -> None:
    """Run `python -m pysolver ARGUMENTS` so many times, as ranks of one job. CaffeError when a process failed.

    answers: whether the command answers signals; one that does not just ends by them, and its processes with it.
    """
    check_crowd(processes, "--processes")
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // processes)))
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = ""  # the signals are passed on, below
    os.environ[STARTER] = str(os.getpid())
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)  # its tables of failures: there is one line here
    with tempfile.TemporaryDirectory(prefix="pysolver-") as folder:
        meeting = RendezvousParameters(
            "c10d", "localhost:0", uuid.uuid4().hex, 1, 1, local_addr="localhost", is_host=True
        )
        spec = WorkerSpec(
            role="train",
            local_world_size=processes,
            entrypoint=sys.executable,
            args=("-m", "pysolver", *arguments),
            rdzv_handler=registry.get_rendezvous_handler(meeting),
            max_restarts=max_restarts,
            monitor_interval=_LOOK,
            local_addr="localhost",
        )
        agent = _Agent(spec, DefaultLogsSpecs(log_dir=folder), shutdown_timeout=10)
        with _signals_passed_on(agent) if answers else contextlib.nullcontext():
            result = agent.run()
        spec.rdzv_handler.shutdown()
    if result.is_failed():
        raise CaffeError(_root_cause(result.failures))


class _Agent(LocalElasticAgent):
    """Starts the processes again when one was lost, but not after a rank's own CaffeError: that would come back."""

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        result = super()._monitor_workers(worker_group)
        if any(failure.error_file_data.get("returns") for failure in result.failures.values()):
            self._remaining_restarts = 0
        return result


@contextlib.contextmanager
def _signals_passed_on(agent: LocalElasticAgent) -> Iterator[None]:
    """Every signal of the block goes to the first process here: the ranks agree on what it means.

    The processes inherit this thread's mask: they begin with these signals blocked, and let them in once they can
    answer. Another thread takes those of this process; Python calls the handlers in this one all the same.
    """
    waiting: deque[int] = deque()
    done = threading.Event()

    def pass_on() -> None:
        while not done.wait(_LOOK):
            workers = agent.get_worker_group().workers
            while waiting and workers and isinstance(workers[0].id, int):  # else they are being started
                with contextlib.suppress(ProcessLookupError):
                    os.kill(workers[0].id, waiting.popleft())

    before = {number: signal.signal(number, lambda number, frame: waiting.append(number)) for number in _PASSED_ON}
    thread = threading.Thread(target=pass_on, daemon=True)
    thread.start()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _PASSED_ON)
    try:
        yield
    finally:
        done.set()
        thread.join()
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in before.items():
            signal.signal(number, handler)


# ---- what went wrong ----------------------------------------------------------------------------------------------


def _root_cause(failures: dict[int, ProcessFailure]) -> str:
    """In one line: a rank's own error before a rank that was killed, before what only followed from another's end."""
    rank, failure = min(failures.items(), key=lambda item: (_class_of(item[1]), item[0]))
    if _class_of(failure) == 1:
        return f"rank {rank} (process {failure.pid}) was killed by {failure.signal_name()}; the others were ended"
    if failure.error_file_data.get("rank") is None:
        return f"rank {rank} (process {failure.pid}) ended with status {failure.exitcode} and said nothing"
    return failure.message if rank == 0 else f"rank {rank}: {failure.message}"


def _class_of(failure: ProcessFailure) -> int:
    if failure.error_file_data.get("lost"):
        return 3
    if failure.exitcode < 0:
        return 2 if failure.exitcode == -signal.SIGTERM else 1
    return 0
