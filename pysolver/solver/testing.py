"""A test: the mean of every output over some batches (Solver::Test), and how values are told."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pysolver.errors import CaffeError
from pysolver.logs import events as e
from pysolver.net.net import Net

OutputValue = tuple[str, Tensor, float]  # name, values, loss weight: as Net.output_values gives them


@dataclass(frozen=True)
class TestResult:
    """Means over the batches: the weighted loss, and (name, value, loss weight) of every output element."""

    __test__ = False  # not a test case of pytest

    loss: float
    outputs: list[tuple[str, np.float32, float]]


def run_batches(
    net: Net, batches: int, forward: Callable[[], Tensor], stop: Callable[[], bool] = lambda: False
) -> TestResult | None:
    """The mean over so many forward passes, summed in float32; None if `stop`, asked before each, says so."""
    loss: Tensor | float = 0.0
    sums: list[OutputValue] = []
    with torch.no_grad():
        for batch in range(batches):
            if stop():
                return None
            loss = loss + forward()
            outputs = [(name, value.flatten(), weight) for name, value, weight in net.output_values()]
            sums = [_add(a, b) for a, b in zip(sums, outputs)] if batch else [(n, v.clone(), w) for n, v, w in outputs]
    means = [(name, total / batches, weight) for name, total, weight in sums]
    return TestResult(float(loss / batches), list(elements(means)))


def keep_step(batches: int, stop: Callable[[], bool]) -> None:
    """Wait for a rank that runs a test, serving with it what is asked for before each of its batches."""
    for _ in range(batches):
        if stop():
            return


def _add(total: OutputValue, output: OutputValue) -> OutputValue:
    name, values, weight = output
    if total[1].shape != values.shape:
        raise CaffeError(
            f"output '{name}' has {total[1].numel()} elements in one batch of the test and {values.numel()} in "
            "another: their mean is not defined"
        )
    return name, total[1] + values, weight


def elements(outputs: Iterable[OutputValue]) -> Iterator[tuple[str, np.float32, float]]:
    """(name, value, loss weight) of each element of the outputs."""
    for name, values, weight in outputs:
        for value in values.detach().flatten().cpu().numpy():
            yield name, value, weight


def output_events(phase: str, values: Iterable[tuple[str, np.float32, float]]) -> Iterator[e.Output]:
    """The log's lines for output elements; a weighted one also tells its share of the loss."""
    for index, (name, value, weight) in enumerate(values):
        yield e.Output(phase, index, name, float(value), *weighted(value, weight))


def weighted(value: np.float32, weight: float) -> tuple[float, float] | tuple[None, None]:
    """(weight, weight * value), or nothing for an output without loss weight."""
    if not weight:
        return None, None
    with np.errstate(invalid="ignore", over="ignore"):
        return weight, float(np.float32(weight) * value)
