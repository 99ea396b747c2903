"""Point out what is likely wrong in a solver file, before it costs a week: cycles, steps, tests, snapshots, rates."""

from __future__ import annotations

import argparse

from pysolver.disciplined.checker import check_files
from pysolver.logs.reader import read_log
from pysolver.proto.caffe_pb2 import SolverParameter
from pysolver.proto.text import read_text

EXAMPLES = """
pysolver check_solver solver.prototxt                 the solver and, if it is there, its net
pysolver check_solver solver.prototxt range.log       and its rates against a range test of the same net
"""


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("solver", metavar="SOLVER", help="solver prototxt")
    parser.add_argument("log", metavar="LOG", nargs="?", help="log of a range test of the same net")


def call(args: argparse.Namespace) -> int:
    solver = read_text(args.solver, SolverParameter)
    findings = check_files(solver, read_log(args.log) if args.log else None)
    for finding in findings:
        print(finding)
    if not findings:
        print(f"{args.solver}: nothing to point out")
    return int(any(finding.level == "error" for finding in findings))
