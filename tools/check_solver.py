#!/usr/bin/env python3
"""Points out what is likely wrong in a solver file, before it costs a week: cycles, steps, tests, snapshots, rates."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # from a checkout, installed or not

from pysolver.disciplined.checker import check_files
from pysolver.logs import command
from pysolver.logs.reader import read_log
from pysolver.proto.caffe_pb2 import SolverParameter
from pysolver.proto.text import read_text

EXAMPLES = """
check_solver.py solver.prototxt                 the solver and, if it is there, its net
check_solver.py solver.prototxt range.log       and its rates against a range test of the same net
"""


def work(options: argparse.Namespace) -> int:
    """Prints the findings; 1 if one of them is an error."""
    solver = read_text(options.solver, SolverParameter)
    findings = check_files(solver, read_log(options.log) if options.log else None)
    for finding in findings:
        print(finding)
    if not findings:
        print(f"{options.solver}: nothing to point out")
    return int(any(finding.level == "error" for finding in findings))


if __name__ == "__main__":
    arguments = command.parser(__doc__, EXAMPLES, logs=None)
    arguments.add_argument("solver", metavar="SOLVER", help="solver prototxt")
    arguments.add_argument("log", metavar="LOG", nargs="?", help="log of a range test of the same net")
    sys.exit(command.main(arguments, work))
