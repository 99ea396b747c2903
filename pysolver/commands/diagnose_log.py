"""Name what a training log shows: underfitting, overfitting, instability or the sought plateau, and what to change."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from pysolver.commands import _options as o
from pysolver.disciplined.clues import KINDS, find_clues
from pysolver.logs.reader import read_logs
from pysolver.logs.style import Span

EXAMPLES = """
pysolver diagnose_log caffe.log                    the findings as text
pysolver diagnose_log caffe.log -o clues.png       and shaded in the curves
pysolver diagnose_log caffe.log --json             for a script
"""


def options(parser: argparse.ArgumentParser) -> None:
    parser.description = f"{parser.description}\n\nclues:\n" + "\n".join(
        f"  {kind.name}: {kind.meaning}\n      {kind.advice}" for kind in KINDS.values()
    )
    o.logs(parser, 1)
    parser.add_argument("-o", "--output", metavar="FILE", help="picture to write: .png, .svg or .pdf")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.add_argument("--title", help="text above the picture")


def call(args: argparse.Namespace) -> None:
    run = read_logs(args.logs)[0]
    clues = find_clues(run)
    if args.output:
        from pysolver.logs import plot
        from pysolver.logs.drawing import Wish, swap_in, wanted_curves

        drawn, x = wanted_curves([run], Wish(rates=True))
        spans = [Span(clue.start, clue.end, clue.kind, KINDS[clue.kind].colour) for clue in clues]
        made = plot.figure(drawn, x.label, title=args.title or drawn[0].label, spans=spans)
        swap_in(args.output, lambda path: plot.save(made, path))
    if args.json:
        print(json.dumps([asdict(clue) for clue in clues], indent=1))
    else:
        print("\n".join(map(str, clues)) or "nothing stands out")
