"""Caffe's upgrade tools: an old file in, a present one out. Caffe: tools/upgrade_{net,solver}_proto_*.cpp."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from google.protobuf.message import Message

from pysolver.errors import CaffeError
from pysolver.files import write_atomic
from pysolver.logs import glog
from pysolver.proto import to_bvlc
from pysolver.proto.binary import read_binary
from pysolver.proto.caffe_pb2 import NetParameter, SolverParameter
from pysolver.proto.text import read_text, to_text
from pysolver.proto.upgrade import net_needs_upgrade, try_upgrade_net, upgrade_solver


def upgrade_net_proto_text(source: str | Path, target: str | Path, bvlc: bool = False) -> int:
    """Upgrade a net prototxt. Exit status 0; 1: not all of it could be upgraded; 2: the file cannot be read.

    bvlc: also without the fields of forks, as far as BVLC's Caffe can say what they do.
    """
    return _upgrade(source, target, "net", "text", _net_to_bvlc if bvlc else _net)


def upgrade_net_proto_binary(source: str | Path, target: str | Path) -> int:
    """Upgrade a binary caffemodel. Exit status as for the text."""
    return _upgrade(source, target, "net", "binary", _net)


def upgrade_solver_proto_text(source: str | Path, target: str | Path) -> int:
    """Upgrade a solver prototxt; its snapshot_prefix stays as it is. Exit status as for nets."""
    return _upgrade(source, target, "solver", "text", _solver)


def _net(net: NetParameter, source: str) -> tuple[NetParameter, bool, bool]:
    return net_needs_upgrade(net), *try_upgrade_net(net, source)


def _net_to_bvlc(net: NetParameter, source: str) -> tuple[bool, NetParameter, bool]:
    _, net, clean = _net(net, source)
    taken, left = to_bvlc.convert(net)
    if taken:
        glog.info("upgrade_net_proto_text.cpp:1", f"Taken out: {_list(taken)}")
    if left:
        glog.error("upgrade_net_proto_text.cpp:1", f"BVLC's Caffe has nothing for: {_list(left)}")
    return True, net, clean and not left


def _list(counts: Counter[str]) -> str:
    return ", ".join(f"{what} ({count} times)" if count > 1 else what for what, count in sorted(counts.items()))


def _solver(solver: SolverParameter, source: str) -> tuple[bool, SolverParameter, bool]:
    return solver.HasField("solver_type"), upgrade_solver(solver, source), True


def _upgrade(
    source: str | Path,
    target: str | Path,
    what: str,
    form: str,
    upgrade: Callable[[Message, str], tuple[bool, Message, bool]],
) -> int:
    tag = f"upgrade_{what}_proto_{form}.cpp"
    kind = NetParameter if what == "net" else SolverParameter
    try:
        message = (read_text if form == "text" else read_binary)(source, kind)
    except CaffeError as error:
        glog.error(f"{tag}:30", str(error))
        glog.error(f"{tag}:30", f"Failed to parse input {form} file as {kind.DESCRIPTOR.name}: {source}")
        return 2
    needed, message, clean = upgrade(message, str(source))
    if not needed:
        glog.error(f"{tag}:43", f"File already in latest proto format: {source}")
    if not clean:
        glog.error(f"{tag}:39", "Encountered error(s) while upgrading prototxt; see details above.")
    write_atomic(target, to_text(message).encode() if form == "text" else message.SerializeToString())
    line = 49 if form == "text" else 48
    glog.info(f"{tag}:{line}", f"Wrote upgraded {kind.DESCRIPTOR.name} {form} proto to {target}")
    return 0 if clean else 1
