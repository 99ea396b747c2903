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
from pysolver.solver.ranks import Alone

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
    total = _Sum()
    for _ in range(batches):
        if stop():
            return None
        total.add(*_one_batch(net, forward))
    return total.mean()


def run_divided(
    net: Net, batches: int, forward: Callable[[], Tensor], stop: Callable[[], bool], ranks: Alone
) -> TestResult | None:
    """The same result, to the bit, from batches that all ranks run, each its own (Part of batch_source.py)."""
    rows: list[np.ndarray] = []
    outputs: list[OutputValue] = []
    for first in range(0, batches, ranks.size):
        if stop():
            return None
        if first + ranks.rank < batches:
            loss, outputs = _one_batch(net, forward)
            rows.append(torch.cat([loss.reshape(1), *(value for _, value, _ in outputs)]).cpu().numpy())
    told = [np.frombuffer(data, np.float32) for data in ranks.gather(np.array(rows, np.float32).tobytes())]
    if not ranks.is_root:
        return None
    sizes = [1, *(len(value) for _, value, _ in outputs)]
    tables = [torch.from_numpy(values.copy()).view(-1, sum(sizes)) for values in told]
    total = _Sum()
    for batch in range(batches):
        loss, *values = tables[batch % ranks.size][batch // ranks.size].split(sizes)
        total.add(loss[0], [(name, value, weight) for (name, _, weight), value in zip(outputs, values)])
    return total.mean()


def _one_batch(net: Net, forward: Callable[[], Tensor]) -> tuple[Tensor, list[OutputValue]]:
    with torch.no_grad():
        loss = forward()
    return loss, [(name, value.flatten(), weight) for name, value, weight in net.output_values()]


class _Sum:
    """Losses and outputs of some batches, added in float32 in their order."""

    def __init__(self) -> None:
        self.loss: Tensor | float = 0.0
        self.outputs: list[OutputValue] = []
        self.count = 0

    def add(self, loss: Tensor, outputs: list[OutputValue]) -> None:
        self.loss = self.loss + loss
        if self.count:
            self.outputs = [_add(a, b) for a, b in zip(self.outputs, outputs)]
        else:
            self.outputs = [(name, value.clone(), weight) for name, value, weight in outputs]
        self.count += 1

    def mean(self) -> TestResult:
        means = [(name, total / self.count, weight) for name, total, weight in self.outputs]
        return TestResult(float(self.loss / self.count), list(elements(means)))


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
            "another: their mean is not defined. Of the rows of a DetectionEvaluate layer a solver with "
            'eval_type: "detection" tells the mean average precision'
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
