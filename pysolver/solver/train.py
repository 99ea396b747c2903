"""`pysolver train`: what `caffe train` does, in its order (tools/caffe.cpp)."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import secrets
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch

from pysolver import memory
from pysolver.context import Context
from pysolver.errors import CaffeError, about
from pysolver.logs import events as e
from pysolver.logs import notices
from pysolver.logs.channel import Channel
from pysolver.logs.recorder import Recorder
from pysolver.logs.run import Run
from pysolver.logs.tensorboard import TensorBoard
from pysolver.logs.writer import CaffeLog, to_stderr
from pysolver.proto import caffe_pb2
from pysolver.proto.caffe_pb2 import SolverParameter
from pysolver.proto.text import to_text
from pysolver.proto.upgrade import read_solver
from pysolver.shelf import Shelf
from pysolver.solver import devices, ranks, snapshots, watchers
from pysolver.solver.parameters import check_parameters
from pysolver.solver.progress import ProgressBar
from pysolver.solver.signals import Action, ActionFunction, SignalHandler, parse_effect
from pysolver.solver.solver import Solver, Subscriber


@dataclass(frozen=True)
class TrainOptions:
    """What a training is told beside its solver file; the names are those of the flags.

    snapshot: a solver state, or `auto` for the newest intact one of the solver's prefix, if there is any.
    weights: caffemodels separated by commas. With `auto` they are for the first start only.
    stage: stages of the train net, separated by commas. sigint_effect, sighup_effect: for the command line alone.
    keep: how many snapshots to leave on disk, None for all. stop_on_nan: a loss that is not finite is an error.
    progress: False for no bar; there is one on terminals only. tensorboard: folder for event files.
    cache_data: data sets up to so many bytes are kept in memory. precision: fp32, bf16 or fp16.
    compile: make kernels of the net with torch.compile, on GPUs only.
    gpu: ids separated by commas, or `all`: one process a GPU. processes: so many on CPUs.
    max_restarts: how often all processes begin again, at the newest intact snapshot, when one of them is lost.
    distributed_test: all processes run the tests, each its part of the batches; else the first runs them.
    log_ranks: folder in which each process writes a log of its own.
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
    allow_python_layers: bool = False
    precision: str = "fp32"
    compile: bool = False
    processes: int = 1
    max_restarts: int = 0
    log_ranks: str | None = None
    distributed_test: bool = False

    def flags(self) -> list[str]:
        """The command line that says the same."""
        words = [] if self.progress is not False else ["--no-progress"]
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is True:
                words.append(f"--{field.name}")
            elif value is not False and value != field.default:
                words.append(f"--{field.name}={value}")
        return words


Advise = Callable[[SolverParameter], Iterable[object]]


def main(
    options: TrainOptions,
    advise: Advise = lambda param: (),
    subscribers: Sequence[Subscriber] = (),
    log: Subscriber | None = None,
) -> None:
    """The command: train() with this process's signals served as the options say, in as many processes as they say."""
    effects = parse_effect(options.sigint_effect), parse_effect(options.sighup_effect)
    processes = _processes(options)
    if ranks.place() is None and processes > 1:
        from pysolver.solver import starter

        _read(options, log or to_stderr)  # so that what is wrong with it is said at once, and by one
        starter.start(["train", *options.flags()], processes, options.max_restarts)
        return
    memory.keep_freed()
    with SignalHandler(*effects) as action:
        log = log or CaffeLog()
        if ranks.place() is None:  # else the starter has counted for all
            log(devices.take_threads())
        train(options, log=log, subscribers=subscribers, action=action, advise=advise)


