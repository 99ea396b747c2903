"""What a careful colleague would point out in a solver file before a week of GPU time is spent on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pysolver import schedule
from pysolver.disciplined import checks  # noqa: F401  registers them
from pysolver.disciplined.findings import CHECKS, Case, Finding, error
from pysolver.errors import CaffeError
from pysolver.logs.run import Run
from pysolver.proto.caffe_pb2 import NetParameter, SolverParameter
from pysolver.proto.upgrade import read_net


def check_solver(solver: SolverParameter, net: NetParameter | None = None, log: Run | None = None) -> list[Finding]:
    """All findings, errors first. net: as read, all phases in it. log: a range test of the same net."""
    findings = []
    try:
        schedule.check_schedule(solver)
        case = Case(solver, net, log, _table(solver))
    except CaffeError as refusal:
        findings.append(error("lr_policy", str(refusal)))
        case = Case(solver, net, log, None)
    for function in CHECKS:
        findings += function(case)
    return sorted(findings, key=lambda f: ("error", "warning", "note").index(f.level))


def check_files(solver: SolverParameter, log: Run | None = None) -> list[Finding]:
    """check_solver with the net file that the solver names, upgraded; an error if that is not there."""
    path = solver.net or solver.train_net
    if path and not Path(path).is_file():
        return [
            error("net", f"{path} is not there (seen from the working directory)"),
            *check_solver(solver, None, log),
        ]
    try:
        net = read_net(path) if path else None
    except CaffeError as refusal:
        return [error("net", f"cannot be read: {refusal}"), *check_solver(solver, None, log)]
    return check_solver(solver, net, log)


def check_training(solver: SolverParameter) -> list[Finding]:
    """The errors and warnings among them that a training shows at its start; it will itself refuse a net."""
    return [f for f in check_files(solver) if f.level != "note" and (f.level, f.field) != ("error", "net")]


def _table(solver: SolverParameter) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """The schedule in at most some ten thousand points, its last iteration among them."""
    if solver.max_iter < 1:
        return None
    rows = list(schedule.table(solver, max(1, solver.max_iter // 20_000)))
    iteration, lr, momentum = (np.array(column, float) for column in list(zip(*rows))[:3])
    return iteration, lr, momentum
