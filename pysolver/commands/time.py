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
from pysolver.logs import glog
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
    )


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
    with open_net(model, caffe_pb2.TEST if phase == "TEST" else caffe_pb2.TRAIN, gpu, level, stage, context) as net:
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
