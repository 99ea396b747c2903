"""Train or resume the net of a solver."""

from __future__ import annotations

import argparse
import dataclasses

from pysolver.commands import _options as o
from pysolver.disciplined.checker import check_training
from pysolver.pycaffe import alias
from pysolver.solver import ranks
from pysolver.solver.train import TrainOptions, main


def options(parser: argparse.ArgumentParser) -> None:
    for add in (o.solver, o.weights, o.gpu, o.net_state):
        add(parser)
    o.flag(parser, "snapshot", metavar="FILE|auto", help="resume from this state; auto: the newest one of the prefix")
    for signal, effect in (("sigint", "stop"), ("sighup", "snapshot")):
        o.flag(parser, f"{signal}_effect", default=effect, metavar="EFFECT",
               help=f"what {signal.upper()} does: stop, snapshot or none (default {effect})")  # fmt: skip
    o.flag(parser, "keep", type=o.positive, metavar="N", help="keep only the newest N snapshots (default: all)")
    o.flag(parser, "stop_on_nan", action="store_true", help="end with an error when the loss is not a finite number")
    o.flag(parser, "tensorboard", metavar="DIR", help="write TensorBoard event files there")
    o.flag(parser, "precision", choices=["fp32", "bf16", "fp16"], default="fp32",
           help="of what is computed; parameters and updates are always fp32 (default fp32)")  # fmt: skip
    o.flag(parser, "compile", action="store_true", help="make kernels of the net with torch.compile (GPUs only)")
    o.flag(parser, "cache_data", "cache-data", type=o.size, default=2 << 30, metavar="SIZE",
           help="data sets up to this size are kept in memory, e.g. 500M or 0 (default 2G)")  # fmt: skip
    o.flag(parser, "processes", type=o.positive, default=1, metavar="N",
           help="train in so many processes, each with the solver's whole batch (--gpu=0,1: one a GPU)")  # fmt: skip
    o.flag(parser, "max_restarts", "max-restarts", type=o.natural, default=0, metavar="N",
           help="when a process is lost, begin again at the newest snapshot, so many times (default 0)")  # fmt: skip
    o.flag(parser, "distributed_test", "distributed-test", action="store_true",
           help="all processes run the tests, each its part of the batches")  # fmt: skip
    o.flag(parser, "log_ranks", metavar="DIR", help="write the log of each process there, too")
    parser.add_argument("--progress", action=argparse.BooleanOptionalAction, default=None,
                        help="a progress bar (default: on a terminal)")  # fmt: skip


def call(args: argparse.Namespace) -> None:
    alias.offer()  # modules of Python layers `import caffe`
    o.required(args.solver, "Need a solver definition to train: --solver=FILE")
    names = [field.name for field in dataclasses.fields(TrainOptions)]
    with ranks.as_rank():
        main(TrainOptions(**{name: getattr(args, name) for name in names}), advise=check_training, log=args.emit)
