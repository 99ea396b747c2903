"""Training speed and memory: a solver's iteration beside the same net in plain PyTorch loops and in a real Caffe.

    python benchmarks/training.py [NAME...] [--threads 1 2] [--rounds 5] [--seconds 2] [--device cpu] [--no-caffe]

Each is a process of its own. They run in turns within each round, on the same tensors, loss read every iteration; Caffe
by `caffe time`, forward and backward, on one it finds under the user's cache folder (`make test-caffe` builds it). With
one thread the clock is processor time, so that other work on the machine counts little; with more it is wall time.

Prints a table: images/s of pysolver (median over the rounds, half their spread in per cent), pysolver's speed divided
by each other's (median of the ratios within the rounds), and peak memory of an iteration beside the loops'. `kept` is
the channels_last loop in a process that keeps its freed memory, as pysolver's does; `bf16 / fp32` is pysolver with
`--precision bf16` beside itself, and on a GPU `compiled` with `--compile`. A name selects the rows with it.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from nets import BENCHES, Bench

from pysolver import memory
from pysolver.context import Context
from pysolver.proto import caffe_pb2
from pysolver.proto.text import parse_text, to_text
from pysolver.solver.solver import Solver

SOLVER = """
base_lr: 0.01 momentum: 0.9 weight_decay: 0.0005 lr_policy: "fixed" max_iter: 1000000 random_seed: 1
snapshot_after_train: false
"""
CAFFE = next(iter(Path.home().glob(".cache/pysolver/caffe-*/plain/.temp_release/tools/caffe.bin")), Path("none"))

DEVICE = torch.device("cpu")  # --device

Step = Callable[[], object]


def batch_of(bench: Bench) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    images, labels = torch.rand(bench.batch, *bench.image), torch.randint(0, bench.classes, (bench.batch,))
    return images.to(DEVICE), labels.to(DEVICE)


def pysolver_step(bench: Bench, precision: str = "fp32", compile: bool = False) -> Step:
    memory.keep_freed()  # as `pysolver train` does
    images, labels = batch_of(bench)
    param = parse_text(SOLVER, caffe_pb2.SolverParameter)
    param.net_param.CopyFrom(bench.param())
    context = Context(DEVICE, listener=lambda event: None, precision=precision, compile=compile)
    solver = Solver(param, context, [])
    solver.net.blobs["data"].value = images
    solver.net.blobs["label"].value = labels.float()
    return lambda: solver.step(1)


def torch_step(bench: Bench, channels_last: bool) -> Step:
    """What a person writes who knows PyTorch well."""
    images, labels = batch_of(bench)
    model = bench.module().train().to(DEVICE)
    if channels_last:
        n, c, h, w = images.shape
        images = images.contiguous(memory_format=torch.channels_last).as_strided((n, c, h, w), (c * h * w, 1, w * c, c))
        model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=0.0005, foreach=True)

    def step() -> None:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        loss.item()

    return step


def kept_step(bench: Bench) -> Step:
    memory.keep_freed()
    return torch_step(bench, True)


LOOPS: dict[str, Callable[[Bench], Step]] = {
    "pysolver": pysolver_step,
    "NCHW": lambda bench: torch_step(bench, False),
    "channels_last": lambda bench: torch_step(bench, True),
    "kept": kept_step,
    "bf16": lambda bench: pysolver_step(bench, "bf16"),
    "compiled": lambda bench: pysolver_step(bench, compile=True),  # on a GPU
}


class Runner:
    """A loop in a process of its own, which computes when it is asked to."""

    def __init__(self, loop: str, bench: Bench, threads: int) -> None:
        command = [sys.executable, __file__, "--serve", loop, "--threads", str(threads), "--device", str(DEVICE)]
        self._process = subprocess.Popen(
            [*command, bench.name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def speed(self, seconds: float) -> float:
        """Images/s during so many seconds, one iteration at least."""
        self._process.stdin.write(f"{seconds}\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()


def serve(loop: str, bench: Bench) -> None:
    step = LOOPS[loop](bench)
    for line in sys.stdin:
        print(images_per_second(step, bench.batch, float(line)), flush=True)


def images_per_second(step: Step, batch: int, seconds: float) -> float:
    now = _clock()
    start, steps = now(), 0
    while not steps or now() - start < seconds:
        step()
        steps += 1
    return batch * steps / (now() - start)


def _clock() -> Callable[[], float]:
    if DEVICE.type == "cuda":
        return lambda: torch.cuda.synchronize() or time.perf_counter()
    return time.process_time if torch.get_num_threads() == 1 else time.perf_counter


def caffe_seconds(bench: Bench, iterations: int) -> float:
    """Of `caffe time` with so many iterations: processor time with one thread, else what it says itself."""
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder, "net.prototxt")
        model.write_text(to_text(bench.param()))
        threads = torch.get_num_threads()
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": str(threads), "GLOG_minloglevel": "0"}
        command = [str(CAFFE), "time", f"-model={model}", f"-iterations={iterations}"]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if threads == 1:
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    line = next(line for line in done.stderr.splitlines() if "Total Time" in line)
    return float(line.split()[-2]) / 1000


def caffe_images_per_second(bench: Bench, seconds: float, guess: float) -> float:
    """guess: images/s, to choose the number of iterations. The start is taken off by a run of one iteration."""
    iterations = 1 + max(2, round(seconds * guess / bench.batch))
    taken = caffe_seconds(bench, iterations) - caffe_seconds(bench, 1)
    return bench.batch * (iterations - 1) / taken


def peak_mebibytes(loop: str, bench: Bench) -> float:
    """Peak resident memory of two iterations, less what is resident before the first: median of five processes."""
    command = [sys.executable, __file__, "--memory-of", loop, bench.name]
    runs = [subprocess.run(command, capture_output=True, text=True, check=True) for _ in range(5)]
    return statistics.median(float(run.stdout) for run in runs)


def print_peak(loop: str, bench: Bench) -> None:
    step = LOOPS[loop](bench)
    torch.randn(64, 64) @ torch.randn(64, 64)  # the BLAS library's own memory
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    step()
    step()
    print((_status("VmHWM") - before) / 1024)


def _status(field: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1])


def row(bench: Bench, args: argparse.Namespace, threads: int) -> str:
    torch.set_num_threads(threads)  # what Caffe is told
    loops = [name for name in LOOPS if name != "compiled" or DEVICE.type == "cuda"]
    runners = {name: Runner(name, bench, threads) for name in loops}
    speeds: dict[str, list[float]] = {name: [] for name in (*LOOPS, "Caffe")}
    for _ in range(4 if DEVICE.type == "cuda" else 2):  # compiling and recording take three
        for runner in runners.values():
            runner.speed(0)
    for _ in range(args.rounds):
        for name, runner in runners.items():
            speeds[name].append(runner.speed(args.seconds))
        if args.caffe:
            speeds["Caffe"].append(caffe_images_per_second(bench, args.seconds, speeds["pysolver"][-1]))
    for runner in runners.values():
        runner.close()
    mine = speeds.pop("pysolver")
    middle = statistics.median(mine)
    spread = 100 * (max(mine) - min(mine)) / middle
    own = [_ratio(speeds.pop(name), mine) for name in ("bf16", "compiled")]
    ratios = [*(_ratio(mine, other) for other in speeds.values()), *own]
    no_memory = args.no_memory or threads > 1 or DEVICE.type != "cpu"
    peaks = ["-"] * 3 if no_memory else [f"{peak_mebibytes(loop, bench):.0f}" for loop in list(LOOPS)[:3]]
    cells = [bench.name, str(threads), f"{middle:.0f} ± {spread / 2:.0f} %", *ratios, " / ".join(peaks)]
    return "| " + " | ".join(cells) + " |"


def _ratio(mine: list[float], other: list[float]) -> str:
    return f"{statistics.median(a / b for a, b in zip(mine, other)):.2f}" if mine and other else "-"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="rows to run (default all)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--no-caffe", action="store_true")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--memory-of", metavar="LOOP", help=argparse.SUPPRESS)
    parser.add_argument("--serve", metavar="LOOP", help=argparse.SUPPRESS)
    args = parser.parse_args()
    chosen = [bench for bench in BENCHES if not args.names or any(name in bench.name for name in args.names)]
    if args.memory_of:
        torch.set_num_threads(1)
        return print_peak(args.memory_of, chosen[0])
    global DEVICE
    DEVICE = torch.device(args.device)
    if args.serve:
        torch.set_num_threads(args.threads[0])
        return serve(args.serve, chosen[0])
    args.caffe = CAFFE.is_file() and not args.no_caffe and DEVICE.type == "cpu"
    print(f"torch {torch.__version__}; Caffe: {CAFFE if args.caffe else 'none'}; {args.rounds} rounds")
    titles = ["net", "threads", "pysolver, images/s", "/ NCHW loop", "/ channels_last loop", "/ kept", "/ Caffe"]
    titles += ["bf16 / fp32", "compiled / not"]
    titles.append("peak MiB: pysolver / NCHW / channels_last")
    print("| " + " | ".join(titles) + " |\n|" + " --- |" * len(titles), flush=True)
    for threads in args.threads:
        for bench in chosen:
            print(row(bench, args, threads), flush=True)
    return None


if __name__ == "__main__":
    main()
