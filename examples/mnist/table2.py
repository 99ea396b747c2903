"""The 1cycle row of Table 2 (arXiv 1803.09820) on MNIST: several seeds, mean and standard deviation.

    python examples/mnist/table2.py OUT [--solver FILE] [--type SGD] [--seeds 1 2 3 4]

Each seed is a folder of OUT with its log; one that is complete already is read, not run again.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

from pysolver.disciplined.trial import Trial, changed, read_pair

ONE_CYCLE = "examples/mnist/lenet_1cycle_solver.prototxt"


def accuracy(solver_file: str, type_name: str, seed: int, out: Path) -> float:
    """Final test accuracy in percent of one run."""
    solver, net = read_pair(solver_file)
    trial = Trial.of(out / f"seed_{seed}", changed(solver, random_seed=seed, type=type_name), net)
    return 100 * float(trial.run().test["accuracy"][-1])


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
