"""`pysolver test` and `pysolver time`: a net without a solver (tools/caffe.cpp)."""

from __future__ import annotations

import contextlib
import time as clock
from collections.abc import Callable, Iterator
from typing import Any

import torch

from pysolver.context import Context
from pysolver.errors import CaffeError, about
from pysolver.logs import events as e
from pysolver.logs import glog
from pysolver.logs.writer import CaffeLog
from pysolver.net.filter import read_net_for
from pysolver.net.net import Net
from pysolver.proto import caffe_pb2
from pysolver.solver import devices, testing


def test(
    model: str, weights: str, *, iterations: int = 50, gpu: str = "", level: int = 0, stage: str = "", **context: Any
) -> None:
    """Mean outputs of a net in TEST phase over so many batches, as `caffe test` prints them."""
    log = CaffeLog()
    with _net(model, caffe_pb2.TEST, gpu, level, stage, context) as net:
        net.copy_trained_layers_from(weights)
        log(e.RunningFor(iterations))
        batch = 0

        def forward() -> torch.Tensor:
            nonlocal batch
            loss = net.run()
            for name, value, _ in testing.elements(net.output_values()):
                log(e.BatchOutput(batch, name, float(value)))
            batch += 1
            return loss

        result = testing.run_batches(net, iterations, forward)
        log(e.MeanLoss(result.loss))
        for name, value, weight in result.outputs:
            log(e.MeanOutput(name, float(value), *testing.weighted(value, weight)))


def time(
    model: str,
    *,
    iterations: int = 50,
    phase: str = "",
    gpu: str = "",
    level: int = 0,
    stage: str = "",
    **context: Any,
) -> None:
    """Time every layer forward and backward, and the whole net, as `caffe time` prints it."""
    if phase not in ("", "TRAIN", "TEST"):
        raise CaffeError(f'phase must be "TRAIN" or "TEST", not "{phase}"')
    with _net(model, caffe_pb2.TEST if phase == "TEST" else caffe_pb2.TRAIN, gpu, level, stage, context) as net:
        _say(351, "Performing Forward")
        _say(356, f"Initial loss: {net.forward():g}")
        _say(357, "Performing Backward")
        net.backward()
        _say(365, "*** Benchmark begins ***")
        _say(366, f"Testing for {iterations} iterations.")
        _benchmark(net, iterations)
        _say(415, "*** Benchmark ends ***")


def _benchmark(net: Net, iterations: int) -> None:
    device = net.context.device
    forward, backward = [0.0] * len(net.layers), [0.0] * len(net.layers)
    begin = clock.perf_counter()
    for iteration in range(iterations):
        before = sum(forward) + sum(backward)
        for index in range(len(net.layers)):
            forward[index] += _milliseconds(lambda i=index: net.forward(i, i), device)
        for index in reversed(range(len(net.layers))):
            backward[index] += _milliseconds(lambda i=index: net.backward(i, i), device)
        passed = sum(forward) + sum(backward) - before
        _say(394, f"Iteration: {iteration + 1} forward-backward time: {passed:g} ms.")
    total = (clock.perf_counter() - begin) * 1000
    _say(397, "Average time per layer: ")
    for name, ahead, back in zip(net.layer_names, forward, backward):
        _say(400, f"{name:>10}\tforward: {ahead / iterations:g} ms.")
        _say(403, f"{name:>10}\tbackward: {back / iterations:g} ms.")
    _say(408, f"Average Forward pass: {sum(forward) / iterations:g} ms.")
    _say(410, f"Average Backward pass: {sum(backward) / iterations:g} ms.")
    _say(412, f"Average Forward-Backward: {total / iterations:g} ms.")
    _say(414, f"Total Time: {total:g} ms.")


def _milliseconds(work: Callable[[], object], device: torch.device) -> float:
    begin = clock.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (clock.perf_counter() - begin) * 1000


def _say(line: int, text: str) -> None:
    glog.info(f"caffe.cpp:{line}", text)


@contextlib.contextmanager
def _net(model: str, phase: int, gpu: str, level: int, stage: str, context: dict[str, Any]) -> Iterator[Net]:
    """The net of a file on the device that --gpu names (the first of several), closed at the end."""
    log, ids = CaffeLog(), devices.gpu_ids(gpu)
    if ids:
        log(e.UseGpu(ids[0]))
        log(e.GpuName(torch.cuda.get_device_name(ids[0])))
    else:
        log(e.UseCpu())
    device = torch.device("cuda", ids[0]) if ids else torch.device("cpu")
    param = read_net_for(model, phase, level, stage.split(","))
    with about(model):
        net = Net(param, Context(device, **context))
    with contextlib.closing(net):
        yield net
