"""Helpers: a training in several processes of this machine, as torchrun would start them."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import socket
import sys
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(folder: Path, size: int, port: int | None = None, **options: object) -> list:
    """The processes of a training of the folder's solver; rank r logs to `log<r>`.

    ask: (rank, n) for a rank that is sent SIGTERM at its n-th question whether there is anything to do.
    """
    CONTEXT.set_forkserver_preload(["pysolver.solver.train", "pysolver.solver.starter", "pysolver.net.net"])
    port = port or free_port()
    processes = [CONTEXT.Process(target=_train, args=(str(folder), r, size, port, options)) for r in range(size)]
    for process in processes:
        process.start()
    return processes


def run(folder: Path, size: int, **options: object) -> str:
    """Train to the end; rank 0's log."""
    processes = start(folder, size, **options)
    for process in processes:
        process.join(120)
    logs = [(folder / f"log{rank}").read_text() for rank in range(size)]
    assert [process.exitcode for process in processes] == [0] * size, "\n".join(logs)[-3000:]
    assert not any(logs[1:]), "only rank 0 speaks"
    return logs[0]


def _train(folder: str, rank: int, size: int, port: int, options: dict) -> None:
    os.chdir(folder)
    os.dup2(os.open(f"log{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()})
    import torch

    from pysolver.errors import CaffeError
    from pysolver.solver.signals import Action, SignalHandler
    from pysolver.solver.train import TrainOptions, main

    torch.set_num_threads(1)
    asked, polls = options.pop("ask", (None, 0)), itertools.count()
    if asked[0] == rank:
        poll = SignalHandler.__call__

        def count(handler: SignalHandler) -> Action:
            if next(polls) == asked[1]:
                os.kill(os.getpid(), signal.SIGTERM)
            return poll(handler)

        SignalHandler.__call__ = count
    try:
        main(TrainOptions("solver.prototxt", **options))
    except CaffeError as error:
        print(f"pysolver: {error}", file=sys.stderr)
        sys.exit(1)
