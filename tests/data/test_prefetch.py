"""The prefetch thread: order, depth, errors, and its end."""

from __future__ import annotations

import gc
import threading
import time

import pytest
import torch

from pysolver.data.prefetch import Prefetcher

CPU = torch.device("cpu")


class Maker:
    def __init__(self, fails_at: int = -1) -> None:
        self.made: list[int] = []
        self.fails_at = fails_at

    def make(self, index: int) -> list[torch.Tensor]:
        if index == self.fails_at:
            raise ValueError(f"batch {index}")
        self.made.append(index)
        return [torch.tensor(index)]


def wait_until(condition) -> None:
    while not condition():  # the suite's own timeout ends it
        time.sleep(0.01)


def test_batches_come_in_order_and_no_more_than_depth_are_ready() -> None:
    maker = Maker()
    ahead = Prefetcher(maker.make, 5, 3, CPU)
    wait_until(lambda: len(maker.made) == 4)  # three in the queue and one in hand
    time.sleep(0.1)
    assert maker.made == [5, 6, 7, 8]
    assert [ahead.take()[0].item() for _ in range(6)] == [5, 6, 7, 8, 9, 10]
    ahead.close()


def test_an_error_comes_at_its_place_and_stays() -> None:
    maker = Maker(fails_at=2)
    ahead = Prefetcher(maker.make, 0, 2, CPU)
    assert [ahead.take()[0].item() for _ in range(2)] == [0, 1]
    for _ in range(3):
        with pytest.raises(ValueError, match="batch 2"):
            ahead.take()
    ahead.close()


def test_close_ends_the_thread_at_once() -> None:
    before = set(threading.enumerate())
    maker = Maker()
    ahead = Prefetcher(maker.make, 0, 1, CPU)
    (thread,) = set(threading.enumerate()) - before
    wait_until(lambda: len(maker.made) == 2)
    ahead.close()
    assert not thread.is_alive()


def test_a_forgotten_prefetcher_ends_its_thread() -> None:
    before = set(threading.enumerate())
    maker = Maker()
    ahead = Prefetcher(maker.make, 0, 1, CPU)
    (thread,) = set(threading.enumerate()) - before
    ahead.take()
    del ahead
    gc.collect()
    wait_until(lambda: not thread.is_alive())


def test_the_thread_leaves_the_callers_torch_threads_alone() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        maker = Maker()
        ahead = Prefetcher(maker.make, 0, 1, CPU)
        ahead.take()
        assert torch.get_num_threads() == 3
        ahead.close()
    finally:
        torch.set_num_threads(threads)


def test_waiting_is_logged_once_in_a_thousand(capfd) -> None:
    class Slow(Maker):
        def make(self, index: int) -> list[torch.Tensor]:
            time.sleep(0.02)
            return super().make(index)

    maker = Slow()
    ahead = Prefetcher(maker.make, 0, 1, CPU)
    for _ in range(5):
        ahead.take()
    ahead.close()
    assert capfd.readouterr().err.count("blocking_queue.cpp:49] Waiting for data") == 1
