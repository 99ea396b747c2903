"""Score a net with given weights."""

from __future__ import annotations

import argparse
from typing import Any

import torch

from pysolver.commands import _options as o
from pysolver.commands._net import open_net
from pysolver.logs import events as e
from pysolver.logs.events import Emit
from pysolver.logs.writer import to_stderr
from pysolver.proto import caffe_pb2
from pysolver.solver import devices, testing


def options(parser: argparse.ArgumentParser) -> None:
    for add in (o.model, o.weights, o.gpu, o.net_state):
        add(parser)
    o.flag(parser, "iterations", type=o.positive, default=50, metavar="N", help="batches to run (default 50)")


def call(args: argparse.Namespace) -> None:
    test(
        o.required(args.model, "Need a model definition to score: --model=FILE"),
        o.required(args.weights, "Need model weights to score: --weights=FILE"),
        iterations=args.iterations,
        gpu=args.gpu,
        level=args.level,
        stage=args.stage,
        allow_python_layers=args.allow_python_layers,
        log=args.emit,
    )


def test(
    model: str,
    weights: str,
    *,
    iterations: int = 50,
    gpu: str = "",
    level: int = 0,
    stage: str = "",
    log: Emit = to_stderr,
    **context: Any,
) -> None:
    """Mean outputs of a net in TEST phase over so many batches, as `caffe test` prints them."""
    with open_net(model, caffe_pb2.TEST, devices.named(gpu), level, stage, context, log, [weights]) as net:
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
