"""Benchmark the layers of a net."""

from __future__ import annotations

import argparse
import time as clock
from collections.abc import Callable
from typing import Any

import torch

from pysolver.commands import _options as o
from pysolver.commands._net import open_net
from pysolver.errors import CaffeError
from pysolver.logs import notices
from pysolver.logs.events import Emit
from pysolver.logs.writer import to_stderr
from pysolver.net.net import Net
from pysolver.proto import caffe_pb2


def options(parser: argparse.ArgumentParser) -> None:
    for add in (o.model, o.gpu, o.net_state):
        add(parser)
    o.flag(parser, "iterations", type=o.positive, default=50, metavar="N", help="passes to time (default 50)")


def call(args: argparse.Namespace) -> None:
    time(
        o.required(args.model, "Need a model definition to time: --model=FILE"),
        iterations=args.iterations,
        phase=args.phase,
        gpu=args.gpu,
        level=args.level,
        stage=args.stage,
        allow_python_layers=args.allow_python_layers,
        log=args.log,
    )


def time(
    model: str,
    *,
    iterations: int = 50,
    phase: str = "",
    gpu: str = "",
    level: int = 0,
    stage: str = "",
    log: Emit = to_stderr,
    **context: Any,
) -> None:
    """Time every layer forward and backward, and the whole net, as `caffe time` prints it."""
    if phase not in ("", "TRAIN", "TEST"):
        raise CaffeError(f'phase must be "TRAIN" or "TEST", not "{phase}"')
    with open_net(
        model, caffe_pb2.TEST if phase == "TEST" else caffe_pb2.TRAIN, gpu, level, stage, context, log
    ) as net:
        emit = net.context.emit
        emit(notices.PerformingForward())
        emit(notices.InitialLoss(net.forward()))
        emit(notices.PerformingBackward())
        net.backward()
        emit(notices.BenchmarkBegins())
        emit(notices.TimingFor(iterations))
        _benchmark(net, iterations)
        emit(notices.BenchmarkEnds())


def _benchmark(net: Net, iterations: int) -> None:
    device, emit = net.context.device, net.context.emit
    forward, backward = [0.0] * len(net.layers), [0.0] * len(net.layers)
    begin = clock.perf_counter()
    for iteration in range(iterations):
        before = sum(forward) + sum(backward)
        for index in range(len(net.layers)):
            forward[index] += _milliseconds(lambda i=index: net.forward(i, i), device)
        for index in reversed(range(len(net.layers))):
            backward[index] += _milliseconds(lambda i=index: net.backward(i, i), device)
        passed = sum(forward) + sum(backward) - before
        emit(notices.TimedIteration(iteration + 1, passed))
    total = (clock.perf_counter() - begin) * 1000
    emit(notices.TimesPerLayer())
    for name, ahead, back in zip(net.layer_names, forward, backward):
        emit(notices.LayerTime(f"{name:>10}", "forward", ahead / iterations))
        emit(notices.LayerTime(f"{name:>10}", "backward", back / iterations))
    emit(notices.ForwardTime(sum(forward) / iterations))
    emit(notices.BackwardTime(sum(backward) / iterations))
    emit(notices.BothTime(total / iterations))
    emit(notices.TotalTime(total))


def _milliseconds(work: Callable[[], object], device: torch.device) -> float:
    begin = clock.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (clock.perf_counter() - begin) * 1000
