"""Find the largest learning rate that a net bears, by range tests: what lr_find is elsewhere."""

from __future__ import annotations

import argparse
import math
from functools import partial
from pathlib import Path

from pysolver.commands import _options as o
from pysolver.commands.tune import common, interruptible
from pysolver.disciplined import range_plot
from pysolver.disciplined.plan import RAMP
from pysolver.disciplined.reading import analyse
from pysolver.disciplined.recipe import recipe
from pysolver.disciplined.session import backend, workers
from pysolver.disciplined.stages import learning_rate
from pysolver.disciplined.tuning import tune_recipe
from pysolver.errors import CaffeError
from pysolver.logs import plot
from pysolver.logs.curves import labels

EXAMPLES = """
pysolver range_test --solver=S -o range.png                              how high and how long follows from the runs
pysolver range_test --solver=S --max_lr 1 --epochs 4 --runs 4 -o r.png   four ramps to 1 in four epochs each
"""


def options(parser: argparse.ArgumentParser) -> None:
    o.solver(parser)
    common(parser)
    add = parser.add_argument
    add("--max_lr", type=float, metavar="RATE", help="ramp to just this rate")
    add("--epochs", type=float, metavar="N", help="length of a ramp (as long as the data set needs)")
    add("--out", default="range_test", metavar="DIR", help="folder for the trials (%(default)s)")
    add("-o", "--output", metavar="FILE", help="picture to write: .png, .svg or .pdf")


def call(args: argparse.Namespace) -> None:
    if args.max_lr is not None and not 0 < args.max_lr < math.inf:
        raise CaffeError(f"--max_lr {args.max_lr:g}: a rate above 0")
    if args.epochs is not None and not 0 < args.epochs < math.inf:
        raise CaffeError(f"--epochs {args.epochs:g}: a length above 0")
    if args.output:
        plot.check_name(args.output)  # not after the runs
    solver = o.required(args.solver, "Need a solver definition: --solver=FILE")
    trains = backend(args.caffe, args.processes, args.allow_python_layers)
    made = recipe(solver, Path(args.out), epochs=1, runs=args.runs, seeds=0, backend=trains, processes=args.processes)
    stage = partial(learning_rate.decide, top=args.max_lr, epochs=args.epochs)
    executor, jobs = workers(args.dask, args.jobs, args.processes)
    with interruptible() as shown:
        for tuning in tune_recipe(made, stages={learning_rate.NAME: stage}, jobs=jobs, executor=executor,
                           listener=shown.trial, announce=shown.stage):  # fmt: skip
            shown.decision(tuning.decisions[-1])
    if args.output:
        decision = tuning.decisions[-1]
        runs = [tuning.results[plan] for plan in decision.evidence if plan.shape == RAMP]
        title = f"{decision.headline} ({decision.certainty})\n{decision.reason}"  # as the terminal says it
        plot.save(range_plot.figure(analyse(runs), runs, labels(runs), title=title), args.output)
        print(args.output)
