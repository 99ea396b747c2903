"""Run the experiments of arXiv 1803.09820 again: its tables and figures, and what they claim.

Without NAME: what there is, what has been run, and the verdicts. NAME is an experiment (table1, fig10) or the beginning
of several (table2, fig7, fig). What is kept of a run goes to experiments/results; one whose line is there is not
repeated, whichever backend made it, and one that broke off goes on from its last snapshot (a Caffe's not exactly: its
data begin anew). Shortened runs (--scale) stand beside the others, but for rows of a table that have whole ones.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from pysolver.commands import _options as o
from pysolver.disciplined.paper import page
from pysolver.disciplined.paper.experiment import Experiment, read_all
from pysolver.disciplined.paper.results import Result, outdated, read_results
from pysolver.disciplined.paper.run import Wish, choose, reproduce
from pysolver.disciplined.paper.verdicts import judge
from pysolver.disciplined.trial import Command
from pysolver.errors import UsageError
from pysolver.files import write_atomic

EXAMPLES = """
pysolver reproduce
pysolver reproduce table2 --rows lenet --scale 0.02
pysolver reproduce fig10 table1 --runs 4 --jobs 2
pysolver reproduce --page docs/paper.md
"""


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", metavar="NAME", nargs="*", help="experiments to run")
    o.flag(parser, "runs", type=o.positive, default=0, metavar="N", help="runs of each curve (default: as the paper)")
    o.flag(parser, "jobs", type=o.positive, default=1, metavar="N", help="trainings side by side")
    o.flag(
        parser,
        "rows",
        nargs="+",
        default=[],
        metavar="ROW",
        help="only these rows: groups or names of curves, or how these begin",
    )
    o.flag(parser, "scale", type=_scale, default=1.0, metavar="S", help="part of the paper's length, such as 0.1")
    o.flag(parser, "caffe", metavar="COMMAND", help="a Caffe binary with the patch, to train in place of pysolver")
    o.flag(parser, "folder", type=Path, default=Path("experiments"), metavar="DIR",
           help="the experiments, and below it data, runs and results (default: experiments)")  # fmt: skip
    o.flag(parser, "page", type=Path, metavar="FILE", help="write the page of all results, and its pictures beside it")


def call(args: argparse.Namespace) -> None:
    experiments = read_all(args.folder)
    results = args.folder / "results"
    if args.names:
        try:
            backend = Command(tuple(shlex.split(args.caffe))) if args.caffe else Command(arguments=("--keep=2",))
        except ValueError as error:  # a quote that does not end
            raise UsageError(f"--caffe {args.caffe}: {error}") from None
        wish = Wish(args.runs, args.jobs, tuple(args.rows), args.scale, args.folder / "runs", args.folder / "data",
                    results, backend, gpu=not args.caffe or backend.finds_gpu())  # fmt: skip
        chosen = choose(experiments, args.names)
        reproduce(chosen, wish, lambda line: print(line, flush=True))
        for experiment in filter(wish.curves, chosen):
            for judged in judge(experiment, _kept(results, experiment)):
                print(f"{experiment.name}: {judged.claim.text}: {judged.words}")
    kept = {name: _kept(results, experiment) for name, experiment in experiments.items()}
    if args.page:
        args.page.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(args.page, page.text(experiments.values(), kept).encode())
        for path in page.pictures(experiments.values(), kept, args.page.parent / args.page.stem):
            print(path, file=sys.stderr)
    elif not args.names:
        print(page.overview(experiments.values(), kept))


def _kept(folder: Path, experiment: Experiment) -> list[Result]:
    """The runs that are kept of it, but for those of other settings than today's, which are named on stderr."""
    results = read_results(folder, experiment)
    old = outdated(experiment, results)
    for r in old:
        gone = all(curve.name != r.curve for curve in experiment.curves)
        why = "is of a curve that is no more" if gone else "was made with other settings than today's; run it again"
        print(f"{experiment.name}, {r.curve}, run {r.seed}: does not count: {why}", file=sys.stderr)
    return [r for r in results if r not in old]


def _scale(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"must be above 0 and at most 1, not {text}")
    return value
