"""Benchmark the layers of a net."""

from __future__ import annotations

import argparse
import os
import time as clock
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from pysolver.commands import _options as o
from pysolver.commands._net import open_net
from pysolver.errors import CaffeError
from pysolver.files import replacing
from pysolver.logs import notices
from pysolver.logs.events import Emit
from pysolver.logs.writer import to_stderr
from pysolver.net.fusions import channels_last
from pysolver.net.net import Net
from pysolver.net.nodes import SourceNode
from pysolver.net.precision import DTYPES
from pysolver.proto import caffe_pb2
from pysolver.solver import devices, ranks

_SIDE = 1024  # of the square matrices whose product tells the machine's peak
_MEBI = 2**20


def options(parser: argparse.ArgumentParser) -> None:
    for add in (o.model, o.gpu, o.net_state):
        add(parser)
    o.flag(parser, "iterations", type=o.positive, default=50, metavar="N", help="passes to time (default 50)")
    o.flag(parser, "precision", choices=["fp32", "bf16", "fp16"], default="fp32", help="as in train (default fp32)")
    o.flag(parser, "processes", type=o.positive, default=1, metavar="N",
           help="then time so many at once that exchange gradients, as train does (on GPUs: one each)")  # fmt: skip
    o.flag(parser, "profile", metavar="FILE", help="write a Chrome trace of one more iteration there")


def call(args: argparse.Namespace) -> None:
    model = o.required(args.model, "Need a model definition to time: --model=FILE")
    if args.processes > 1 and ranks.place() is None:
        from pysolver.solver import starter

        starter.start(["time", *args.words], args.processes, answers=False)
        return
    with ranks.as_rank():
        time(
            model,
            iterations=args.iterations,
            phase=args.phase,
            gpu=args.gpu,
            level=args.level,
            stage=args.stage,
            profile=args.profile,
            allow_python_layers=args.allow_python_layers,
            precision=args.precision,
            log=args.emit,
        )


def time(
    model: str,
    *,
    iterations: int = 50,
    phase: str = "",
    gpu: str = "",
    level: int = 0,
    stage: str = "",
    profile: str | None = None,
    log: Emit = to_stderr,
    **context: Any,
) -> None:
    """Time every layer forward and backward, and the whole net, as `caffe time` prints it: by the clock on the wall.

    Then, beyond Caffe: what the layers reach of the speed of a matrix product, an iteration as `train` runs it, with
    its memory, and what limits the net. profile: file for a Chrome trace of such an iteration.
    Where the environment names several ranks, the first does all this while the others wait, and then all of them
    compute at once and exchange gradients, as `train` does.
    """
    if phase not in ("", "TRAIN", "TEST"):
        raise CaffeError(f'phase must be "TRAIN" or "TEST", not "{phase}"')
    device = devices.named(gpu, (ranks.place() or (0, 1))[0])
    with ranks.joined(device) as group:
        log = log if group.is_root else lambda event: None
        context |= {"rank": group.rank, "world_size": group.size}
        wanted = caffe_pb2.TEST if phase == "TEST" else caffe_pb2.TRAIN
        with open_net(model, wanted, device, level, stage, context, log) as net:
            alone = _time_alone(net, iterations, profile) if group.is_root else 0.0
            if group.size > 1:
                group.spread()  # the others have waited here
                _time_together(net, group, iterations, alone)


def _time_alone(net: Net, iterations: int, profile: str | None) -> float:
    """Everything about one process; milliseconds of an iteration as `train` runs it."""
    memory = _peak_memory(net)
    emit = net.context.emit
    emit(notices.PerformingForward())
    emit(notices.InitialLoss(net.forward()))
    emit(notices.PerformingBackward())
    net.backward()
    costs = [_count(net, index) for index in range(len(net.layers))]
    emit(notices.BenchmarkBegins())
    emit(notices.TimingFor(iterations))
    _benchmark(net, costs, iterations)
    emit(notices.BenchmarkEnds())
    alone = _report(net, costs, iterations, memory)
    if profile:
        _trace(net, profile)
    return alone


@dataclass
class Cost:
    """What one layer takes: operations of its matrix products and convolutions, and milliseconds, summed."""

    name: str
    type: str
    is_source: bool
    flops: int
    forward: float = 0.0
    backward: float = 0.0

    @property
    def milliseconds(self) -> float:
        return self.forward + self.backward


def _count(net: Net, index: int) -> Cost:
    node = net.nodes[index]
    with FlopCounterMode(display=False) as counter:
        net.forward(index, index)
        net.backward(index, index)
    return Cost(node.layer.name, node.layer.type_name, isinstance(node, SourceNode), counter.get_total_flops())


def _benchmark(net: Net, costs: list[Cost], iterations: int) -> None:
    device, emit = net.context.device, net.context.emit
    begin = clock.perf_counter()
    for iteration in range(iterations):
        before = sum(cost.milliseconds for cost in costs)
        for index, cost in enumerate(costs):
            cost.forward += _milliseconds(partial(net.forward, index, index), device)
            if cost.is_source:  # the layout in which `train` computes
                for blob in net.nodes[index].tops:
                    blob.value = channels_last(blob.value)
        for index, cost in reversed(list(enumerate(costs))):
            cost.backward += _milliseconds(partial(net.backward, index, index), device)
        passed = sum(cost.milliseconds for cost in costs) - before
        emit(notices.TimedIteration(iteration + 1, passed))
    total = (clock.perf_counter() - begin) * 1000
    emit(notices.TimesPerLayer())
    for cost in costs:
        emit(notices.LayerTime(f"{cost.name:>10}", "forward", cost.forward / iterations))
        emit(notices.LayerTime(f"{cost.name:>10}", "backward", cost.backward / iterations))
    emit(notices.ForwardTime(sum(cost.forward for cost in costs) / iterations))
    emit(notices.BackwardTime(sum(cost.backward for cost in costs) / iterations))
    emit(notices.BothTime(total / iterations))
    emit(notices.TotalTime(total))


