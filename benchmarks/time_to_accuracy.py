"""Processor seconds until MNIST is known to 99 %: pysolver's 1cycle, a plain PyTorch loop with OneCycleLR, Caffe's inv.

    pysolver data mnist DIR
    python benchmarks/time_to_accuracy.py DIR [--accuracy 0.99] [--seeds 1 2] [--only pysolver loop caffe]

LeNet at batch 64 on one thread, tested on all 10,000 images every 234 iterations (a quarter of an epoch). Each is a
process of its own, from its start, imports and tests included, to the first test that is good enough. 1cycle: 3
epochs, rate 0.01 to 0.1 and back, momentum 0.95 to 0.80 and back; inv: that of Caffe's lenet_solver.prototxt. The loop,
channels_last, has its images in memory as tensors; the others read the LMDBs. `make test-caffe` builds Caffe.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import lmdb
import torch
import torch.nn.functional as F
from nets import lenet_module
from torch import Tensor

from pysolver.proto import caffe_pb2

NET = Path(__file__).parent.parent / "examples/mnist/lenet_train_test.prototxt"
CAFFE = next(iter(Path.home().glob(".cache/pysolver/caffe-*/plain/.temp_release/tools/caffe.bin")), Path("none"))
ITERATIONS, HALF, EVERY, BATCH = 2814, 1266, 234, 64  # 3 epochs; half a cycle
COMMON = (
    f"test_iter: 20 test_interval: {EVERY} test_initialization: false weight_decay: 0.0005 snapshot_after_train: false"
)
ONE_CYCLE = (
    f'base_lr: 0.01 max_lr: 0.1 lr_policy: "1cycle" stepsize: {HALF} momentum: 0.95 cyclical_momentum: 0.80 '
    f"cyclical_momentum: {HALF} max_iter: {ITERATIONS}"
)
INV = 'base_lr: 0.01 lr_policy: "inv" gamma: 0.0001 power: 0.75 momentum: 0.9 max_iter: 10000'


def commands(folder: Path, seed: int) -> dict[str, list[str]]:
    """What is run, by name; what it needs is written into the folder."""
    for name, policy in (("pysolver", ONE_CYCLE), ("caffe", INV)):
        text = f'net: "{folder / "net.prototxt"}" {COMMON} {policy} random_seed: {seed} solver_mode: CPU\n'
        (folder / f"{name}.prototxt").write_text(text)
    found = {
        "pysolver": [sys.executable, "-m", "pysolver", "train", f"--solver={folder / 'pysolver.prototxt'}"],
        "loop": [sys.executable, __file__, str(folder), "--loop", str(seed)],
    }
    if CAFFE.is_file():
        found["caffe"] = [str(CAFFE), "train", f"-solver={folder / 'caffe.prototxt'}"]
    return found


def seconds_to(accuracy: float, command: list[str]) -> tuple[float, float]:
    """(processor seconds of the process, the accuracy) at its first good test, or at its end."""
    process = subprocess.Popen(
        command, env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    best = 0.0
    for line in process.stderr:
        test = re.search(r"Test net output #\d+: accuracy = ([\d.]+)", line)
        best = max(best, float(test[1])) if test else best
        if best >= accuracy:
            process.kill()
            break
    _, _, used = os.wait4(process.pid, 0)
    return used.ru_utime + used.ru_stime, best


# ---- the loop ------------------------------------------------------------------------------------------------------


def images(path: Path) -> tuple[Tensor, Tensor]:
    """(N, 1, 28, 28) bytes and (N) labels of an LMDB of Datums."""
    with lmdb.open(str(path), readonly=True, lock=False) as env, env.begin() as records:
        datums = [caffe_pb2.Datum.FromString(value) for _, value in records.cursor()]
    pixels = torch.frombuffer(bytearray(b"".join(datum.data for datum in datums)), dtype=torch.uint8)
    return pixels.reshape(-1, 1, 28, 28), torch.tensor([datum.label for datum in datums])


def loop(folder: Path, seed: int) -> None:
    """What a person writes who knows PyTorch well."""
    torch.manual_seed(seed)
    x, y, x_test, y_test = torch.load(folder / "mnist.pt")
    model = lenet_module().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.95, weight_decay=0.0005, foreach=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=0.1, total_steps=ITERATIONS, pct_start=HALF / ITERATIONS, div_factor=10,
        final_div_factor=1000, base_momentum=0.80, max_momentum=0.95,
    )  # fmt: skip
    for iteration in range(ITERATIONS):
        if iteration * BATCH % len(x) < BATCH:
            order = torch.randperm(len(x))
        chosen = order[torch.arange(iteration * BATCH, (iteration + 1) * BATCH) % len(x)]
        optimizer.zero_grad()
        loss = F.cross_entropy(model(_scaled(x[chosen])), y[chosen])
        loss.backward()
        optimizer.step()
        schedule.step()
        loss.item()
        if (iteration + 1) % EVERY == 0:
            with torch.inference_mode():
                right = sum(
                    int((model(_scaled(a)).argmax(1) == b).sum()) for a, b in zip(x_test.split(500), y_test.split(500))
                )
            print(f"Test net output #0: accuracy = {right / len(y_test):.4f}", file=sys.stderr, flush=True)


def _scaled(pixels: Tensor) -> Tensor:
    n, c, h, w = pixels.shape
    return (pixels * 0.00390625).as_strided((n, c, h, w), (h * w, 1, w * c, c))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of mnist_train_lmdb and mnist_test_lmdb")
    parser.add_argument("--accuracy", type=float, default=0.99)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--only", nargs="+", help="pysolver, loop, caffe (default all)")
    parser.add_argument("--loop", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.loop is not None:
        torch.set_num_threads(1)
        return loop(args.data, args.loop)
    data = args.data.resolve()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = NET.read_text().replace("examples/mnist/", f"{data}/").replace("batch_size: 512", f"batch_size: {BATCH}")
        (folder / "net.prototxt").write_text(text)
        torch.save((*images(data / "mnist_train_lmdb"), *images(data / "mnist_test_lmdb")), folder / "mnist.pt")
        for seed in args.seeds:
            for kind, command in commands(folder, seed).items():
                if not args.only or kind in args.only:
                    seconds, accuracy = seconds_to(args.accuracy, command)
                    print(f"seed {seed}: {kind}: {seconds:.1f} s of processor time, {accuracy:.2%}", flush=True)
    return None


if __name__ == "__main__":
    main()
