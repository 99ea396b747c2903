"""Work on the elements of a stream in several threads, in order and with bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from pysolver.cores import usable_cores

A = TypeVar("A")
B = TypeVar("B")

_AHEAD = 8  # elements a thread


def map_ahead(function: Callable[[A], B], elements: Iterable[A]) -> Iterator[B]:
    """map(function, elements) in threads, for functions that let other threads run (OpenCV, files).

    Unlike Executor.map it takes only a few elements ahead of the result that is asked for.
    """
    elements = iter(elements)
    workers = usable_cores()
    with ThreadPoolExecutor(workers) as pool:
        running = deque(pool.submit(function, element) for element in islice(elements, _AHEAD * workers))
        while running:
            yield running.popleft().result()
            running.extend(pool.submit(function, element) for element in islice(elements, 1))
