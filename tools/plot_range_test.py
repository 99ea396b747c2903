#!/usr/bin/env python3
"""Reads learning rate range tests: draws loss and accuracy against the rate, marks and prints the suggested bounds."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # from a checkout, installed or not

from pysolver.disciplined.range_test import analyse
from pysolver.logs import command
from pysolver.logs.curves import labels

EXAMPLES = """
plot_range_test.py range.log -o range.png             one test: picture and bounds
plot_range_test.py range_seed*.log -o range.png       several seeds: how sure the bounds are
plot_range_test.py range.log --json                   for a script: {"max_lr": ..., "min_lr": ..., ...}
"""


def work(options: argparse.Namespace) -> None:
    """Analyses, draws if asked to, prints."""
    runs = command.read_logs(options.logs)
    found = analyse(runs)
    if options.output:
        from pysolver.disciplined import range_plot
        from pysolver.logs import plot
        from pysolver.logs.picture import swap_in

        scale = {"log": True, "linear": False}.get(options.scale)
        made = range_plot.figure(found, runs, labels(runs), title=options.title, log_x=scale)
        swap_in(options.output, lambda path: plot.save(made, path))
    print(json.dumps(found.to_json(), indent=1) if options.json else found.text())


if __name__ == "__main__":
    arguments = command.parser(__doc__, EXAMPLES)
    arguments.add_argument("-o", "--output", metavar="FILE", help="picture to write: .png, .svg or .pdf")
    arguments.add_argument("--json", action="store_true", help="print the findings as JSON")
    arguments.add_argument("--scale", choices=("linear", "log"), help="of the rate; else as the test ramped")
    arguments.add_argument("--title", help="text above the picture")
    sys.exit(command.main(arguments, work))
