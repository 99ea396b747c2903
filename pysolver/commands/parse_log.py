"""Turn a log into CSV files as Caffe's tools/extra/parse_log.py does, or into JSON."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from pysolver.commands import _options as o
from pysolver.errors import CaffeError
from pysolver.logs.export import to_json, write_csv
from pysolver.logs.reader import read_log

EXAMPLES = """
pysolver parse_log caffe.log                   writes caffe.log.train and caffe.log.test here
pysolver parse_log caffe.log.gz out/           the same, into out/
pysolver parse_log --json caffe.log > run.json everything that the log tells
pysolver train ... 2>&1 | pysolver parse_log - --json -v
"""


def options(parser: argparse.ArgumentParser) -> None:
    o.logs(parser, 1)
    parser.add_argument("folder", metavar="OUT_DIR", nargs="?", default=".", help="where the files go (.)")
    parser.add_argument("--delimiter", default=",", help="between columns (,)")
    parser.add_argument("--json", action="store_true", help="JSON on standard output instead of CSV files")
    parser.add_argument("-v", "--verbose", action="store_true", help="say what was read and what was not")


def call(args: argparse.Namespace) -> None:
    if len(args.delimiter) != 1:
        raise CaffeError(f"--delimiter {args.delimiter!r}: it must be one character")
    if not args.json and not Path(args.folder).is_dir():
        raise CaffeError(f"{args.folder}: no such folder")
    run = read_log(args.logs[0])
    if args.verbose or run.unknown:
        print(run.summary(), file=sys.stderr)
    if args.json:
        json.dump(to_json(run), sys.stdout)
        print()
        return
    for path in write_csv(run, args.folder, args.delimiter):
        print(path)
