"""Read learning rate range tests: draw loss and accuracy against the rate, mark and print the suggested bounds."""

from __future__ import annotations

import argparse
import json

from pysolver.commands import _options as o
from pysolver.disciplined.reading import analyse
from pysolver.logs.curves import labels
from pysolver.logs.reader import read_logs

EXAMPLES = """
pysolver plot_range_test range.log -o range.png             one test: picture and bounds
pysolver plot_range_test range_seed*.log -o range.png       several seeds: how sure the bounds are
pysolver plot_range_test range.log --json                   for a script: {"max_lr": ..., "min_lr": ..., ...}
"""


def options(parser: argparse.ArgumentParser) -> None:
    o.logs(parser)
    parser.add_argument("-o", "--output", metavar="FILE", help="picture to write: .png, .svg or .pdf")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.add_argument("--scale", choices=("linear", "log"), help="of the rate; else as the test ramped")
    parser.add_argument("--title", help="text above the picture")


def call(args: argparse.Namespace) -> None:
    runs = read_logs(args.logs)
    found = analyse(runs)
    if args.output:
        from pysolver.disciplined import range_plot
        from pysolver.logs import plot
        from pysolver.logs.drawing import swap_in

        scale = {"log": True, "linear": False}.get(args.scale)
        made = range_plot.figure(found, runs, labels(runs), title=args.title, log_x=scale)
        swap_in(args.output, lambda path: plot.save(made, path))
    print(json.dumps(found.to_json(), indent=1) if args.json else found.text())
