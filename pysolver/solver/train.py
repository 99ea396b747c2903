"""`pysolver train`: what `caffe train` does, in its order (tools/caffe.cpp)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from pysolver.context import Context
from pysolver.errors import CaffeError, about
from pysolver.logs import events as e
from pysolver.logs import glog
from pysolver.logs.tensorboard import TensorBoard
from pysolver.logs.writer import CaffeLog
from pysolver.proto import caffe_pb2
from pysolver.proto.text import to_text
from pysolver.proto.upgrade import read_solver
from pysolver.solver import devices, snapshots, watchers
from pysolver.solver.signals import SignalHandler, parse_effect
from pysolver.solver.solver import Solver, Subscriber, check_parameters


def train(
    solver_file: str,
    *,
    snapshot: str | None = None,
    weights: str | None = None,
    gpu: str = "",
    level: int = 0,
    stage: str = "",
    sigint_effect: str = "stop",
    sighup_effect: str = "snapshot",
    keep: int | None = None,
    stop_on_nan: bool = False,
    progress: bool | None = None,
    tensorboard: str | None = None,
    subscribers: Sequence[Subscriber] = (),
    advise: Callable[[Any], Iterable[object]] = lambda param: (),
    **context: Any,
) -> None:
    """Train the net of a solver file, from the start, from weights, or from a snapshot; CaffeError if it cannot.

    snapshot: a solver state, or `auto` for the newest intact one of the solver's prefix, if there is any.
    weights: caffemodels separated by commas. With `auto` they are for the first start only.
    stage: stages of the train net, separated by commas. progress: False for no bar; there is one on terminals only.
    tensorboard: folder for event files. subscribers: they hear the events beside the log on stderr.
    advise: what it says about the SolverParameter is logged as warnings. context: other fields of Context.
    """
    if snapshot and weights and snapshot != "auto":
        raise CaffeError("Give a snapshot to resume training or weights to finetune but not both.")
    effects = parse_effect(sigint_effect), parse_effect(sighup_effect)
    param = read_solver(solver_file)
    with about(solver_file):
        check_parameters(param, param.type)
    param.train_state.level = level
    param.train_state.stage.extend(stage.split(","))
    listeners = [CaffeLog(), *subscribers]

    def emit(event: e.Event) -> None:
        for listener in listeners:
            listener(event)

    device = _choose_device(param, gpu, emit)
    with SignalHandler(*effects) as action:
        always_continue = snapshot == "auto"
        if always_continue:
            snapshot = snapshots.newest(param.snapshot_prefix)
            if snapshot is None:
                glog.info("caffe.cpp:1", f"No intact snapshot of {param.snapshot_prefix}: starting at iteration 0")
        if snapshot:
            param.ClearField("weights")
        elif weights:
            param.weights[:] = [weights]
        if param.random_seed < 0:
            torch.seed()
        solver = Solver(param, Context(device, **context), listeners, keep=keep, stop_on_nan=stop_on_nan, action=action)
        with contextlib.ExitStack() as stack:
            stack.callback(solver.close)
            if snapshot:
                emit(e.Resuming(snapshot))
                solver.restore(snapshot, always_continue)
            if tensorboard:
                board = stack.enter_context(contextlib.closing(TensorBoard(tensorboard)))
                board(e.InitializingSolver(to_text(solver.param)))  # the hyper-parameters
                listeners.append(board)
            if progress is not False:
                listeners.append(stack.enter_context(watchers.ProgressBar(solver)))
            solver.subscribers = listeners
            for advice in advise(param):
                glog.warning("solver.cpp:1", str(advice))
            emit(e.StartingOptimization())
            solver.solve()
            emit(e.Done("tool"))


def _choose_device(param: Any, gpu: str, emit: Subscriber) -> torch.device:
    """--gpu, else the solver's own wish; an unset solver_mode is the CPU, whatever the schema's default says."""
    ids = devices.gpu_ids(gpu)
    if not ids and param.HasField("solver_mode") and param.solver_mode == caffe_pb2.SolverParameter.GPU:
        number = devices.cuda_or_cpu(param.device_id)
        ids = [] if number is None else [number]
    if not ids:
        emit(e.UseCpu())
        return torch.device("cpu")
    if len(ids) > 1:
        raise CaffeError(f"--gpu={gpu}: several GPUs are not supported, give one id")
    emit(e.UseGpus(", ".join(map(str, ids))))
    emit(e.GpuName(torch.cuda.get_device_name(ids[0]), ids[0]))
    param.device_id = ids[0]
    torch.cuda.set_device(ids[0])
    return torch.device("cuda", ids[0])
