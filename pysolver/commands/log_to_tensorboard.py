"""Turn training logs into TensorBoard event files, one folder a log, hyper-parameters included."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pysolver.commands import _options as o
from pysolver.errors import CaffeError
from pysolver.logs.reader import read_logs
from pysolver.logs.tensorboard import write_run

EXAMPLES = """
pysolver log_to_tensorboard caffe.log -o board           then: tensorboard --logdir board
pysolver log_to_tensorboard runs/*.log -o board          all runs side by side
"""


def options(parser: argparse.ArgumentParser) -> None:
    o.logs(parser)
    parser.add_argument("-o", "--output", metavar="DIR", default="tensorboard", help="where to (tensorboard)")


def call(args: argparse.Namespace) -> None:
    sys.modules.setdefault("torch", None)  # tensorboardX would import it, which takes seconds and is of no use here
    runs = read_logs(args.logs)
    names = [Path(run.name).name.removesuffix(".gz").removesuffix(".log").strip("<>") for run in runs]
    for name in names:
        if names.count(name) > 1:
            raise CaffeError(f"{name}: {names.count(name)} logs of this name: their curves would lie in one folder")
    for run, name in zip(runs, names):
        folder = Path(args.output) / name
        print(f"{folder}: {write_run(run, folder)} values")
