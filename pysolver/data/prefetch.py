"""A thread that makes batches ahead of their use."""

from __future__ import annotations

import contextlib
import queue
import threading
import weakref
from collections.abc import Callable

import torch
from torch import Tensor

from pysolver.logs import events as e
from pysolver.logs.events import Emit
from pysolver.logs.writer import to_stderr

_POLL_SECONDS = 0.2
_LOG_EVERY = 1000


class Prefetcher:
    """Calls make(start), make(start + 1), ... in a thread and keeps up to `depth` results ready.

    On a GPU the thread works on a stream of its own, and take() makes the caller's stream wait for it.
    The thread holds `make` (a bound method) weakly: a source that nobody uses any more ends its thread.
    """

    def __init__(
        self, make: Callable[[int], list[Tensor]], start: int, depth: int, device: torch.device, emit: Emit = to_stderr
    ) -> None:
        self._emit = emit
        self._device = device
        self._ready: queue.Queue = queue.Queue(depth)
        self._waits = 0
        stop = threading.Event()
        stream = None
        if device.type == "cuda":
            stream = torch.cuda.Stream(device)
            stream.wait_stream(torch.cuda.current_stream(device))  # what set_up put there, such as a mean image
        worker = threading.Thread(
            target=_work, args=(weakref.WeakMethod(make), start, self._ready, stop, stream), daemon=True
        )
        self.close = weakref.finalize(self, _end, stop, self._ready, worker)  # runs at the latest when Python ends
        worker.start()

    def take(self) -> list[Tensor]:
        """The next batch; raises what making it raised, then and ever after."""
        if self._ready.empty():
            if self._waits % _LOG_EVERY == 1:  # not the first time: the thread has only just started
                self._emit(e.WaitingForData())
            self._waits += 1
        item = self._ready.get()
        if isinstance(item, BaseException):
            self._ready.put(item)
            raise item
        batch, made = item
        if made is not None:
            stream = torch.cuda.current_stream(self._device)
            stream.wait_event(made)
            for tensor in batch:
                tensor.record_stream(stream)
        return batch


def _work(
    make: weakref.WeakMethod,
    index: int,
    ready: queue.Queue,
    stop: threading.Event,
    stream: torch.cuda.Stream | None,
) -> None:
    torch.set_num_threads(1)  # of this thread: two teams of OpenMP threads on the same cores spin against each other
    with torch.cuda.stream(stream) if stream else contextlib.nullcontext():
        while not stop.is_set():
            source_make = make()
            if source_make is None:
                return
            item: tuple[list[Tensor], torch.cuda.Event | None] | BaseException
            try:
                item = (source_make(index), stream.record_event() if stream else None)
            except BaseException as error:  # noqa: BLE001  handed to the thread that asks for the batch
                item = error
            del source_make
            _put(ready, item, stop)
            if isinstance(item, BaseException):
                return
            del item
            index += 1


def _put(ready: queue.Queue, item: object, stop: threading.Event) -> None:
    while not stop.is_set():
        with contextlib.suppress(queue.Full):
            ready.put(item, timeout=_POLL_SECONDS)
            break


def _end(stop: threading.Event, ready: queue.Queue, worker: threading.Thread) -> None:
    stop.set()
    with contextlib.suppress(queue.Empty):
        while True:
            ready.get_nowait()
    if worker is not threading.current_thread():
        worker.join()
