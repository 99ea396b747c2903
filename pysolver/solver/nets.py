"""The train net and the test nets that a SolverParameter asks for (Solver::InitTrainNet, InitTestNets)."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from pysolver.context import Context
from pysolver.data.batch_source import BatchSource, Part
from pysolver.errors import CaffeError
from pysolver.logs import events as e
from pysolver.logs import notices
from pysolver.logs.events import Emit
from pysolver.net.net import Net
from pysolver.proto import caffe_pb2
from pysolver.proto.caffe_pb2 import NetParameter, NetState, SolverParameter
from pysolver.proto.upgrade import read_net
from pysolver.solver.ranks import Alone

_TRAIN_FIELDS = ("net", "net_param", "train_net", "train_net_param")


def check_nets(solver: SolverParameter) -> None:
    """Caffe's rules about which nets, test_iter and test_state go together; CaffeError where they are broken."""
    given = [field for field in _TRAIN_FIELDS if solver.HasField(field)]
    if not given:
        raise CaffeError(
            "SolverParameter must specify a train net using one of these fields: " + ", ".join(_TRAIN_FIELDS)
        )
    if len(given) > 1:
        raise CaffeError(
            "SolverParameter must not contain more than one of these fields specifying a train_net: "
            f"{', '.join(_TRAIN_FIELDS)} (it has {', '.join(given)})"
        )
    explicit, tests = len(solver.test_net_param) + len(solver.test_net), len(solver.test_iter)
    generic = solver.HasField("net") or solver.HasField("net_param")
    if tests < explicit if generic else tests != explicit:
        raise CaffeError(
            "test_iter must be specified for each test network. "
            f"(test_iter is given {tests} times, for {explicit} test_net and test_net_param)"
        )
    if len(solver.test_state) not in (0, tests):
        raise CaffeError(
            "test_state must be unspecified or specified once per test net. "
            f"(test_state is given {len(solver.test_state)} times, for {tests} test nets)"
        )
    if tests and solver.test_interval <= 0:
        raise CaffeError(
            f"Check failed: param_.test_interval() > 0: there are {tests} test nets (test_iter), so test_interval "
            f"must be a number of iterations above 0, not {solver.test_interval}"
        )
    for number, batches in enumerate(solver.test_iter):
        if batches < 1:
            raise CaffeError(f"test_iter is {batches} for test net #{number}: a test needs at least 1 batch")


def build_train_net(solver: SolverParameter, context: Context, emit: Emit) -> Net:
    """The net that is trained. Its state: phase TRAIN, then the net's own state, then train_state."""
    field = next(field for field in _TRAIN_FIELDS if solver.HasField(field))
    from_file = field in ("net", "train_net")
    emit(e.CreatingTrainNet(field, getattr(solver, field) if from_file else None))
    param = read_net(getattr(solver, field), emit) if from_file else _copy(getattr(solver, field))
    _set_state(param, caffe_pb2.TRAIN, solver.train_state)
    net = Net(param, context, getattr(solver, field) if from_file else field)
    load_weights(net, solver.weights, emit)
    if not any(any(node.loss_weights) for node in net.nodes):
        emit(notices.NoLoss())
    return net


def build_test_nets(solver: SolverParameter, context: Context, emit: Emit) -> list[Net]:
    """One net for each test_iter; all their files are read before the first is built."""
    sources = list(_test_sources(solver, emit))
    nets = []
    for number, (source, param) in enumerate(sources):
        emit(e.CreatingTestNet(number, source))
        own = solver.test_state[number] if solver.test_state else caffe_pb2.NetState()
        _set_state(param, caffe_pb2.TEST, own)
        net = Net(param, context, source.rpartition(" file: ")[2])
        load_weights(net, solver.weights, emit)
        nets.append(net)
    return nets


def test_nets_of_rank(solver: SolverParameter, context: Context, emit: Emit, ranks: Alone, divided: bool) -> list[Net]:
    """All test nets for rank 0; for the others too if each test's batches are divided over the ranks."""
    if ranks.is_root:
        nets = build_test_nets(solver, context, emit)
    elif divided:
        with torch.random.fork_rng():  # its training draws what it would without them
            nets = build_test_nets(solver, context, emit)
    else:
        return []
    if divided:
        _divide_tests(nets, solver.test_iter, ranks)
    return nets


def _divide_tests(test_nets: Iterable[Net], test_iter: Iterable[int], ranks: Alone) -> None:
    """Let each rank read its own batches of each test. CaffeError for a source that cannot be divided."""
    for net, batches in zip(test_nets, test_iter):
        for source in net.sources.values():
            if not isinstance(source, BatchSource):
                source.fail("its batches cannot be divided over the ranks: leave out --distributed_test")
            source.divide(Part(ranks.rank, ranks.size, batches))


def _test_sources(solver: SolverParameter, emit: Emit) -> Iterable[tuple[str, NetParameter]]:
    """(what the log calls it, its NetParameter) of each test net; the generic net fills the places that are left."""
    for param in solver.test_net_param:
        yield "test_net_param", _copy(param)
    for file in solver.test_net:
        yield f"test_net file: {file}", read_net(file, emit)
    for _ in range(len(solver.test_iter) - len(solver.test_net_param) - len(solver.test_net)):
        if solver.HasField("net_param"):
            yield "net_param", _copy(solver.net_param)
        else:
            yield f"net file: {solver.net}", read_net(solver.net, emit)


def load_weights(net: Net, entries: Iterable[str], emit: Emit) -> None:
    """Load caffemodels one after the other; each entry may be a comma-separated list."""
    for entry in entries:
        if "" in (files := entry.split(",")):
            raise CaffeError(f"weights: an empty name in the list '{entry}'")
        for file in files:
            emit(e.Finetuning(file.strip()))
            net.copy_trained_layers_from(file.strip())


def _set_state(param: NetParameter, phase: caffe_pb2.Phase, last_word: NetState) -> None:
    """Later states win for phase and level; their stages add up."""
    state = caffe_pb2.NetState(phase=phase)
    state.MergeFrom(param.state)
    state.MergeFrom(last_word)
    param.state.CopyFrom(state)


def _copy(param: NetParameter) -> NetParameter:
    copy = caffe_pb2.NetParameter()
    copy.CopyFrom(param)
    return copy
