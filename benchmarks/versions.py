"""Speed of an iteration, and of reading a log of 20 MB, in another checkout and in this one, in turns.

    git worktree add OTHER COMMIT
    (cd OTHER && python -m grpc_tools.protoc -Iproto --descriptor_set_out=pysolver/proto/caffe.desc caffe.proto)
    python benchmarks/versions.py OTHER [NAME...] [--rounds 7] [--seconds 0.5]

One process a checkout, one thread; in each round first one and then the other runs for so many seconds of processor
time, on the same net and numbers or the same log. Prints the median and the range of the speeds' ratios new / old
within the rounds, above 1 where this checkout is faster. A name selects the rows with it.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nets import Bench

CLIPPING = "Gradient clipping: scaling down gradients (L2 norm \\1 > 0.1) by scale factor 0.2"
SOLVER = """
base_lr: 0.01 momentum: 0.9 weight_decay: 0.0005 lr_policy: "fixed" max_iter: 1000000 random_seed: 1
snapshot_after_train: false
"""


def training(file: str) -> Callable[[], object]:
    """An iteration of the net of a file."""
    import torch

    from pysolver.context import Context
    from pysolver.proto import caffe_pb2
    from pysolver.proto.text import parse_text
    from pysolver.solver.solver import Solver

    torch.set_num_threads(1)
    torch.manual_seed(1)
    param = parse_text(SOLVER, caffe_pb2.SolverParameter)
    param.net_param.CopyFrom(parse_text(Path(file).read_text(), caffe_pb2.NetParameter))
    solver = Solver(param, Context(), [])
    solver.net.blobs["data"].value = torch.rand(solver.net.blobs["data"].shape)
    solver.net.blobs["label"].value = torch.randint(0, 10, solver.net.blobs["label"].shape).float()
    return lambda: solver.step(1)


def reading(file: str) -> Callable[[], object]:
    """Reading a log."""
    from pysolver.logs import read_log

    return lambda: read_log(file)


def worker(file: str, seconds: float) -> None:
    """Steps a second of processor time, printed once for each line of standard input."""
    step = (reading if file.endswith(".log") else training)(file)
    step()
    step()
    print("ready", flush=True)
    while sys.stdin.readline():
        start, steps = time.process_time(), 0
        while not steps or time.process_time() - start < seconds:
            step()
            steps += 1
        print(steps / (time.process_time() - start), flush=True)


class Checkout:
    """A worker with a checkout's pysolver."""

    def __init__(self, folder: Path, net: str, seconds: float) -> None:
        environment = {**os.environ, "PYTHONPATH": str(folder), "GLOG_minloglevel": "3", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, __file__, str(folder), "--worker", net, "--seconds", str(seconds)]
        self._process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        if self._process.stdout.readline() != "ready\n":
            raise SystemExit(f"{folder}: its solver cannot be built; see: {' '.join(command)}")

    def speed(self) -> float:
        """Iterations a second."""
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def close(self) -> None:
        """End the worker."""
        self._process.communicate("")


def _write_net(bench: Bench, file: Path) -> None:
    from pysolver.proto.text import to_text

    file.write_text(to_text(bench.param()))


def _write_log(file: Path, change: Callable[[str], str] = str) -> None:
    import logs  # here alone, since it puts this checkout first

    logs.write_log(file, 20)
    file.write_text(change(file.read_text()))


LOGS = {
    "log": _write_log,
    "log with blanks in its names": partial(_write_log, change=lambda text: text.replace(": loss =", ": my loss =")),
    "log with clipping": partial(_write_log, change=lambda text: re.sub(r"Gradient: L2 norm (\S+)", CLIPPING, text)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path)
    parser.add_argument("names", nargs="*", help="rows to run (default all)")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return worker(args.worker, args.seconds)
    from nets import BENCHES

    with tempfile.TemporaryDirectory() as folder:
        for name, write in {**{bench.name: partial(_write_net, bench) for bench in BENCHES}, **LOGS}.items():
            if args.names and not any(part in name for part in args.names):
                continue
            file = Path(folder, "benchmark.log" if name in LOGS else "net.prototxt")
            write(file)
            old, new = (Checkout(place, str(file), args.seconds) for place in (args.other, Path(__file__).parents[1]))
            ratios = []
            for _ in range(args.rounds):
                before = old.speed()
                ratios.append(new.speed() / before)
            old.close()
            new.close()
            print(f"{name}: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})", flush=True)
    return None


if __name__ == "__main__":
    main()
