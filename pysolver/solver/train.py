"""`pysolver train`: what `caffe train` does, in its order (tools/caffe.cpp)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pysolver.context import Context
from pysolver.errors import CaffeError, about
from pysolver.logs import events as e
from pysolver.logs import glog
from pysolver.logs.recorder import Recorder
from pysolver.logs.run import Run
from pysolver.logs.tensorboard import TensorBoard
from pysolver.logs.writer import CaffeLog
from pysolver.proto import caffe_pb2
from pysolver.proto.text import to_text
from pysolver.proto.upgrade import read_solver
from pysolver.solver import devices, snapshots, watchers
from pysolver.solver.signals import Action, ActionFunction, SignalHandler, parse_effect
from pysolver.solver.solver import Solver, Subscriber, check_parameters


@dataclass(frozen=True)
class TrainOptions:
    """What a training is told beside its solver file; the names are those of the flags.

    snapshot: a solver state, or `auto` for the newest intact one of the solver's prefix, if there is any.
    weights: caffemodels separated by commas. With `auto` they are for the first start only.
    stage: stages of the train net, separated by commas. sigint_effect, sighup_effect: for the command line alone.
    keep: how many snapshots to leave on disk, None for all. stop_on_nan: a loss that is not finite is an error.
    progress: False for no bar; there is one on terminals only. tensorboard: folder for event files.
    cache_data: data sets up to so many bytes are kept in memory.
    """

    solver: str
    snapshot: str | None = None
    weights: str | None = None
    gpu: str = ""
    level: int = 0
    stage: str = ""
    sigint_effect: str = "stop"
    sighup_effect: str = "snapshot"
    keep: int | None = None
    stop_on_nan: bool = False
    progress: bool | None = None
    tensorboard: str | None = None
    cache_data: int = 2 << 30
    allow_python_layers: bool = True


Advise = Callable[[Any], Iterable[object]]


def main(options: TrainOptions, advise: Advise = lambda param: (), subscribers: Sequence[Subscriber] = ()) -> Run:
    """The command: train(), with this process's signals served as the options say."""
    with SignalHandler(parse_effect(options.sigint_effect), parse_effect(options.sighup_effect)) as action:
        return train(options, subscribers=subscribers, action=action, advise=advise)


def train(
    options: TrainOptions,
    *,
    log: Subscriber | None = None,
    subscribers: Sequence[Subscriber] = (),
    action: ActionFunction = lambda: Action.NONE,
    advise: Advise = lambda param: (),
) -> Run:
    """Train the net of a solver file, from the start, from weights, or from a snapshot; CaffeError if it cannot.

    The answer is what reading the run's log would give. Of the process it changes torch's random generators only.
    log: who writes the log, by default on stderr. subscribers: they hear the events too. action: asked once per
    iteration what is wanted from outside. advise: what it says about the SolverParameter is logged as warnings.
    """
    if options.snapshot and options.weights and options.snapshot != "auto":
        raise CaffeError("Give a snapshot to resume training or weights to finetune but not both.")
    param = read_solver(options.solver)
    with about(options.solver):
        check_parameters(param, param.type)
    param.train_state.level = options.level
    param.train_state.stage.extend(options.stage.split(","))
    recorder = Recorder()
    listeners = [log or CaffeLog(), recorder, *subscribers]

    def emit(event: e.Event) -> None:
        for listener in listeners:
            listener(event)

    device = _choose_device(param, options.gpu, emit)
    for advice in advise(param):  # before the nets open the data that it counts
        glog.warning("solver.cpp:1", str(advice))
    with contextlib.ExitStack() as stack:
        if device.type == "cuda":
            stack.enter_context(torch.cuda.device(device))
        if param.snapshot or param.snapshot_after_train:
            stack.enter_context(snapshots.claim(param.snapshot_prefix))
        snapshot = _choose_start(param, options)
        if param.random_seed < 0:
            torch.seed()
        context = Context(device, cache_bytes=options.cache_data, allow_python_layers=options.allow_python_layers)
        solver = Solver(param, context, listeners, keep=options.keep, stop_on_nan=options.stop_on_nan, action=action)
        stack.callback(solver.close)
        if snapshot:
            emit(e.Resuming(snapshot))
            solver.restore(snapshot, always_continue=options.snapshot == "auto")
        if options.tensorboard:
            board = stack.enter_context(contextlib.closing(TensorBoard(options.tensorboard)))
            board(e.InitializingSolver(to_text(solver.param)))  # the hyper-parameters
            listeners.append(board)
        if options.progress is not False:
            listeners.append(stack.enter_context(watchers.ProgressBar(solver)))
        solver.subscribers = listeners
        emit(e.StartingOptimization())
        solver.solve()
        if solver.is_stopped and solver.last_state:
            emit(e.GoOn(options.solver, solver.last_state))
        emit(e.Done("tool"))
    return recorder.run(options.solver)


def _choose_start(param: Any, options: TrainOptions) -> str | None:
    """The state to resume from, if any; else the weights of the options go into the parameters."""
    snapshot = options.snapshot
    if snapshot == "auto":
        snapshot = snapshots.newest(param.snapshot_prefix)
        if snapshot is None:
            glog.info("caffe.cpp:1", f"No intact snapshot of {param.snapshot_prefix}: starting at iteration 0")
    if snapshot:
        param.ClearField("weights")
    elif options.weights:
        param.weights[:] = [options.weights]
    return snapshot


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
    return torch.device("cuda", ids[0])
