"""How training scales from one process to several, one thread each, beside DistributedDataParallel on a plain loop.

    python benchmarks/ranks.py [--processes 2] [--iterations 30] [--rounds 3]

Both train the same net function on the same arrays with gloo, in turns. The batch is that of one process, so perfect
scaling keeps the time of an iteration. Communication is what an iteration waits for the others after its own backward.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import time

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from pysolver.context import Context
from pysolver.proto import caffe_pb2
from pysolver.proto.text import parse_text
from pysolver.solver.ranks import Alone, joined
from pysolver.solver.solver import Solver

BATCH = 32
LAYERS = "".join(
    f"""layer {{ name: "conv{k}" type: "Convolution" bottom: "{bottom}" top: "conv{k}" convolution_param {{
      num_output: {width} kernel_size: 3 pad: 1 stride: {stride} weight_filler {{ type: "msra" }} }} }}
    layer {{ name: "relu{k}" type: "ReLU" bottom: "conv{k}" top: "conv{k}" }}"""
    for k, (bottom, width, stride) in enumerate([("data", 32, 1), ("conv0", 64, 2), ("conv1", 128, 2)])
)
NET = f"""
layer {{ name: "data" type: "DummyData" top: "data" top: "label" dummy_data_param {{
  shape {{ dim: {BATCH} dim: 3 dim: 32 dim: 32 }} shape {{ dim: {BATCH} }}
  data_filler {{ type: "constant" value: 0.5 }} data_filler {{ type: "constant" value: 3 }} }} }}
{LAYERS}
layer {{ name: "ip" type: "InnerProduct" bottom: "conv2" top: "ip" inner_product_param {{ num_output: 256
  weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "out" type: "InnerProduct" bottom: "ip" top: "out" inner_product_param {{ num_output: 10
  weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "out" bottom: "label" top: "loss" }}
"""
SOLVER = f"net_param {{ {NET} }} base_lr: 0.001 lr_policy: 'fixed' momentum: 0.9 max_iter: 1000000 random_seed: 1"


class Timed(Alone):
    """Ranks that also count the seconds of average()."""

    def __init__(self, ranks: Alone) -> None:
        self.ranks, self.rank, self.size, self.seconds = ranks, ranks.rank, ranks.size, 0.0
        for name in ("watch", "last_pass", "agree", "spread", "gather", "share"):
            setattr(self, name, getattr(ranks, name))

    def average(self, grads: list) -> None:
        begin = time.perf_counter()
        self.ranks.average(grads)
        self.seconds += time.perf_counter() - begin


def work(rank: int, size: int, port: int, iterations: int, rounds: int, results: mp.Queue) -> None:
    torch.set_num_threads(1)
    if size > 1:
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in place.items()})
    with joined(torch.device("cpu")) as group:
        ranks = Timed(group)
        context = Context(rank=rank, world_size=size)
        solver = Solver(parse_text(SOLVER, caffe_pb2.SolverParameter), context, (), ranks=ranks)
        plain = Solver(parse_text(SOLVER, caffe_pb2.SolverParameter), context, ())
        model = DistributedDataParallel(plain.net.function) if size > 1 else plain.net.function
        optimizer = torch.optim.SGD(plain.net.learnable_params, lr=0.001, momentum=0.9)
        batch = [plain.net.blobs["data"].value, plain.net.blobs["label"].value]

        def loop(count: int) -> None:
            for _ in range(count):
                optimizer.zero_grad(set_to_none=False)
                model(*batch)[0].backward()
                optimizer.step()

        for run in (solver.step, loop):
            run(3)
        ranks.seconds, times = 0.0, {"pysolver": [], "DDP": []}
        for _ in range(rounds):
            for name, run in (("pysolver", solver.step), ("DDP", loop)):
                if size > 1:
                    dist.barrier()
                begin = time.perf_counter()
                run(iterations)
                times[name].append((time.perf_counter() - begin) / iterations)
        if rank == 0:
            share = ranks.seconds / rounds / iterations
            count = sum(parameter.numel() for parameter in solver.net.learnable_params)
            results.put(
                {name: statistics.median(values) for name, values in times.items()} | {"wait": share, "n": count}
            )


def measure(size: int, iterations: int, rounds: int) -> dict:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    results = mp.get_context("spawn").Queue()
    mp.spawn(work, (size, port, iterations, rounds, results), nprocs=size)
    return results.get()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--iterations", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    one, many = (measure(size, args.iterations, args.rounds) for size in (1, args.processes))
    print(f"{one['n']:,} parameters, batch {BATCH} a process, one thread each")
    print(f"{'':10}{'1 process':>12}{f'{args.processes} processes':>14}{'efficiency':>12}")
    for name in ("pysolver", "DDP"):
        print(f"{name:10}{one[name] * 1e3:9.1f} ms{many[name] * 1e3:11.1f} ms{one[name] / many[name]:12.2f}")
    print(f"communication that is not hidden: {many['wait'] * 1e3:.1f} ms, {many['wait'] / many['pysolver']:.0%}")


if __name__ == "__main__":
    main()
