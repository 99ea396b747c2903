"""The whole method in two minutes, on the handwritten digits that scikit-learn ships: what `make demo` runs.

Everything below is a command that a person could type; each is printed before it runs.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from pysolver.logs import read_log
from pysolver.proto import caffe_pb2
from pysolver.proto.text import read_text, to_text

HERE = Path(__file__).parent


def run(*command: str, log: Path | None = None) -> str:
    """Run a command of this Python; its log goes to a file, its output comes back."""
    shown = f"pysolver {' '.join(command[2:])}" if command[:2] == ("-m", "pysolver") else f"python {' '.join(command)}"
    print(f"$ {shown}" + (f" 2> {log}" if log else ""), flush=True)
    with open(log or "/dev/stderr", "w") as errors:
        done = subprocess.run([sys.executable, *command], stdout=subprocess.PIPE, stderr=errors, text=True)
    if done.returncode:
        raise SystemExit(f"failed with status {done.returncode}" + (f", see {log}" if log else ""))
    return done.stdout


def main(out: Path) -> None:
    out.mkdir(exist_ok=True)
    run("-m", "pysolver", "data", "digits", str(out), "--force")

    print("\n1. A range test: let the learning rate rise until training breaks.")
    range_log = out / "range_test.log"
    run("-m", "pysolver", "train", f"--solver={HERE / 'range_test_solver.prototxt'}", log=range_log)
    picture = out / "range_test.png"
    found = json.loads(run("tools/plot_range_test.py", str(range_log), "-o", str(picture), "--json"))
    if not found["break_seen"]:
        raise SystemExit(f"the range test saw no break: look at {picture}")
    max_lr = float(f"{found['max_lr']:.2g}")
    print(f"   largest usable rate: {max_lr:g}; one cycle starts at a tenth of it")

    print("\n2. One cycle between those bounds, the momentum cycling against it.")
    solver = read_text(str(HERE / "one_cycle_solver.prototxt"), caffe_pb2.SolverParameter)
    solver.max_lr, solver.base_lr = max_lr, max_lr / 10
    solver_file = out / "one_cycle_solver.prototxt"
    solver_file.write_text(to_text(solver))
    train_log = out / "one_cycle.log"
    run("-m", "pysolver", "train", f"--solver={solver_file}", log=train_log)
    curves = out / "one_cycle.png"
    run("tools/plot_log.py", str(train_log), "--rates", "--log-y", "-o", str(curves))

    accuracy = read_log(train_log).test["accuracy"][-1]
    print(f"\ntest accuracy {accuracy:.2%}\npictures: {picture} and {curves}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo"))
