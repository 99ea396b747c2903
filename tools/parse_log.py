#!/usr/bin/env python3
"""Turns a log into CSV files as Caffe's tools/extra/parse_log.py does, or into JSON."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # from a checkout, installed or not

from pysolver.errors import CaffeError
from pysolver.logs import command
from pysolver.logs.export import to_json, write_csv
from pysolver.logs.reader import read_log

EXAMPLES = """
parse_log.py caffe.log                   writes caffe.log.train and caffe.log.test here
parse_log.py caffe.log.gz out/           the same, into out/
parse_log.py --json caffe.log > run.json everything that the log tells
pysolver train ... 2>&1 | parse_log.py - --json -v
"""


def work(options: argparse.Namespace) -> None:
    """Reads one log and writes its tables."""
    if len(options.delimiter) != 1:
        raise CaffeError(f"--delimiter {options.delimiter!r}: it must be one character")
    if not options.json and not Path(options.folder).is_dir():
        raise CaffeError(f"{options.folder}: no such folder")
    run = read_log(options.logs[0])
    if options.verbose or run.unknown:
        print(run.summary(), file=sys.stderr)
    if options.json:
        json.dump(to_json(run), sys.stdout)
        print()
        return
    for path in write_csv(run, options.folder, options.delimiter):
        print(path)


if __name__ == "__main__":
    arguments = command.parser(__doc__, EXAMPLES, logs=1)
    arguments.add_argument("folder", metavar="OUT_DIR", nargs="?", default=".", help="where the files go (.)")
    arguments.add_argument("--delimiter", default=",", help="between columns (,)")
    arguments.add_argument("--json", action="store_true", help="JSON on standard output instead of CSV files")
    arguments.add_argument("-v", "--verbose", action="store_true", help="say what was read and what was not")
    sys.exit(command.main(arguments, work))
