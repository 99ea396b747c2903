"""A net without a solver, for commands (tools/caffe.cpp)."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from pysolver import memory
from pysolver.commands import _options as o
from pysolver.context import Context
from pysolver.export import files
from pysolver.logs import events as e
from pysolver.logs.events import Emit
from pysolver.logs.writer import to_stderr
from pysolver.net.filter import read_net_for
from pysolver.net.net import Net
from pysolver.net.pretrained import pretrained
from pysolver.pycaffe import alias
from pysolver.solver import devices


@contextlib.contextmanager
def open_net(
    model: str,
    phase: int,
    device: torch.device,
    level: int,
    stage: str,
    context: dict[str, Any],
    log: Emit = to_stderr,
    weights: Sequence[str] = (),
) -> Iterator[Net]:
    """The net of a file on a device, with weights from files, closed at the end."""
    alias.offer()  # modules of Python layers `import caffe`
    if device.type == "cuda":
        log(e.UseGpu(device.index))
        log(e.GpuName(torch.cuda.get_device_name(device)))
    else:
        log(e.UseCpu())
        log(devices.take_threads())
        memory.keep_freed()
    param = read_net_for(model, phase, level, stage.split(","), log)
    with contextlib.closing(pretrained(param, Context(device, listener=log, **context), weights, model)) as net:
        yield net


@contextlib.contextmanager
def quiet_net(args: argparse.Namespace, model: str, weights: str | None = None) -> Iterator[Net]:
    """The net of a file for those who only look at it: no log, on the CPU, closed at the end. args: of net_state."""
    alias.offer()
    with contextlib.closing(files.open_net(model, weights, **o.state(args))) as net:
        yield net
