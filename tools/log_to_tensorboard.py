#!/usr/bin/env python3
"""Turns training logs into TensorBoard event files, one folder a log, hyper-parameters included."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # from a checkout, installed or not

from pysolver.errors import CaffeError
from pysolver.logs import command
from pysolver.logs.tensorboard import write_run

EXAMPLES = """
log_to_tensorboard.py caffe.log -o board           then: tensorboard --logdir board
log_to_tensorboard.py runs/*.log -o board          all runs side by side
"""


def work(options: argparse.Namespace) -> None:
    """Writes one folder for each log."""
    sys.modules.setdefault("torch", None)  # tensorboardX would import it, which takes seconds and is of no use here
    runs = command.read_logs(options.logs)
    names = [Path(run.name).name.removesuffix(".gz").removesuffix(".log").strip("<>") for run in runs]
    for name in names:
        if names.count(name) > 1:
            raise CaffeError(f"{name}: {names.count(name)} logs of this name: their curves would lie in one folder")
    for run, name in zip(runs, names):
        folder = Path(options.output) / name
        print(f"{folder}: {write_run(run, folder)} values")


if __name__ == "__main__":
    arguments = command.parser(__doc__, EXAMPLES)
    arguments.add_argument("-o", "--output", metavar="DIR", default="tensorboard", help="where to (tensorboard)")
    sys.exit(command.main(arguments, work))
