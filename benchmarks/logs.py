#!/usr/bin/env python3
"""How fast logs are read and drawn: a 100 MB log on one core, beside regular expressions line by line as in Caffe's
tools/extra/parse_log.py, and plot_log on a 3 MB log with start-up. Nothing is kept.

    OMP_NUM_THREADS=1 python benchmarks/logs.py [--megabytes 100]

Speeds are of processor time (a busy machine disturbs them less than it does the clock); memory is the process's peak.
"""

from __future__ import annotations

import argparse
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def write_log(path: Path, megabytes: float) -> None:
    """A log of the usual lines: tests, displays, outputs, rates with momentum, the norms of four ranks, snapshots."""
    tag = "I0318 {0:02d}:{1:02d}:{2:02d}.{3:06d} 12414 "
    with path.open("w") as file:
        iteration, written = 0, 0
        while written < megabytes * 1e6:
            stamp = tag.format(
                *(iteration // 3600 % 24, iteration // 60 % 60, iteration % 60, iteration * 7919 % 10**6)
            )
            loss = 7 / (1 + iteration / 1e5) + iteration * 7919 % 1000 / 1e4
            text = (
                f"{stamp}solver.cpp:330] Iteration {iteration}, Testing net (#0)\n"
                f"{stamp}solver.cpp:397]     Test net output #0: accuracy = {1 / (1 + loss):g}\n"
                f"{stamp}solver.cpp:397]     Test net output #1: loss = {loss:g} (* 1 = {loss:g} loss)\n"
                f"{stamp}solver.cpp:218] Iteration {iteration} (5.86166 iter/s, 34.12s/100 iters), loss = {loss:g}\n"
                f"{stamp}solver.cpp:237]     Train net output #0: loss = {loss:g} (* 1 = {loss:g} loss)\n"
                f"{stamp}sgd_solver.cpp:212] Iteration {iteration}, lr = 0.05, momentum = 0.95, weight decay = 1e-05\n"
            ) + f"{stamp}sgd_solver.cpp:172] Gradient: L2 norm {loss:g}\n" * 4
            if iteration % 20_000 == 0:
                text += f"{stamp}solver.cpp:447] Snapshotting to binary proto file net_iter_{iteration}.caffemodel\n"
            written += file.write(text)
            iteration += 100


def read_ours(path: str) -> int:
    """Rows found by pysolver."""
    from pysolver.logs import read_log

    run = read_log(path)
    return len(run.train) + len(run.test)


def read_as_caffe_does(path: str) -> int:
    """Rows found by four regular expressions a line, the way of Caffe's parser."""
    iteration_line = re.compile(r"Iteration (\d+)")
    train_line = re.compile(r"Train net output #(\d+): (\S+) = ([\.\deE+-]+)")
    test_line = re.compile(r"Test net output #(\d+): (\S+) = ([\.\deE+-]+)")
    rate_line = re.compile(r"lr = ([-+]?[0-9]*\.?[0-9]+([eE]?[-+]?[0-9]+)?)")
    tables: dict[str, dict[float, dict[str, float]]] = {"train": {}, "test": {}}
    iteration, rate = -1.0, float("nan")
    with open(path) as file:
        for line in file:
            if found := iteration_line.search(line):
                iteration = float(found[1])
            if found := rate_line.search(line):
                rate = float(found[1])
            for phase, pattern in (("train", train_line), ("test", test_line)):
                if found := pattern.search(line):
                    tables[phase].setdefault(iteration, {"lr": rate})[found[2]] = float(found[3])
    return sum(map(len, tables.values()))


def measure(reader: str, path: Path) -> tuple[int, float, float]:
    """Rows, processor seconds and peak megabytes of a reader in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--reader", reader, str(path)], capture_output=True, text=True, check=True
    )
    rows, seconds, memory = done.stdout.split()
    return int(rows), float(seconds), float(memory)


def one(reader: str, path: str) -> None:
    """What the process of measure() does; start-up and imports are left out of the time."""
    import pysolver.logs  # noqa: F401

    start = time.process_time()
    rows = {"pysolver": read_ours, "regex": read_as_caffe_does}[reader](path)
    seconds = time.process_time() - start
    print(rows, seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=100)
    parser.add_argument("--reader", choices=("pysolver", "regex"), help=argparse.SUPPRESS)
    parser.add_argument("path", nargs="?", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.reader:
        one(options.reader, options.path)
        return
    with tempfile.TemporaryDirectory() as folder:
        for megabytes in (options.megabytes / 10, options.megabytes):
            log = Path(folder) / f"{megabytes:g}.log"
            write_log(log, megabytes)
            for reader in ("pysolver", "regex"):
                rows, seconds, memory = measure(reader, log)
                print(
                    f"{reader:>8}: {megabytes:5.0f} MB, {rows} rows, "
                    f"{megabytes / seconds:6.1f} MB/s, peak {memory:.0f} MB"
                )
        small = Path(folder) / "3.log"
        write_log(small, 3)
        command = [sys.executable, str(ROOT / "tools" / "plot_log.py"), str(small), "-o", str(Path(folder) / "a.png")]
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run(command, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        print(f"plot_log: 3 MB, {time.perf_counter() - start:.2f} s by the clock, {busy:.2f} s of processor time")


if __name__ == "__main__":
    main()