@memory.shortage_told()
def train(
    options: TrainOptions,
    *,
    log: Subscriber | None = None,
    subscribers: Sequence[Subscriber] = (),
    action: ActionFunction = lambda: Action.NONE,
    advise: Advise = lambda param: (),
    shelf: Shelf | None = None,
) -> Run:
    """Train the net of a solver file, from the start, from weights, or from a snapshot; CaffeError if it cannot.

    The answer is what reading the run's log would give. Of the process it changes torch's random generators only.
    log: who writes the log, by default on stderr. Where it cannot be written any more (its reader has gone, the disk
    is full), the run ends with a snapshot, and a CaffeError. subscribers: they hear the events too.
    action: asked once per iteration what is wanted from outside. advise: what it says about the SolverParameter is
    logged as warnings. shelf: what earlier trainings of this process decoded, and where this one leaves what it does.

    One process trains, unless the environment names it a rank of several (torchrun): then all of them train one net.
    """
    log = log or CaffeLog()
    emit = Channel([] if ranks.is_follower() else [log])
    recorder = Recorder()
    param = _read(options, emit)
    with contextlib.ExitStack() as stack:
        device, ids = _choose_device(param, options.gpu, emit)
        if device.type == "cuda":
            stack.enter_context(torch.cuda.device(device))
        group = stack.enter_context(ranks.joined(device))
        if group.is_root:
            emit += [recorder, *subscribers]
        if options.log_ranks:
            emit.append(stack.enter_context(watchers.rank_log(options.log_ranks, group.rank)))
        _tell_devices(device, ids, group.size, emit)
        for advice in advise(param) if group.is_root else ():  # before the nets open the data that it counts
            emit(notices.Advice(str(advice)))
        if group.is_root and (param.snapshot or param.snapshot_after_train):
            stack.enter_context(snapshots.claim(param.snapshot_prefix))
        if options.precision != "fp32":
            emit(notices.HalfPrecision(options.precision))
        if options.compile and device.type == "cpu":
            emit(notices.NotCompiled())
        snapshot = _choose_start(param, options, group, emit)
        context = _context(options, device, group, shelf)
        solver = _build(param, options, context, group, emit, _or_lost_log(action, log))
        stack.callback(solver.close)
        if snapshot:
            emit(e.Resuming(snapshot))
            solver.restore(snapshot, always_continue=options.snapshot == "auto" or _is_restarted())
        if group.is_root:
            emit += _watchers(options, solver, log, stack)
        solver.subscribers = emit
        emit(e.StartingOptimization())
        solver.solve()
        if solver.is_stopped and solver.last_state:
            again = dataclasses.replace(options, snapshot=solver.last_state, weights=None)
            emit(e.GoOn(shlex.join(["pysolver", "train", *again.flags()])))
        emit(e.Done("tool"))
    _check_log(log, solver)
    return recorder.run(options.solver)


def _context(options: TrainOptions, device: torch.device, group: ranks.Alone, shelf: Shelf | None) -> Context:
    seed = int(group.spread(str(secrets.randbits(31)).encode()))  # of the data, unless there is a random_seed
    return Context(
        device,
        seed + group.rank,
        rank=group.rank,
        world_size=group.size,
        cache_bytes=options.cache_data,
        shelf=shelf,
        allow_python_layers=options.allow_python_layers,
        precision=options.precision,
        compile=options.compile,
    )


def _build(
    param: SolverParameter,
    options: TrainOptions,
    context: Context,
    group: ranks.Alone,
    subscribers: Sequence[Subscriber],
    action: ActionFunction,
) -> Solver:
    if param.random_seed < 0:
        torch.seed()
    return Solver(
        param,
        context,
        subscribers,
        keep=options.keep,
        stop_on_nan=options.stop_on_nan,
        action=action,
        ranks=group,
        distributed_test=options.distributed_test,
    )


def _watchers(options: TrainOptions, solver: Solver, log: Subscriber, stack: contextlib.ExitStack) -> list[Subscriber]:
    """Who listens from the first iteration on: event files and the bar, which `stack` closes."""
    found: list[Subscriber] = []
    if options.tensorboard:
        board = stack.enter_context(contextlib.closing(TensorBoard(options.tensorboard)))
        board(e.InitializingSolver(to_text(solver.param)))  # the hyper-parameters
        found.append(board)
    if options.progress is not False:
        found.append(stack.enter_context(ProgressBar(solver, log)))
    return found


