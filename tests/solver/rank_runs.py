"""Helpers: a training in several processes of this machine, as torchrun would start them."""

from __future__ import annotations

import functools
import itertools
import multiprocessing
import os
import socket
import sys
from datetime import timedelta
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(folder: Path, size: int, port: int | None = None, **options: object) -> list:
    """The processes of a training of the folder's solver; rank r logs to `log<r>`.

    ask: (rank, n, signal) for a rank that is sent it at its n-th question whether there is anything to do. timeout: in
    seconds, of an exchange.
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


def command(folder: Path, size: int, *words: str) -> list[str]:
    """`pysolver WORDS` as ranks; what each said."""
    port = free_port()
    processes = [CONTEXT.Process(target=_command, args=(str(folder), r, size, port, words)) for r in range(size)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    logs = [(folder / f"log{rank}").read_text() for rank in range(size)]
    assert [process.exitcode for process in processes] == [0] * size, "\n".join(logs)[-3000:]
    return logs


def _command(folder: str, rank: int, size: int, port: int, words: tuple[str, ...]) -> None:
    _be(folder, rank, size, port)
    from pysolver.commands import main

    sys.exit(main(words))


def _be(folder: str, rank: int, size: int, port: int) -> None:
    os.chdir(folder)
    os.dup2(os.open(f"log{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()})


def _train(folder: str, rank: int, size: int, port: int, options: dict) -> None:
    _be(folder, rank, size, port)
    import torch

    from pysolver.errors import CaffeError
    from pysolver.solver import ranks
    from pysolver.solver.signals import Action, SignalHandler
    from pysolver.solver.train import TrainOptions, main

    torch.set_num_threads(1)
    (asked, when, number), polls = options.pop("ask", (None, 0, 0)), itertools.count()
    if timeout := options.pop("timeout", None):
        ranks.joined = functools.partial(ranks.joined, timeout=timedelta(seconds=timeout))
    if asked == rank:
        poll = SignalHandler.__call__

        def count(handler: SignalHandler) -> Action:
            if next(polls) == when:
                os.kill(os.getpid(), number)
            return poll(handler)

        SignalHandler.__call__ = count
    try:
        main(TrainOptions("solver.prototxt", **options))
    except CaffeError as error:
        print(f"pysolver: {error}", file=sys.stderr)
        sys.exit(1)
