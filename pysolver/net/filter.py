"""Which layers are in the net: phase, level and stages against include and exclude rules."""

from __future__ import annotations

from collections.abc import Sequence

from pysolver.errors import CaffeError
from pysolver.logs import notices
from pysolver.logs.events import Emit
from pysolver.logs.writer import to_stderr
from pysolver.proto import caffe_pb2
from pysolver.proto.caffe_pb2 import LayerParameter, NetParameter, NetState, NetStateRule
from pysolver.proto.upgrade import read_net


def read_net_for(
    path: str, phase: int, level: int = 0, stages: Sequence[str] = (), emit: Emit = to_stderr
) -> NetParameter:
    """The upgraded NetParameter of a file with its state set, as Net(file, phase, level, stages) does."""
    param = read_net(path, emit)
    param.state.phase = phase  # type: ignore[assignment]  # a number is one
    param.state.level = level
    param.state.stage.extend(stages)
    return param


def filter_net(param: NetParameter, emit: Emit) -> NetParameter:
    """A copy of `param` with just the layers that its state includes (Net::FilterNet)."""
    filtered = caffe_pb2.NetParameter()
    filtered.CopyFrom(param)
    del filtered.layer[:]
    filtered.layer.extend(layer for layer in param.layer if is_included(layer, param.state, emit))
    return filtered


def is_included(layer: LayerParameter, state: NetState, emit: Emit) -> bool:
    """Whether a net of this state has the layer."""
    if layer.include and layer.exclude:
        raise CaffeError(f"layer '{layer.name}': Specify either include rules or exclude rules; not both.", layer.name)
    if layer.include:
        return any(_meets(state, rule, layer.name, emit) for rule in layer.include)
    return not any(_meets(state, rule, layer.name, emit) for rule in layer.exclude)


def _meets(state: NetState, rule: NetStateRule, layer: str, emit: Emit) -> bool:
    """Net::StateMeetsRule."""
    if rule.HasField("phase") and rule.phase != state.phase:
        emit(notices.PhaseDiffers(state.phase, rule.phase, layer))
        return False
    if rule.HasField("min_level") and state.level < rule.min_level:
        emit(notices.LevelBelow(state.level, rule.min_level, layer))
        return False
    if rule.HasField("max_level") and state.level > rule.max_level:
        emit(notices.LevelAbove(state.level, rule.max_level, layer))
        return False
    for stage in rule.stage:
        if stage not in state.stage:
            emit(notices.StageMissing(stage, layer))
            return False
    for stage in rule.not_stage:
        if stage in state.stage:
            emit(notices.StageUnwanted(stage, layer))
            return False
    return True
