"""Find learning rate, momentum and weight decay of a solver by the disciplined method, unattended."""

from __future__ import annotations

import argparse
import os
from concurrent.futures import Executor
from pathlib import Path

from pysolver.commands import _options as o
from pysolver.cores import usable_cores
from pysolver.disciplined import answer, report, show
from pysolver.disciplined.recipe import recipe
from pysolver.disciplined.trial import Backend, Command, here
from pysolver.disciplined.tune import STAGES, Budget, Tuning, chosen, tune
from pysolver.errors import CaffeError
from pysolver.extras import require

EXAMPLES = """
pysolver tune --solver=lenet_solver.prototxt --out tuned/               everything: tuned/report.html shows it
pysolver tune --solver=S --out tuned/ --epochs 12 --budget 2h           final runs of 12 epochs, two hours of training
pysolver tune --solver=S --out tuned/ --stages range,momentum           only these, with the file's other values
pysolver tune --solver=S --out tuned/ --caffe build/tools/caffe         the trials run in a patched Caffe
"""


def options(parser: argparse.ArgumentParser) -> None:
    o.solver(parser)
    common(parser)
    add = parser.add_argument
    add("--out", required=True, metavar="DIR", help="folder for the answer, the report and all trials; the same "
        "command goes on where it was interrupted")  # fmt: skip
    add("--stages", default=",".join(STAGES), metavar="A[,B]", help="which stages (all: %(default)s)")
    add("--epochs", type=float, metavar="N", help="length of the final training (as long as max_iter says)")
    add("--seeds", type=o.positive, default=4, metavar="N", help="of the final training (4)")
    add("--validation", type=o.positive, default=0, metavar="N", help="set N training records aside and decide "
        "on them; the test set is touched once, at the end")  # fmt: skip
    add("--budget", metavar="B", help="2h, 30m or 200epochs of training, the final runs included")


def common(parser: argparse.ArgumentParser) -> None:
    """What `range_test` has too."""
    add = parser.add_argument
    add("--runs", type=o.positive, default=2, metavar="N", help="runs that a comparison rests on (2)")
    add("--jobs", type=o.positive, metavar="N", help="trials side by side (as many as the cores bear)")
    add("--processes", type=o.positive, default=1, metavar="N", help="of each trial, as in train: an update takes so "
        "many batches")  # fmt: skip
    add("--caffe", metavar="BINARY", help="train with this patched Caffe")
    add("--dask", metavar="ADDRESS", help="train on the workers of a dask scheduler, such as tcp://host:8786")


def call(args: argparse.Namespace) -> None:
    solver = o.required(args.solver, "Need a solver definition to tune: --solver=FILE")
    made = recipe(solver, Path(args.out), epochs=args.epochs, runs=args.runs, seeds=args.seeds,
                  validation=args.validation, backend=backend(args), processes=args.processes)  # fmt: skip
    budget = Budget.parse(args.budget) if args.budget else None
    stages = chosen(args.stages.split(","))
    with show.shown() as shown:
        print(answer.judged_on(Tuning(made)), flush=True)
        for tuning in tune(made, stages=stages, jobs=jobs(args), budget=budget, executor=executor(args),
                           listener=shown.trial, announce=shown.stage):  # fmt: skip
            shown.decision(tuning)
            answer.write(tuning)
            report.write(tuning)
    print(f"{tuning.epochs():.4g} epochs, {tuning.seconds() / 60:.3g} minutes of training")
    for name in ("solver.prototxt", "decisions.json", "report.html"):
        print(Path(args.out) / name)


def backend(args: argparse.Namespace) -> Backend:
    """Who trains."""
    if not args.caffe:
        return Command(processes=args.processes) if args.processes > 1 else here
    if args.processes > 1:
        raise CaffeError("--processes is for trials of pysolver, not for those of --caffe")
    if not os.access(args.caffe, os.X_OK):
        raise CaffeError(f"--caffe {args.caffe}: not a program")
    return Command((args.caffe,))


def jobs(args: argparse.Namespace) -> int:
    """How many trials side by side."""
    return args.jobs or max(1, usable_cores() // args.processes)


def executor(args: argparse.Namespace) -> Executor | None:
    """Where; None for processes of our own."""
    return require("distributed").Client(args.dask).get_executor() if args.dask else None
