"""Starts the processes of a training on this machine and watches over them, with torch's elastic agent.

The agent is what torchrun runs: it hands each process its rank, ends all when one fails, and starts them again if it
may. Here it also passes the signals of this process on, and of all failures it reports the one that began it.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import os
import signal
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Sequence

from torch.distributed.elastic.agent.server.api import WorkerSpec
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure
from torch.distributed.elastic.rendezvous import RendezvousParameters, registry

from pysolver.errors import CaffeError
from pysolver.solver.ranks import LostRank

_PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_STARTER = "PYSOLVER_STARTER"  # the process that started this one
_LOOK = 0.1  # seconds between two looks at the processes


def start(arguments: Sequence[str], processes: int, max_restarts: int = 0) -> None:
    """Run `python -m pysolver ARGUMENTS` so many times, as ranks of one job. CaffeError when a process failed."""
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = ""  # the signals are passed on, below
    os.environ[_STARTER] = str(os.getpid())
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
        agent = LocalElasticAgent(spec, DefaultLogsSpecs(log_dir=folder), shutdown_timeout=10)
        with _signals_passed_on(agent):
            result = agent.run()
        spec.rdzv_handler.shutdown()
    if result.is_failed():
        raise CaffeError(_root_cause(result.failures))


@contextlib.contextmanager
def _signals_passed_on(agent: LocalElasticAgent) -> Iterator[None]:
    """Every signal of the block goes to rank 0's process of this machine: the ranks agree on what it means.

    The processes are started with these signals blocked, and let them in once they can answer.
    """
    done = threading.Event()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _PASSED_ON)

    def wait_for_signals() -> None:
        while not done.is_set():
            found = signal.sigtimedwait(_PASSED_ON, _LOOK)
            while found and not done.is_set() and not _pass_on(agent, found.si_signo):
                time.sleep(_LOOK)  # they are being started

    thread = threading.Thread(target=wait_for_signals, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _pass_on(agent: LocalElasticAgent, number: int) -> bool:
    workers = agent.get_worker_group().workers
    if not workers or not isinstance(workers[0].id, int):
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(workers[0].id, number)
    return True


# ---- what went wrong ----------------------------------------------------------------------------------------------


def _root_cause(failures: dict[int, ProcessFailure]) -> str:
    """In one line: a rank's own error before a rank that was killed, before what only followed from another's end."""
    rank, failure = min(failures.items(), key=lambda item: (_class_of(item[1]), item[1].timestamp, item[0]))
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


@contextlib.contextmanager
def told_to_the_starter() -> Iterator[None]:
    """In a process that start() started: an error of the block is kept for the starter to tell, and ends it."""
    if os.environ.get(_STARTER) != str(os.getppid()):
        yield
        return
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: no orphans where the starter is killed
    try:
        yield
    except Exception as error:
        words = str(error) if isinstance(error, CaffeError) else f"{type(error).__name__}: {error}"
        told = {"message": words, "timestamp": time.time(), "rank": os.environ["RANK"]}
        with open(os.environ["TORCHELASTIC_ERROR_FILE"], "w") as file:
            json.dump({**told, "lost": isinstance(error, LostRank)}, file)
        if not isinstance(error, CaffeError):
            raise
        sys.exit(1)