# ---- beyond Caffe ----------------------------------------------------------------------------------------------


def _report(net: Net, costs: list[Cost], iterations: int, memory: float | None) -> float:
    emit = net.context.emit
    peak = _peak_gflops(net.context.device, net.context.precision)
    emit(notices.PeakSpeed(round(peak), _SIDE, _SIDE))
    for cost in costs:
        if cost.flops:
            speed = _gflops(cost.flops * iterations, cost.milliseconds)
            emit(notices.LayerSpeed(f"{cost.name:>10}", cost.flops / 1e9, speed, f"{speed / peak:.0%}"))
    taken = _milliseconds(lambda: [net.forward_backward() for _ in range(iterations)], net.context.device)
    kept = "" if memory is None else f", {memory / _MEBI:.0f} MiB of memory at its peak"
    emit(notices.FunctionTime(taken / iterations, kept))
    emit(notices.LimitedBy(limit(costs, iterations, peak)))
    return taken / iterations


def _time_together(net: Net, group: ranks.Alone, iterations: int, alone: float) -> None:
    """All ranks at once. alone: milliseconds of an iteration while the others did nothing."""
    group.watch(net.parameters)
    grads = [parameter.grad for parameter in net.learnable_params]
    waited = 0.0

    def iteration() -> None:
        nonlocal waited
        net.clear_param_diffs()
        group.last_pass()
        _milliseconds(net.forward_backward, net.context.device)
        waited += _milliseconds(lambda: group.average(grads), net.context.device)

    def iterate() -> None:
        for _ in range(iterations):
            iteration()

    iteration()
    waited = 0.0
    taken = _milliseconds(iterate, net.context.device) / iterations
    emit, wait = net.context.emit, waited / iterations
    emit(notices.RanksTime(group.size, taken, wait, f"{wait / taken:.0%}", group.size * alone / taken))
    parts = [f"{flat.numel() * flat.element_size() / 1e6:.3g} MB" for flat in group.flat]
    emit(notices.RanksExchange(" + ".join(parts)))


def limit(costs: list[Cost], iterations: int, peak: float) -> str:
    """One line that names what takes most of the time: data, matrix products, or passes over memory."""
    total = sum(cost.milliseconds for cost in costs) or 1.0
    kinds = {
        "data": [cost for cost in costs if cost.is_source],
        "arithmetic": [cost for cost in costs if cost.flops],
        "memory": [cost for cost in costs if not cost.flops and not cost.is_source],
    }
    kind = max(kinds, key=lambda kind: sum(cost.milliseconds for cost in kinds[kind]))
    taken = sum(cost.milliseconds for cost in kinds[kind])
    by_type: dict[str, float] = {}
    for cost in kinds[kind]:
        by_type[cost.type] = by_type.get(cost.type, 0.0) + cost.milliseconds
    first = ", ".join(f"{name} {by_type[name] / total:.0%}" for name in sorted(by_type, key=by_type.get)[:-4:-1])
    text = f"{kind}: {taken / total:.0%} of the time ({first})"
    if kind == "arithmetic":
        speed = _gflops(sum(cost.flops for cost in kinds[kind]) * iterations, taken)
        text += f", {speed / peak:.0%} of the peak while it lasts"
    return text


def _gflops(operations: float, milliseconds: float) -> float:
    return operations / max(milliseconds, 1e-6) / 1e6


def _peak_gflops(device: torch.device, precision: str) -> float:
    """By numbers of the precision in which the net's products are computed."""
    matrix = torch.rand(_SIDE, _SIDE, device=device, dtype=DTYPES[precision])
    best = min(_milliseconds(lambda: matrix @ matrix, device) for _ in range(8))
    return _gflops(2 * _SIDE**3, best)


def _peak_memory(net: Net) -> float | None:
    """Bytes that the first iteration takes at its peak beside what was there; None if the system does not tell."""
    device = net.context.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        allocated = torch.cuda.memory_allocated(device)
        net.forward_backward()
        return torch.cuda.max_memory_allocated(device) - allocated
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        before = _resident("VmRSS")
        net.forward_backward()
        return _resident("VmHWM") - before
    except OSError:
        net.forward_backward()
        return None


def _resident(field: str) -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return float(line.split()[1]) * 1024


def _trace(net: Net, path: str) -> None:
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's own lines are of no use in a Caffe log
    activities = [torch.profiler.ProfilerActivity.CPU]
    if net.context.device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profiler:
        net.forward_backward()
    try:
        with replacing(path) as place:
            profiler.export_chrome_trace(str(place))
    except (OSError, RuntimeError) as error:
        raise CaffeError(f"--profile={path}: cannot be written: {getattr(error, 'strerror', None) or error}") from None
    net.context.emit(notices.WroteTrace(path))


def _milliseconds(work: Callable[[], object], device: torch.device) -> float:
    begin = clock.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (clock.perf_counter() - begin) * 1000
