"""What a SolverParameter must say before anything is built from it."""

from __future__ import annotations

from pysolver import schedule
from pysolver.errors import CaffeError
from pysolver.logs import notices
from pysolver.logs.events import Emit
from pysolver.logs.writer import to_stderr
from pysolver.proto import dialects
from pysolver.proto.caffe_pb2 import SolverParameter
from pysolver.solver import nets, updates
from pysolver.solver.detection_eval import check_evaluation
from pysolver.solver_types import check_type


def check_parameters(param: SolverParameter, type_name: str, emit: Emit = to_stderr) -> None:
    """Refuse, before anything is built or written, a SolverParameter that cannot work. CaffeError names the field."""
    check_type(type_name, param)
    if ignored := dialects.check(param, "the solver"):
        emit(notices.IgnoredFields(dialects.sentence(ignored)))
    check_evaluation(param)
    nets.check_nets(param)
    schedule.check_schedule(param)
    if param.weight_decay:
        updates.check_regularization(param.regularization_type)
    if param.average_loss < 1:
        raise CaffeError(
            f"Check failed: param_.average_loss() >= 1 ({param.average_loss} vs. 1) "
            "average_loss should be non-negative. (it is a number of iterations, 1 or more)"
        )
    if param.iter_size < 1:
        raise CaffeError(f"iter_size is {param.iter_size}: an update needs at least 1 pass")
    if param.snapshot and not param.snapshot_prefix:
        raise CaffeError("In solver params, snapshot is specified but snapshot_prefix is not.")
