"""Caffe's upgrade tools: an old file in, a present one out. Caffe: tools/upgrade_{net,solver}_proto_*.cpp."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from google.protobuf.message import Message

from pysolver.errors import CaffeError
from pysolver.files import write_atomic
from pysolver.logs import notices
from pysolver.logs.events import Emit
from pysolver.logs.writer import to_stderr
from pysolver.proto import dialects, to_bvlc
from pysolver.proto.binary import read_binary
from pysolver.proto.caffe_pb2 import NetParameter, SolverParameter
from pysolver.proto.text import read_text, to_text
from pysolver.proto.upgrade import net_needs_upgrade, try_upgrade_net, upgrade_solver


def upgrade_net_proto_text(source: str | Path, target: str | Path, emit: Emit = to_stderr, bvlc: bool = False) -> int:
    """Upgrade a net prototxt. Exit status 0; 1: not all of it could be upgraded; 2: the file cannot be read.

    bvlc: also without the fields of forks, as far as BVLC's Caffe can say what they do.
    """
    return _upgrade(source, target, "net", "text", _net_to_bvlc if bvlc else _net, emit)


def upgrade_net_proto_binary(source: str | Path, target: str | Path, emit: Emit = to_stderr) -> int:
    """Upgrade a binary caffemodel. Exit status as for the text."""
    return _upgrade(source, target, "net", "binary", _net, emit)


def upgrade_solver_proto_text(source: str | Path, target: str | Path, emit: Emit = to_stderr) -> int:
    """Upgrade a solver prototxt; its snapshot_prefix stays as it is. Exit status as for nets."""
    return _upgrade(source, target, "solver", "text", _solver, emit)


def _net(net: NetParameter, source: str, emit: Emit) -> tuple[bool, NetParameter, bool]:
    return net_needs_upgrade(net), *try_upgrade_net(net, source, emit)


def _net_to_bvlc(net: NetParameter, source: str, emit: Emit) -> tuple[bool, NetParameter, bool]:
    _, net, clean = _net(net, source, emit)
    taken, left = to_bvlc.convert(net)
    if taken:
        emit(notices.TakenOut(dialects.sentence(taken)))
    if left:
        emit(notices.NotOfBvlc(dialects.sentence(left)))
    return True, net, clean and not left


def _solver(solver: SolverParameter, source: str, emit: Emit) -> tuple[bool, SolverParameter, bool]:
    return solver.HasField("solver_type"), upgrade_solver(solver, source, emit), True


def _upgrade(
    source: str | Path,
    target: str | Path,
    what: str,
    form: str,
    upgrade: Callable[[Any, str, Emit], tuple[bool, Message, bool]],
    emit: Emit,
) -> int:
    kind = NetParameter if what == "net" else SolverParameter
    try:
        message = (read_text if form == "text" else read_binary)(source, kind)
    except CaffeError as error:
        emit(notices.UnreadableProto(str(error)))
        emit(notices.ParseFailed(form, kind.DESCRIPTOR.name, str(source)))
        return 2
    needed, message, clean = upgrade(message, str(source), emit)
    if not needed:
        emit(notices.AlreadyLatest(str(source)))
    if not clean:
        emit(notices.UpgradeErrors())
    write_atomic(target, to_text(message).encode() if form == "text" else message.SerializeToString())
    emit(notices.WroteUpgraded(kind.DESCRIPTOR.name, form, str(target)))
    return 0 if clean else 1
