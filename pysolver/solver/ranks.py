"""The processes that train one net together, on torch.distributed (Caffe's src/caffe/parallel.cpp is threads on NCCL).

Each rank computes on records of its own; the gradients are averaged over the ranks, so that all make the same update.
What has to be decided is decided once: the ranks agree on actions, rank 0 reads and writes files and tests.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from pysolver import lifetime
from pysolver.errors import CaffeError
from pysolver.net.parameters import Parameters
from pysolver.solver.buckets import Buckets
from pysolver.solver.signals import Action

TIMEOUT = timedelta(minutes=30)  # for one exchange, the compilation or slow batch before it included
_GRACE = 2  # seconds between the moments at which two ranks find that they have waited for too long
_INQUIRY = 10  # seconds to find out for whom
STARTER = "PYSOLVER_STARTER"  # the process that started this one (starter.py)
_BITS = {Action.NONE: 0, Action.SNAPSHOT: 1, Action.STOP: 2, Action.PREEMPT: 3}
_ACTIONS = {bits: action for action, bits in _BITS.items()}


class Alone:
    """One process that trains by itself: what it is told is what it said."""

    rank = 0
    size = 1

    @property
    def is_root(self) -> bool:
        """Whether this rank reads and writes files, tests and logs."""
        return self.rank == 0

    def watch(self, parameters: Parameters) -> None:
        """From now on average() is about the gradients of these."""

    @property
    def flat(self) -> list[Tensor]:
        """The buffers that are exchanged."""
        return []

    def last_pass(self) -> None:
        """The next backward pass completes the gradients: they may be sent as soon as they are there."""

    def average(self, grads: Sequence[Tensor]) -> None:
        """Turn the gradients of this rank into their mean over all ranks, in place: the sum, times 1 / size."""

    def agree(self, action: Action) -> Action:
        """All that any rank was asked to do."""
        return action

    def spread(self, data: bytes = b"") -> bytes:
        """What rank 0 says."""
        return data

    def gather(self, data: bytes) -> list[bytes]:
        """What each rank says, at all of them."""
        return [data]

    def share(self, tensors: Sequence[Tensor]) -> None:
        """Fill the tensors with rank 0's values."""


class Group(Alone):
    """The ranks of torch's default process group. A lost or late rank is a LostRank."""

    def __init__(self, store: dist.Store, timeout: timedelta = TIMEOUT) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self._store, self._timeout = store, timeout
        self._buckets: Buckets | None = None

    def watch(self, parameters: Parameters) -> None:
        leaves = [[owner] for owner in parameters.learnable]
        for slot in parameters.slots:
            if slot.owner is not None:
                leaves[slot.owner].append(slot.blob)
        self._buckets = Buckets(leaves)

    @property
    def flat(self) -> list[Tensor]:
        return self._buckets.flat

    def last_pass(self) -> None:
        self._buckets.expect()

    def average(self, grads: Sequence[Tensor]) -> None:
        with self._talking():
            self._buckets.average()

    def agree(self, action: Action) -> Action:
        bits = torch.tensor([_BITS[action] & 1, _BITS[action] & 2])
        with self._talking():
            dist.all_reduce(bits, dist.ReduceOp.MAX)
        return _ACTIONS[int(bits.sum())]

    def spread(self, data: bytes = b"") -> bytes:
        with self._talking():
            size = torch.tensor(len(data))
            dist.broadcast(size, 0)
            content = _tensor(data) if self.is_root else torch.empty(int(size), dtype=torch.uint8)
            if content.numel():
                dist.broadcast(content, 0)
        return bytes(content.numpy())

    def gather(self, data: bytes) -> list[bytes]:
        with self._talking():
            sizes = [torch.tensor(0) for _ in range(self.size)]
            dist.all_gather(sizes, torch.tensor(len(data)))
            most = max(map(int, sizes))
            found = [torch.empty(most, dtype=torch.uint8) for _ in range(self.size)]
            dist.all_gather(found, _tensor(data + bytes(most - len(data))))
        return [bytes(content[: int(size)].numpy()) for content, size in zip(found, sizes)]

    def share(self, tensors: Sequence[Tensor]) -> None:
        with self._talking():
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    @contextlib.contextmanager
    def _talking(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # what every backend raises
            raise LostRank(self._why(error)) from None

    def _why(self, error: RuntimeError) -> str:
        if "timed out" not in str(error).lower():
            return "another process of this training is gone"
        seconds = f"{self._timeout.total_seconds():g} seconds"
        late: list[str] = []
        inquiry = threading.Thread(target=self._look_who_waits, args=[late], daemon=True)
        inquiry.start()  # the store itself knows no time-out
        inquiry.join(_INQUIRY)
        if not late:
            return f"no answer within {seconds}, nor from {_master()}, where the ranks meet"
        return f"no answer from rank {', '.join(late)} within {seconds}"

    def _look_who_waits(self, late: list[str]) -> None:
        """Fill in the ranks that do not wait as this one does."""
        with contextlib.suppress(RuntimeError):
            self._store.set(f"waited/{self.rank}", "1")
            time.sleep(_GRACE)
            late += [str(rank) for rank in range(self.size) if not self._store.check([f"waited/{rank}"])] or ["?"]
        if self.is_root:  # its end may be that of the store, which the others ask at about this moment
            time.sleep(_GRACE)


class LostRank(CaffeError):
    """Another rank ended or hangs: not this rank's own fault."""


def _tensor(data: bytes) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)


