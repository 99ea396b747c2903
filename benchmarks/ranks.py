"""How training scales from one process to several, one thread each, beside DistributedDataParallel on a plain loop.

    python benchmarks/ranks.py [--processes 2] [--iterations 30] [--rounds 3]
    python benchmarks/ranks.py --mbit 100 400 1600          root: over links of so much bandwidth, beside the cost model
    python benchmarks/ranks.py --mbit 400 --processes 4 --exchange-only

Both train the same net function on the same arrays with gloo, in turns. The batch is that of one process, so perfect
scaling keeps the time of an iteration. Communication is what an iteration waits for the others after its own backward.
`exchange` is one all-reduce of all gradients and nothing else; the model is that of docs/distributed.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import torch
import torch.distributed as dist
from links import FRAMES, address, network
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


class Loop:
    """What one would write without pysolver. Where its seconds go: forward, backward with the exchange, update."""

    def __init__(self, net: Solver, wrap: Callable = lambda function: function) -> None:
        self.model, self.parts = wrap(net.net.function), [0.0, 0.0, 0.0]
        self.optimizer = torch.optim.SGD(net.net.learnable_params, lr=0.001, momentum=0.9)
        self.batch = [net.net.blobs["data"].value, net.net.blobs["label"].value]

    def step(self, count: int) -> None:
        for _ in range(count):
            self.optimizer.zero_grad(set_to_none=False)
            moments = [time.perf_counter()]
            loss = self.model(*self.batch)[0]
            moments.append(time.perf_counter())
            loss.backward()
            moments.append(time.perf_counter())
            self.optimizer.step()
            moments.append(time.perf_counter())
            self.parts = [sum_ + b - a for sum_, a, b in zip(self.parts, moments, moments[1:])]


def work(iterations: int, rounds: int, exchange_only: bool) -> dict:
    """In each process: median seconds of an iteration, and of its parts."""
    torch.set_num_threads(1)
    rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    with joined(torch.device("cpu")) as group:
        ranks, context = Timed(group), Context(rank=rank, world_size=size)

        def solver(ranks: Alone | None = None) -> Solver:
            return Solver(parse_text(SOLVER, caffe_pb2.SolverParameter), context, (), ranks=ranks)

        own = solver(ranks)
        grads = [parameter.grad for parameter in own.net.learnable_params]
        runs = {"exchange": lambda count: [ranks.average(grads) for _ in range(count)]} if size > 1 else {}
        if not exchange_only:
            plain = Loop(solver())
            runs |= {"pysolver": own.step, "plain": plain.step}
        if not exchange_only and size > 1:
            runs["DDP"] = Loop(solver(), DistributedDataParallel).step
        for run in runs.values():
            run(2)
        waited, times = [], {name: [] for name in runs}
        plain_parts = []
        for _ in range(rounds):
            for name, run in runs.items():
                if size > 1:
                    dist.barrier()
                ranks.seconds = 0.0
                if name == "plain":
                    plain.parts = [0.0, 0.0, 0.0]
                begin = time.perf_counter()
                run(iterations)
                times[name].append((time.perf_counter() - begin) / iterations)
                if name == "pysolver":
                    waited.append(ranks.seconds / iterations)
                if name == "plain":
                    plain_parts.append([part / iterations for part in plain.parts])
        found = {name: statistics.median(values) for name, values in times.items()}
        if not exchange_only:
            parts = (statistics.median(column) for column in zip(*plain_parts))
            found |= dict(zip(("forward", "backward", "update"), parts)) | {"wait": statistics.median(waited)}
        return found | {"bytes": sum(grad.numel() * grad.element_size() for grad in grads)}


# ---- starting -----------------------------------------------------------------------------------------------------


def measure(size: int, args: argparse.Namespace, mbit: float | None = None) -> dict:
    """What rank 0 of so many processes found; all on this machine, or each behind a link of its own."""
    words = [sys.executable, __file__, "--work", f"--iterations={args.iterations}", f"--rounds={args.rounds}"]
    words += ["--exchange-only"] if args.exchange_only else []
    with placed(size, mbit) as places:
        processes = [
            subprocess.Popen([*before, *words], env={**os.environ, **place}, stdout=subprocess.PIPE)
            for before, place in places
        ]
        try:
            said = [process.communicate()[0] for process in processes]
            if any(process.returncode for process in processes):
                sys.exit("a process failed")
        finally:
            for process in processes:
                process.kill()
    return json.loads(said[0])


@contextlib.contextmanager
def placed(size: int, mbit: float | None) -> Iterator[list[tuple[list[str], dict[str, str]]]]:
    """For each process: what its command begins with, and its environment."""
    with contextlib.ExitStack() as stack:
        if mbit is None:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                host, port = probe.getsockname()
            before, link = [[]] * size, {}
        else:
            host, port = address(0), 29500
            before = [["ip", "netns", "exec", name] for name in stack.enter_context(network(size, mbit))]
            link = {"GLOO_SOCKET_IFNAME": "eth0"}
        common = {"WORLD_SIZE": str(size), "MASTER_ADDR": host, "MASTER_PORT": str(port), **link}
        yield [(before[k], {"RANK": str(k), "LOCAL_RANK": str(k), **common}) for k in range(size)]


# ---- telling ------------------------------------------------------------------------------------------------------


def communication(size: int, parameters: float, bandwidth: float) -> float:
    """The cost model: seconds in which a ring sums so many bytes at bytes / second, without latency."""
    return 2 * (size - 1) / size * parameters / bandwidth


def tell_scaling(args: argparse.Namespace) -> None:
    one, many = (measure(size, args) for size in (1, args.processes))
    one["DDP"] = one["plain"]
    print(f"{one['bytes'] / 1e6:.1f} MB of parameters, batch {BATCH} a process, one thread each")
    print(f"{'':10}{'1 process':>12}{f'{args.processes} processes':>14}{'efficiency':>12}")
    for name in ("pysolver", "DDP"):
        print(f"{name:10}{one[name] * 1e3:9.1f} ms{many[name] * 1e3:11.1f} ms{one[name] / many[name]:12.2f}")
    print(f"two plain loops that exchange nothing: {many['plain'] * 1e3:.1f} ms")
    print(f"communication that is not hidden: {many['wait'] * 1e3:.1f} ms, {many['wait'] / many['pysolver']:.0%}")


def tell_links(args: argparse.Namespace) -> None:
    columns = ["exchange", "model"] + ([] if args.exchange_only else ["pysolver", "DDP", "model", "not hidden"])
    print(f"{args.processes} processes, milliseconds\n{'Mbit/s':>8}" + "".join(f"{name:>12}" for name in columns))
    for mbit in args.mbit:
        found = measure(args.processes, args, mbit)
        predicted = communication(args.processes, found["bytes"], mbit * 1e6 / 8 * FRAMES)
        values = [found["exchange"], predicted]
        if not args.exchange_only:
            iteration = found["forward"] + max(found["backward"], predicted) + found["update"]
            values += [found["pysolver"], found["DDP"], iteration, found["wait"]]
        print(f"{mbit:8g}" + "".join(f"{value * 1e3:12.1f}" for value in values), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--iterations", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mbit", type=float, nargs="+", help="bandwidths of the links; needs root")
    parser.add_argument("--exchange-only", action="store_true")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        print(json.dumps(work(args.iterations, args.rounds, args.exchange_only)))
    else:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was begun is ended, and the network gone
        (tell_links if args.mbit else tell_scaling)(args)


if __name__ == "__main__":
    main()