def _check_log(log: Subscriber, solver: Solver) -> None:
    """CaffeError if the log could not be written to its end."""
    if reason := getattr(log, "lost", None):
        at = f"; go on with --snapshot={solver.last_state}" if solver.is_stopped and solver.last_state else ""
        raise CaffeError(f"the log cannot be written ({reason.strerror}): ended at iteration {solver.iter}{at}")


def _or_lost_log(action: ActionFunction, log: Subscriber) -> ActionFunction:
    """As `action`; and once the log is lost, a snapshot and the end: nobody would see how the training goes."""
    served = False

    def wanted() -> Action:
        nonlocal served
        if getattr(log, "lost", None) and not served:
            served = True
            return Action.PREEMPT
        return action()

    return wanted


def _processes(options: TrainOptions) -> int:
    """How many to start here: one a GPU, or as many as are asked for."""
    gpus = len(devices.gpu_ids(options.gpu))
    if 0 < gpus < options.processes:
        raise CaffeError(f"--processes={options.processes}: --gpu={options.gpu} names {gpus} GPUs, one a process")
    return max(options.processes, gpus)


def _read(options: TrainOptions, emit: Subscriber) -> SolverParameter:
    """The solver's parameters, found to be usable together with the options."""
    if options.snapshot and options.weights and options.snapshot != "auto":
        raise CaffeError("Give a snapshot to resume training or weights to finetune but not both.")
    param = read_solver(options.solver, emit)
    with about(options.solver):
        check_parameters(param, param.type, lambda event: None)
    param.train_state.level = options.level
    param.train_state.stage.extend(options.stage.split(","))
    return param


def _is_restarted() -> bool:
    """Whether the elastic agent has started this rank anew, since one was lost."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") or 0) > 0


def _choose_start(param: SolverParameter, options: TrainOptions, group: ranks.Alone, emit: Subscriber) -> str | None:
    """The state to resume from, if any; else rank 0's weights are the options', and all others get them from it."""
    snapshot = "auto" if _is_restarted() else options.snapshot
    if snapshot == "auto":
        found = snapshots.newest(param.snapshot_prefix, emit) if group.is_root else None
        snapshot = group.spread((found or "").encode()).decode() or None
        if snapshot is None and group.is_root:
            emit(notices.NothingToResume(param.snapshot_prefix))
    if snapshot or not group.is_root:
        param.ClearField("weights")
    elif options.weights:
        param.weights[:] = [options.weights]
    return snapshot


def _choose_device(param: SolverParameter, gpu: str, emit: Subscriber) -> tuple[torch.device, list[int]]:
    """--gpu, else the solver's own wish; an unset solver_mode is the CPU, whatever the schema's default says.

    A rank has the GPU of its number on its machine. The ids are those of all processes here.
    """
    local_rank, processes = ranks.place() or (0, 1)
    ids, wish = devices.gpu_ids(gpu), f"--gpu={gpu}"
    if not ids and param.HasField("solver_mode") and param.solver_mode == caffe_pb2.SolverParameter.GPU:
        number = devices.cuda_or_cpu(param.device_id if processes == 1 else 0, emit)
        ids, wish = [] if number is None else [number], "solver_mode: GPU"
        if ids and processes > 1:
            ids = list(range(min(processes, torch.cuda.device_count())))
    if not ids:
        return torch.device("cpu"), []
    param.device_id = devices.of_rank(ids, local_rank, wish)
    return torch.device("cuda", param.device_id), ids


def _tell_devices(device: torch.device, ids: list[int], processes: int, emit: Subscriber) -> None:
    if device.type == "cuda":
        emit(e.UseGpus(", ".join(map(str, ids))))
        for number in ids:
            emit(e.GpuName(torch.cuda.get_device_name(number), number))
    else:
        emit(e.UseCpu())
    if processes > 1:
        emit(e.Processes(processes))
