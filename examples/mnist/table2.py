"""The 1cycle row of Table 2 (arXiv 1803.09820) on MNIST: several seeds, mean and standard deviation.

    python examples/mnist/table2.py OUT [--solver FILE] [--type SGD] [--seeds 1 2 3 4]

Writes OUT/seed_N.log; a log that is complete already is read, not run again.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from pathlib import Path

from pysolver.logs import read_log
from pysolver.proto import caffe_pb2
from pysolver.proto.text import read_text, to_text

ONE_CYCLE = "examples/mnist/lenet_1cycle_solver.prototxt"


def accuracy(solver_file: str, type_name: str, seed: int, out: Path) -> float:
    """Final test accuracy in percent of one run."""
    log = out / f"seed_{seed}.log"
    if not log.exists() or "Optimization Done." not in log.read_text():
        solver = read_text(solver_file, caffe_pb2.SolverParameter)
        solver.random_seed, solver.type = seed, type_name
        solver.snapshot_prefix = str(out / f"seed_{seed}")
        seeded = out / f"seed_{seed}_solver.prototxt"
        seeded.write_text(to_text(solver))
        with open(log, "w") as file:
            subprocess.run([sys.executable, "-m", "pysolver", "train", f"--solver={seeded}"], stderr=file, check=True)
    return 100 * float(read_log(log).test["accuracy"][-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--solver", default=ONE_CYCLE)
    parser.add_argument("--type", default="SGD")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4])
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    found = []
    for seed in args.seeds:
        found.append(accuracy(args.solver, args.type, seed, args.out))
        print(f"seed {seed}: {found[-1]:.2f} %", flush=True)
    spread = statistics.stdev(found) if len(found) > 1 else 0.0
    print(f"{args.solver}, {args.type}: {statistics.mean(found):.2f} ± {spread:.2f} % ({len(found)} seeds)")


if __name__ == "__main__":
    main()