# ---- joining ------------------------------------------------------------------------------------------------------


def place() -> tuple[int, int] | None:
    """(local rank, number of ranks) that torchrun or our own starter put into the environment, None without them."""
    try:
        size = int(os.environ["WORLD_SIZE"])
        return (int(os.environ["LOCAL_RANK"]), size) if "RANK" in os.environ else None
    except (KeyError, ValueError):
        return None


def is_follower() -> bool:
    """Whether the environment makes this process another rank than 0: one that follows, and keeps no log."""
    return os.environ.get("RANK", "0") != "0"


@contextlib.contextmanager
def joined(device: torch.device, timeout: timedelta = TIMEOUT) -> Iterator[Alone]:
    """The ranks of this process's environment; Alone where there are none. Gloo carries what is on the CPU."""
    if place() is None or place()[1] == 1:
        yield Alone()
        return
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    try:
        store, rank, size = next(dist.rendezvous("env://", timeout=timeout))
        store.set_timeout(timeout)
        if STARTER in os.environ:  # the agent keeps one store over all restarts: the addresses of the dead stay in it
            store = dist.PrefixStore(f"start {os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)
    except (RuntimeError, ValueError) as error:
        raise _not_joined(error) from None
    try:
        yield Group(store, timeout)
        dist.destroy_process_group()
    except LostRank:
        raise
    except BaseException:
        with contextlib.suppress(RuntimeError):
            dist.destroy_process_group()  # so that the others learn of it at once
        raise


def _master() -> str:
    return f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"


def _not_joined(error: BaseException) -> CaffeError:
    where = _master()
    text = str(error).partition("\n")[0]
    if "EADDRINUSE" in text or "address already in use" in text.lower():
        return CaffeError(f"port {where} is in use: set MASTER_PORT, or torchrun's --master-port, to another")
    return LostRank(f"cannot join the other processes at {where}: {text}")


@contextlib.contextmanager
def as_rank() -> Iterator[None]:
    """The block is the work of a rank, if this process is one: it does not outlive who started it.

    If starter.start() did, an error of the block ends the process, and start() tells it; else it is told here.
    """
    if place() and "TORCHELASTIC_RUN_ID" in os.environ:
        lifetime.end_with_parent()
        if STARTER in os.environ and not lifetime.is_alive(int(os.environ[STARTER])):
            sys.exit(1)  # it died while this process began
    if place() is None or os.environ.get(STARTER) != str(os.getppid()):
        yield
        return
    try:
        yield
    except Exception as error:
        lost, foreseen = isinstance(error, LostRank), isinstance(error, CaffeError)
        words = str(error) if foreseen else f"{type(error).__name__}: {error}"
        told = {"message": words, "timestamp": time.time(), "rank": os.environ["RANK"]}
        with open(os.environ["TORCHELASTIC_ERROR_FILE"], "w") as file:
            json.dump({**told, "lost": lost, "returns": foreseen and not lost}, file)
        if not foreseen:
            raise
        sys.exit(1)
