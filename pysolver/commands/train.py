"""Train or resume the net of a solver."""

from __future__ import annotations

import argparse

from pysolver.commands import _options as o
from pysolver.disciplined.checker import check_training
from pysolver.pycaffe import alias
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
    o.flag(parser, "cache_data", "cache-data", type=o.size, default=2 << 30, metavar="SIZE",
           help="data sets up to this size are kept in memory, e.g. 500M or 0 (default 2G)")  # fmt: skip
    parser.add_argument("--progress", action=argparse.BooleanOptionalAction, default=None,
                        help="a progress bar (default: on a terminal)")  # fmt: skip


def call(args: argparse.Namespace) -> None:
    alias.offer()  # modules of Python layers `import caffe`
    main(
        TrainOptions(
            o.required(args.solver, "Need a solver definition to train: --solver=FILE"),
            snapshot=args.snapshot,
            weights=args.weights,
            gpu=args.gpu,
            sigint_effect=args.sigint_effect,
            sighup_effect=args.sighup_effect,
            level=args.level,
            stage=args.stage,
            keep=args.keep,
            stop_on_nan=args.stop_on_nan,
            progress=args.progress,
            tensorboard=args.tensorboard,
            allow_python_layers=args.allow_python_layers,
            cache_data=args.cache_data,
            precision=args.precision,
        ),
        advise=check_training,
    )
