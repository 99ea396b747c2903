"""Reading nets and solvers of every age. Caffe: src/caffe/util/upgrade_proto.cpp."""

from __future__ import annotations

import os
from pathlib import Path

from pysolver.errors import CaffeError
from pysolver.logs import notices
from pysolver.logs.events import Emit
from pysolver.logs.writer import to_stderr
from pysolver.proto import upgrade_v0, upgrade_v1, weights_only
from pysolver.proto.binary import parse, read_sealed
from pysolver.proto.caffe_pb2 import LayerParameter, NetParameter, SolverParameter
from pysolver.proto.payloads import Payloads, split
from pysolver.proto.text import read_text

SOLVER_TYPES = {
    SolverParameter.SGD: "SGD",
    SolverParameter.NESTEROV: "Nesterov",
    SolverParameter.ADAGRAD: "AdaGrad",
    SolverParameter.RMSPROP: "RMSProp",
    SolverParameter.ADADELTA: "AdaDelta",
    SolverParameter.ADAM: "Adam",
}


def read_net(path: str | Path, emit: Emit = to_stderr) -> NetParameter:
    """The net in a prototxt, in the present form."""
    return upgrade_net(read_text(path, NetParameter), str(path), emit)


def read_weights(path: str | Path, emit: Emit = to_stderr) -> NetParameter:
    """The net in a binary caffemodel, in the present form."""
    return _weights(read_sealed(path, "NetParameter"), path, emit)


def read_split_weights(path: str | Path, emit: Emit = to_stderr) -> tuple[NetParameter, Payloads]:
    """read_weights, with the values of large blobs beside the net: both go to blobproto.to_array."""
    data, payloads = split(read_sealed(path, "NetParameter"))
    return _weights(data, path, emit), payloads


def _weights(data: bytes, path: str | Path, emit: Emit) -> NetParameter:
    try:
        net = parse(data, NetParameter, path)
    except CaffeError:
        found = weights_only.parse(data)
        if found is None:
            raise
        net = found
        emit(notices.ForeignSettings(str(path)))
    return upgrade_net(net, str(path), emit)


def read_solver(path: str | Path, emit: Emit = to_stderr) -> SolverParameter:
    """The solver in a prototxt, in the present form and with a snapshot_prefix."""
    solver = upgrade_solver(read_text(path, SolverParameter), str(path), emit)
    _complete_snapshot_prefix(solver, str(path), emit)
    return solver


def net_needs_upgrade(net: NetParameter) -> bool:
    """Is anything in the net of an old form?"""
    return upgrade_v1.needed(net) or len(net.input) > 0 or any(map(_has_three_params, net.layer))


def upgrade_net(net: NetParameter, source: str, emit: Emit = to_stderr) -> NetParameter:
    """The net in the present form, with Caffe's log lines; `source` names its file in them and in errors.

    The message that was given is not to be used any more: some steps change it, others return a new one.
    What cannot be upgraded is an E line, and the rest goes on; CaffeError for what leaves no net at all.
    """
    return try_upgrade_net(net, source, emit)[0]


