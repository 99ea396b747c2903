"""Training speed of LeNet: a solver's iteration beside the same net in a plain PyTorch loop, on the same tensors.

    OMP_NUM_THREADS=1 python benchmarks/lenet.py [--batch 64 512] [--rounds 5]

Prints images/s of each (median over the rounds, which alternate between the two) and their ratio.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable

os.environ.setdefault("GLOG_minloglevel", "2")

import torch
import torch.nn.functional as F
from torch import nn

from pysolver.context import Context
from pysolver.proto import caffe_pb2
from pysolver.proto.text import parse_text, read_text
from pysolver.solver.solver import Solver

NET = "examples/mnist/lenet_train_test.prototxt"
SOLVER = """
base_lr: 0.01 momentum: 0.9 weight_decay: 0.0005 lr_policy: "fixed" max_iter: 1000000 random_seed: 1
snapshot_after_train: false
"""


def caffe_step(batch: int, images: torch.Tensor, labels: torch.Tensor) -> Callable[[], None]:
    """One solver iteration, with the Data layer replaced by an Input layer that holds the batch."""
    net = read_text(NET, caffe_pb2.NetParameter)
    kept = [layer for layer in net.layer if layer.type not in ("Data", "Accuracy")]
    feed = parse_text(
        f"layer {{ name: 'mnist' type: 'Input' top: 'data' top: 'label' input_param {{ "
        f"shape {{ dim: {batch} dim: 1 dim: 28 dim: 28 }} shape {{ dim: {batch} }} }} }}",
        caffe_pb2.NetParameter,
    )
    param = parse_text(SOLVER, caffe_pb2.SolverParameter)
    param.net_param.layer.extend([*feed.layer, *kept])
    solver = Solver(param, Context())
    solver.net.blobs["data"].value = images
    solver.net.blobs["label"].value = labels.float()
    return lambda: solver.step(1)


def torch_step(images: torch.Tensor, labels: torch.Tensor) -> Callable[[], None]:
    """What a PyTorch user would write."""
    model = nn.Sequential(
        nn.Conv2d(1, 20, 5), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(800, 500), nn.ReLU(inplace=True), nn.Linear(500, 10),
    )  # fmt: skip
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=0.0005)

    def step() -> None:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        loss.item()

    return step


def images_per_second(step: Callable[[], None], batch: int, seconds: float = 2.0) -> float:
    step()
    start, steps = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        step()
        steps += 1
    return batch * steps / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, nargs="+", default=[64, 512])
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} thread(s)")
    for batch in args.batch:
        images, labels = torch.rand(batch, 1, 28, 28), torch.randint(0, 10, (batch,))
        ours, plain = caffe_step(batch, images, labels), torch_step(images, labels)
        pairs = [(images_per_second(ours, batch), images_per_second(plain, batch)) for _ in range(args.rounds)]
        mine, theirs = (statistics.median(column) for column in zip(*pairs))
        ratio = statistics.median(a / b for a, b in pairs)
        print(f"batch {batch}: pysolver {mine:.0f} images/s, plain PyTorch {theirs:.0f} images/s, ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
