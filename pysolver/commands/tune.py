"""Find learning rate, momentum and weight decay of a solver by the disciplined method, unattended."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from pathlib import Path

from pysolver.commands import _options as o
from pysolver.disciplined import answer, show
from pysolver.disciplined.session import tune
from pysolver.disciplined.tuning import STAGES

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
    add("--epochs", type=float, metavar="N", help="length of the final training; else it is looked for, from a "
        "quarter of max_iter on, doubled until the test accuracy stops to gain")  # fmt: skip
    add("--seeds", type=o.positive, default=4, metavar="N", help="of the final training (4)")
    add("--validation", type=o.positive, default=0, metavar="N", help="set N training records aside and decide "
        "on them, also between the cycle and the file; the test set is touched once, at the end")  # fmt: skip
    add("--compare_batch_sizes", action="store_true", help="choose the batch size by training with several for the "
        "same time, each with rates of its own (the paper's Fig. 6)")  # fmt: skip
    add("--from_snapshot", action="store_true", help="choose the weight decay by branches from the snapshot of one run "
        "at its plateau (the paper's Fig. 12)")  # fmt: skip
    add("--budget", metavar="B", help="2h, 30m or 200epochs of training, the final runs included")


def common(parser: argparse.ArgumentParser) -> None:
    """What `range_test` has too."""
    add = parser.add_argument
    add("--runs", type=o.positive, default=2, metavar="N", help="runs that a comparison rests on (2)")
    add("--jobs", type=o.positive, metavar="N", help="trials side by side (as many as the cores bear, or the cluster "
        "has workers)")  # fmt: skip
    add("--processes", type=o.positive, default=1, metavar="N", help="of each trial, as in train: an update takes so "
        "many batches")  # fmt: skip
    add("--caffe", metavar="BINARY", help="train with this patched Caffe")
    o.python_layers(parser)
    add("--dask", metavar="ADDRESS", help="train on the workers of a dask scheduler, such as tcp://host:8786")


@contextlib.contextmanager
def interruptible() -> Iterator[show.Lines]:
    """Where it is shown; an end by Ctrl-C or SIGTERM says how it goes on."""
    with show.shown() as shown:
        try:
            yield shown
        except (KeyboardInterrupt, SystemExit):
            shown.say("interrupted: the same command goes on from here")
            raise


def call(args: argparse.Namespace) -> None:
    solver = o.required(args.solver, "Need a solver definition to tune: --solver=FILE")
    with interruptible() as shown:
        session = tune(
            solver,
            args.out,
            epochs=args.epochs,
            runs=args.runs,
            seeds=args.seeds,
            validation=args.validation,
            budget=args.budget,
            jobs=args.jobs,
            processes=args.processes,
            stages=[name.strip() for name in args.stages.split(",")],
            compare_batch_sizes=args.compare_batch_sizes,
            from_snapshot=args.from_snapshot,
            caffe=args.caffe,
            dask=args.dask,
            allow_python_layers=args.allow_python_layers,
            watcher=shown,
        )
        shown.say(answer.judged_on(session.tuning))
        for decision in session:
            shown.decision(decision)
    tuning = session.tuning
    print(answer.outputs_read(tuning))
    print(f"{tuning.epochs():.4g} epochs, {tuning.seconds() / 60:.3g} minutes of training")
    for name in ("solver.prototxt", "decisions.json", "report.html"):
        print(Path(args.out) / name)