def try_upgrade_net(net: NetParameter, source: str, emit: Emit = to_stderr) -> tuple[NetParameter, bool]:
    """As upgrade_net, with whether everything could be upgraded. Each step looks at the result of the one before."""
    upgrade_v1.refuse_both_forms(net, source)
    clean = True
    if upgrade_v0.needed(net):
        emit(notices.Upgrading("V0LayerParameter", source))
        net, ok = upgrade_v0.upgrade(net, source, emit)
        clean &= _report(ok, "V0NetParameter to NetParameter", "V0LayerParameter", emit)
        emit(
            notices.FutureReleases(
                "not support V0NetParameter; use ./build/tools/upgrade_net_proto_text for prototxt and "
                "./build/tools/upgrade_net_proto_binary for model weights upgrade this and any other net protos to "
                "the new format."
            )
        )
    if upgrade_v1.transform_needed(net):
        emit(notices.Upgrading("transformation parameters", source))
        upgrade_v1.upgrade_transform(net)
        emit(notices.Upgraded("data transformation parameters."))
        emit(notices.FutureReleases("only support transform_param messages for transformation fields."))
    if upgrade_v1.needed(net):
        emit(notices.Upgrading("V1LayerParameter", source))
        net, ok = upgrade_v1.upgrade(net, emit)
        clean &= _report(ok, "V1LayerParameter", "V1LayerParameter", emit)
    if net.input:
        emit(notices.Upgrading("input fields", source))
        _upgrade_inputs(net, source)
        emit(notices.Upgraded("input fields."))
        emit(notices.FutureReleases("only support input layers and not input fields."))
    if any(map(_has_three_params, net.layer)):
        emit(notices.UpgradingBatchNorm(source))
        for layer in filter(_has_three_params, net.layer):
            for param in layer.param:
                param.lr_mult = param.decay_mult = 0
        emit(notices.UpgradedBatchNorm())
    return net, clean


def upgrade_solver(solver: SolverParameter, source: str, emit: Emit = to_stderr) -> SolverParameter:
    """The solver with `type` in place of the old enum `solver_type`, changed in place; CaffeError if it has both."""
    if solver.HasField("solver_type"):
        emit(notices.Upgrading("'solver_type' field (enum)'", source))
        if solver.HasField("type"):
            raise CaffeError(
                f"{source}: Failed to upgrade solver: old solver_type field (enum) and new type field (string) "
                "cannot be both specified in solver proto text."
            )
        solver.type = SOLVER_TYPES[solver.solver_type]
        solver.ClearField("solver_type")
        emit(notices.Upgraded("'solver_type' field (enum) to 'type' field (string)."))
        emit(notices.FutureReleases("only support 'type' field (string) for a solver's type."))
    return solver


def _complete_snapshot_prefix(solver: SolverParameter, path: str, emit: Emit) -> None:
    """Unset: the solver's path without extension; a folder: the solver's name in that folder."""
    prefix = os.path.splitext(path)[0]
    if not solver.HasField("snapshot_prefix"):
        solver.snapshot_prefix = prefix
        emit(notices.PrefixSet(solver.snapshot_prefix))
    elif os.path.isdir(solver.snapshot_prefix):
        solver.snapshot_prefix = os.path.join(solver.snapshot_prefix, os.path.basename(prefix))
        emit(notices.PrefixCompleted(solver.snapshot_prefix))


def _upgrade_inputs(net: NetParameter, source: str) -> None:
    """The net's input fields become an Input layer; without shapes, as in old caffemodels, they are dropped."""
    count = len(net.input)
    if net.input_shape or net.input_dim:
        first = LayerParameter(name="input", type="Input", top=net.input)
        if net.input_shape:
            if len(net.input_shape) < count:
                raise CaffeError(f"{source}: {count} input blobs, but only {len(net.input_shape)} input_shape")
            first.input_param.shape.extend(net.input_shape[:count])
        else:
            if len(net.input_dim) < 4 * count:
                raise CaffeError(f"{source}: {count} input blobs need {4 * count} input_dim, not {len(net.input_dim)}")
            for index in range(0, 4 * count, 4):
                first.input_param.shape.add(dim=net.input_dim[index : index + 4])
        net.layer.insert(0, first)
    for field in ("input", "input_shape", "input_dim"):
        net.ClearField(field)


def _has_three_params(layer: LayerParameter) -> bool:
    """BatchNorm layers once had to name lr_mult 0 for each of their three blobs."""
    return layer.type == "BatchNorm" and len(layer.param) == 3


def _report(ok: bool, steps: str, form: str, emit: Emit) -> bool:
    emit(notices.Upgraded(form) if ok else notices.UpgradeProblem(steps))
    return ok
