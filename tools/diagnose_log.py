#!/usr/bin/env python3
"""Names what a training log shows: underfitting, overfitting, instability or the sought plateau, and what to change."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # from a checkout, installed or not

from pysolver.disciplined.clues import find_clues
from pysolver.logs import command
from pysolver.logs.look import Span

EXAMPLES = """
diagnose_log.py caffe.log                    the findings as text
diagnose_log.py caffe.log -o clues.png       and shaded in the curves
diagnose_log.py caffe.log --json             for a script
"""


def work(options: argparse.Namespace) -> None:
    """Finds, prints and draws."""
    run = command.read_logs(options.logs)[0]
    clues = find_clues(run)
    if options.output:
        from pysolver.logs import plot
        from pysolver.logs.picture import Wish, swap_in, wanted_curves

        drawn, x = wanted_curves([run], Wish(rates=True))
        spans = [Span(clue.start, clue.end, clue.kind) for clue in clues]
        made = plot.figure(drawn, x.label, title=options.title or drawn[0].label, spans=spans)
        swap_in(options.output, lambda path: plot.save(made, path))
    if options.json:
        print(json.dumps([asdict(clue) for clue in clues], indent=1))
    else:
        print("\n".join(map(str, clues)) or "nothing stands out")


if __name__ == "__main__":
    arguments = command.parser(__doc__, EXAMPLES, logs=1)
    arguments.add_argument("-o", "--output", metavar="FILE", help="picture to write: .png, .svg or .pdf")
    arguments.add_argument("--json", action="store_true", help="print the findings as JSON")
    arguments.add_argument("--title", help="text above the picture")
    sys.exit(command.main(arguments, work))
